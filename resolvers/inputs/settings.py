"""Settings of model calls, checked against their documented ranges."""

from resolvers.arguments import optional_number
from schema.inputs.settings import ModelSettingsInput
from vocabulary.model_settings import ModelSettings

MAX_INT = 2**31 - 1


def model_settings(path: str, given: ModelSettingsInput | None) -> ModelSettings:
    if given is None:
        return ModelSettings()
    return ModelSettings(
        temperature=optional_number(f"{path}.temperature", given.temperature, 0.0, 2.0),
        top_p=optional_number(f"{path}.topP", given.top_p, 0.0, 1.0),
        max_output_tokens=optional_number(f"{path}.maxOutputTokens", given.max_output_tokens, 1, MAX_INT),
        context_window=optional_number(f"{path}.contextWindow", given.context_window, 1, MAX_INT),
        reasoning_effort=given.reasoning_effort,
        parallel_tool_calls=given.parallel_tool_calls,
    )
