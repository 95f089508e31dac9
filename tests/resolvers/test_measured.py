"""What is counted of operations and streams."""

from contextlib import aclosing

from resolvers.build import build_schema
from telemetry.metrics import Metrics
from tests.resolvers.asking import Client
from tests.rig import Rig

FOLLOW = "subscription S($id: ID!, $after: Int) { conversationEvents(conversationId: $id, after: $after) { sequence } }"


def count(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(name, labels) or 0


async def test_a_subscription_is_counted_when_it_is_over(parley: Rig) -> None:
    metrics = Metrics()
    client = Client(parley, schema=build_schema(metrics))
    conversation = await parley.conversation()
    async with aclosing(client.follow(FOLLOW, id=conversation.id, after=0)) as items:
        await anext(items)
        assert count(metrics, "parley_requests_total", operation="subscription", code="OK") == 0
        assert count(parley.hub.metrics, "parley_subscribers") == 1
    assert count(metrics, "parley_requests_total", operation="subscription", code="OK") == 1
    assert count(parley.hub.metrics, "parley_subscribers") == 0


async def test_a_subscription_that_is_refused_is_counted_under_its_code(parley: Rig) -> None:
    metrics = Metrics()
    await Client(parley, schema=build_schema(metrics)).not_followed(FOLLOW, id="conv-none")
    assert count(metrics, "parley_requests_total", operation="subscription", code="NOT_FOUND") == 1


async def test_a_reset_is_counted_by_its_reason(parley: Rig) -> None:
    client, hub = Client(parley), parley.hub
    conversation = await parley.conversation()
    async with aclosing(client.follow(FOLLOW, id=conversation.id, after=1000)) as items:
        await anext(items)
    assert count(hub.metrics, "parley_stream_resets_total", reason="POSITION_AHEAD") == 1
