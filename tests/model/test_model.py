"""Whatever is done in whatever order: queries, pages and folded streams show what a server made of lists would show."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test
from uuid_utils.compat import uuid7

from cluster.postgres import fresh_database
from db.engine import Database
from db.migrate import upgrade
from tests.db.patience import PATIENT
from tests.e2e.client import CREATE_AGENT, FOLLOW, LOG, SEND, SNAPSHOT, Transcript
from tests.model.world import Entry, Thread, Turn, names
from tests.puppet import HANDLE, Puppet, Talk
from tests.resolvers.asking import Client
from tests.rig import Rig, rig
from tests.runs.scripted import Models

HEAD = "query ($id: ID!) { conversation(id: $id) { headSequence } }"

SETTLED_S = 20.0
STEPS = 25
EXAMPLES = 12
MOST_THREADS = 2

CREATE = "mutation ($input: CreateConversationInput!) { createConversation(input: $input) { conversation { id } } }"
UPDATE = "mutation ($input: UpdateConversationInput!) { updateConversation(input: $input) { conversation { summary } } }"
DELETE = "mutation ($input: DeleteConversationInput!) { deleteConversation(input: $input) { deletedConversationId } }"
FORK = "mutation ($input: ForkConversationInput!) { forkConversation(input: $input) { conversation { id forkedFrom { id } } } }"
CANCEL_RUN = "mutation ($input: CancelRunInput!) { cancelRun(input: $input) { result { outcome run { status } } } }"
CANCEL_ALL = "mutation ($input: CancelConversationInput!) { cancelConversation(input: $input) { results { outcome run { id } } } }"
HISTORY = """query ($id: ID!, $first: Int, $after: String, $last: Int, $before: String) {
  conversation(id: $id) { messages(first: $first, after: $after, last: $last, before: $before, filter: { includeErrors: true }) {
    edges { cursor node { id type text status inContext } } pageInfo { hasNextPage hasPreviousPage startCursor endCursor } totalCount } } }
"""
LIST = """query ($first: Int, $after: String) {
  conversations(first: $first, after: $after) {
    edges { cursor node { id summary status } } pageInfo { hasNextPage endCursor } totalCount } }
"""


class Play:
    """One running engine, many examples: each in a tenant of its own."""

    def __init__(self, runner: asyncio.Runner, parley: Rig, puppet: Puppet) -> None:
        self.runner, self.parley, self.puppet = runner, parley, puppet

    def wait(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        async def bounded() -> Any:
            async with asyncio.timeout(SETTLED_S):
                return await coroutine

        return self.runner.run(bounded())


class Follower:
    """A client that has been there from the first event on."""

    def __init__(self, client: Client, conversation_id: str) -> None:
        self.transcript = Transcript(0)
        self.ended = ""
        self._moved = asyncio.Condition()
        self._task = asyncio.create_task(self._follow(client, conversation_id), name="a follower")

    async def has_come_to(self, position: int) -> None:
        async with self._moved:
            await self._moved.wait_for(lambda: self.transcript.position >= position or self._task.done())
        if self._task.done():
            self._task.result()

    async def is_over(self) -> str:
        await asyncio.wait({self._task})
        self._task.result()
        return self.ended

    def stop(self) -> None:
        self._task.cancel()

    async def _follow(self, client: Client, conversation_id: str) -> None:
        async for item in client.follow(FOLLOW, id=conversation_id, after=0, deltas="ALL"):
            if item["payload"]["__typename"] == "StreamReset":
                self.ended = item["payload"]["reason"]
                return
            self.transcript.take(item)
            async with self._moved:
                self._moved.notify_all()


class Machine(RuleBasedStateMachine):
    play: Play

    def __init__(self) -> None:
        super().__init__()
        self.client = Client(self.play.parley, tenant=f"tenant-{uuid7()}")
        self.stranger = Client(self.play.parley, tenant=f"stranger-{uuid7()}")
        self.names = names()
        self.threads: list[Thread] = []
        self.gone: list[str] = []
        self.followers: dict[str, Follower] = {}

    def teardown(self) -> None:
        async def stop() -> None:
            for follower in self.followers.values():
                follower.stop()
            for thread in self.threads:
                if thread.line:
                    await self.client.ask(CANCEL_ALL, input={"id": thread.id})

        self.play.wait(stop())

    @initialize()
    def an_agent(self) -> None:
        self.agent_id = self.play.wait(self.client.ask(CREATE_AGENT, input={"name": "A", "model": HANDLE}))["createAgent"]["agent"]["id"]

    # ---- what is done

    @precondition(lambda self: len(self.threads) < MOST_THREADS)
    @rule(summary=st.none() | st.sampled_from(["lunch", "a trip"]))
    def create(self, summary: str | None) -> None:
        made = self.play.wait(self.client.ask(CREATE, input={"agentId": self.agent_id, "summary": summary}))
        self._add(Thread(made["createConversation"]["conversation"]["id"], summary, [Entry("SYSTEM", "")]))

    @precondition(lambda self: self.threads)
    @rule(data=st.data(), policy=st.sampled_from(["ENQUEUE", "ENQUEUE", "REJECT", "INTERRUPT"]), messages=st.integers(1, 2))
    def send(self, data: st.DataObject, policy: str, messages: int) -> None:
        thread = self._one(data)
        prefix = f"{thread.id} {next(self.names)}"
        texts = tuple(f"{prefix}.{number}" for number in range(messages))
        given = {
            "conversationId": thread.id,
            "messages": [{"text": text} for text in texts],
            "whenBusy": policy,
            "idempotencyKey": texts[0],
        }
        if thread.line and policy == "REJECT":
            assert self.play.wait(self.client.refused(SEND, input=given))["code"] == "CONVERSATION_BUSY"
            return
        sent = self.play.wait(self.client.ask(SEND, input=given))["sendMessage"]
        turn = Turn(sent["run"]["id"], texts)
        if thread.line and policy == "INTERRUPT":
            thread.interrupt(turn)
        else:
            thread.send(turn)
        again = self.play.wait(self.client.ask(SEND, input=given))["sendMessage"]
        assert (again["run"]["id"], again["deduplicated"]) == (turn.run_id, True)
        assert again["appliedThroughSequence"] == sent["appliedThroughSequence"]

    @precondition(lambda self: any(thread.line for thread in self.threads))
    @rule(data=st.data(), text=st.sampled_from(["yes ", "no ", "😀"]))
    def answer(self, data: st.DataObject, text: str) -> None:
        thread, turn = self._running(data)
        self._talk(turn).says(text)
        thread.answer(text)

    @precondition(lambda self: any(thread.line for thread in self.threads))
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        thread, turn = self._running(data)
        if not turn.answer:
            self._talk(turn).says("so ")
            thread.answer("so ")
        self._talk(turn).ends()
        thread.finish()

    @precondition(lambda self: any(thread.line for thread in self.threads))
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        thread, turn = self._running(data)
        self._talk(turn).fails(transient=False)
        thread.fail("It broke.")

    @precondition(lambda self: any(thread.turns for thread in self.threads))
    @rule(data=st.data())
    def cancel_run(self, data: st.DataObject) -> None:
        thread = data.draw(st.sampled_from([thread for thread in self.threads if thread.turns]))
        turn = data.draw(st.sampled_from(thread.turns))
        result = self.play.wait(self.client.ask(CANCEL_RUN, input={"id": turn.run_id}))["cancelRun"]["result"]
        assert result["outcome"] == ("CANCELLED" if turn.live else "ALREADY_ENDED")
        if turn.live:
            thread.cancel(turn)

    @precondition(lambda self: self.threads)
    @rule(data=st.data())
    def cancel_conversation(self, data: st.DataObject) -> None:
        thread = self._one(data)
        if not thread.line:
            assert self.play.wait(self.client.refused(CANCEL_ALL, input={"id": thread.id}))["code"] == "NO_ACTIVE_RUNS"
            return
        results = self.play.wait(self.client.ask(CANCEL_ALL, input={"id": thread.id}))["cancelConversation"]["results"]
        assert {result["run"]["id"]: result["outcome"] for result in results} == {turn.run_id: "CANCELLED" for turn in thread.line}
        thread.cancel_all()

    @precondition(lambda self: self.threads)
    @rule(data=st.data(), summary=st.none() | st.sampled_from(["dinner", "the way home"]))
    def rename(self, data: st.DataObject, summary: str | None) -> None:
        thread = self._one(data)
        self.play.wait(self.client.ask(UPDATE, input={"id": thread.id, "summary": summary}))
        thread.summary = summary

    @precondition(lambda self: self.threads)
    @rule(data=st.data(), whole=st.booleans())
    def fork(self, data: st.DataObject, whole: bool) -> None:
        thread = self._one(data)
        given: dict[str, Any] = {"id": thread.id}
        through = None
        if not whole:
            edges = self._history(thread)
            through = data.draw(st.integers(0, len(edges) - 1))
            given["throughMessageId"] = edges[through]["node"]["id"]
        made = self.play.wait(self.client.ask(FORK, input=given))["forkConversation"]["conversation"]
        assert made["forkedFrom"]["id"] == thread.id
        self._add(thread.forked(made["id"], through))

    @precondition(lambda self: self.threads)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        thread = self._one(data)
        self.play.wait(self.client.ask(DELETE, input={"id": thread.id}))
        assert self.play.wait(self.followers.pop(thread.id).is_over()) == "CONVERSATION_DELETED"
        self.threads.remove(thread)
        self.gone.append(thread.id)

    # ---- what must be seen

    @invariant()
    def all_is_as_thought(self) -> None:
        for thread in self.threads:
            self.play.wait(self._settled(thread))
            self._history_agrees(thread)
            self.play.wait(self._streams_agree(thread))

    @invariant()
    def nothing_of_it_is_anybody_elses(self) -> None:
        for id_ in [*self.gone, *(thread.id for thread in self.threads)]:
            asked = self.client if id_ in self.gone else self.stranger
            result = self.play.wait(asked.run("query ($id: ID!) { conversation(id: $id) { id } node(id: $id) { id } }", id=id_))
            assert [error.extensions["code"] for error in result.errors] == ["NOT_FOUND"]
            assert result.data == {"conversation": None, "node": None}

    @rule(size=st.integers(1, 3))
    def the_list_is_walked(self, size: int) -> None:
        found: list[dict[str, Any]] = []
        after = None
        while True:
            page = self.play.wait(self.client.ask(LIST, first=size, after=after))["conversations"]
            found += [edge["node"] for edge in page["edges"]]
            after = page["pageInfo"]["endCursor"]
            if not page["pageInfo"]["hasNextPage"]:
                break
        assert page["totalCount"] == len(self.threads)
        wanted = [{"id": thread.id, "summary": thread.summary, "status": thread.status} for thread in reversed(self.threads)]
        assert found == wanted

    @precondition(lambda self: self.threads)
    @rule(data=st.data(), size=st.integers(1, 3), forward=st.booleans())
    def a_history_is_walked(self, data: st.DataObject, size: int, forward: bool) -> None:
        thread = self._one(data)
        found: list[dict[str, Any]] = []
        given: dict[str, Any] = {"first": size} if forward else {"last": size}
        while True:
            page = self.play.wait(self.client.ask(HISTORY, id=thread.id, **given))["conversation"]["messages"]
            found = [*found, *page["edges"]] if forward else [*page["edges"], *found]
            more = page["pageInfo"]["hasNextPage" if forward else "hasPreviousPage"]
            if not more:
                break
            given |= {"after": page["pageInfo"]["endCursor"]} if forward else {"before": page["pageInfo"]["startCursor"]}
        assert found == self._history(thread)
        assert page["totalCount"] == len(found)

    # ---- how

    def _add(self, thread: Thread) -> None:
        async def follow() -> Follower:
            return Follower(self.client, thread.id)

        self.threads.append(thread)
        self.followers[thread.id] = self.play.runner.run(follow())

    def _one(self, data: st.DataObject) -> Thread:
        return data.draw(st.sampled_from(self.threads))

    def _running(self, data: st.DataObject) -> tuple[Thread, Turn]:
        thread = data.draw(st.sampled_from([thread for thread in self.threads if thread.line]))
        assert thread.running is not None
        return thread, thread.running

    def _talk(self, turn: Turn) -> Talk:
        return self.play.wait(self.play.puppet.asked(turn.last))

    def _history(self, thread: Thread) -> list[dict[str, Any]]:
        return self.play.wait(self.client.ask(HISTORY, id=thread.id, first=200))["conversation"]["messages"]["edges"]

    async def _settled(self, thread: Thread) -> None:
        """The model has been asked what it should have been asked, and has been heard."""
        if (turn := thread.running) is not None:
            talk = await self.play.puppet.asked(turn.last)
            assert [text_of(part) for part in talk.request.history] == thread.context
        follower = self.followers[thread.id]
        expected = {turn.run_id: turn.status for turn in thread.turns}
        answering = thread.running.answer if thread.running else ""
        while True:
            held = follower.transcript
            texts = [m["text"] for m in held.messages.values() if m["status"] == "IN_PROGRESS"]
            if {id_: run["status"] for id_, run in held.runs.items()} == expected and texts == ([answering] if answering else []):
                break
            await follower.has_come_to(held.position + 1)

    def _history_agrees(self, thread: Thread) -> None:
        nodes = [edge["node"] for edge in self._history(thread)]
        answer = thread.running.answer if thread.running else ""
        entries = [*thread.history, *([Entry("ASSISTANT", answer, "IN_PROGRESS")] if answer else [])]
        shown = [Entry(node["type"], "" if node["type"] == "SYSTEM" else node["text"], node["status"], node["inContext"]) for node in nodes]
        assert [e for e in shown if e.kind != "ERROR"] == [e for e in entries if e.kind != "ERROR"]
        assert [e.kind for e in shown] == [e.kind for e in entries]

    async def _at_one_position(self, thread: Thread) -> tuple[Transcript, Transcript]:
        """A step that has begun may be told of while its model is already being asked, and its conversation."""
        follower = self.followers[thread.id]
        while True:
            snapshot = Transcript.of((await self.client.ask(SNAPSHOT, id=thread.id))["conversation"])
            head = (await self.client.ask(HEAD, id=thread.id))["conversation"]["headSequence"]
            await follower.has_come_to(head)
            if follower.transcript.position == head == snapshot.position:
                return follower.transcript, snapshot

    async def _streams_agree(self, thread: Thread) -> None:
        """Live since the first event, in one piece afterwards, and the rows: all the same."""
        live, snapshot = await self._at_one_position(thread)
        assert live.messages == snapshot.messages
        assert live.runs == snapshot.runs
        assert snapshot.conversation["status"] == thread.status
        assert snapshot.conversation["summary"] == thread.summary
        page = (await self.client.ask(LOG, id=thread.id, after=0, deltas="COALESCED"))["conversation"]["events"]
        replayed = Transcript(0)
        for item in page["events"]:
            replayed.take(item)
        assert replayed.messages == snapshot.messages


def text_of(turn: Any) -> str:
    return turn.text if hasattr(turn, "text") else "".join(part.text for part in turn.content)


@asynccontextmanager
async def playing(to_copy: tuple[str, str] | None, folder: Path, puppet: Puppet) -> AsyncGenerator[Rig]:
    async with AsyncExitStack() as stack:
        if to_copy is None:
            url = f"sqlite+aiosqlite:///{folder}/parley.db"
        else:
            url = await stack.enter_async_context(fresh_database(to_copy[0], template=to_copy[1]))
        database = Database.open(url, postgres=PATIENT)
        stack.push_async_callback(database.close)
        await upgrade(database)
        yield await stack.enter_async_context(rig(database, models=Models(puppet)))


@pytest.mark.timeout(300)
def test_a_server_made_of_lists_would_show_the_same(postgres_to_copy: tuple[str, str] | None, tmp_path: Path) -> None:
    puppet = Puppet()
    with asyncio.Runner() as runner:
        engine = playing(postgres_to_copy, tmp_path, puppet)
        parley = runner.run(engine.__aenter__())
        try:
            Played = type("Played", (Machine,), {"play": Play(runner, parley, puppet)})  # noqa: N806
            run_state_machine_as_test(
                Played,
                settings=settings(
                    max_examples=EXAMPLES,
                    stateful_step_count=STEPS,
                    deadline=None,
                    phases=(Phase.explicit, Phase.reuse, Phase.generate),
                    suppress_health_check=[HealthCheck.too_slow],
                ),
            )
        finally:
            runner.run(engine.__aexit__(None, None, None))
