"""Settings as they are given: what is absent is left as it is, or to the next lower level."""

import strawberry
from strawberry import UNSET

from schema.enums import CompactionMode, ReasoningEffort


@strawberry.input(description="Settings of a model call; what is absent is left to the next lower level, and in an update as it is.")
class ModelSettingsInput:
    temperature: float | None = strawberry.field(description="How freely the model chooses its words, from 0 to 2.", default=UNSET)
    top_p: float | None = strawberry.field(description="The share of likely words the model chooses from, from 0 to 1.", default=UNSET)
    max_output_tokens: int | None = strawberry.field(description="How many tokens the model may write in one step.", default=UNSET)
    context_window: int | None = strawberry.field(description="How many tokens the model is shown at most.", default=UNSET)
    reasoning_effort: ReasoningEffort | None = strawberry.field(description="How much the model should think.", default=UNSET)
    parallel_tool_calls: bool | None = strawberry.field(description="Whether the model may call several tools in one step.", default=UNSET)


@strawberry.input(
    description="How conversations are compacted; what is absent is left to the next lower level, and in an update as it is. Null clears: "
    "the default holds."
)
class CompactionSettingsInput:
    mode: CompactionMode | None = strawberry.field(description="What is summarised, and by whom: SLIDING_WINDOW.", default=UNSET)
    model: str | None = strawberry.field(description="The handle of the model that writes the summary.", default=UNSET)
    model_settings: ModelSettingsInput | None = strawberry.field(
        description="Settings of the call that writes the summary; what they leave open is the provider's default or, when the "
        "conversation's own model writes it, as in that model's other calls, but never their `maxOutputTokens`.",
        default=UNSET,
    )
    prompt: str | None = strawberry.field(description="What the summariser is told, at most a million characters.", default=UNSET)
    prompt_acknowledgement: bool | None = strawberry.field(
        description="Whether the summariser's request includes an acknowledgement of the prompt; by default not.", default=UNSET
    )
    clip_chars: int | None = strawberry.field(description="How many characters a summary may have, at least 1.", default=UNSET)
    sliding_window_fraction: float | None = strawberry.field(
        description="The share of the context that SLIDING_WINDOW evicts, more than 0 and less than 1; by default 0.3.", default=UNSET
    )
    trigger_fraction: float | None = strawberry.field(
        description="The share of the context window at which compaction happens by itself, more than 0 and at most 1; by default 0.9.",
        default=UNSET,
    )
