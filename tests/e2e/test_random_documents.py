"""Whatever valid document is sent, what is wrong with it is told with a code, and nothing of it is a bug of ours."""

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis_graphql import mutations, nodes, queries

from resolvers.build import build_schema
from tests.resolvers.asking import Client
from tests.rig import Rig

SCHEMA = build_schema()
SDL = SCHEMA.as_str()
# The generator does not know @oneOf and would write mostly invalid inputs: each has its first field alone.
ONE_OF = re.compile(r'(input \w+) @oneOf \{\s+"""[^"]*"""\s+(\w+: \w+)\n.*?\n\}', re.DOTALL)
SDL_WITHOUT_CHOICES = ONE_OF.sub(r"\1 { \2! }", SDL)
AN_OBJECT = st.just(nodes.Object([]))
AN_ID = re.compile(r'\b(id|agentId|conversationId): "(?:[^"\\]|\\.)*"')
BOUNDED = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


pytestmark = pytest.mark.timeout(240)  # the documents take longer to make up than to be answered


@pytest.fixture
async def known(parley: Rig) -> dict[str, str]:
    """Ids of things that exist, by the arguments that could name them."""
    conversation = await parley.conversation(tools=["current_time"])
    sent = await parley.say(conversation.id, "/think /tool current_time {}")
    await parley.ended(sent.run)
    return {"agent": conversation.agent_id, "conversation": conversation.id, "run": sent.run.id, "message": sent.messages[0].id}


def with_ids(document: str, known: dict[str, str], choice: st.DataObject) -> str:
    """Random ids name nothing; here about half of them do."""

    def named(found: re.Match[str]) -> str:
        id_ = choice.draw(st.sampled_from([*known.values(), None]))
        return found[0] if id_ is None else f'{found[1]}: "{id_}"'

    return AN_ID.sub(named, document)


async def no_bug(parley: Rig, document: str) -> None:
    result = await Client(parley, schema=SCHEMA).run(document)
    codes = {str(error.extensions["code"]) for error in result.errors or () if error.extensions is not None}
    assert bool(codes) == bool(result.errors)
    assert not codes & {"INTERNAL_SERVER_ERROR", "GRAPHQL_VALIDATION_FAILED"}, document


@BOUNDED
@given(document=queries(SDL), choice=st.data())
async def test_no_query_finds_a_bug(parley: Rig, known: dict[str, str], document: str, choice: st.DataObject) -> None:
    await no_bug(parley, with_ids(document, known, choice))


@BOUNDED
@given(document=mutations(SDL_WITHOUT_CHOICES, custom_scalars={"JSON": AN_OBJECT}), choice=st.data())
async def test_no_mutation_finds_a_bug(parley: Rig, known: dict[str, str], document: str, choice: st.DataObject) -> None:
    await no_bug(parley, with_ids(document, known, choice))
