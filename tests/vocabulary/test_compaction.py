"""Settings of compaction over each other, and changed field by field."""

from vocabulary.compaction import CompactionMode, CompactionOverrides, CompactionSettings
from vocabulary.model_settings import ModelSettings

AGENTS = CompactionSettings(
    mode=CompactionMode.ALL,
    model="demo/echo",
    model_settings=ModelSettings(temperature=0.5, top_p=0.9),
    prompt="Sum up.",
    prompt_acknowledgement=True,
    clip_chars=100,
    sliding_window_fraction=0.5,
    trigger_fraction=0.8,
)


def test_by_default_the_oldest_third_goes_when_nine_tenths_are_full() -> None:
    default = CompactionSettings()
    assert (default.mode, default.sliding_window_fraction, default.trigger_fraction) == (CompactionMode.SLIDING_WINDOW, 0.3, 0.9)
    assert (default.model, default.model_settings, default.prompt, default.prompt_acknowledgement, default.clip_chars) == (
        None, None, None, False, None,
    )  # fmt: skip


def test_overrides_that_say_nothing_leave_everything() -> None:
    assert CompactionOverrides().over(AGENTS) == AGENTS


def test_overrides_lie_over_what_is_below_field_by_field() -> None:
    over = CompactionOverrides(prompt_acknowledgement=False, clip_chars=7, model_settings=ModelSettings(temperature=0.0)).over(AGENTS)
    assert (over.prompt_acknowledgement, over.clip_chars) == (False, 7)
    assert over.model_settings == ModelSettings(temperature=0.0, top_p=0.9)
    assert (over.mode, over.prompt, over.trigger_fraction) == (AGENTS.mode, AGENTS.prompt, AGENTS.trigger_fraction)


def test_overrides_of_model_settings_need_none_below() -> None:
    given = ModelSettings(temperature=0.0)
    assert CompactionOverrides(model_settings=given).over(CompactionSettings()).model_settings == given


def test_overrides_give_what_they_clear_its_default() -> None:
    over = CompactionOverrides(mode=CompactionMode.ALL, cleared=("clip_chars", "prompt", "model_settings", "trigger_fraction")).over(AGENTS)
    assert (over.clip_chars, over.prompt, over.model_settings, over.trigger_fraction) == (None, None, None, 0.9)
    assert (over.mode, over.model, over.sliding_window_fraction) == (AGENTS.mode, AGENTS.model, AGENTS.sliding_window_fraction)


def test_a_change_clears_what_it_names_as_null() -> None:
    changed = AGENTS.changed({"prompt": None, "model_settings": {"temperature": None}})
    assert (changed.prompt, changed.model, changed.model_settings) == (None, "demo/echo", ModelSettings(top_p=0.9))
    assert AGENTS.changed({"model_settings": None}).model_settings is None
    assert CompactionSettings().changed({"model_settings": {"top_p": 0.1}}).model_settings == ModelSettings(top_p=0.1)
    assert AGENTS.changed({}) == AGENTS
