"""Models and the settings of their calls."""

import strawberry

from schema.enums import ReasoningEffort


@strawberry.type(description="A model that agents can use.")
class Model:
    handle: str = strawberry.field(description="How to name it: `provider/name`.")
    provider: str = strawberry.field(description="Who offers it.")
    name: str = strawberry.field(description="Its name at the provider.")
    context_window: int = strawberry.field(description="How many tokens it can be shown.")
    supports_tools: bool = strawberry.field(description="Whether it can call tools.")
    supports_reasoning: bool = strawberry.field(description="Whether it can think before it answers.")


@strawberry.type(description="Settings of a model call; null leaves a setting to the next lower level, at last to the provider.")
class ModelSettings:
    temperature: float | None = strawberry.field(description="How freely the model chooses its words, from 0 to 2.")
    top_p: float | None = strawberry.field(description="The share of likely words the model chooses from, from 0 to 1.")
    max_output_tokens: int | None = strawberry.field(description="How many tokens the model may write in one step.")
    context_window: int | None = strawberry.field(description="How many tokens the model is shown at most.")
    reasoning_effort: ReasoningEffort | None = strawberry.field(description="How much the model should think.")
    parallel_tool_calls: bool | None = strawberry.field(description="Whether the model may call several tools in one step.")
