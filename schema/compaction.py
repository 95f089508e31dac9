"""How conversations are compacted, and what a compaction came to."""

import strawberry

from schema.enums import CompactionMode, CompactionTrigger
from schema.models import ModelSettings


@strawberry.type(description="How conversations are compacted when they no longer fit into the model's context window.")
class CompactionSettings:
    mode: CompactionMode = strawberry.field(description="What is summarised, and by whom.")
    model: str | None = strawberry.field(description="The handle of the model that writes the summary; null: the conversation's.")
    model_settings: ModelSettings | None = strawberry.field(
        description="Settings of the call that writes the summary; what they leave open is the provider's default or, when the "
        "conversation's own model writes it, as in that model's other calls, but never their `maxOutputTokens`."
    )
    prompt: str | None = strawberry.field(description="What the summariser is told; null: the server's own prompt.")
    prompt_acknowledgement: bool = strawberry.field(
        description="Whether the summariser's request includes an acknowledgement of the prompt, as if the model had agreed to it."
    )
    clip_chars: int | None = strawberry.field(description="How many characters a summary may have at most; null: any number.")
    sliding_window_fraction: float = strawberry.field(description="The share of the context that SLIDING_WINDOW evicts, between 0 and 1.")
    trigger_fraction: float = strawberry.field(description="The share of the context window at which compaction happens by itself.")


@strawberry.type(description="What one compaction did to the context.")
class CompactionStats:
    trigger: CompactionTrigger = strawberry.field(description="Why it happened.")
    mode: CompactionMode = strawberry.field(description="The mode that was used.")
    messages_before: int = strawberry.field(description="How many messages the context held before.")
    messages_after: int = strawberry.field(description="How many messages the context held afterwards.")
    tokens_before: int = strawberry.field(description="How many tokens the context had before, as far as known.")
    tokens_after: int = strawberry.field(description="How many tokens the context had afterwards, as far as known.")
