"""What a model is told: the compiled system prompt, and the context as turns."""

from dataclasses import replace

from llm.model import AssistantTurn, CalledTool, ReasoningTurn, ReturnedTool, SystemTurn, ToolCallTurn, ToolReturnTurn, UserTurn
from runs.prompt import compile_system, memory, turns
from tests.runs.values import CALL, THEN, message
from vocabulary.conversations import Block
from vocabulary.messages import (
    ApprovalResponseBody,
    ErrorBody,
    EventBody,
    HiddenReasoningBody,
    HiddenReasoningState,
    ImagePart,
    Message,
    MessageType,
    ReasoningBody,
    SystemBody,
    TextPart,
    ToolCallBody,
    ToolReturn,
    ToolReturnBody,
    ToolReturnStatus,
    UserBody,
)
from vocabulary.runs import RunError, RunErrorType

ASKED = message(MessageType.USER, "Hi", UserBody(content=(TextPart("Hi"),)), step_id=None)
REASONED = message(MessageType.REASONING, "Hm.", ReasoningBody(signature="s"))
SAID = message(text="Hello.")
CALLED = message(MessageType.TOOL_CALL, body=ToolCallBody(tool_calls=(CALL,)))
RETURNED = ToolReturn(tool_call_id=CALL.id, name="clock", status=ToolReturnStatus.SUCCESS, output="noon")
ANSWERED = message(MessageType.TOOL_RETURN, body=ToolReturnBody(tool_returns=(RETURNED,)))


def _block(label: str, value: str, description: str | None = None) -> Block:
    return Block(
        id=f"block-{label}",
        tenant="default",
        agent_id="agent-1",
        conversation_id=None,
        label=label,
        value=value,
        description=description,
        limit=5000,
        read_only=False,
        updated_at=THEN,
    )


def test_the_system_prompt_is_the_instructions_and_then_the_blocks() -> None:
    compiled = compile_system("Be kind.", [_block("human", "Ada"), _block("persona", "Terse.", "Who you are")])
    assert compiled == (
        'Be kind.\n\n<memory label="human">\nAda\n</memory>\n\n<memory label="persona" description="Who you are">\nTerse.\n</memory>'
    )


def test_without_instructions_the_system_prompt_begins_with_the_blocks() -> None:
    assert compile_system("", [_block("human", "Ada")]) == '<memory label="human">\nAda\n</memory>'
    assert compile_system("", []) == ""


def test_a_conversations_own_blocks_stand_in_front_of_the_agents_in_the_order_of_their_labels() -> None:
    shared = [_block("human", "Ada"), _block("persona", "Terse."), _block("task", "Count.")]
    own = _block("persona", "Chatty.")
    assert memory(shared, [own]) == [shared[0], own, shared[2]]
    assert memory(shared, []) == shared
    assert memory([], [own]) == [own]


def test_each_kind_of_message_is_its_kind_of_turn() -> None:
    inserted = message(MessageType.SYSTEM, "Answer in German.", SystemBody(), step_id=None)
    assert turns([ASKED, inserted, REASONED, SAID, CALLED, ANSWERED]) == [
        UserTurn((TextPart("Hi"),)),
        SystemTurn("Answer in German."),
        ReasoningTurn("Hm.", ReasoningBody(signature="s")),
        AssistantTurn("Hello."),
        ToolCallTurn((CalledTool("given-1", "clock", "{}"),)),
        ToolReturnTurn((ReturnedTool("given-1", "clock", ToolReturnStatus.SUCCESS, "noon"),)),
    ]


def test_a_user_turn_keeps_its_parts_and_its_sender() -> None:
    body = UserBody(content=(TextPart("Look"), ImagePart("data:image/png;base64,AA==")), sender="Ada")
    assert turns([replace(ASKED, body=body)]) == [UserTurn(body.content, "Ada")]


def test_a_call_without_an_id_of_the_provider_is_paired_by_ours() -> None:
    ours = replace(CALLED, body=ToolCallBody(tool_calls=(replace(CALL, provider_call_id=None),)))
    called, returned = turns([ours, ANSWERED])
    assert isinstance(called, ToolCallTurn)
    assert isinstance(returned, ToolReturnTurn)
    assert called.calls[0].call_id == returned.returns[0].call_id == CALL.id


def test_reasoning_that_led_to_no_words_is_left_out() -> None:
    hidden = message(
        MessageType.HIDDEN_REASONING, body=HiddenReasoningBody(state=HiddenReasoningState.OMITTED, signature="s"), step_id="step-2"
    )
    cut = replace(REASONED, step_id="step-3")
    assert turns([ASKED, REASONED, SAID, hidden, cut]) == turns([ASKED, REASONED, SAID])


def test_reasoning_before_a_call_goes_with_it() -> None:
    hidden = HiddenReasoningBody(state=HiddenReasoningState.REDACTED, signature="s")
    first, *_ = turns([message(MessageType.HIDDEN_REASONING, body=hidden), CALLED])
    assert first == ReasoningTurn("", hidden)


def test_what_is_no_part_of_a_talk_is_no_turn() -> None:
    told = message(MessageType.ERROR, "It broke.", ErrorBody(error=RunError(RunErrorType.INTERNAL, "It broke.")))
    happened = message(MessageType.EVENT, "", EventBody(event_type="x", data={}))
    assert turns([message(text=""), told, happened]) == []


# ---- calls and their returns


def _calls(*ids: str) -> Message:
    calls = tuple(replace(CALL, id=id_, provider_call_id=f"given-{id_}") for id_ in ids)
    return message(MessageType.TOOL_CALL, body=ToolCallBody(tool_calls=calls))


def _returns(*ids: str) -> Message:
    return message(MessageType.TOOL_RETURN, body=ToolReturnBody(tool_returns=tuple(replace(RETURNED, tool_call_id=id_) for id_ in ids)))


def _paired(context: list[Message]) -> list[list[str] | str]:
    return [
        [item.call_id.removeprefix("given-") for item in turn.returns]
        if isinstance(turn, ToolReturnTurn)
        else type(turn).__name__.removesuffix("Turn")
        for turn in turns(context)
    ]


def test_returns_follow_the_calls_of_their_step_in_the_calls_order() -> None:
    assert _paired([_calls("a", "b"), _returns("b", "a"), SAID]) == ["ToolCall", ["a", "b"], "Assistant"]
    assert _paired([_calls("a", "b"), _returns("a"), _returns("b")]) == ["ToolCall", ["a", "b"]]


def test_words_that_the_model_said_behind_its_calls_stay_before_the_returns() -> None:
    assert _paired([_calls("a"), REASONED, SAID, _returns("a")]) == ["ToolCall", "Reasoning", "Assistant", ["a"]]


def test_returns_come_before_whatever_was_said_meanwhile() -> None:
    assert _paired([_calls("a"), ASKED, _returns("a")]) == ["ToolCall", ["a"], "User"]
    later = replace(SAID, step_id="step-2")
    assert _paired([_calls("a"), later, _returns("a")]) == ["ToolCall", ["a"], "Assistant"]


def test_a_call_that_nothing_answers_has_an_error_return() -> None:
    for context in ([_calls("a")], [_calls("a"), ASKED]):
        returned = turns(context)[1]
        assert isinstance(returned, ToolReturnTurn)
        assert [(item.call_id, item.status) for item in returned.returns] == [("given-a", ToolReturnStatus.ERROR)]


def test_a_return_whose_call_is_no_longer_shown_is_left_out() -> None:
    assert _paired([_returns("a"), ASKED]) == ["User"]


def test_requests_and_responses_are_for_people() -> None:
    request = message(MessageType.APPROVAL_REQUEST, body=ToolCallBody(tool_calls=(CALL,)))
    response = message(MessageType.APPROVAL_RESPONSE, body=ApprovalResponseBody(decisions=()))
    assert _paired([_calls(CALL.id), request, response, _returns(CALL.id)]) == ["ToolCall", [CALL.id]]
