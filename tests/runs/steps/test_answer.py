"""A model's events becoming messages, and what is handed to the pen for them, in order."""

from dataclasses import replace
from datetime import datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from llm.model import (
    Delta,
    Failed,
    Finished,
    HiddenReasoning,
    ModelEvent,
    ReasoningEnded,
    ReasoningStarted,
    TextEnded,
    TextStarted,
    ToolCallEnded,
    ToolCallStarted,
)
from runs.steps.answer import Answer
from runs.writing.writes import Append, Call, Close, Open, Whole, Write
from tests.runs.values import RUN, STEP, THEN
from vocabulary.messages import (
    HiddenReasoningBody,
    HiddenReasoningState,
    MessageStatus,
    MessageType,
    ReasoningBody,
    ToolCallBody,
    ToolCallState,
    ToolSource,
)
from vocabulary.runs import RunError, RunErrorType, StopReason, Usage
from vocabulary.text import utf16_length

FINISHED = Finished(Usage(requests=1), StopReason.END_TURN)
FAILED = Failed(RunError(RunErrorType.LLM_ERROR, "It broke."), Usage(requests=1))


class Paper:
    def __init__(self) -> None:
        self.writes: list[Write] = []

    def write(self, *writes: Write) -> None:
        self.writes += writes


class Clock:
    """A second later every time it is asked."""

    def __init__(self) -> None:
        self.now = THEN

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


def _fed(*events: ModelEvent) -> tuple[Answer, list[Write]]:
    paper = Paper()
    said = Answer(RUN, STEP, paper, source_of=lambda name: ToolSource.MCP if name == "theirs" else ToolSource.BUILTIN, clock=Clock())
    for event in events:
        said.take(event)
    return said, paper.writes


def test_a_text_part_is_an_assistant_message_that_starts_grows_and_is_closed() -> None:
    said, writes = _fed(TextStarted(0), Delta(0, "Hel"), Delta(0, "lo"), TextEnded(0), FINISHED)
    [message] = said.messages
    assert (message.type, message.status, message.text) == (MessageType.ASSISTANT, MessageStatus.COMPLETED, "Hello")
    assert (message.run_id, message.step_id, message.group_id) == (RUN.id, STEP.id, RUN.group_id)
    assert writes == [
        Open(replace(message, status=MessageStatus.IN_PROGRESS, text="")),
        Append(message.id, MessageType.ASSISTANT, None, 0, "Hel"),
        Append(message.id, MessageType.ASSISTANT, None, 3, "lo"),
        Close(message),
    ]
    assert said.end is FINISHED


def test_reasoning_keeps_what_its_provider_wants_back() -> None:
    body = ReasoningBody(signature="s", provider_name="p", provider_details={"id": "rs_1"})
    said, _ = _fed(ReasoningStarted(0), Delta(0, "Hm."), ReasoningEnded(0, body), TextStarted(1), Delta(1, "Yes."), TextEnded(1), FINISHED)
    assert [(message.type, message.text) for message in said.messages] == [(MessageType.REASONING, "Hm."), (MessageType.ASSISTANT, "Yes.")]
    assert said.messages[0].body == body


def test_hidden_reasoning_is_a_message_that_was_never_open() -> None:
    body = HiddenReasoningBody(state=HiddenReasoningState.REDACTED, signature="s")
    said, writes = _fed(HiddenReasoning(0, body), FINISHED)
    assert [(message.type, message.body, message.text) for message in said.messages] == [(MessageType.HIDDEN_REASONING, body, "")]
    assert writes == [Whole(said.messages[0])]


def test_calls_of_a_step_share_one_message_that_is_closed_when_all_is_said() -> None:
    said, writes = _fed(
        ToolCallStarted(0, "clock", "x"),
        Delta(0, '{"a"'),
        ToolCallStarted(1, "theirs", None),
        Delta(1, "{}"),
        Delta(0, ": 1}"),
        ToolCallEnded(1),
        ToolCallEnded(0),
        FINISHED,
    )
    [message] = said.messages
    assert said.tool_calls is message
    assert isinstance(message.body, ToolCallBody)
    assert [(c.name, c.arguments_text, c.provider_call_id, c.source, c.state) for c in message.body.tool_calls] == [
        ("clock", '{"a": 1}', "x", ToolSource.BUILTIN, ToolCallState.PENDING),
        ("theirs", "{}", None, ToolSource.MCP, ToolCallState.PENDING),
    ]
    assert [type(write) for write in writes] == [Open, Call, Append, Call, Append, Append, Call, Call, Close]
    told = [(write.tool_call.state, write.stored) for write in writes if isinstance(write, Call)]
    assert told == [(ToolCallState.STREAMING, False)] * 2 + [(ToolCallState.PENDING, False)] * 2
    offsets = {write.tool_call_id: write.offset for write in writes if isinstance(write, Append)}
    assert list(offsets.values()) == [4, 0]


def test_an_answer_without_calls_calls_nothing() -> None:
    said, _ = _fed(TextStarted(0), Delta(0, "x"), TextEnded(0), FINISHED)
    assert said.tool_calls is None


def test_what_was_open_when_the_model_failed_is_left_to_whoever_closes_the_run() -> None:
    said, writes = _fed(TextStarted(0), Delta(0, "Hel"), ToolCallStarted(1, "clock", None), FAILED)
    assert said.end is FAILED
    assert said.messages == []
    assert not any(isinstance(write, Close) for write in writes)


def test_the_first_token_is_noted_once_whatever_part_it_is_of() -> None:
    said, _ = _fed(ReasoningStarted(0), Delta(0, "a"), ReasoningEnded(0, ReasoningBody()), TextStarted(1), Delta(1, "b"))
    assert said.first_token_at == THEN + timedelta(seconds=2)


def test_before_any_token_there_is_no_first_one() -> None:
    said, _ = _fed(TextStarted(0), FAILED)
    assert said.first_token_at is None


@given(st.lists(st.text(alphabet=st.characters(codec="utf-8"), min_size=1), min_size=1))
def test_offsets_count_what_came_before_as_javascript_does(pieces: list[str]) -> None:
    said, writes = _fed(TextStarted(0), *(Delta(0, piece) for piece in pieces), TextEnded(0), FINISHED)
    appended = [write for write in writes if isinstance(write, Append)]
    assert [write.offset for write in appended] == [utf16_length("".join(pieces[:place])) for place in range(len(pieces))]
    assert said.messages[0].text == "".join(pieces)
