"""Settings of a model call, as they are given on agents, conversations and requests, and how they lie over each other."""

from dataclasses import dataclass, fields, replace
from enum import StrEnum


class ReasoningEffort(StrEnum):
    NONE = "NONE"
    MINIMAL = "MINIMAL"
    LOW = "LOW"
    MEDIUM = "MEDIUM"
    HIGH = "HIGH"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """None means: whatever the layer below says, at the bottom the provider's default."""

    temperature: float | None = None
    top_p: float | None = None
    max_output_tokens: int | None = None
    context_window: int | None = None
    reasoning_effort: ReasoningEffort | None = None
    parallel_tool_calls: bool | None = None

    def over(self, below: "ModelSettings") -> "ModelSettings":
        """These settings where they say something, `below` elsewhere (request over conversation over agent)."""
        said = {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}
        return replace(below, **said)
