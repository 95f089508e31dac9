"""What a document may cost before it is run: how deep it goes. How long it may be is a limit of the parser."""

from graphql import FieldNode, FragmentSpreadNode, GraphQLError, InlineFragmentNode, OperationDefinitionNode, SelectionSetNode
from graphql.validation import ValidationRule

MAX_DEPTH = 20
MAX_TOKENS = 10_000


class DepthRule(ValidationRule):
    """Walks every fragment once per depth at which it is met deeper than before, so nested fragments cost no more than they are long.

    It needs no recursion and ends on cyclic fragments, which another rule reports.
    """

    def enter_operation_definition(self, node: OperationDefinitionNode, *_: object) -> None:
        met: dict[str, int] = {}
        waiting: list[tuple[SelectionSetNode, int]] = [(node.selection_set, 1)]
        while waiting:
            selections, depth = waiting.pop()
            if depth > MAX_DEPTH:
                self.report_error(_too_deep(node))
                return
            for selection in selections.selections:
                match selection:
                    case FieldNode(selection_set=SelectionSetNode() as inner) if not selection.name.value.startswith("__"):
                        waiting.append((inner, depth + 1))
                    case InlineFragmentNode():
                        waiting.append((selection.selection_set, depth))
                    case FragmentSpreadNode() if met.get(selection.name.value, 0) < depth:
                        met[selection.name.value] = depth
                        if fragment := self.context.get_fragment(selection.name.value):
                            waiting.append((fragment.selection_set, depth))
                    case _:
                        pass


def _too_deep(operation: OperationDefinitionNode) -> GraphQLError:
    return GraphQLError(f"This operation is more than {MAX_DEPTH} levels deep.", operation, extensions={"code": "QUERY_TOO_COMPLEX"})
