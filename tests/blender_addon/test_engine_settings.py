"""Engines and options in the panel: what the artist chose is what the engine gets, now and when the file is opened."""

import bpy
import pytest
from retake_shared.engine_options import ENGINES, describe
from retake_shared.errors import BadShot

from blender_addon import engine_settings, properties, take_requests

EVERY_OPTION = [(engine, option) for engine in ENGINES for option in engine.options]
NUMBERS = [(engine, option) for engine, option in EVERY_OPTION if option.kind in ("whole", "number")]


def other_value(option):
    """A value of the option that is not its default."""
    if option.kind == "choice":
        return next(value for value, _, _ in option.choices if value != option.default)
    if option.kind == "switch":
        return not option.default
    step = 1 if option.kind == "whole" else 0.15
    return option.default + step if option.default + step <= option.high else option.default - step


@pytest.fixture
def settings(shot):
    """The shot's properties."""
    return shot[0].retake


@pytest.fixture
def two_beyond():
    """A backend that knows two engines more than the table."""
    engine_settings.learn([{"name": "preview"}, {"name": "zeta", "label": "Zeta"}, {"name": "alpha", "needs": "none"}])
    yield
    engine_settings.learn([])


def test_every_engine_can_be_chosen_and_is_what_renders(settings, shot):
    for engine in ENGINES:
        settings.engine = engine.name
        assert settings.engine == settings.engine_name == engine.name
        assert take_requests.settings_of(shot[0]).engine == engine.name
        assert take_requests.settings_of(shot[0]).options == {}


@pytest.mark.parametrize(("engine", "option"), EVERY_OPTION, ids=lambda it: it.name)
def test_each_option_reaches_the_engine_as_it_was_set_and_alone(settings, shot, engine, option):
    settings.engine = engine.name
    value = other_value(option)
    setattr(settings.options, engine_settings.identifier(engine.name, option.name), value)
    options = take_requests.settings_of(shot[0]).options
    assert options == {option.name: value}
    assert type(options[option.name]) is type(option.default)
    assert engine.checked(options)[option.name] == value


@pytest.mark.parametrize(("engine", "option"), NUMBERS, ids=lambda it: it.name)
def test_the_panel_lets_nobody_leave_the_range(settings, engine, option):
    for value in (option.low - 1, option.high + 1):
        name = engine_settings.identifier(engine.name, option.name)
        setattr(settings.options, name, value)
        option.checked(engine_settings.value_of(settings, engine.name, option))


def test_options_that_mean_the_same_are_set_once(settings, shot):
    settings.options.quality = "best"
    for name in ("edit-by-track", "track2view", "trajectory-attention", "vace"):
        settings.engine = name
        assert take_requests.settings_of(shot[0]).options == {"quality": "best"}
    settings.engine = "preview"
    assert take_requests.settings_of(shot[0]).options == {}


def test_options_of_one_name_with_other_defaults_are_kept_apart(settings, shot):
    settings.options.tracks = 500
    settings.engine = "edit-by-track"
    assert take_requests.settings_of(shot[0]).options == {"tracks": 500}
    settings.engine = "track2view"
    assert take_requests.settings_of(shot[0]).options == {}


def test_a_files_engine_and_options_are_the_same_when_it_is_opened_again(settings, tmp_path, two_beyond):
    settings.engine = "vace"
    settings.options.memory, settings.options.control = "8", 0.7
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    engine_settings.learn([])  # another backend, or none
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "shot.blend"))
    root = next(ob for ob in bpy.data.objects if ob.retake_role == "SHOT")
    found = take_requests.settings_of(root)
    assert (found.engine, found.options) == ("vace", {"memory": "8", "control": 0.7})


class OldShot(bpy.types.PropertyGroup):
    """A shot's settings as the first release had them."""

    engine: bpy.props.EnumProperty(items=(("preview", "Preview", ""),))
    seed: bpy.props.IntProperty()


def test_a_file_that_was_saved_with_the_only_engine_of_its_time_has_it(tmp_path):
    bpy.utils.register_class(OldShot)
    bpy.types.Object.retake = bpy.props.PointerProperty(type=OldShot)
    try:
        root = bpy.data.objects.new("old", None)
        bpy.context.scene.collection.objects.link(root)
        root.retake.engine, root.retake.seed = "preview", 3
        bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "old.blend"))
    finally:
        bpy.types.Object.retake = bpy.props.PointerProperty(type=properties.RetakeShot)
        bpy.utils.unregister_class(OldShot)
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "old.blend"))
    root = bpy.data.objects["old"]
    assert (root.retake.engine, root.retake.seed) == ("preview", 3)
    assert (take_requests.settings_of(root).engine, take_requests.settings_of(root).options) == ("preview", {})


def test_engines_beyond_the_table_are_chosen_by_name_and_their_options_by_words(settings, shot, two_beyond):
    settings.engine = "alpha"
    settings.other_options = "seconds=0.5 word='two words' fast=true"
    found = take_requests.settings_of(shot[0])
    assert (found.engine, found.options) == ("alpha", {"seconds": 0.5, "word": "two words", "fast": True})
    engine_settings.learn([{"name": "zeta"}])  # the backend lost it: the choice stays, and says so
    assert settings.engine == "alpha"
    assert "Not among the engines" in engine_settings.description_of("alpha")
    engine_settings.learn([])
    assert settings.engine == "alpha"
    settings.engine = "preview"
    with pytest.raises(TypeError):
        settings.engine = "alpha"


def test_words_that_are_no_options_are_refused_with_the_remedy(settings, shot, two_beyond):
    settings.engine = "zeta"
    for words in ("fast", "a='", "=3"):
        settings.other_options = words
        with pytest.raises(BadShot, match="NAME=VALUE"):
            take_requests.settings_of(shot[0])


def test_a_takes_options_come_back_and_the_others_go_to_their_defaults(settings, shot):
    settings.options.steps, settings.options.window = 12, 33
    notes = engine_settings.write(settings, "track2view", {"strength": 0.6, "tracks": 77, "colour": "red", "shift": -5})
    assert take_requests.settings_of(shot[0]).options == {"strength": 0.6, "tracks": 77}
    assert settings.engine == "track2view"
    assert any("colour" in note for note in notes)
    assert any("Shift" in note for note in notes)
    assert engine_settings.write(settings, "alpha", {"word": "it's", "on": True, "n": 3}) == []
    assert take_requests.settings_of(shot[0]).options == {"word": "it's", "on": True, "n": 3}


def test_a_new_option_in_the_table_has_a_property_without_more_code():
    names = set(engine_settings.RetakeOptions.bl_rna.properties.keys())
    for engine, option in EVERY_OPTION:
        prop = engine_settings.RetakeOptions.bl_rna.properties[engine_settings.identifier(engine.name, option.name)]
        assert (prop.name, prop.description) == (option.label, option.description)
        if option.kind == "choice":
            assert [item.identifier for item in prop.enum_items] == [value for value, _, _ in option.choices]
    assert (
        len(names) == len({engine_settings.identifier(e.name, o.name) for e, o in EVERY_OPTION}) + 2
    )  # rna_type, name
    assert describe("preview").options
