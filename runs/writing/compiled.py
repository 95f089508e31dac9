"""System prompts as they would be compiled now, from what is stored of agents and their memory. How one reads is `prompt.py`'s.

Whoever puts one into a system message holds the conversation's head, and asks under that lock: an older prompt never replaces a newer.
"""

from collections.abc import Collection

from db import agents, blocks
from db.engine import Connection
from runs.prompt import compile_system, memory


async def prompts(connection: Connection, conversation_ids: Collection[str]) -> dict[str, str]:
    """By conversation, in as many statements for any number of them."""
    if not conversation_ids:
        return {}
    owners = await agents.by_conversation(connection, conversation_ids)
    shared = await agents.blocks_by_agent(connection, {agent.id for agent in owners.values()})
    isolated = await blocks.by_conversation(connection, conversation_ids)
    return {
        id_: compile_system(
            agent.instructions,
            memory(
                (block for block in shared if block.agent_id == agent.id),
                (block for block in isolated if block.conversation_id == id_),
            ),
        )
        for id_, agent in owners.items()
    }
