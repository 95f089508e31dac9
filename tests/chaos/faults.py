"""What can break, each fault from its beginning until everything is in its place again. Whoever was ended is started again."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from cluster.programs import Program
from cluster.topology import Topology
from tests.chaos.muffler import Muffler
from tests.chaos.people import Person

DRAINED = 0


@dataclass(frozen=True, slots=True)
class Scene:
    """People in the middle of their answers, and all that can be broken under them."""

    running: Topology
    muffler: Muffler
    people: Sequence[Person]


Fault = Callable[[Scene], Awaitable[None]]


async def a_worker_is_killed(scene: Scene) -> None:
    await _killed(_busiest(scene))


async def a_replica_is_killed(scene: Scene) -> None:
    await _killed(random.choice(scene.running.apis))


async def a_worker_is_told_to_leave(scene: Scene) -> None:
    await _drained(random.choice(scene.running.workers))


async def a_replica_is_told_to_leave(scene: Scene) -> None:
    await _drained(random.choice(scene.running.apis))


async def a_worker_is_stopped_until_others_hold_it_for_dead(scene: Scene) -> None:
    worker = random.choice(scene.running.workers)
    worker.freeze()
    await asyncio.sleep(8)
    worker.thaw()


async def redis_is_restarted(scene: Scene) -> None:
    await asyncio.to_thread(scene.running.redis.stop)
    await asyncio.sleep(1)
    await asyncio.to_thread(scene.running.redis.start)


async def redis_loses_its_subscribers(scene: Scene) -> None:
    for _ in range(5):
        await asyncio.to_thread(scene.running.redis.kill_subscribers)
        await asyncio.sleep(0.2)


async def redis_is_paused(scene: Scene) -> None:
    await scene.running.redis.pause(5)


async def redis_is_flushed(scene: Scene) -> None:
    await asyncio.to_thread(scene.running.redis.flush)


async def announcements_are_dropped(scene: Scene) -> None:
    swallowed = scene.muffler.swallowed
    scene.muffler.is_muffled = True
    await asyncio.sleep(3)
    scene.muffler.is_muffled = False
    assert scene.muffler.swallowed > swallowed, "nothing was announced meanwhile"


async def postgres_is_restarted(scene: Scene) -> None:
    await scene.running.postgres.restart()


async def postgres_crashes(scene: Scene) -> None:
    await scene.running.postgres.restart("immediate")


async def postgres_ends_all_connections(scene: Scene) -> None:
    assert await scene.running.postgres.terminate_backends() > 0


async def readers_stop_reading(scene: Scene) -> None:
    async with asyncio.TaskGroup() as tasks:
        for person in scene.people[::2]:
            tasks.create_task(person.stops_reading(10))


FAULTS: Mapping[str, Fault] = {
    fault.__name__: fault
    for fault in (
        a_worker_is_killed,
        a_replica_is_killed,
        a_worker_is_told_to_leave,
        a_replica_is_told_to_leave,
        a_worker_is_stopped_until_others_hold_it_for_dead,
        redis_is_restarted,
        redis_loses_its_subscribers,
        redis_is_paused,
        redis_is_flushed,
        announcements_are_dropped,
        postgres_is_restarted,
        postgres_crashes,
        postgres_ends_all_connections,
        readers_stop_reading,
    )
}


def _busiest(scene: Scene) -> Program:
    """Jobs are taken by whoever is free: with as many answers as there are here, each worker has some."""
    return random.choice(scene.running.workers)


async def _killed(program: Program) -> None:
    await program.kill()
    await asyncio.sleep(1)
    await program.start()


async def _drained(program: Program) -> None:
    assert await program.terminate() == DRAINED
    await program.start()
