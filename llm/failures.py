"""What went wrong at a provider, in our words: an exception of pydantic-ai or of the HTTP client becomes a `Failed`.

pydantic-ai sorts most errors already. Added here: how other servers word a full context window, which error types of
ours share a class there, and which failures are worth another try.
"""

import re

from pydantic_ai.exceptions import (
    AgentRunError,
    ContentFilterError,
    ModelAPIError,
    ModelAuthenticationError,
    ModelConnectionError,
    ModelContextWindowExceededError,
    ModelHTTPError,
    ModelQuotaExceededError,
    ModelRateLimitError,
    ModelRequestRejectedError,
    ModelRequestTimeout,
    ModelTimeoutError,
    ModelUnavailableError,
    UnexpectedModelBehavior,
    UserError,
)

from llm.model import Failed
from vocabulary.runs import RunError, RunErrorType, Usage
from vocabulary.text import storable

LONGEST_MESSAGE = 2_000

# The first that fits; subclasses stand before their bases.
_TYPE_OF: dict[type[Exception], RunErrorType] = {
    ModelContextWindowExceededError: RunErrorType.CONTEXT_WINDOW_OVERFLOW,
    ModelRateLimitError: RunErrorType.LLM_RATE_LIMIT,
    ModelQuotaExceededError: RunErrorType.LLM_RATE_LIMIT,
    ModelUnavailableError: RunErrorType.LLM_OVERLOADED,
    ModelTimeoutError: RunErrorType.LLM_TIMEOUT,
    ModelRequestTimeout: RunErrorType.LLM_TIMEOUT,
    TimeoutError: RunErrorType.LLM_TIMEOUT,
    ModelAuthenticationError: RunErrorType.LLM_AUTHENTICATION,
    ModelRequestRejectedError: RunErrorType.LLM_BAD_REQUEST,
    UserError: RunErrorType.LLM_BAD_REQUEST,
}

# What pydantic-ai files under something else: time-outs of the server, and a rate limit whose wording speaks of a context length.
_TYPE_OF_STATUS = {408: RunErrorType.LLM_TIMEOUT, 429: RunErrorType.LLM_RATE_LIMIT, 504: RunErrorType.LLM_TIMEOUT}

# Only what was refused can have been refused for its length: a rate limit speaks of too many tokens, too.
_MAY_BE_TOO_LONG = frozenset({RunErrorType.LLM_BAD_REQUEST, RunErrorType.LLM_ERROR})
_TOO_LONG = re.compile(
    "|".join(
        [
            r"context[_ ](length|window|size)[_ ]?(is |has been |was )?exceed",
            r"exceeds? (the |this model's )?(available |maximum |model's )?context",
            r"context limit",
            r"maximum context length",
            r"(greater|longer) than the (model's )?context length",
            r"maximum prompt length",
            r"(prompt|input) is too long",
            r"too large for model",
            r"exceeded model token limit",
            r"input token count.{0,40}exceeds",
            r"request_too_large",
        ]
    ),
    re.IGNORECASE,
)

_NOTHING = "Streamed response ended without content or tool calls"
"""What pydantic-ai says of a body without any event in it."""


def failed(failure: Exception, usage: Usage) -> Failed:
    error = run_error(failure)
    said = failure.retry_after if isinstance(failure, ModelAPIError) else None
    return Failed(error, usage, transient=_is_transient(failure, error.type), retry_after_s=said)


def _is_transient(failure: Exception, kind: RunErrorType) -> bool:
    """A used-up quota looks like a rate limit, but does not pass; a silent provider has had its time already."""
    match kind:
        case RunErrorType.LLM_RATE_LIMIT:
            return not isinstance(failure, ModelQuotaExceededError)
        case RunErrorType.LLM_OVERLOADED:
            return True
        case RunErrorType.LLM_EMPTY_RESPONSE:
            return _is_nothing(failure)
        case _:
            return kind is RunErrorType.LLM_ERROR and (isinstance(failure, ModelConnectionError) or _is_cut(failure))


def run_error(failure: Exception) -> RunError:
    kind = _kind(failure)
    if kind in _MAY_BE_TOO_LONG and isinstance(failure, ModelAPIError) and _TOO_LONG.search(str(failure)):
        kind = RunErrorType.CONTEXT_WINDOW_OVERFLOW
    return RunError(kind, storable(_message(failure))[:LONGEST_MESSAGE])


def _kind(failure: Exception) -> RunErrorType:
    if isinstance(failure, ModelHTTPError) and (kind := _TYPE_OF_STATUS.get(failure.status_code)):
        return kind
    if kind := next((kind for kind_of, kind in _TYPE_OF.items() if isinstance(failure, kind_of)), None):
        return kind
    if _is_unreadable(failure):
        return RunErrorType.LLM_EMPTY_RESPONSE
    refused = isinstance(failure, ModelHTTPError) and 400 <= failure.status_code < 500
    return RunErrorType.LLM_BAD_REQUEST if refused else RunErrorType.LLM_ERROR


def _is_unreadable(failure: Exception) -> bool:
    """Whatever is no error of the library's own comes from what it was given to read."""
    if isinstance(failure, UnexpectedModelBehavior):
        return not (isinstance(failure, ContentFilterError) or _is_cut(failure))
    return not isinstance(failure, AgentRunError) or isinstance(failure.__cause__, ValueError)  # JSON or UTF-8


def _is_cut(failure: Exception) -> bool:
    """The body ended too early: what is left of an answer whose connection a proxy has lost. Only the wording tells."""
    return isinstance(failure, AgentRunError) and failure.message.startswith("Streamed response ended without") and not _is_nothing(failure)


def _is_nothing(failure: Exception) -> bool:
    """Not one event came: an empty body, or a page or an object in place of events. Nobody can tell it from a connection that a proxy has
    lost at once, so it is worth another try.
    """
    return isinstance(failure, AgentRunError) and failure.message == _NOTHING


def _message(failure: Exception) -> str:
    """What the provider says, with the status; nothing that is only of use with the library's source at hand."""
    if isinstance(failure, ModelHTTPError):
        return f"The provider answered {failure.status_code}: {_said(failure.body) or 'no reason given'}"
    if isinstance(failure, ModelTimeoutError | TimeoutError):
        return "The provider did not answer in time."
    if _is_nothing(failure):
        return "The provider's answer held nothing that could be read."
    if _is_unreadable(failure):
        return f"The provider's answer could not be read: {failure or type(failure).__name__}"
    if _is_cut(failure):
        return "The connection ended before the answer did."
    if isinstance(failure, ModelConnectionError):
        return "The provider could not be reached." if failure.phase == "connect" else "The connection to the provider broke off."
    return str(failure) or type(failure).__name__


def _said(body: object) -> str:
    match body:
        case {"error": {"message": str(message)}} | {"error": str(message)} | {"message": str(message)} | {"detail": str(message)}:
            return message
        case None:
            return ""
        case _:
            return str(body)
