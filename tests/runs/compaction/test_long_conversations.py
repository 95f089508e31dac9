"""Conversations that go on for much longer than their model can be shown, unattended; and what any compaction must leave true."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from db import conversations, messages
from db.engine import Database
from llm.model import ModelRequest
from runs.commands.compact import NothingToCompact
from runs.sizes import size
from tests.db.rows import a_message, stored_conversation
from tests.resolvers.asking import counted_statements
from tests.rig import Rig
from tests.runs.compaction.test_compaction import compacted, context, is_well_formed, said, stats, talking, whole_history
from tests.runs.compaction.windowed import Windowed, brief, kept_in, size_of
from tests.runs.logs import checked, steps
from vocabulary.compaction import CompactionMode, CompactionOverrides, CompactionSettings
from vocabulary.conversations import Conversation
from vocabulary.messages import MessageType
from vocabulary.runs import RunErrorType, RunKind, RunStatus

WINDOW = 1_500
TURNS = 120


async def test_a_long_conversation_goes_on_by_itself_and_nothing_that_must_be_kept_is_lost(database: Database) -> None:
    async with talking(database, model := Windowed(WINDOW), turns=0) as (parley, conversation):
        await said(parley, conversation, "keep-first: answer in German.")
        for number in range(TURNS):
            text = "tool clock" if number % 10 == 9 else f"Number {number}. " + "More of the same tale. " * (1 + number * 7 % 12)
            run = await said(parley, conversation, text)
            assert (run.status, run.error) == (RunStatus.COMPLETED, None)
            assert "keep-first" in kept_in(model.answers[-1])
        assert max(map(size_of, model.asked)) <= WINDOW
        assert len(model.summaries) >= 3
        for asked in model.answers:
            is_well_formed(asked.history)
        history = await whole_history(parley, conversation, forward=True)
        assert len(history) > TURNS * 2
        assert [message.ordinal for message in history] == list(range(1, len(history) + 1))
        await checked(parley, conversation.id)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.sampled_from(["Hi", "tool clock", "A longer thing to say. " * 6]), max_size=4),
    times=st.integers(1, 2),
    mode=st.sampled_from(CompactionMode),
    fraction=st.floats(0.05, 0.95),
    words=st.sampled_from([0, 1, 30, 400]),
)
async def test_a_compaction_makes_the_context_smaller_or_changes_nothing(
    database: Database, texts: list[str], times: int, mode: CompactionMode, fraction: float, words: int
) -> None:
    def summary(asked: ModelRequest) -> str:
        return " ".join([brief(asked), *["word"] * words]) if words else ""

    async with talking(database, Windowed(summary=summary), turns=0) as (parley, conversation):
        for text in texts:
            await said(parley, conversation, text)
        for _ in range(times):
            await _smaller_or_unchanged(parley, conversation, CompactionOverrides(mode=mode, sliding_window_fraction=fraction))
        await checked(parley, conversation.id)


async def _smaller_or_unchanged(parley: Rig, conversation: Conversation, given: CompactionOverrides) -> None:
    before, history = await context(parley, conversation), await parley.history(conversation.id)
    try:
        run = await compacted(parley, conversation, given)
    except NothingToCompact:
        assert (await context(parley, conversation), await parley.history(conversation.id)) == (before, history)
        return
    after = await context(parley, conversation)
    if run.status is RunStatus.COMPLETED:
        told = await stats(parley, run)
        assert (told.messages_before, told.messages_after) == (len(before), len(after))
        assert told.messages_after < told.messages_before
        assert told.tokens_after < told.tokens_before
        assert sum(map(size, after)) < sum(map(size, before))
    else:
        assert run.error is not None
        assert run.error.type in (RunErrorType.COMPACTION_INEFFECTIVE, RunErrorType.LLM_EMPTY_RESPONSE)
        assert after == before
        assert [message.type for message in (await parley.history(conversation.id))[len(history) :]] == [MessageType.ERROR]


async def test_a_context_is_read_in_as_many_statements_however_long_the_history_is(database: Database) -> None:
    conversation = await stored_conversation(database)
    async with database.write() as connection:
        await messages.create(connection, [a_message(conversation.id, ordinal=number) for number in range(1, 1001)])
        await conversations.move_contexts(connection, [conversations.ContextMove(conversation.id, "message-none", 991)])
    async with database.read() as connection:
        [conversation] = (await conversations.read(connection, [conversation.id])).values()
        with counted_statements() as statements:
            assert len(await messages.context(connection, conversation)) == 10
        assert len(statements) == 1
        assert await messages.contexts(connection, [conversation.id]) == {conversation.id: await messages.context(connection, conversation)}


async def test_steps_that_sum_up_do_not_count_against_the_limit(database: Database) -> None:
    small = CompactionSettings(trigger_fraction=0.4)
    async with talking(database, Windowed(WINDOW), settings=small, turns=12) as (parley, conversation):
        sent = await parley.say(conversation.id, "tool clock", max_steps=2)
        run = await parley.ended(sent.run)
        kinds = [step.kind for step in await steps(parley, run.id)]
        assert kinds.count(RunKind.RESPONSE) == 2
        assert run.status is RunStatus.COMPLETED
