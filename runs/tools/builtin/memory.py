"""Tools by which an agent changes its memory blocks: the conversation's own of that label, else the one it shares with others.

A block is changed in the transaction that stores the return, under the run's lease: never twice, and visible to all at once.
"""

from collections.abc import Callable
from typing import Any

from db import memory
from runs.tools.registry import Arguments, ServerTool, ToolContext, ToolFailed
from streams.log import Transaction
from vocabulary.conversations import Block
from vocabulary.text import storable

_LABEL = {"type": "string", "description": "The label of the memory block."}


def memory_tools() -> tuple[ServerTool, ...]:
    return (
        _tool(
            "memory_append",
            "Adds text at the end of a memory block, on a line of its own.",
            {"content": {"type": "string", "minLength": 1, "description": "What to add."}},
            _appended,
        ),
        _tool(
            "memory_replace",
            "Replaces text in a memory block. The old text must be there exactly once.",
            {
                "old_content": {"type": "string", "minLength": 1, "description": "What to replace, literally."},
                "new_content": {"type": "string", "description": "What to put in its place; empty to remove it."},
            },
            _replaced,
        ),
    )


def _tool(name: str, description: str, properties: dict[str, Any], change: Callable[[str, Arguments], str]) -> ServerTool:
    async def run(arguments: Arguments, context: ToolContext) -> str:
        return await context.once(lambda transaction: _change(transaction, context, arguments, change))

    parameters = {
        "type": "object",
        "properties": {"label": _LABEL, **properties},
        "required": ["label", *properties],
        "additionalProperties": False,
    }
    return ServerTool(name=name, description=description, parameters=parameters, run=run, timeout_s=None)


async def _change(transaction: Transaction, context: ToolContext, arguments: Arguments, change: Callable[[str, Arguments], str]) -> str:
    block = await _locked(transaction, context, storable(arguments["label"]))
    if block.read_only:
        raise ToolFailed(f"The memory block {block.label!r} is read-only.")
    value = storable(change(block.value, arguments))
    if len(value) > block.limit:
        raise ToolFailed(f"The memory block {block.label!r} may hold {block.limit} characters, and would hold {len(value)}.")
    await memory.write_value(transaction.connection, block.id, value, now=transaction.now)
    return f"The memory block {block.label!r} now says:\n{value}"


async def _locked(transaction: Transaction, context: ToolContext, label: str) -> Block:
    seen_by = {"agent_id": context.agent_id, "conversation_id": context.conversation_id}
    block = await memory.lock_block(transaction.connection, **seen_by, label=label)
    if block is None:
        labels = ", ".join(await memory.labels(transaction.connection, **seen_by)) or "none"
        raise ToolFailed(f"There is no memory block {label!r}. There are: {labels}.")
    return block


def _appended(value: str, arguments: Arguments) -> str:
    content: str = arguments["content"]
    return f"{value}\n{content}" if value else content


def _replaced(value: str, arguments: Arguments) -> str:
    old, new = storable(arguments["old_content"]), arguments["new_content"]
    if (times := value.count(old)) != 1:
        raise ToolFailed("The old text is not in the memory block." if times == 0 else f"The old text is there {times} times.")
    return value.replace(old, new)
