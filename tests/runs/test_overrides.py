"""What a provider really receives for a request's own model, settings and system prompt, and after what went before it."""

from typing import Any

import pytest

from db import conversations
from runs.commands.agents import NewAgent, create_agent
from runs.commands.cancel import cancel_run
from runs.commands.conversations import NewConversation, create_conversation
from runs.commands.send import NewMessage, Send, send
from tests.provider import Answer, Provider
from tests.rig import TENANT, Rig
from tests.runs.logs import checked, said, until
from vocabulary.conversations import Conversation
from vocabulary.messages import ImagePart, InputRole, TextPart
from vocabulary.model_settings import ModelSettings
from vocabulary.runs import BusyPolicy, RunStatus

PICTURE = "data:image/png;base64,iVBORw0KGgo="


async def _conversation(parley: Rig, *, own: bool = False) -> Conversation:
    settings = ModelSettings(temperature=0.1, top_p=0.2, max_output_tokens=30)
    agent = await create_agent(
        parley.engine, TENANT, NewAgent(name="a", model="local/agents", instructions="The agent's.", model_settings=settings)
    )
    new = NewConversation(agent_id=agent.id)
    if own:
        new = NewConversation(
            agent_id=agent.id, model="local/conversations", model_settings=ModelSettings(temperature=0.4, max_output_tokens=50)
        )
    return await create_conversation(parley.engine, TENANT, new)


async def _received(parley: Rig, provider: Provider, conversation: Conversation, **more: Any) -> dict[str, Any]:
    run = (await parley.say(conversation.id, "Hi", **more)).run
    assert (await parley.ended(run)).status is RunStatus.COMPLETED
    return provider.requests[-1].body


def _chosen(body: dict[str, Any]) -> tuple[object, ...]:
    limit = body.get("max_completion_tokens", body.get("max_tokens"))
    return body["model"], body.get("temperature"), body.get("top_p"), limit, body["messages"][0]["content"]


OVERRIDES: dict[str, Any] = {
    "override_model": "local/requests",
    "override_model_settings": ModelSettings(temperature=0.7),
    "override_system": "  Verbatim. <memory> ",
}


@pytest.mark.parametrize(
    ("own", "more", "chosen"),
    [
        (False, {}, ("agents", 0.1, 0.2, 30, "The agent's.")),
        (True, {}, ("conversations", 0.4, 0.2, 50, "The agent's.")),
        (False, OVERRIDES, ("requests", 0.7, 0.2, 30, "  Verbatim. <memory> ")),
        (True, OVERRIDES, ("requests", 0.7, 0.2, 50, "  Verbatim. <memory> ")),
    ],
    ids=["agent", "conversation", "request over agent", "request over conversation"],
)
async def test_the_request_goes_before_the_conversation_and_that_before_the_agent(
    remote: Rig, provider: Provider, own: bool, more: dict[str, Any], chosen: tuple[object, ...]
) -> None:
    assert _chosen(await _received(remote, provider, await _conversation(remote, own=own), **more)) == chosen


async def test_what_overrides_is_for_one_request_only_also_when_that_has_waited(remote: Rig, provider: Provider) -> None:
    conversation = await _conversation(remote)
    provider.script(Answer(text=["Half an", " answer"], stall_after=3))
    first = await remote.say(conversation.id, "Hi")
    await until(remote, conversation.id, said("answer"))
    waited, after = await remote.say(conversation.id, "Own", **OVERRIDES), await remote.say(conversation.id, "Plain")
    await cancel_run(remote.engine, TENANT, first.run.id)
    for sent in (waited, after):
        assert (await remote.ended(sent.run)).status is RunStatus.COMPLETED
    assert [_chosen(request.body)[0] for request in provider.requests] == ["agents", "requests", "agents"]
    assert [_chosen(request.body)[-1] for request in provider.requests] == ["The agent's.", "  Verbatim. <memory> ", "The agent's."]
    async with remote.database.read() as connection:
        stored = (await conversations.read(connection, [conversation.id]))[conversation.id]
    assert (stored.model, stored.model_settings) == (None, None)


async def test_texts_and_images_and_several_messages_arrive_in_their_order(remote: Rig, provider: Provider) -> None:
    conversation = await _conversation(remote)
    first = NewMessage(role=InputRole.USER, content=(TextPart("Look: "), ImagePart(PICTURE), ImagePart("https://example.org/a.png")))
    second = NewMessage(role=InputRole.USER, content=(TextPart("What is it?"),))
    sent = await send(remote.engine, TENANT, Send(conversation_id=conversation.id, messages=(first, second)))
    assert (await remote.ended(sent.run)).status is RunStatus.COMPLETED
    assert _parts(provider.requests[0].body) == ["Look: ", PICTURE, "https://example.org/a.png", "What is it?"]


def _parts(body: dict[str, Any]) -> list[str]:
    """What the user said, however it is divided among messages."""
    return [part for message in body["messages"] if message["role"] == "user" for part in _pieces(message["content"])]


def _pieces(content: str | list[dict[str, Any]]) -> list[str]:
    if isinstance(content, str):
        return [content]
    return [part["text"] if part["type"] == "text" else part["image_url"]["url"] for part in content]


async def test_after_an_interrupt_a_failure_and_a_queue_the_history_is_well_formed(remote: Rig, provider: Provider) -> None:
    conversation = await _conversation(remote)
    provider.script(
        Answer(text=["Half an", " answer"], stall_after=3),
        Answer(status=400, error={"error": {"message": "no"}}),
    )
    await remote.say(conversation.id, "One")
    await until(remote, conversation.id, said("answer"))
    queued = await remote.say(conversation.id, "Two")
    refused = await remote.say(conversation.id, "Three", when_busy=BusyPolicy.INTERRUPT)
    assert (await remote.ended(refused.run)).status is RunStatus.FAILED
    assert (await remote.ended(queued.run)).status is RunStatus.COMPLETED
    await checked(remote, conversation.id)
    assert [(message["role"], message["content"]) for message in provider.requests[-1].body["messages"]][:3] == [
        ("system", "The agent's."),
        ("user", "One"),
        ("assistant", "Half an answer"),
    ]
    assert _parts(provider.requests[-1].body) == ["One", "Three\n\nTwo"], "nothing was answered in between"
