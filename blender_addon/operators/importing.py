"""Import: a video and its solve, from the button, by dropping either on the viewport, or from a script."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import degrees, radians
from pathlib import Path

import bpy
from bpy.props import BoolProperty, FloatProperty, IntProperty, StringProperty
from retake_shared.errors import BadFile, RetakeError
from retake_shared.formats import Hints

from ..paths import BLEND_RELATIVE
from ..scene import footage_clip, pairing, shots


class RETAKE_OT_import_shot(bpy.types.Operator):
    """Bring a video and its solved cameras and tracks into the scene"""

    bl_idname = "retake.import_shot"
    bl_label = "Import Shot"
    bl_options = {"REGISTER", "UNDO"}

    footage: StringProperty(
        name="Footage",
        description="The video, or the first picture of a sequence. Empty: the one that lies with the solve",
        subtype="FILE_PATH",
        options={"SKIP_SAVE", *BLEND_RELATIVE},
    )
    solve: StringProperty(
        name="Solve",
        description="What any solver that Retake reads made of it: a file, or one of a folder's. "
        "Empty: the one with the video",
        subtype="FILE_PATH",
        options={"SKIP_SAVE", *BLEND_RELATIVE},
    )
    density: IntProperty(
        name="Empties",
        description="At most so many tracks become empties; the others follow their object",
        default=shots.DEFAULT_DENSITY,
        min=0,
        soft_max=5000,
    )
    set_scene: BoolProperty(
        name="Set up the scene",
        description="Give the scene the footage's frame rate, size, range and a neutral view transform",
        default=True,
    )
    step: IntProperty(
        name="Every n-th Frame",
        description="The solver looked at every n-th frame of the video only. 0: find out",
        default=0,
        min=0,
    )
    fov: FloatProperty(
        name="Field of View",
        description="Across the width, for a solve that does not know the lens. 0: from the file",
        default=0.0,
        min=0.0,
        max=radians(170),
        subtype="ANGLE",
        options={"SKIP_SAVE"},
    )
    camera: StringProperty(
        name="Camera", description="Which one of several cameras in the solve. Empty: the first", options={"SKIP_SAVE"}
    )
    # What the file browser and a drop on the window fill in.
    filepath: StringProperty(subtype="FILE_PATH", options={"HIDDEN", "SKIP_SAVE"})
    filter_glob: StringProperty(
        default=";".join(f"*{suffix}" for suffix in (*pairing.VIDEOS, *pairing.PICTURES, *pairing.SOLVES)),
        options={"HIDDEN", "SKIP_SAVE"},
    )
    browsing: BoolProperty(options={"HIDDEN", "SKIP_SAVE"})

    _at_stake: Sequence[str] = ()  # also where no dialog came before: Adjust Last Operation draws this, too

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        cls.poll_message_set("Leave edit mode first")
        return context.mode == "OBJECT"

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        if not (self.footage or self.solve or self.filepath):
            self.browsing = True
            context.window_manager.fileselect_add(self)
            return {"RUNNING_MODAL"}
        try:
            footage, _ = self._files()
            self._at_stake = footage_clip.settings_at_stake(context.scene, footage_clip.probe(footage, context.scene))
        except RetakeError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        if self._at_stake or self.filepath:
            return context.window_manager.invoke_props_dialog(self, width=420, confirm_text="Import")
        return self.execute(context)

    def execute(self, context: bpy.types.Context) -> set[str]:
        try:
            footage, solve = self._files()
            if self.browsing and not bpy.app.background:
                # The browser is closed now; what the scene would lose is asked for in a dialog of its own.
                return asked_again(
                    self, bpy.ops.retake.import_shot, footage=footage, solve=solve, density=self.density,
                    set_scene=self.set_scene, step=self.step, fov=self.fov, camera=self.camera,
                )  # fmt: skip
            root = shots.import_files(
                context, footage, solve, density=self.density, set_scene=self.set_scene, step=self.step or None,
                hints=Hints(fov=degrees(self.fov) or None, camera=self.camera),
            )  # fmt: skip
        except RetakeError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        for line in filter(None, root.retake.report.splitlines()):
            self.report({"INFO"}, line)
        look_through_camera(context)
        return {"FINISHED"}

    def draw(self, _context: bpy.types.Context) -> None:
        layout = self.layout
        layout.use_property_split = True
        if self.browsing:
            layout.prop(self, "solve")
        else:
            files = self._files()
            for label, path in zip(("Footage", "Solve"), files, strict=True):
                layout.label(text=f"{label}: {Path(path).name}")
        layout.prop(self, "density")
        layout.prop(self, "step")
        layout.prop(self, "fov")
        layout.prop(self, "camera")
        layout.prop(self, "set_scene")
        if not self.browsing and self.set_scene and self._at_stake:
            box = layout.box()
            box.label(text="The scene is in use. This will change its:", icon="ERROR")
            for line in self._at_stake:
                box.label(text=line)

    def _files(self) -> tuple[str, str]:
        """(footage, solve), each found beside the other when it was not given. Raises BadFile."""
        footage, solve = self.footage, self.solve
        given = bpy.path.abspath(self.filepath)
        if given and not footage and pairing.is_footage(Path(given)):
            footage = given
        elif given and not solve:
            solve = given
        if footage and not solve:
            solve = _partner("video", footage, pairing.find_solve, "solve", "Choose the solver's output as well.")
        elif solve and not footage:
            footage = _partner("solve", solve, pairing.find_footage, "video", "Choose the footage as well.")
        if not footage:
            raise BadFile("neither footage nor solve was given.", "import", "Choose a video and its solve.")
        return footage, solve


def _partner(kind: str, given: str, find: Callable[[Path], Path | None], what: str, remedy: str) -> str:
    """What belongs to the file that was given, found beside it. Raises BadFile."""
    file = Path(bpy.path.abspath(given))
    if not file.exists():
        raise BadFile("is not there.", str(file), f"Choose the {kind} again.")
    found = find(file)
    if found is None:
        raise BadFile(f"there is no {what} with it.", str(file), remedy)
    return str(found)


def asked_again(operator: bpy.types.Operator, ask: Callable[..., set[str]], **properties: object) -> set[str]:
    """Open the dialog of an operator whose file browser has just closed; what it refuses is reported."""
    try:
        return ask("INVOKE_DEFAULT", **properties)
    except RuntimeError as error:  # what it reported
        operator.report({"ERROR"}, str(error).removeprefix("Error:").strip())
        return {"CANCELLED"}


def look_through_camera(context: bpy.types.Context) -> None:
    """Turn the window's viewports to the camera, so that the artist sees the footage and the tracks on it.

    The dotted lines from each track to its handle would hide both.
    """
    if bpy.app.background or context.screen is None:
        return
    for area in context.screen.areas:
        if area.type == "VIEW_3D":
            space = area.spaces.active
            space.region_3d.view_perspective = "CAMERA"
            space.overlay.show_relationship_lines = False


class RETAKE_FH_shot(bpy.types.FileHandler):
    """Videos and solves dropped on the 3D viewport"""

    bl_idname = "RETAKE_FH_shot"
    bl_label = "Retake Shot"
    bl_import_operator = "retake.import_shot"
    bl_file_extensions = ";".join((*pairing.VIDEOS, ".npz"))

    @classmethod
    def poll_drop(cls, context: bpy.types.Context) -> bool:
        return context.area is not None and context.area.type == "VIEW_3D" and context.mode == "OBJECT"


register, unregister = bpy.utils.register_classes_factory((RETAKE_OT_import_shot, RETAKE_FH_shot))
