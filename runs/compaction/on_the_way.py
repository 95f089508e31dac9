"""Compacting on the way of a run that answers: when its context has grown too large, or its provider says so."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

import structlog

from llm import tokens
from runs.compaction.compaction import Compaction, unchanged
from runs.engine import Engine
from runs.sizes import measured, size, size_of_tools, surely_exceeds
from runs.writing.writes import EndStep
from vocabulary.compaction import CompactionSettings
from vocabulary.messages import Message, MessageType
from vocabulary.runs import Run, RunError, RunErrorType, Step, Usage

log = structlog.get_logger()


async def is_due(engine: Engine, run: Run, settings: CompactionSettings, usage: Usage, context: Sequence[Message]) -> bool:
    """After a step: whether the conversation has outgrown its share of the window. What the answer added counts with the next.

    A system prompt of this request's own goes with it: the compiled one counts in its place, and should it not fit beside what there is,
    the provider will say so. Tools of the client come again as a rule, but no compaction makes them smaller: the share is one of what
    they leave of the window.
    """
    window = engine.models.window(run.model, run.request.settings)
    is_told = bool(usage.input_tokens) and not usage.estimated
    if is_told and run.request.override_system is None and usage.input_tokens <= settings.trigger_fraction * window:
        return False  # whatever the tools take; and nothing had to be loaded to say so
    tools = await asyncio.to_thread(size_of_tools, run.request.client_tools)
    counted = usage.input_tokens - tools if is_told else None
    shown = await asyncio.to_thread(_shown_next, run.request.override_system, counted, context)
    return shown > settings.trigger_fraction * max(0, window - tools)


def _shown_next(override: str | None, counted: int | None, context: Sequence[Message]) -> int:
    if counted is None:
        return measured(context, None).tokens
    if override is None:
        return counted
    return counted - tokens.count(override) + sum(size(message) for message in context if _is_compiled(message))


def _is_compiled(message: Message) -> bool:
    return message.type is MessageType.SYSTEM and not message.in_tail


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
        done = replace(failure.step, usage=failure.usage, stop_reason=failure.stop_reason, completed_at=compaction.engine.clock())
        compaction.pen.write(EndStep(done, compaction.run))
    elif compaction.run.ended:
        compaction.pen.write(EndStep(last, compaction.run))
    return failure.error


async def shorten_prompt(compaction: Compaction) -> RunError | None:
    """Before a model is shown a system prompt that does not fit: as it would be compiled now it may. `compaction.context` has it then."""
    await compaction.pen.flush()
    prompt, window = await compaction.prompt()
    if not await asyncio.to_thread(surely_exceeds, prompt, window) and await compaction.recompile():
        return None
    return await _prompt_too_long(prompt, window)


async def relieve(compaction: Compaction, refused: Step) -> RunError | None:
    """After the provider has refused a context as too long. A system prompt that leaves no room is refused by its name."""
    await compaction.pen.flush()
    prompt, window = await compaction.prompt()
    if await asyncio.to_thread(tokens.count, prompt) >= window:
        return await _prompt_too_long(prompt, window)
    error = await compact_on_the_way(compaction, refused)
    if error is None or error.type is not RunErrorType.COMPACTION_INEFFECTIVE:
        return error
    if await compaction.recompile():
        return None
    return RunError(RunErrorType.CONTEXT_WINDOW_OVERFLOW, f"The conversation does not fit into the model's context window. {error.message}")


async def _prompt_too_long(prompt: str, window: int) -> RunError:
    size_of_prompt = await asyncio.to_thread(tokens.count, prompt)
    told = f"The system prompt alone, some {size_of_prompt} tokens, does not fit into the model's context window of {window}."
    return RunError(RunErrorType.CONTEXT_WINDOW_OVERFLOW, told)
