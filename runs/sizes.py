"""How many tokens a context takes, message by message: estimated, and set right by what the provider has counted. Pure.

A provider's count is of one call: of all that its model was shown then, tools included. What was said since is estimated on top of it.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llm import tokens
from vocabulary.messages import ImagePart, Message, MessageType, ToolCallBody, ToolReturnBody, UserBody
from vocabulary.runs import ClientTool, Step, Usage

_WILDEST = 4.0
_CHARACTERS_PER_TOKEN = 4  # of English prose, in every common vocabulary


@dataclass(frozen=True, slots=True)
class Sizes:
    """`estimates`: of each message. `counted`: by the provider, of those before the `counted_before`th; None: nothing that holds still."""

    estimates: tuple[int, ...]
    counted: int | None = None
    counted_before: int = 0

    @property
    def tokens(self) -> int:
        """Of the whole context, as far as anybody can tell."""
        if self.counted is None:
            return sum(self.estimates)
        return self.counted + sum(self.estimates[self.counted_before :])

    @property
    def scale(self) -> float:
        """The provider's tokens for one of ours, as it was at that call."""
        estimated = sum(self.estimates[: self.counted_before])
        if self.counted is None or not estimated:
            return 1.0
        return min(max(self.counted / estimated, 1 / _WILDEST), _WILDEST)


def measured(context: Sequence[Message], last_counted: Step | None) -> Sizes:
    """Of a context in the order in which the model is shown it. `last_counted`: the newest step whose usage its provider has told."""
    estimates = tuple(map(size, context))
    first = None if last_counted is None else _said_in(context, last_counted)
    if last_counted is None or first is None or _was_compacted_since(context, first):
        return Sizes(estimates)
    return Sizes(estimates, last_counted.usage.input_tokens, first)


def _said_in(context: Sequence[Message], step: Step) -> int | None:
    """Where what was said in it begins: everything before that was shown to it."""
    return next((place for place, message in enumerate(context) if message.step_id == step.id), None)


def _was_compacted_since(context: Sequence[Message], first: int) -> bool:
    return any(message.type is MessageType.SUMMARY and (message.ordinal or 0) > (context[first].ordinal or 0) for message in context)


def size(message: Message) -> int:
    images = sum(isinstance(part, ImagePart) for part in message.body.content) if isinstance(message.body, UserBody) else 0
    return tokens.count(_text(message)) + images * tokens.PER_IMAGE + tokens.PER_MESSAGE


def size_of_tools(tools: Iterable[ClientTool]) -> int:
    return sum(tokens.count(f"{tool.name}\n{tool.description}\n{json.dumps(tool.parameters)}") for tool in tools)


def unreported(shown: int, said: int) -> Usage:
    """Of a call of so many characters whose provider does not tell: good enough for an account, and nothing has to be loaded for it."""
    return Usage(input_tokens=roughly(shown), output_tokens=roughly(said), estimated=True)


def surely_exceeds(text: str, window: int) -> bool:
    """Whatever the provider's own vocabulary makes of it. No token is shorter than a byte, so that most texts need not be counted."""
    return len(text.encode()) > window and tokens.count(text) * (1 - tokens.ERROR) > window


def characters(messages: Iterable[Message]) -> int:
    return sum(len(_text(message)) for message in messages)


def roughly(characters: int) -> int:
    return -(-characters // _CHARACTERS_PER_TOKEN)


def _text(message: Message) -> str:
    match message.body:
        case ToolCallBody(tool_calls=calls) if message.type is MessageType.TOOL_CALL:
            return "\n".join(f"{call.name}\n{call.arguments_text}" for call in calls)
        case ToolReturnBody(tool_returns=returns):
            return "\n".join(f"{item.name}\n{item.output}" for item in returns)
        case _:
            return message.text
