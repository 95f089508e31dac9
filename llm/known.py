"""Models that are offered by name, with their context windows in tokens. Others are accepted, too; nothing else hangs on this table.

Windows are those of the genai-prices data, November 2026.
"""

from dataclasses import dataclass

from llm.endpoints import Protocol


@dataclass(frozen=True, slots=True)
class KnownModel:
    context_window: int
    supports_reasoning: bool = True


PROTOCOLS = {"openai": Protocol.RESPONSES, "anthropic": Protocol.ANTHROPIC, "google": Protocol.GOOGLE}

KNOWN: dict[str, dict[str, KnownModel]] = {
    "openai": {
        "gpt-6-astra": KnownModel(1_050_000),
        "gpt-6.1-sol": KnownModel(1_050_000),
        "gpt-6.1-terra": KnownModel(1_050_000),
        "gpt-6-luna": KnownModel(1_050_000),
        "gpt-5.6-sol": KnownModel(1_050_000),
        "gpt-5.6-terra": KnownModel(1_050_000),
        "gpt-5.6-luna": KnownModel(1_050_000),
        "gpt-5": KnownModel(400_000),
        "gpt-5-mini": KnownModel(400_000),
        "gpt-5-nano": KnownModel(400_000),
        "gpt-4o": KnownModel(128_000, supports_reasoning=False),
        "gpt-4o-mini": KnownModel(128_000, supports_reasoning=False),
    },
    "anthropic": {
        "claude-fable-5-2": KnownModel(1_000_000),
        "claude-opus-5-5": KnownModel(1_000_000),
        "claude-sonnet-5-5": KnownModel(1_000_000),
        "claude-haiku-5-5": KnownModel(1_000_000),
        "claude-opus-4-8": KnownModel(1_000_000),
        "claude-sonnet-4-6": KnownModel(1_000_000),
        "claude-haiku-4-5": KnownModel(200_000),
    },
    "google": {
        "gemini-4-argon": KnownModel(1_048_576),
        "gemini-3.8-flash": KnownModel(1_000_000),
        "gemini-3.5-flash": KnownModel(1_000_000),
        "gemini-3.5-flash-lite": KnownModel(1_000_000),
    },
}
