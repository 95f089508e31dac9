"""What the log says of a message in progress: its deltas and the tool calls that appeared in it. Pure."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from db import codec
from vocabulary.events import EventKind
from vocabulary.messages import Message, ToolCall, ToolCallBody

TRAIL_KINDS = (EventKind.MESSAGE_DELTA.value, EventKind.TOOL_CALL_CHANGED.value)

Trace = tuple[int, str, str | None, str | None, Any]
"""sequence, kind, tool call id, text of a delta, data of the event."""


def grown(message: Message, trail: Sequence[Trace]) -> Message:
    """The message as its trail (in any order) has built it, true at the trail's last number."""
    text: list[str] = []
    calls: dict[str, ToolCall] = {}
    arguments: dict[str, list[str]] = {}
    ordered = sorted(trail, key=lambda trace: trace[0])
    for _, kind, call_id, delta, data in ordered:
        if kind == EventKind.TOOL_CALL_CHANGED.value:
            call = codec.tool_call.validate_python(data)
            calls[call.id] = call
        elif call_id is None:
            text.append(delta or "")
        else:
            arguments.setdefault(call_id, []).append(delta or "")
    body = message.body
    if isinstance(body, ToolCallBody):
        body = ToolCallBody(tool_calls=tuple(replace(call, arguments_text="".join(arguments.get(id_, []))) for id_, call in calls.items()))
    return replace(message, text="".join(text), body=body, sequence=ordered[-1][0])
