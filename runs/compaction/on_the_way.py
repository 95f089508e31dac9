"""Compacting on the way of a run that answers: when its context has grown too large, or its provider says so."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

import structlog

from llm import tokens
from runs import state
from runs.compaction.compaction import Compaction, unchanged
from runs.engine import Engine
from runs.sizes import measured
from runs.writing.writes import EndStep
from vocabulary.compaction import CompactionSettings
from vocabulary.messages import Message
from vocabulary.runs import Run, RunError, RunErrorType, Step, StopReason, Usage

log = structlog.get_logger()


async def is_due(engine: Engine, run: Run, settings: CompactionSettings, usage: Usage, context: Sequence[Message]) -> bool:
    """After a step: whether what its call was shown has outgrown its share of the window. What the answer added counts with the next."""
    shown = usage.input_tokens
    if usage.estimated or not shown:
        shown = (await asyncio.to_thread(measured, context, None)).tokens
    return shown > settings.trigger_fraction * engine.models.window(run.model, run.request.settings)


async def compact_on_the_way(compaction: Compaction, last: Step, ending: Callable[[Run], Run] = unchanged) -> RunError | None:
    """As `perform`; what came to nothing is accounted for, and the run goes on or ends without it. An error: nothing has changed.

    `last`: the step after which it is.
    """
    failure = await compaction.perform(ending)
    if failure is None:
        return None
    log.warning("a context was not compacted", run_id=compaction.run.id, error=failure.error.message)
    compaction.run = ending(replace(compaction.run, usage=compaction.run.usage + failure.usage))
    if failure.step is not None:
        stop_reason = state.STOP_REASON.get(failure.error.type, StopReason.LLM_ERROR)
        done = replace(failure.step, usage=failure.usage, stop_reason=stop_reason, completed_at=compaction.engine.clock())
        compaction.pen.write(EndStep(done, compaction.run))
    elif compaction.run.ended:
        compaction.pen.write(EndStep(last, compaction.run))
    return failure.error


async def relieve(compaction: Compaction, refused: Step) -> RunError | None:
    """After the provider has refused a context as too long. A system prompt that leaves no room is refused by its name."""
    await compaction.pen.flush()
    prompt, window = await compaction.prompt()
    size_of_prompt = await asyncio.to_thread(tokens.count, prompt)
    if size_of_prompt >= window:
        told = f"The system prompt alone, some {size_of_prompt} tokens, does not fit into the model's context window of {window}."
        return RunError(RunErrorType.CONTEXT_WINDOW_OVERFLOW, told)
    error = await compact_on_the_way(compaction, refused)
    if error is None or error.type is not RunErrorType.COMPACTION_INEFFECTIVE:
        return error
    if await compaction.recompile():
        return None
    return RunError(RunErrorType.CONTEXT_WINDOW_OVERFLOW, f"The conversation does not fit into the model's context window. {error.message}")
