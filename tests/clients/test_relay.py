"""Relay's own compiler and graphql-eslint's Relay rules on the schema as it is printed, and the compiled operations on a running server."""

import json
import shutil
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from graphql import OperationDefinitionNode, parse
from uuid_utils.compat import uuid7

from cluster.programs import ROOT, Server
from tests.clients.packages import HERE, NoClients, node_modules, run
from tests.e2e.client import Client, client_of
from tests.e2e.server import serving

pytestmark = pytest.mark.timeout(360)  # whoever comes first fetches the packages
on_the_server = pytest.mark.asyncio(loop_scope="session")

SCHEMA = (ROOT / "schema" / "schema.graphql").read_text()
NONE: list[str] = []
"""Of the connections in a client's store."""


@pytest.fixture(scope="session")
def packages() -> Path:
    try:
        return node_modules()
    except NoClients as missing:
        pytest.exit(str(missing), returncode=1)


@pytest.fixture(scope="session")
def project_of(packages: Path) -> Callable[[Path], Path]:
    """Makes a folder a client's project with our schema in it."""

    def make(folder: Path) -> Path:
        for name in ("eslint.config.js", "relay.config.json"):
            shutil.copy(HERE / name, folder)
        shutil.copytree(HERE / "relay", folder / "relay")
        (folder / "node_modules").symlink_to(packages)
        (folder / "artifacts").mkdir()
        (folder / "operations.json").write_text("{}")
        (folder / "schema.graphql").write_text(SCHEMA)
        return folder

    return make


@pytest.fixture
def project(project_of: Callable[[Path], Path], tmp_path: Path) -> Path:
    return project_of(tmp_path)


def change(project: Path, file: str, old: str, new: str) -> None:
    text = (project / file).read_text()
    assert old in text
    (project / file).write_text(text.replace(old, new))


def lint(project: Path) -> str:
    """What it complains of."""
    done = run("eslint/bin/eslint.js", "schema.graphql", folder=project)
    assert bool(done.returncode) == ("error" in done.stdout), done.stdout
    return done.stdout


def compiled(project: Path) -> str:
    """What the compiler says if it refuses."""
    done = run("relay-compiler/cli.js", "relay.config.json", folder=project)
    return done.stdout if done.returncode else ""


def test_the_schema_keeps_the_relay_rules(project: Path) -> None:
    assert lint(project) == ""
    change(project, "schema.graphql", "pageInfo: PageInfo!", "pageInfo: PageInfo")
    change(project, "schema.graphql", "RunEdge", "RunLink")
    complaints = lint(project)
    assert "must return a non-null `PageInfo`" in complaints, "the rules do look"
    assert 'Edge type must have "Edge" suffix' in complaints


def test_relay_compiles_pages_refetches_and_updates_of_its_store(project: Path) -> None:
    assert compiled(project) == ""
    written = "".join(path.read_text() for path in (project / "relay").glob("*.js"))
    for directive in ("@connection", "@refetchable", "@appendEdge", "@prependEdge", "@deleteEdge", "@deleteRecord"):
        assert directive in written
    change(project, "relay/sidebar.js", "conversationEdge @prependEdge", "conversation @prependEdge")
    assert "prependEdge" in compiled(project), "the compiler does look"


# ---- what was compiled, on a server


@pytest.fixture(scope="session")
def operations(project_of: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """As the client would send them, by name."""
    project = project_of(tmp_path_factory.mktemp("relay"))
    assert compiled(project) == ""
    texts: list[str] = list(json.loads((project / "operations.json").read_text()).values())
    return {name_of(text): text for text in texts}


def name_of(text: str) -> str:
    (operation,) = [part for part in parse(text).definitions if isinstance(part, OperationDefinitionNode)]
    assert operation.name is not None
    return operation.name.value


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Server]:
    async with serving(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest_asyncio.fixture(loop_scope="session")
async def client(server: Server) -> AsyncGenerator[Client]:
    async with client_of(server.url, tenant=f"one-{uuid7()}") as client:
        yield client


def edges(connection: dict[str, Any]) -> list[tuple[str, str]]:
    return [(edge["cursor"], edge["node"]["id"]) for edge in connection["edges"]]


def edge(given: dict[str, Any]) -> tuple[str, str]:
    return given["cursor"], given["node"]["id"]


@on_the_server
async def test_edges_of_mutations_and_events_are_those_that_their_connections_give(client: Client, operations: dict[str, str]) -> None:
    made = await client.ask(operations["sidebarCreateAgentMutation"], input={"name": "Ann"}, connections=NONE)
    agent = made["createAgent"]["agentEdge"]
    assert edges((await client.ask(operations["sidebarAgentsQuery"], first=5))["agents"]) == [edge(agent)]

    given = {"agentId": agent["node"]["id"]}
    made = await client.ask(operations["sidebarCreateConversationMutation"], input=given, connections=NONE)
    conversation = made["createConversation"]["conversationEdge"]
    assert edges((await client.ask(operations["sidebarQuery"]))["conversations"]) == [edge(conversation)]

    id_ = conversation["node"]["id"]
    given = {"conversationId": id_, "messages": [{"text": "one"}, {"text": "two"}], "waitSeconds": 10}
    sent = (await client.ask(operations["chatSendMutation"], input=given, connections=NONE))["sendMessage"]
    history = edges((await client.ask(operations["chatQuery"], id=id_))["conversation"]["messages"])
    assert [edge(each) for each in sent["messageEdges"]] == history[1:], "all but the system message"

    async with client.socket() as socket:
        told: list[tuple[str, str]] = []
        async for data in await socket.start(operations["chatSubscription"], id=id_, after=0, connections=NONE):
            payload = data["conversationEvents"]["payload"]
            if payload["__typename"] == "CaughtUp":
                break
            if payload["__typename"] == "MessageCompleted":
                told.append(edge(payload["messageEdge"]))
    assert told == history


@on_the_server
async def test_a_page_goes_on_behind_an_edge_that_a_mutation_gave(client: Client, operations: dict[str, str]) -> None:
    agent = await client.agent()
    made = [
        (await client.ask(operations["sidebarCreateConversationMutation"], input={"agentId": agent}, connections=NONE))[
            "createConversation"
        ]
        for _ in range(3)
    ]
    oldest, middle, newest = [edge(each["conversationEdge"]) for each in made]
    page = await client.ask(operations["sidebarPaginationQuery"], first=1, after=newest[0])
    assert edges(page["conversations"]) == [middle]
    page = await client.ask(operations["sidebarPaginationQuery"], first=5, after=middle[0])
    assert edges(page["conversations"]) == [oldest]


@on_the_server
async def test_nodes_are_refetched_by_what_relay_made_of_their_fragments(client: Client, operations: dict[str, str]) -> None:
    id_ = await client.conversation()
    sent = await client.send(id_, "hello", waitSeconds=10)
    for name, node in (
        ("sidebarRowQuery", id_),
        ("chatHistoryPaginationQuery", id_),
        ("chatRunQuery", sent["run"]["id"]),
        ("chatMessageQuery", sent["messages"][0]["id"]),
    ):
        assert (await client.ask(operations[name], id=node))["node"]["id"] == node
    assert len(edges((await client.ask(operations["chatHistoryPaginationQuery"], id=id_, last=2))["node"]["messages"])) == 2
