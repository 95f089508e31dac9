"""One call of a provider's model through pydantic-ai, as a stream of our events. Failures are told, never raised.

What goes out is made in `outgoing`, what comes in is translated in `incoming`, failures are named in `failures`.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import replace
from typing import Any

import structlog
from pydantic_ai.direct import model_request_stream
from pydantic_ai.exceptions import AgentRunError
from pydantic_ai.models import Model as ProviderModel
from pydantic_ai.models import StreamedResponse

from llm import outgoing
from llm.endpoints import Protocol, Timeouts
from llm.failures import failed
from llm.images import inlined
from llm.incoming import Incoming
from llm.model import Failed, Finished, ModelEvent, ModelRequest
from vocabulary.runs import RunError, RunErrorType, StopReason, Usage

log = structlog.stdlib.get_logger()

STOP_REASONS = {"length": StopReason.MAX_TOKENS, "content_filter": StopReason.CONTENT_FILTER}
MALFORMED = frozenset({"MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "MALFORMED_RESPONSE"})
"""What Gemini ends with when the model has written something that is no answer."""


class AdaptedModel:
    def __init__(self, handle: str, model: ProviderModel, protocol: Protocol, timeouts: Timeouts) -> None:
        self._handle = handle
        self._model = model
        self._protocol = protocol
        self._timeouts = timeouts

    @property
    def handle(self) -> str:
        return self._handle

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent]:
        incoming, answer, patience = Incoming(), None, _Patience(self._timeouts)
        try:
            async with AsyncExitStack() as call:
                async with patience.next_piece():
                    if self._protocol is Protocol.GOOGLE:  # the only one that does not follow links
                        request = replace(request, history=await inlined(request.history))
                    answer = await call.enter_async_context(self._call(request))
                    pieces = aiter(answer)
                while True:
                    async with patience.next_piece():
                        piece = await anext(pieces, None)
                    if piece is None:
                        break
                    for event in incoming.feed(piece):
                        patience.spoken = True
                        yield event
            for event in _ending(answer, incoming):
                yield event
        except Exception as failure:
            # As broad as this because what a provider sends can make its library raise anything, and here it becomes data.
            if not isinstance(failure, AgentRunError | TimeoutError):
                log.warning("a provider's answer broke its library", model=self._handle, exc_info=True)
            yield failed(failure, _usage(answer))

    def _call(self, request: ModelRequest) -> AbstractAsyncContextManager[StreamedResponse]:
        return model_request_stream(
            self._model,
            outgoing.messages(request, self._model, self._protocol),
            model_settings=outgoing.settings(request, self._model, self._protocol),
            model_request_parameters=outgoing.parameters(request),
            instrument=False,
        )


class _Patience:
    """How long to wait for the next piece. Deadlines of our own, because those of the HTTP client start anew with every ping."""

    def __init__(self, timeouts: Timeouts) -> None:
        self._idle_s = timeouts.idle_s
        self._first_by = asyncio.get_running_loop().time() + timeouts.first_token_s
        self.spoken = False

    def next_piece(self) -> asyncio.Timeout:
        return asyncio.timeout(self._idle_s) if self.spoken else asyncio.timeout_at(self._first_by)


def _ending(answer: StreamedResponse, incoming: Incoming) -> Iterator[ModelEvent]:
    details = answer.provider_details or {}
    reason, usage = answer.finish_reason or details.get("finish_reason"), _usage(answer)
    if reason is None:
        yield Failed(RunError(RunErrorType.LLM_ERROR, "The connection ended before the answer did."), usage, transient=True)
        return
    if reason == "error":
        told = str(details.get("finish_reason", reason))
        kind = RunErrorType.LLM_EMPTY_RESPONSE if told in MALFORMED else RunErrorType.LLM_ERROR
        yield Failed(RunError(kind, f"The provider broke off: {told}."), usage)
        return
    if refusal := details.get("refusal"):
        yield from incoming.text(refusal)
    stop_reason = STOP_REASONS.get(reason, StopReason.END_TURN)
    closing = list(incoming.close(cut=stop_reason is not StopReason.END_TURN))
    if stop_reason is StopReason.END_TURN and not incoming.answered:
        yield Failed(RunError(RunErrorType.LLM_EMPTY_RESPONSE, "The model answered with neither text nor a tool call."), usage)
        return
    yield from closing
    yield Finished(usage, stop_reason)


def _usage(answer: StreamedResponse | None) -> Usage:
    """`estimated` marks that the provider reported nothing. What it left out is absent from the instance, and None here."""
    reported: dict[str, Any] = vars(answer.usage) if answer else {}
    if not (reported.get("input_tokens") or reported.get("output_tokens")):
        return Usage(requests=1, estimated=True)
    details: dict[str, int] = reported.get("details") or {}
    return Usage(
        input_tokens=reported.get("input_tokens", 0),
        output_tokens=reported.get("output_tokens", 0),
        cached_input_tokens=reported.get("cache_read_tokens"),
        cache_write_tokens=reported.get("cache_write_tokens"),
        reasoning_tokens=reported.get("output_reasoning_tokens", details.get("reasoning_tokens")),
        requests=1,
    )
