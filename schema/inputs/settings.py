"""Settings as they are given: what is absent is left as it is, or to the next lower level."""

import strawberry
from strawberry import UNSET

from schema.enums import ReasoningEffort


@strawberry.input(description="Settings of a model call; what is absent is left to the next lower level, and in an update as it is.")
class ModelSettingsInput:
    temperature: float | None = strawberry.field(description="How freely the model chooses its words, from 0 to 2.", default=UNSET)
    top_p: float | None = strawberry.field(description="The share of likely words the model chooses from, from 0 to 1.", default=UNSET)
    max_output_tokens: int | None = strawberry.field(description="How many tokens the model may write in one step.", default=UNSET)
    context_window: int | None = strawberry.field(description="How many tokens the model is shown at most.", default=UNSET)
    reasoning_effort: ReasoningEffort | None = strawberry.field(description="How much the model should think.", default=UNSET)
    parallel_tool_calls: bool | None = strawberry.field(description="Whether the model may call several tools in one step.", default=UNSET)
