"""A tool that searches what was said in this conversation, also what is no longer in the model's context."""

from db import messages
from runs.tools.registry import Arguments, ServerTool, ToolContext
from vocabulary.messages import Message
from vocabulary.text import storable

_DEFAULT = 10
_MOST = 50
_AROUND = 200  # characters on either side of what was found

PARAMETERS = {
    "type": "object",
    "properties": {
        "query": {"type": "string", "minLength": 1, "maxLength": 1000, "description": "Words to find, as they were written but for case."},
        "limit": {"type": "integer", "minimum": 1, "maximum": _MOST, "description": f"How many messages to list; {_DEFAULT} if absent."},
    },
    "required": ["query"],
    "additionalProperties": False,
}


def conversation_search() -> ServerTool:
    return ServerTool(
        name="conversation_search",
        description="Finds earlier messages of this conversation that contain some words, newest first.",
        parameters=PARAMETERS,
        run=_search,
    )


async def _search(arguments: Arguments, context: ToolContext) -> str:
    query, limit = storable(arguments["query"]), int(arguments.get("limit", _DEFAULT))
    async with context.database.read() as connection:
        found = await messages.search(connection, context.conversation_id, query, but_of_run=context.run.id, limit=limit)
    return "\n".join(_line(message, query) for message in found) or f"No earlier message contains {query!r}."


def _line(message: Message, query: str) -> str:
    return f"[{message.created_at.isoformat(timespec='seconds')}] {message.type.lower()}: {_excerpt(message.text, query)}"


def _excerpt(text: str, query: str) -> str:
    """What stands around the first place; lowering may change a text's length, so the place is no more than near."""
    place = max(0, text.lower().find(query.lower()))
    start, end = max(0, place - _AROUND), place + len(query) + _AROUND
    return f"{'… ' if start else ''}{text[start:end]}{' …' if end < len(text) else ''}"
