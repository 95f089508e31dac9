"""How a conversation is compacted: the settings, as they are given on agents and requests, and what a compaction came to."""

from dataclasses import dataclass, fields, replace
from enum import StrEnum

from vocabulary.changes import Fields
from vocabulary.model_settings import ModelSettings


class CompactionMode(StrEnum):
    ALL = "ALL"
    SLIDING_WINDOW = "SLIDING_WINDOW"
    SELF_COMPACT_ALL = "SELF_COMPACT_ALL"
    SELF_COMPACT_SLIDING_WINDOW = "SELF_COMPACT_SLIDING_WINDOW"


class CompactionTrigger(StrEnum):
    MANUAL = "MANUAL"
    CONTEXT_THRESHOLD = "CONTEXT_THRESHOLD"
    CONTEXT_OVERFLOW = "CONTEXT_OVERFLOW"


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactionSettings:
    """`model`, `model_settings`, `prompt` None: the agent's, and the server's own prompt. `clip_chars` None: as long as it comes.

    `sliding_window_fraction`: the share of the context to evict. `trigger_fraction`: of the window, at which it happens by itself.
    """

    mode: CompactionMode = CompactionMode.SLIDING_WINDOW
    model: str | None = None
    model_settings: ModelSettings | None = None
    prompt: str | None = None
    prompt_acknowledgement: bool = False
    clip_chars: int | None = None
    sliding_window_fraction: float = 0.3
    trigger_fraction: float = 0.9

    def changed(self, given: Fields) -> "CompactionSettings":
        """These with the fields given; a `model_settings` that is itself fields changes those that there are."""
        said = dict(given)
        if isinstance(nested := said.get("model_settings"), dict):
            said["model_settings"] = replace(self.model_settings or ModelSettings(), **nested)
        return replace(self, **said)


_DEFAULTS = CompactionSettings()


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactionOverrides:
    """Settings as one request gives them: None leaves a field to what lies below; those in `cleared` have their defaults instead."""

    mode: CompactionMode | None = None
    model: str | None = None
    model_settings: ModelSettings | None = None
    prompt: str | None = None
    prompt_acknowledgement: bool | None = None
    clip_chars: int | None = None
    sliding_window_fraction: float | None = None
    trigger_fraction: float | None = None
    cleared: tuple[str, ...] = ()

    def over(self, below: CompactionSettings) -> CompactionSettings:
        """These settings where they say something, `below` elsewhere; settings of the model calls, too, field by field."""
        defaults = {name: getattr(_DEFAULTS, name) for name in self.cleared}
        said = {f.name: value for f in fields(below) if (value := getattr(self, f.name)) is not None}
        if self.model_settings is not None:
            said["model_settings"] = self.model_settings.over(below.model_settings or ModelSettings())
        return replace(below, **defaults, **said)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactionStats:
    """What one compaction did to the context."""

    trigger: CompactionTrigger
    mode: CompactionMode
    messages_before: int
    messages_after: int
    tokens_before: int
    tokens_after: int
