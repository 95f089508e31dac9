"""Searching a conversation: literally, whatever the case, newest first, and never somebody else's."""

import orjson
import pytest

from tests.rig import Rig
from tests.runs.logs import checked, only
from vocabulary.messages import MessageType, ToolReturnBody


async def _found(parley: Rig, conversation_id: str, **arguments: object) -> list[str]:
    """What the lines say behind their times."""
    asked = f"/tool conversation_search {orjson.dumps(arguments).decode()}"
    run = await parley.ended((await parley.say(conversation_id, asked)).run)
    said = [message for message in await parley.history(conversation_id) if message.run_id == run.id]
    returned = only(said, MessageType.TOOL_RETURN)
    assert isinstance(returned.body, ToolReturnBody)
    return [line.partition("] ")[2] or line for line in returned.body.tool_returns[0].output.split("\n")]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("SEA", ["assistant: You said: The sea is blue.", "user: The sea is blue."]),
        ("ÄRGER", ["assistant: You said: Ärger", "user: Ärger"]),
        ("100%", ["assistant: You said: 100% sure_", "user: 100% sure_"]),
        ("sure_", ["assistant: You said: 100% sure_", "user: 100% sure_"]),
        ("_", ["assistant: You said: 100% sure_", "user: 100% sure_"]),
        ("wind", ["No earlier message contains 'wind'."]),
    ],
)
async def test_words_are_found_as_they_were_written_but_for_case(parley: Rig, query: str, found: list[str]) -> None:
    conversation = await parley.conversation(tools=["conversation_search"])
    other = await parley.conversation(tools=["conversation_search"])
    for talk, words in [(conversation, "The sea is blue."), (other, "The wind"), (conversation, "Ärger"), (conversation, "100% sure_")]:
        await parley.ended((await parley.say(talk.id, words)).run)
    assert await _found(parley, conversation.id, query=query) == found
    await checked(parley, conversation.id)


async def test_the_newest_come_first_and_no_more_than_asked_for(parley: Rig) -> None:
    conversation = await parley.conversation(tools=["conversation_search"])
    for number in range(3):
        await parley.ended((await parley.say(conversation.id, f"wave {number}")).run)
    assert await _found(parley, conversation.id, query="Wave", limit=3) == [
        "assistant: You said: wave 2",
        "user: wave 2",
        "assistant: You said: wave 1",
    ]


async def test_of_a_long_message_the_place_is_shown(parley: Rig) -> None:
    conversation = await parley.conversation(tools=["conversation_search"])
    await parley.ended((await parley.say(conversation.id, f"{'a ' * 500}needle{' b' * 500}", max_steps=1)).run)
    found = await _found(parley, conversation.id, query="needle", limit=2)
    assert all("needle" in line and len(line) < 500 and line.count("…") == 2 for line in found)
