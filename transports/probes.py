"""What whoever runs the server asks of it, beside GraphQL: `/healthz` (it lives), `/readyz` (send it requests), `/metrics`.

A process that cannot reach its database, or is about to stop, is not ready. One whose bus is away is: sends, runs and resumes go on,
and streams are as slow as the head check. It says so plainly.
"""

import asyncio

import structlog
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from db.engine import Database, DatabaseError
from streams.bus import Bus
from telemetry.metrics import Metrics

log = structlog.get_logger()


class Probes:
    def __init__(self, database: Database, bus: Bus, metrics: Metrics, *, patience_s: float = 2.0) -> None:
        self._database = database
        self._bus = bus
        self._metrics = metrics
        self._patience_s = patience_s
        self._asking: asyncio.Task[bool] | None = None
        self._draining = False

    def drain(self) -> None:
        """From now on nobody should send anything here."""
        self._draining = True

    async def alive(self, _request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(self, _request: Request) -> Response:
        reachable = await self._database_answers()
        status = "draining" if self._draining else "ok" if reachable else "unavailable"
        told = {
            "status": status,
            "database": "reachable" if reachable else "unreachable",
            "bus": "attached" if self._bus.status().connected else "detached",
        }
        return JSONResponse(told, status_code=200 if status == "ok" else 503)

    async def metrics(self, request: Request) -> Response:
        body, media_type = self._metrics.page(request.headers.get("accept", ""))
        return Response(body, headers={"Content-Type": media_type})

    async def _database_answers(self) -> bool:
        """Within so many seconds. All who ask share one question, which is not given up: giving up hangs where the database does."""
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask(), name="readiness")
            self._asking.add_done_callback(self._asked)
        asking = self._asking
        await asyncio.wait({asking}, timeout=self._patience_s)
        return asking.done() and asking.result()

    async def _ask(self) -> bool:
        try:
            await self._database.check()
        except DatabaseError as error:
            log.warning("the database does not answer", error=str(error))
            return False
        return True

    def _asked(self, _task: asyncio.Task[bool]) -> None:
        self._asking = None
