"""A run from its send to its end."""

from tests.rig import Rig
from vocabulary.messages import MessageStatus, MessageType
from vocabulary.runs import RunStatus, StopReason


async def test_a_send_is_answered(parley: Rig) -> None:
    conversation = await parley.conversation()
    sent = await parley.say(conversation.id, "Hello there")
    run = await parley.ended(sent.run)
    assert (run.status, run.stop_reason) == (RunStatus.COMPLETED, StopReason.END_TURN)
    history = await parley.history(conversation.id)
    assert [message.type for message in history] == [MessageType.SYSTEM, MessageType.USER, MessageType.ASSISTANT]
    assert all(message.status is MessageStatus.COMPLETED for message in history)
    assert "Hello there" in history[-1].text
    assert [message.ordinal for message in history] == [1, 2, 3]


async def test_a_tool_is_called_and_its_return_answered(parley: Rig) -> None:
    conversation = await parley.conversation(tools=["current_time"])
    sent = await parley.say(conversation.id, "/think /tool current_time {}")
    run = await parley.ended(sent.run)
    assert run.status is RunStatus.COMPLETED
    kinds = [message.type for message in await parley.history(conversation.id)]
    print(kinds)
    assert MessageType.TOOL_RETURN in kinds


async def test_what_was_sent_meanwhile_waits_its_turn(parley: Rig) -> None:
    conversation = await parley.conversation()
    sent = [await parley.say(conversation.id, f"number {i}") for i in range(5)]
    for one in sent:
        await parley.ended(one.run)
    texts = [message.text for message in await parley.history(conversation.id) if message.type is MessageType.USER]
    assert texts == [f"number {i}" for i in range(5)]
