"""What mutations are given, turned into requests or refused by name."""

from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any, TypeVar

import pytest
from strawberry import ID

from resolvers.arguments import BadUserInput
from resolvers.context import NotFound
from resolvers.inputs.agents import new_agent
from resolvers.inputs.conversations import new_conversation
from resolvers.inputs.sending import send_request, wait_s
from runs.commands.agents import NewAgent
from runs.commands.send import BusyPolicy, InputRole, NewMessage
from schema import enums
from schema.inputs.agents import AgentToolInput, BlockInput, CreateAgentInput
from schema.inputs.conversations import CreateConversationInput
from schema.inputs.sending import ContentPartInput, ImageInput, MessageInput, SendMessageInput
from schema.inputs.settings import CompactionSettingsInput, ModelSettingsInput
from vocabulary.ids import Noun, new_id
from vocabulary.messages import ImagePart, TextPart
from vocabulary.model_settings import ModelSettings

Made = TypeVar(
    "Made",
    ModelSettingsInput,
    BlockInput,
    CreateAgentInput,
    CreateConversationInput,
    ContentPartInput,
    MessageInput,
    SendMessageInput,
)

AGENT = ID(new_id(Noun.AGENT))
CONVERSATION = ID(new_id(Noun.CONVERSATION))


def _made(type_: type[Made], **given: Any) -> Made:
    """As the executor makes it: what a client left out, and what has no default, is None."""
    absent: dict[str, Any] = {field.name: None for field in fields(type_) if field.default is MISSING}
    return type_(**(absent | given))


def _settings(**given: Any) -> ModelSettingsInput:
    return _made(ModelSettingsInput, **given)


def _compaction(**given: Any) -> CompactionSettingsInput:
    return CompactionSettingsInput(**given)


def _block(label: str = "human", value: str = "", **given: Any) -> BlockInput:
    return _made(BlockInput, label=label, value=value, **given)


def _agent(name: str = "Ann", **given: Any) -> CreateAgentInput:
    return _made(CreateAgentInput, name=name, **given)


def _conversation(agent_id: ID = AGENT, **given: Any) -> CreateConversationInput:
    return _made(CreateConversationInput, agent_id=agent_id, **given)


def _text(text: str) -> ContentPartInput:
    return _made(ContentPartInput, text=text)


def _image(url: str, media_type: str | None = None) -> ContentPartInput:
    return _made(ContentPartInput, image=ImageInput(url=url, media_type=media_type))


def _message(**given: Any) -> MessageInput:
    return _made(MessageInput, **given)


def _send(*messages: MessageInput, **given: Any) -> SendMessageInput:
    said: dict[str, Any] = {"conversation_id": CONVERSATION, "messages": list(messages) or [_message(text="hi")]}
    return _made(SendMessageInput, **(said | given))


def test_an_agent_needs_nothing_but_a_name() -> None:
    assert new_agent(_agent()) == NewAgent(name="Ann")


def test_all_of_an_agent_arrives() -> None:
    new = new_agent(
        _agent(
            description="d",
            instructions="i",
            model="demo/echo",
            model_settings=_settings(temperature=2.0, top_p=0.0, parallel_tool_calls=False),
            blocks=[_block(value="x" * 7, limit=7, read_only=True)],
            tools=[AgentToolInput(name="clock", requires_approval=True)],
        )
    )
    assert (new.description, new.instructions, new.model) == ("d", "i", "demo/echo")
    assert new.model_settings == ModelSettings(temperature=2.0, top_p=0.0, parallel_tool_calls=False)
    assert [(block.label, block.limit, block.read_only) for block in new.blocks] == [("human", 7, True)]
    assert [(tool.name, tool.requires_approval) for tool in new.tools] == [("clock", True)]


def test_text_is_made_storable() -> None:
    assert new_agent(_agent(name="a\0b", instructions="\ud83d\ude00 \ud83d")).name == "a\ufffdb"
    (message,) = send_request(_send(_message(text="\0"))).messages
    assert message.content == (TextPart("\ufffd"),)


def test_null_for_an_argument_with_a_default_means_the_default() -> None:
    spelled_out = send_request(_send(_message(text="hi", role=enums.InputRole.USER), when_busy=enums.BusyPolicy.ENQUEUE, max_steps=50))
    assert send_request(_send(_message(text="hi", role=None), when_busy=None, max_steps=None, wait_seconds=None)) == spelled_out
    assert (spelled_out.when_busy, spelled_out.max_steps) == (BusyPolicy.ENQUEUE, 50)
    assert wait_s(_send(wait_seconds=None)) == 0


@pytest.mark.parametrize(
    ("url", "kind", "stored"),
    [
        ("HTTP://Example.org:8080/A.png", None, ImagePart("http://Example.org:8080/A.png")),
        ("Https://example.org:/a.png", "IMAGE/Png", ImagePart("https://example.org:/a.png", "image/png")),
        ("data:image/png;base64,AbCd", "image/PNG", ImagePart("data:image/png;base64,AbCd", "image/png")),
        ("Data:image/PNG;BASE64,AbCd", "image/png", ImagePart("data:image/png;base64,AbCd", "image/png")),
    ],
)
def test_an_image_is_taken_in_any_case_and_kept_in_lower_where_case_says_nothing(url: str, kind: str | None, stored: ImagePart) -> None:
    (message,) = send_request(_send(_message(content=[_image(url, kind)]))).messages
    assert message.content == (stored,)


def test_a_message_is_text_or_pieces() -> None:
    picture = "data:image/png;base64,AAAA"
    sent = send_request(
        _send(
            _message(text="be kind", role=enums.InputRole.SYSTEM),
            _message(content=[_text("look"), _image(picture), _image("https://example.org/a.png", "image/png")], sender="Ann"),
        )
    )
    assert sent.messages == (
        NewMessage(role=InputRole.SYSTEM, content=(TextPart("be kind"),)),
        NewMessage(
            role=InputRole.USER,
            content=(TextPart("look"), ImagePart(picture), ImagePart("https://example.org/a.png", "image/png")),
            sender="Ann",
        ),
    )


LONG = "x" * 256
TOO_LARGE = "data:image/png;base64," + "A" * 5_000_000
TOO_LONG = "x" * 1_000_001
IN_MESSAGE = "input.messages[0]"
COMPACTION = "input.compactionSettings"


REFUSED: list[tuple[Callable[[], object], str]] = [
    (lambda: new_agent(_agent(name="")), "input.name"),
    (lambda: new_agent(_agent(name=" \n")), "input.name"),
    (lambda: new_agent(_agent(name=LONG)), "input.name"),
    (lambda: new_agent(_agent(instructions=TOO_LONG)), "input.instructions"),
    (lambda: new_agent(_agent(model="")), "input.model"),
    (lambda: new_agent(_agent(model_settings=_settings(temperature=2.1))), "input.modelSettings.temperature"),
    (lambda: new_agent(_agent(model_settings=_settings(temperature=-0.1))), "input.modelSettings.temperature"),
    (lambda: new_agent(_agent(model_settings=_settings(temperature=float("nan")))), "input.modelSettings.temperature"),
    (lambda: new_agent(_agent(model_settings=_settings(top_p=1.1))), "input.modelSettings.topP"),
    (lambda: new_agent(_agent(model_settings=_settings(max_output_tokens=0))), "input.modelSettings.maxOutputTokens"),
    (lambda: new_agent(_agent(model_settings=_settings(context_window=0))), "input.modelSettings.contextWindow"),
    (lambda: new_agent(_agent(compaction_settings=_compaction(sliding_window_fraction=0.0))), f"{COMPACTION}.slidingWindowFraction"),
    (lambda: new_agent(_agent(compaction_settings=_compaction(sliding_window_fraction=1.0))), f"{COMPACTION}.slidingWindowFraction"),
    (lambda: new_agent(_agent(compaction_settings=_compaction(trigger_fraction=0.0))), f"{COMPACTION}.triggerFraction"),
    (lambda: new_agent(_agent(compaction_settings=_compaction(trigger_fraction=1.01))), f"{COMPACTION}.triggerFraction"),
    (lambda: new_agent(_agent(compaction_settings=_compaction(trigger_fraction=float("nan")))), f"{COMPACTION}.triggerFraction"),
    (lambda: new_agent(_agent(compaction_settings=_compaction(clip_chars=0))), f"{COMPACTION}.clipChars"),
    (lambda: new_agent(_agent(compaction_settings=_compaction(model=""))), f"{COMPACTION}.model"),
    (lambda: new_agent(_agent(compaction_settings=_compaction(prompt=""))), f"{COMPACTION}.prompt"),
    (lambda: new_agent(_agent(compaction_settings=_compaction(prompt=TOO_LONG))), f"{COMPACTION}.prompt"),
    (
        lambda: new_agent(_agent(compaction_settings=_compaction(model_settings=_settings(top_p=2.0)))),
        f"{COMPACTION}.modelSettings.topP",
    ),
    (lambda: new_conversation(_conversation(isolated_block_labels=["a", "b", "a"])), "input.isolatedBlockLabels[2]"),
    (lambda: new_conversation(_conversation(isolated_block_labels=["x"] * 101)), "input.isolatedBlockLabels"),
    (lambda: new_agent(_agent(blocks=[_block(label="")])), "input.blocks[0].label"),
    (lambda: new_agent(_agent(blocks=[_block(label="a b")])), "input.blocks[0].label"),
    (lambda: new_agent(_agent(blocks=[_block(label="x" * 65)])), "input.blocks[0].label"),
    (lambda: new_agent(_agent(blocks=[_block(), _block()])), "input.blocks[1].label"),
    (lambda: new_agent(_agent(blocks=[_block(limit=0)])), "input.blocks[0].limit"),
    (lambda: new_agent(_agent(blocks=[_block(limit=3, value="four")])), "input.blocks[0].value"),
    (lambda: new_agent(_agent(blocks=[_block(value="x" * 5001)])), "input.blocks[0].value"),
    (lambda: new_agent(_agent(tools=[AgentToolInput(name="", requires_approval=None)])), "input.tools[0].name"),
    (lambda: new_agent(_agent(tools=[AgentToolInput(name="a", requires_approval=None)] * 2)), "input.tools[1].name"),
    (lambda: new_conversation(_conversation(idempotency_key="")), "input.idempotencyKey"),
    (lambda: new_conversation(_conversation(idempotency_key=LONG)), "input.idempotencyKey"),
    (lambda: new_conversation(_conversation(summary="x" * 10_001)), "input.summary"),
    (lambda: send_request(_send(messages=[])), "input.messages"),
    (lambda: send_request(_send(messages=[_message(text="hi")] * 101)), "input.messages"),
    (lambda: send_request(_send(_message())), f"{IN_MESSAGE}.text"),
    (lambda: send_request(_send(_message(text="a", content=[_text("b")]))), f"{IN_MESSAGE}.text"),
    (lambda: send_request(_send(_message(text=""))), f"{IN_MESSAGE}.text"),
    (lambda: send_request(_send(_message(text=TOO_LONG))), f"{IN_MESSAGE}.text"),
    (lambda: send_request(_send(_message(content=[]))), f"{IN_MESSAGE}.content"),
    (lambda: send_request(_send(_message(content=[_text("")]))), f"{IN_MESSAGE}.content[0].text"),
    (lambda: send_request(_send(_message(content=[_text("x" * 600_000)] * 2))), f"{IN_MESSAGE}.content"),
    (lambda: send_request(_send(_message(content=[_image("ftp://example.org/a")]))), f"{IN_MESSAGE}.content[0].image.url"),
    (lambda: send_request(_send(_message(content=[_image("data:text/html,hi")]))), f"{IN_MESSAGE}.content[0].image.url"),
    (lambda: send_request(_send(_message(content=[_image("data:image/png")]))), f"{IN_MESSAGE}.content[0].image.url"),
    (lambda: send_request(_send(_message(content=[_image("data:image/png;base64,")]))), f"{IN_MESSAGE}.content[0].image.url"),
    (lambda: send_request(_send(_message(content=[_image("data:image/png;base64,AAA")]))), f"{IN_MESSAGE}.content[0].image.url"),
    (lambda: send_request(_send(_message(content=[_image("data:image/png;base64,ä===")]))), f"{IN_MESSAGE}.content[0].image.url"),
    (lambda: send_request(_send(_message(content=[_image("data:image/svg+xml,<svg/>")]))), f"{IN_MESSAGE}.content[0].image.url"),
    (
        lambda: send_request(_send(_message(content=[_image(TOO_LARGE)]))),
        f"{IN_MESSAGE}.content[0].image.url",
    ),
    (lambda: send_request(_send(_message(content=[_image("https://" + "x" * 9000)]))), f"{IN_MESSAGE}.content[0].image.url"),
    *(
        (lambda url=url: send_request(_send(_message(content=[_image(url)]))), f"{IN_MESSAGE}.content[0].image.url")
        for url in (
            "http://",
            "https:///a.png",
            "http://exa mple.org/a",
            "https://[::1/a",
            "https://:80/a",
            "http://example.org/\n",
            "http:a.png",
        )
    ),
    *(
        (lambda url=url: send_request(_send(_message(content=[_image(url)]))), f"{IN_MESSAGE}.content[0].image.url")
        for url in ("http://h:99999/", "http://h:abc/", "http://h:-1/", "http://h:0/", "HTTPS://h:65536/", "data", "DATA:text/html,hi")
    ),
    *(
        (lambda kind=kind: send_request(_send(_message(content=[_image("https://x", kind)]))), f"{IN_MESSAGE}.content[0].image.mediaType")
        for kind in ("png", "", "text/html", "application/pdf", "image/")
    ),
    (
        lambda: send_request(_send(_message(content=[_image("data:image/png;base64,AAAA", "image/jpeg")]))),
        f"{IN_MESSAGE}.content[0].image.mediaType",
    ),
    (lambda: send_request(_send(_message(content=[_image("https://x")], role=enums.InputRole.SYSTEM))), f"{IN_MESSAGE}.content"),
    (lambda: send_request(_send(_message(text="a", sender="b", role=enums.InputRole.SYSTEM))), f"{IN_MESSAGE}.sender"),
    (lambda: send_request(_send(_message(text="a", client_message_id=""))), f"{IN_MESSAGE}.clientMessageId"),
    (lambda: send_request(_send(group_id="")), "input.groupId"),
    (lambda: send_request(_send(max_steps=0)), "input.maxSteps"),
    (lambda: send_request(_send(max_steps=1001)), "input.maxSteps"),
    (lambda: send_request(_send(override_system=TOO_LONG)), "input.overrideSystem"),
    (
        lambda: send_request(_send(override_model_settings=_settings(temperature=3.0))),
        "input.overrideModelSettings.temperature",
    ),
    (lambda: wait_s(_send(wait_seconds=-1)), "input.waitSeconds"),
    (lambda: wait_s(_send(wait_seconds=601)), "input.waitSeconds"),
]


@pytest.mark.parametrize(("given", "named"), REFUSED, ids=[f"{i} {named}" for i, (_, named) in enumerate(REFUSED)])
def test_what_is_out_of_range_is_refused_by_name(given: Callable[[], object], named: str) -> None:
    with pytest.raises(BadUserInput) as refused:
        given()
    assert refused.value.argument == named


@pytest.mark.parametrize("id_", ["", "x", "conv-", "run-1", "conv-\0", "conv-é", "conv-" + "1" * 100])
def test_a_malformed_id_is_an_unknown_one(id_: str) -> None:
    with pytest.raises(NotFound):
        send_request(_send(conversation_id=ID(id_)))
    with pytest.raises(NotFound):
        new_conversation(_conversation(agent_id=ID(id_)))


def test_a_retry_is_told_from_another_request_by_its_body() -> None:
    first = send_request(_send(idempotency_key="a", wait_seconds=0)).body_hash
    assert send_request(_send(idempotency_key="a", wait_seconds=60, client_mutation_id="x")).body_hash == first
    assert send_request(_send(idempotency_key="b")).body_hash == first
    assert send_request(_send(_message(text="ho"), idempotency_key="a")).body_hash != first
    assert send_request(_send(idempotency_key="a", max_steps=51)).body_hash != first
    assert new_conversation(_conversation(summary="s")).body_hash != new_conversation(_conversation()).body_hash
