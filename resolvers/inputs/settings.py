"""Settings of model calls, checked against their documented ranges.

Read as settings, where absent and null are the same, or as the fields of a change, where absent keeps and null clears.
"""

from dataclasses import fields

from strawberry import UNSET

from resolvers.arguments import optional_number
from resolvers.inputs.absence import or_null
from schema.inputs.settings import ModelSettingsInput
from vocabulary.changes import Fields
from vocabulary.model_settings import ModelSettings

MAX_INT = 2**31 - 1

_NO_MODEL_SETTINGS = ModelSettings()


def model_settings(path: str, given: ModelSettingsInput | None) -> ModelSettings:
    if not given:
        return _NO_MODEL_SETTINGS
    return ModelSettings(
        temperature=optional_number(f"{path}.temperature", or_null(given.temperature), 0.0, 2.0),
        top_p=optional_number(f"{path}.topP", or_null(given.top_p), 0.0, 1.0),
        max_output_tokens=optional_number(f"{path}.maxOutputTokens", or_null(given.max_output_tokens), 1, MAX_INT),
        context_window=optional_number(f"{path}.contextWindow", or_null(given.context_window), 1, MAX_INT),
        reasoning_effort=or_null(given.reasoning_effort),
        parallel_tool_calls=or_null(given.parallel_tool_calls),
    )


def model_settings_change(path: str, given: ModelSettingsInput | None) -> Fields:
    """What to `replace` in settings that there are."""
    if given is UNSET:
        return {}
    checked = model_settings(path, given)
    return {f.name: getattr(checked, f.name) for f in fields(checked) if given is None or getattr(given, f.name) is not UNSET}
