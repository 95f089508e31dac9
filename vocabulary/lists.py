"""What happens to the list of a tenant's conversations, for who shows one beside the conversations themselves. None of it is stored."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from vocabulary.conversations import Conversation


class ListChangeKind(StrEnum):
    CREATED = "CREATED"
    CHANGED = "CHANGED"
    DELETED = "DELETED"


@dataclass(frozen=True, slots=True, kw_only=True)
class ListChange:
    """`version`: its head's list version, from which each change and nothing else takes the next number. `conversation` None: deleted."""

    kind: ListChangeKind
    tenant: str
    conversation_id: str
    agent_id: str
    version: int
    conversation: Conversation | None

    @classmethod
    def of(cls, kind: ListChangeKind, conversation: Conversation, version: int) -> "ListChange":
        return cls(
            kind=kind,
            tenant=conversation.tenant,
            conversation_id=conversation.id,
            agent_id=conversation.agent_id,
            version=version,
            conversation=None if kind is ListChangeKind.DELETED else conversation,
        )


@dataclass(frozen=True, slots=True)
class ListCaughtUp:
    """Whatever was told of this tenant's list so far may not have been everything: query it now, and go on from there."""

    tenant: str


@dataclass(frozen=True, slots=True)
class ListVersion:
    """As the database has it. Of a conversation, or of an agent that was deleted, with all that it hides."""

    tenant: str
    conversation_id: str
    version: int


ListItem = ListChange | ListCaughtUp


def merged(items: Iterable[ListItem]) -> list[ListItem]:
    """What somebody who comes late needs of these: nothing before the last `ListCaughtUp`, and of each conversation its newest state.

    In the order of the newest. A conversation that was created and then changed is told as created.
    """
    caught_up: list[ListItem] = []
    newest: dict[str, ListChange] = {}
    for item in items:
        if isinstance(item, ListCaughtUp):
            caught_up = [item]
            newest.clear()
        else:
            earlier = newest.pop(item.conversation_id, None)
            newest[item.conversation_id] = _following(earlier, item)
    return [*caught_up, *newest.values()]


def _following(earlier: ListChange | None, change: ListChange) -> ListChange:
    is_new = earlier is not None and earlier.kind is ListChangeKind.CREATED and change.kind is ListChangeKind.CHANGED
    return replace(change, kind=ListChangeKind.CREATED) if is_new else change
