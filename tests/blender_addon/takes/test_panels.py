"""The sidebar as it would be drawn: every button an operator that exists, every field a property, every icon an icon.

The wheel has no window, so the drawing functions get a layout that checks what Blender itself would refuse. The real
drawing is looked at in tests/end_to_end/real_window.py.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path

import bpy
import pytest
from retake_shared import connection
from retake_shared.client import Models, ModelState

from blender_addon import models, panels, rendering, tab, take_panels
from blender_addon.messages import Backend, ModelsTold, Progress
from blender_addon.scene import objects

ICONS = set(bpy.types.UILayout.bl_rna.functions["label"].parameters["icon"].enum_items.keys())
PANELS = [
    cls
    for module in (panels, take_panels)
    for cls in vars(module).values()
    if isinstance(cls, type) and issubclass(cls, bpy.types.Panel)
]


class Filled:
    """The properties of a button's operator; takes only those that the operator has."""

    def __init__(self, names):
        object.__setattr__(self, "names", names)

    def __setattr__(self, name, value):
        assert name in self.names, f"{name} is no property of the operator"


class Layout:
    """Records the labels; refuses what UILayout would refuse."""

    def __init__(self, texts):
        object.__setattr__(self, "texts", texts)

    def __setattr__(self, name, value):
        assert name in bpy.types.UILayout.bl_rna.properties, name

    def _nested(self, *_, **__):
        return Layout(self.texts)

    row = column = box = grid_flow = split = _nested

    def panel(self, name, default_closed=False):
        return Layout(self.texts), Layout(self.texts)

    def label(self, text="", icon="NONE", **_):
        assert icon in ICONS, icon
        self.texts.append(text)

    def prop(self, data, name, text=None, icon="NONE", **_):
        assert name in data.bl_rna.properties, f"{data} has no {name}"
        assert icon in ICONS, icon
        self.texts.append(data.bl_rna.properties[name].name if text is None else text)

    def operator(self, name, text="", icon="NONE", **_):
        assert icon in ICONS, icon
        kind = getattr(bpy.ops, name.split(".")[0])
        properties = getattr(kind, name.split(".")[1]).get_rna_type().properties  # raises KeyError for none
        self.texts.append(text)
        return Filled(set(properties.keys()))

    def menu(self, name, text="", icon="NONE"):
        assert hasattr(bpy.types, name)
        assert icon in ICONS, icon
        getattr(bpy.types, name).draw(type("Menu", (), {"layout": self})(), bpy.context)

    def operator_menu_enum(self, name, prop, text="", icon="NONE"):
        assert prop in self.operator(name, text, icon).names

    def template_list(self, kind, _id, data, name, active_data, active, **_):
        assert hasattr(bpy.types, kind)
        for item in getattr(data, name):
            drawn = type("Drawn", (), {})()
            take_panels.RETAKE_UL_takes.draw_item(drawn, bpy.context, self, data, item, 0, active_data, active)
        assert active in active_data.bl_rna.properties

    def template_icon(self, icon_value, scale=1.0):
        assert isinstance(icon_value, int)  # 0 without a window

    def separator(self, factor=1.0, type="AUTO"):
        assert type in bpy.types.UILayout.bl_rna.functions["separator"].parameters["type"].enum_items

    def progress(self, factor=0.0, type="BAR", text=""):
        assert 0 <= factor <= 1
        self.texts.append(text)


def drawn(texts=None):
    """All texts of the tab, drawn as far as the panels' polls allow."""
    texts = []
    for cls in PANELS:
        if not cls.is_registered or (hasattr(cls, "poll") and not cls.poll(bpy.context)):
            continue
        panel = type("Drawn", (), {"layout": Layout(texts)})()
        for name in ("draw_header", "draw"):
            if name in vars(cls):
                vars(cls)[name](panel, bpy.context)
    return texts


def test_an_empty_scene_offers_the_import_and_nothing_that_cannot_be_done(fresh_scene):
    texts = drawn()
    assert "Import Shot" in texts
    assert "Generate Take" not in texts


def test_a_shot_shows_its_facts_objects_and_the_button(shot):
    _, solve = shot
    texts = drawn()
    assert "320 × 180, 24 fps" in texts
    assert set(solve.object_names.values()) <= set(texts)
    assert "Generate Take" in texts
    assert any("Save the .blend" in text for text in texts)


def test_an_active_object_shows_its_timing(shot):
    root, _ = shot
    man = objects.own_handle(root, 1)
    bpy.ops.retake.select_object(handle=man.name)
    objects.retime(root, man, offset=-3, speed=2, reverse=True)
    assert "3 frames early, speed 2, backwards" in drawn()
    objects.retime(root, man, freeze=4)
    assert "Stands still, frame 4" in drawn()


@pytest.mark.parametrize("state", ["RENDERING", "DONE", "FAILED", "CANCELLED"])
def test_a_take_in_every_state(shot, tmp_path, state):
    root, _ = shot
    take = root.retake.takes.add()
    take.name, take.folder, take.state, take.frames, take.message = "Take 001", str(tmp_path), state, (0, 8), "a word"
    root.retake.active_take = 0
    texts = drawn()
    assert "a word" in texts
    assert len([text for text in texts if text.startswith("Frames 1 to 8")]) == 2  # viewport and sequencer


@pytest.mark.parametrize("state", ["OFF", "STARTING", "READY", "LOST", "OTHER_VERSION"])
def test_every_state_of_the_backend(fresh_scene, state):
    window = bpy.context.window_manager.retake
    window.backend_state, window.backend_message = state, "what it is. What to do."
    assert "what it is. What to do." in drawn()
    window.backend_state, window.backend_message = "OFF", ""


def test_a_running_take_shows_progress_and_the_time_left(shot):
    state = bpy.context.window_manager.retake
    rendering.watch_reading(bpy.context, 80)
    assert "Reading the edit 0/80" in drawn()
    state.stage, state.done, state.total = "sending the footage", 3 << 20, 12 << 20
    state.started -= 10
    texts = drawn()
    assert "Sending the footage 3.0/12.0" in texts
    assert "30 s left" in texts
    assert "Generate Take" not in texts
    rendering.watch_nothing(bpy.context)


def test_a_long_message_is_broken_into_lines_not_cut(shot):
    message = (
        "A failure that takes rather more words than fit into a sidebar of the width that Blender gives it. Do this."
    )
    bpy.context.window_manager.retake.message = message
    texts = drawn()
    assert message not in texts
    assert message in " ".join(texts)


def test_every_operator_explains_itself_and_can_be_asked_without_a_shot(fresh_scene):
    operators = [name for name in dir(bpy.ops.retake) if not name.startswith("_")]
    assert len(operators) > 20
    for name in operators:
        operator = getattr(bpy.ops.retake, name)
        rna = operator.get_rna_type()
        assert rna.description, name
        assert not rna.description.endswith("."), name
        for prop in rna.properties:
            assert prop.name or prop.is_hidden or prop.identifier == "rna_type", f"{name}.{prop.identifier}"
        operator.poll()


@pytest.mark.parametrize("place", ["OWN", "RUNNING"])
def test_the_preferences(add_on, place):
    from blender_addon import preferences

    page = preferences.preferences(bpy.context)
    page.place = place

    class Drawn:
        layout, bl_rna = Layout([]), page.bl_rna

        def __getattr__(self, name):
            return getattr(page, name)

    preferences.RetakePreferences.draw(Drawn(), bpy.context)
    assert any(text.startswith("Off") for text in Drawn.layout.texts)
    assert preferences.backend_place(bpy.context).may_start == (place == "OWN")
    page.place = "OWN"


def test_the_chosen_device_and_cores_reach_the_backend(add_on):
    from blender_addon import preferences

    page = preferences.preferences(bpy.context)
    page.backend_command = sys.executable
    page.device, page.cores = "cpu", 3
    try:
        command = preferences.backend_place(bpy.context).serve_command()
    finally:
        for name in ("backend_command", "device", "cores"):
            page.property_unset(name)
    assert command[-4:] == ["--device", "cpu", "--cores", "3"]


def test_blender_and_a_terminal_share_their_weights(add_on, tmp_path, monkeypatch):
    """Or what `retake models pull` got in a terminal would have to be got again, gigabytes of it."""
    from blender_addon import preferences

    page = preferences.preferences(bpy.context)
    page.backend_command = sys.executable

    def folder():
        place = preferences.backend_place(bpy.context)
        command, (_, environ) = place.serve_command(), place.program("models", "list")
        named = Path(command[command.index("--models") + 1]) if "--models" in command else None
        return named, Path(environ["RETAKE_MODELS"])

    monkeypatch.delenv("RETAKE_MODELS", raising=False)
    monkeypatch.setattr(preferences, "extension_folder", lambda name: tmp_path / "extension" / name)
    try:
        monkeypatch.setenv("RETAKE_HOME", str(tmp_path))
        assert folder() == (None, tmp_path / "models")
        monkeypatch.delenv("RETAKE_HOME")
        own = connection.default_home() / "models"
        assert folder() == (own, own)
        page.cache_folder = str(tmp_path / "cache")
        assert folder() == (None, tmp_path / "cache" / "models")
        monkeypatch.setenv("RETAKE_MODELS", str(tmp_path / "large disk"))
        assert folder() == (None, tmp_path / "large disk")
    finally:
        for name in ("backend_command", "cache_folder"):
            page.property_unset(name)


DRAFT = {
    "name": "draft", "label": "Draft", "kind": "own", "bytes": 6_440_000, "licence": "Apache-2.0",
    "licence_url": "https://www.apache.org/licenses/LICENSE-2.0",
}  # fmt: skip


@pytest.fixture
def told():
    """told(**state): the backend says this of the model that comes with it."""

    def tell(**state):
        models.apply(ModelsTold(Models("/models", (ModelState.from_json(DRAFT | state),))))

    yield tell
    models.forget()


def test_what_comes_with_the_backend_is_asked_for_only_once_it_says_that_it_is_not_there(shot, told):
    root, _ = shot
    root.retake.engine = "draft"
    assert bpy.ops.retake.generate.poll()
    assert "Start the backend to see" not in " ".join(drawn())
    told(state="installed", shipped=True)
    assert bpy.ops.retake.generate.poll()
    assert "Import…" not in drawn()
    told(state="missing")
    assert not bpy.ops.retake.generate.poll()
    texts = drawn()
    assert "install the backend again" in " ".join(texts)
    assert "Import…" in texts
    assert "Get" not in texts
    with pytest.raises(RuntimeError, match="Draft lacks Draft"):
        bpy.ops.retake.generate()
    root.retake.engine = "preview"
    assert bpy.ops.retake.generate.poll()


def test_an_engine_says_by_itself_that_what_should_have_come_with_it_has_not(shot):
    root, _ = shot
    root.retake.engine = "draft"
    told = {"name": "draft", "label": "Draft", "description": "", "missing": (DRAFT,)}
    try:
        models.apply(Backend("ready", info=types.SimpleNamespace(engines=({**told, "ready": False},))))
        assert not bpy.ops.retake.generate.poll()
    finally:
        models.forget()


@pytest.mark.parametrize(
    ("state", "buttons"),
    [
        ({"state": "installed", "shipped": True}, ["Import…"]),
        ({"state": "installed"}, ["Import…", "Verify", "Remove"]),
        ({"state": "damaged"}, ["Import…", "Verify", "Remove"]),
        ({"state": "missing"}, ["Import…"]),
    ],
)
def test_the_preferences_offer_no_download_of_what_comes_with_the_backend(told, state, buttons):
    from blender_addon import drawing

    told(**state)
    texts = []
    drawing.draw_models(Layout(texts), bpy.context)
    assert [
        text for text in texts if text in ("Get", "Get Again", "Get the Rest", "Import…", "Verify", "Remove")
    ] == buttons
    assert any("Comes with the backend" in text for text in texts) == ("shipped" in state)


def test_a_long_videos_bytes_are_shown(shot):
    state = bpy.context.window_manager.retake
    rendering.watch(bpy.context, Path("/take"))
    rendering.apply(Progress(Path("/take"), "sending the footage", 2 << 30, 4 << 30))
    assert "Sending the footage 2048.0/4096.0" in drawn()
    assert state.done / state.total == 0.5
    rendering.watch_nothing(bpy.context)


@pytest.mark.filterwarnings("ignore:.*blend relative")  # newer Blenders make no such path by themselves
def test_a_folder_chosen_beside_one_blend_is_the_same_in_the_next(add_on, tmp_path):
    from blender_addon import preferences

    page = preferences.preferences(bpy.context)
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "one.blend"))
    page.cache_folder = "//cache"
    try:
        assert Path(page.cache_folder) == tmp_path / "cache"
    finally:
        page.property_unset("cache_folder")


def test_the_import_is_drawn_without_a_dialog_before_it(shot):
    """As Adjust Last Operation does after a solve has come in."""
    from blender_addon.operators.importing import RETAKE_OT_import_shot as kind

    texts = []
    operator = types.SimpleNamespace(
        layout=Layout(texts), browsing=False, set_scene=True, _files=lambda: ("a.mp4", "b.npz"),
        _at_stake=kind._at_stake, bl_rna=bpy.ops.retake.import_shot.get_rna_type(),
    )  # fmt: skip
    monkey = Layout.prop
    try:
        Layout.prop = lambda self, data, name, **_: None
        kind.draw(operator, bpy.context)
    finally:
        Layout.prop = monkey
    assert texts == ["Footage: a.mp4", "Solve: b.npz"]


def test_after_another_file_is_opened_the_panel_still_knows_the_backend(monkeypatch):
    """The window manager is another then, and the link tells only changes."""
    from blender_addon import linked

    monkeypatch.setattr(linked, "_link", types.SimpleNamespace(backend=Backend("lost", "It went away.")))
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    assert bpy.context.window_manager.retake.backend_state == "LOST"


def test_pictures_in_sight_together_do_not_push_each_other_out(monkeypatch):
    class Pictures(dict):
        loaded = 0

        def load(self, key, _path, _kind):
            self.loaded += 1
            self[key] = types.SimpleNamespace(icon_id=0)

    monkeypatch.setattr(tab, "_pictures", Pictures())
    for _ in range(3):
        for name in ("solve.png", "take.png"):
            tab.picture(Layout([]), Path(name))
    assert tab._pictures.loaded == 2
    for number in range(20):
        tab.picture(Layout([]), Path(f"{number}.png"))
    assert len(tab._pictures) == tab._MOST_PICTURES


def test_switched_off_and_on_again_nothing_waits_for_an_errand_of_before():
    from blender_addon import errands

    errands.begin("import")
    rendering.unregister()
    rendering.register()
    assert not errands.running("import")


def test_a_shot_whose_collection_was_deleted_is_drawn(shot):
    root, _ = shot
    for ob in root.retake.collection.objects[:]:
        bpy.data.collections["Retake"].objects.link(ob)
    bpy.data.collections.remove(root.retake.collection)
    assert "man" in drawn()
