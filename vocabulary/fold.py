"""Merging deltas. Pure; what replay, polling and a slow subscriber have in common."""

from collections.abc import Iterable

from vocabulary.events import DeltaMode, Event, MessageDelta


def merged(first: Event, second: Event) -> Event | None:
    """Two neighbouring deltas of one text as one, standing at the second's number; None when they are anything else."""
    a, b = first.payload, second.payload
    if not (isinstance(a, MessageDelta) and isinstance(b, MessageDelta)):
        return None
    if (a.message_id, a.tool_call_id) != (b.message_id, b.tool_call_id):
        return None
    delta = MessageDelta(a.message_id, a.message_type, a.offset, a.text + b.text, a.tool_call_id)
    return Event(second.conversation_id, second.sequence, second.occurred_at, second.run_id, delta)


def coalesced(events: Iterable[Event]) -> list[Event]:
    """Runs of neighbouring deltas of one text as one event each; a delta never crosses another event."""
    result: list[Event] = []
    for event in events:
        together = merged(result[-1], event) if result else None
        if together is None:
            result.append(event)
        else:
            result[-1] = together
    return result


def shown(events: Iterable[Event], mode: DeltaMode) -> list[Event]:
    """What a live subscriber in this mode is shown of events that have piled up for it."""
    match mode:
        case DeltaMode.ALL:
            return list(events)
        case DeltaMode.COALESCED:
            return coalesced(events)
        case DeltaMode.NONE:
            return [event for event in events if not isinstance(event.payload, MessageDelta)]
