"""Settings of model calls and of compaction, checked against their documented ranges.

Read as settings, where absent and null are the same, or as the fields of a change, where absent keeps and null clears.
"""

from dataclasses import fields

from strawberry import UNSET

from resolvers.arguments import MAX_TEXT, BadUserInput, optional_number, optional_text
from resolvers.inputs.absence import or_null
from schema.inputs.settings import CompactionSettingsInput, ModelSettingsInput
from vocabulary.changes import Fields
from vocabulary.compaction import CompactionOverrides, CompactionSettings
from vocabulary.model_settings import ModelSettings

MAX_INT = 2**31 - 1

_NO_MODEL_SETTINGS = ModelSettings()
_DEFAULT_COMPACTION = CompactionSettings()


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


def compaction_overrides(path: str, given: CompactionSettingsInput | None) -> CompactionOverrides:
    if not given:
        return CompactionOverrides()
    nested = f"{path}.modelSettings"
    return CompactionOverrides(
        mode=or_null(given.mode),
        model=optional_text(f"{path}.model", or_null(given.model)),
        model_settings=model_settings(nested, given.model_settings) if given.model_settings else None,
        prompt=optional_text(f"{path}.prompt", or_null(given.prompt), at_most=MAX_TEXT),
        prompt_acknowledgement=or_null(given.prompt_acknowledgement),
        clip_chars=optional_number(f"{path}.clipChars", or_null(given.clip_chars), 1, MAX_INT),
        sliding_window_fraction=_fraction(f"{path}.slidingWindowFraction", or_null(given.sliding_window_fraction), whole=False),
        trigger_fraction=_fraction(f"{path}.triggerFraction", or_null(given.trigger_fraction), whole=True),
        cleared=tuple(f.name for f in fields(CompactionSettings) if getattr(given, f.name) is None),
    )


def compaction_settings(path: str, given: CompactionSettingsInput | None) -> CompactionSettings:
    return compaction_overrides(path, given).over(_DEFAULT_COMPACTION)


def compaction_change(path: str, given: CompactionSettingsInput | None) -> Fields:
    """For `CompactionSettings.changed`; what is cleared has its default again."""
    if given is UNSET:
        return {}
    checked = compaction_settings(path, given)
    named = {f.name: getattr(checked, f.name) for f in fields(checked) if given is None or getattr(given, f.name) is not UNSET}
    if given is not None and given.model_settings:
        named["model_settings"] = model_settings_change(f"{path}.modelSettings", given.model_settings)
    return named


def _fraction(argument: str, value: float | None, *, whole: bool) -> float | None:
    if value is None or 0 < value < 1 or (whole and value == 1):
        return value
    raise BadUserInput(argument, f"must be more than 0 and {'at most' if whole else 'less than'} 1, not {value}")
