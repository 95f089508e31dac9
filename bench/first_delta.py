"""What we add to the time to the first delta: from the command to a live subscriber, less what the model itself takes.

The model is the demo at its usual pace; it is called directly in this process, too, so that both pay for the same timer.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from statistics import median

from bench.client import Client, visiting
from bench.figures import Figure
from bench.ground import SQLITE, Ground
from bench.server import serving
from llm.model import Delta, ModelRequest, UserTurn
from llm.registry import ModelRegistry
from tests.rig import Rig, collect
from tests.runs.scripted import Models
from vocabulary.events import CaughtUp, DeltaMode, MessageDelta, RunChanged
from vocabulary.messages import TextPart

DELAY_MS = 20
TIMES = 20
TEXT = "Hello there."
DIRECT = "model called directly"


async def first_delta(ground: Ground) -> list[Figure]:
    """Each figure is the median of so many sends, one after the other, each in a conversation of its own."""
    direct = await _median_ms(_of_model)
    figures = [Figure(DIRECT, direct, "ms")]
    for kind in ground.kinds:
        async with ground.engine(kind, DemoAtPace()) as parley:
            figures += _with_added(f"{kind}, in process", await _median_ms(lambda: _of_engine(parley)), direct)  # noqa: B023 awaited at once
    with ground.file() as path:
        async with serving(path, DEMO_DELAY_MS=str(DELAY_MS)) as server, visiting(server.url) as client:
            agent_id = await client.agent()
            figures += _with_added(f"{SQLITE}, over HTTP and WebSocket", await _median_ms(lambda: _of_server(client, agent_id)), direct)
    return figures


def _with_added(label: str, whole: float, direct: float) -> list[Figure]:
    return [Figure(label, whole, "ms", DIRECT), Figure("  added", whole - direct, "ms")]
