"""What providers have signed or sealed comes back to them: in the next step, in the next run, and after a failure; over real HTTP."""

import json
from typing import Any

import pytest

from db.engine import Database
from llm.backoff import RetryLimits
from llm.registry import ModelRegistry
from tests.llm.formats import check
from tests.llm.test_protocols import PROTOCOLS, SIGNATURE, google
from tests.provider import Events, Provider
from tests.rig import Rig, rig
from tests.runs.logs import checked
from vocabulary.messages import HiddenReasoningBody, HiddenReasoningState, MessageType, ReasoningBody
from vocabulary.runs import RunStatus, StopReason

SIGNED = {
    "anthropic/claude-haiku-5-5": ["signed", "sealed"],
    "openai/gpt-5-mini": ["sealed"],
    "google/gemini-3.8-flash": [SIGNATURE],
}
every_protocol = pytest.mark.parametrize("handle", PROTOCOLS)


def _answer(handle: str, number: int, **delivery: Any) -> Events:
    """The same thoughts, text and call, with ids of their own."""
    events = PROTOCOLS[handle]
    for id_ in ("rs_", "call_", "toolu_", "fc_", "msg_", '"g'):
        events = [event.replace(f"{id_}1", f"{id_}{number}") for event in events]
    return Events(of=events, **delivery)


def _signatures(handle: str, body: dict[str, Any]) -> list[str]:
    match handle.partition("/")[0]:
        case "anthropic":
            blocks = [block for message in body["messages"] for block in message["content"]]
            return [block.get("signature") or block["data"] for block in blocks if "thinking" in block["type"]]
        case "openai":
            return [item["encrypted_content"] for item in body["input"] if item.get("type") == "reasoning"]
        case _:
            parts = [part for content in body["contents"] for part in content["parts"]]
            return [part["thoughtSignature"] for part in parts if "functionCall" in part]


def _remote(provider: Provider) -> ModelRegistry:
    keys = {"openai": "key-o", "anthropic": "key-a", "google": "key-g"}
    urls = {"openai": provider.base_url, "anthropic": provider.url, "google": provider.url}
    return ModelRegistry(api_keys=keys, base_urls=urls)


async def _said(parley: Rig, conversation_id: str, max_steps: int) -> StopReason | None:
    run = await parley.ended((await parley.say(conversation_id, "What time is it?", max_steps=max_steps)).run, seconds=60)
    await checked(parley, conversation_id)
    return run.stop_reason


@every_protocol
async def test_signatures_come_back_in_the_next_step_and_in_the_next_run(database: Database, provider: Provider, handle: str) -> None:
    provider.script(*(_answer(handle, number) for number in (1, 2, 3)))
    async with rig(database, models=_remote(provider)) as parley:
        conversation = await parley.conversation(model=handle)
        assert await _said(parley, conversation.id, max_steps=2) is StopReason.MAX_STEPS
        assert await _said(parley, conversation.id, max_steps=1) is StopReason.MAX_STEPS
        for number, request in enumerate(provider.requests):
            check(handle, request.body)
            assert _signatures(handle, request.body) == SIGNED[handle] * number
        kinds = {message.type: message.body for message in await parley.history(conversation.id)}
        if handle.startswith("anthropic/"):
            reasoning, redacted = kinds[MessageType.REASONING], kinds[MessageType.HIDDEN_REASONING]
            assert isinstance(reasoning, ReasoningBody)
            assert isinstance(redacted, HiddenReasoningBody)
            assert (reasoning.signature, redacted.signature, redacted.state) == ("signed", "sealed", HiddenReasoningState.REDACTED)


@every_protocol
async def test_after_a_call_that_broke_off_anywhere_the_next_request_is_well_formed(
    database: Database, provider: Provider, handle: str
) -> None:
    """Cut after each of its events in turn, all in one conversation."""
    provider.script(_answer(handle, 1))
    async with rig(database, models=_remote(provider), retries=RetryLimits(retries=0)) as parley:
        conversation = await parley.conversation(model=handle)
        await _said(parley, conversation.id, max_steps=1)
        for cut_after in range(1, len(PROTOCOLS[handle])):
            provider.script(_answer(handle, 100 + cut_after, cut_after=cut_after))
            run = await parley.ended((await parley.say(conversation.id, "Again", max_steps=1)).run)
            assert run.status is RunStatus.FAILED
            provider.script(_answer(handle, 200 + cut_after))
            await _said(parley, conversation.id, max_steps=1)
            check(handle, provider.requests[-1].body)
        assert SIGNED[handle][0] in json.dumps(provider.requests[-1].body)


async def test_a_text_that_is_signed_at_its_end_goes_back_with_its_signature_and_to_nobody_else(
    database: Database, provider: Provider
) -> None:
    said = [google({"text": "It is "}), google({"text": "noon."}), google({"text": "", "thoughtSignature": SIGNATURE}, finishReason="STOP")]
    provider.script(Events(of=said), Events(of=said))
    async with rig(database, models=_remote(provider)) as parley:
        conversation = await parley.conversation(model="google/gemini-3.8-flash")
        await _said(parley, conversation.id, max_steps=1)
        await _said(parley, conversation.id, max_steps=1)
        _, answer, _ = provider.requests[-1].body["contents"]
        assert answer["parts"] == [{"text": "It is noon.", "thoughtSignature": SIGNATURE}]
        await parley.ended((await parley.say(conversation.id, "And here?", override_model="anthropic/claude-haiku-5-5")).run)
        check("anthropic/claude-haiku-5-5", provider.requests[-1].body)
        assert SIGNATURE not in json.dumps(provider.requests[-1].body)
