"""What Retake remembers: on the objects of a shot what belongs in the .blend, on the WindowManager what does not.

    Object.retake_role     what part of a shot an object plays
    Object.retake_track    an empty's row in the solve's tracks, -1 for every other object
    Object.retake          the shot's settings and takes, on its root
    Object.retake_handle   an object of the shot, on its handle
    Mesh.retake_archive    the solve's bytes, on the reference mesh; Mesh.retake_sha256 names them
    MovieClip.retake_marks what the artist pointed at as moving by itself, for the next solve of that footage
    Scene.retake_shot      the shot that the panels show when none of its objects is active
    WindowManager.retake   the job that runs and the backend's state

The two integers and the role stand alone, outside a group, because only such properties can be read in bulk.
"""

from __future__ import annotations

import contextlib

import bpy
from bpy.props import (
    BoolProperty,
    CollectionProperty,
    EnumProperty,
    FloatProperty,
    FloatVectorProperty,
    IntProperty,
    IntVectorProperty,
    PointerProperty,
    StringProperty,
)
from bpy.types import Collection, Mesh, MovieClip, Object, PropertyGroup, Scene, WindowManager
from retake_shared.errors import BadShot

from . import engine_settings
from .paths import BLEND_RELATIVE
from .scene import objects

ROLES = (  # files keep their places: new ones come last
    ("NONE", "None", "Not a part of a shot"),
    ("SHOT", "Shot", "The root of a shot"),
    ("SOURCE_CAMERA", "Source camera", "The footage's own camera"),
    ("TARGET_CAMERA", "Target camera", "The camera of the edit"),
    ("HANDLE", "Handle", "Moves all tracks of one object"),
    ("TRACK", "Track", "One point of the footage"),
    ("REFERENCE", "Reference", "All tracks of the footage, unedited"),
    ("RAIL", "View ray", "Brings an object nearer or farther without moving it in the footage's picture"),
)

TAKE_STATES = (
    ("RENDERING", "Rendering", "Frames are still coming"),
    ("DONE", "Done", "All frames are there"),
    ("FAILED", "Failed", "The engine stopped; the frames that came are kept"),
    ("CANCELLED", "Cancelled", "Stopped by the user; the frames that came are kept"),
)

JOB_STATES = (
    ("IDLE", "Idle", "Nothing runs"),
    ("READING", "Reading the edit", "Blender evaluates the scene frame by frame"),
    ("SENDING", "Sending", "Footage and edit travel to the backend"),
    ("QUEUED", "Queued", "The backend finishes other work first"),
    ("RUNNING", "Rendering", "The engine works"),
    ("FETCHING", "Fetching", "The last frames travel back"),
)

BACKEND_STATES = (
    ("OFF", "Off", "No backend runs; Generate starts one"),
    ("STARTING", "Starting", "The backend is coming up"),
    ("READY", "Ready", "The backend answers"),
    ("LOST", "Lost", "The backend stopped answering"),
    ("OTHER_VERSION", "Other version", "The backend speaks another version of the protocol"),
)


class RetakeTake(PropertyGroup):
    """One rendered result; its frames and `take.json` lie in `folder`. `name` is what the list shows."""

    folder: StringProperty(name="Folder", subtype="DIR_PATH")
    strip: StringProperty(name="Strip", description="Name of its strip in the sequencer")
    job: StringProperty(name="Job", description="The backend's number of the job that renders it")
    state: EnumProperty(name="State", items=TAKE_STATES, default="RENDERING")
    message: StringProperty(name="Message", description="Why it failed, or what the engine had to decide")
    engine: StringProperty(name="Engine")
    prompt: StringProperty(name="Prompt")
    seed: IntProperty(name="Seed")
    frames: IntVectorProperty(name="Frames", description="First footage frame, and the one after the last", size=2)
    size: IntVectorProperty(name="Size", description="Width and height in pixels", size=2)
    seconds: FloatProperty(name="Time", description="How long the engine worked", unit="TIME_ABSOLUTE")
    created: StringProperty(name="Created")


def _slide(handle: RetakeHandle, _context: bpy.types.Context) -> None:
    with contextlib.suppress(BadShot):  # the operator says it in words
        objects.follow_depth(handle.id_data)


class RetakeHandle(PropertyGroup):
    """One object of the shot. The retiming is what the tracks' curves follow now; `retake.retime` changes both."""

    label: StringProperty(name="Object", description="The object's name, whatever the empty is called in the outliner")
    number: IntProperty(name="Number", description="The object's number in the edit", default=0)
    centre: FloatVectorProperty(name="Centre", description="Its tracks' origin in the root's space", size=3)
    copy_of: IntProperty(name="Copy of", description="The solve's object whose tracks this one shows", default=0)
    removed: BoolProperty(
        name="Removed", description="The object is not in the picture. Can be keyed", options={"ANIMATABLE"}
    )
    depth: FloatProperty(
        name="Depth",
        description="Along the view rays, as a multiple of the object's own: what the footage shows stays as it is. "
        "Can be keyed",
        default=1.0,
        min=0.01,
        soft_min=0.25,
        soft_max=4.0,
        options={"ANIMATABLE"},
        update=_slide,
    )
    offset: FloatProperty(name="Delay", description="Frames by which the motion starts later; negative: earlier")
    speed: FloatProperty(name="Speed", description="1 = as shot, 0.5 = half as fast", default=1.0, min=0.01, soft_max=4)
    freeze: IntProperty(name="Freeze", description="Footage frame at which the object stands still", default=-1, min=-1)
    reverse: BoolProperty(name="Reverse", description="The motion runs backwards")


class RetakeMark(PropertyGroup):
    """Something moves by itself here. Marks of one `name` are one object; one without a name is one of its own."""

    name: StringProperty(name="Object", description="What it is. Marks of one name are one object")
    frame: IntProperty(name="Frame", description="Of the footage, counted from 1", default=1, min=1)
    at: FloatVectorProperty(name="Place", description="Pixels from the upper left corner", size=2, min=0.0)


def _set_footage(shot: RetakeShot, path: str) -> None:
    if shot.clip:
        shot.clip.filepath = path


class RetakeShot(PropertyGroup):
    """A shot: where its parts are, how it lies on the timeline, what to render next, what was rendered."""

    collection: PointerProperty(type=Collection)
    source_camera: PointerProperty(type=Object)
    target_camera: PointerProperty(
        name="Camera",
        description="The camera of the edit",
        type=Object,
        poll=lambda self, ob: ob.type == "CAMERA" and ob.retake_role != "SOURCE_CAMERA",
    )
    reference: PointerProperty(type=Object)
    clip: PointerProperty(name="Footage", type=MovieClip)
    # The clip's own path, which Blender keeps right when the .blend moves and can search for when it is missing.
    footage: StringProperty(
        name="Footage",
        description="The video, or the first picture of a sequence",
        subtype="FILE_PATH",
        options=BLEND_RELATIVE,
        get=lambda self: self.clip.filepath if self.clip else "",
        set=_set_footage,
    )
    solve: StringProperty(
        name="Solve",
        description="The file that the solve was read from",
        subtype="FILE_PATH",
        options=BLEND_RELATIVE,
    )
    report: StringProperty(name="Report", description="What the import found and changed, a line each")
    solve_report: StringProperty(name="Solve report", description="How far the solve can be trusted, as JSON")
    start: IntProperty(name="Start", description="Scene frame of the footage's first frame", default=1)
    frames: IntProperty(name="Frames")
    size: IntVectorProperty(name="Size", size=2)
    pixel_aspect: FloatVectorProperty(name="Pixel aspect", size=2, default=(1.0, 1.0))
    fps: IntVectorProperty(name="Frame rate", description="As a fraction", size=2, default=(24, 1))
    origin: FloatVectorProperty(name="Origin", description="The root's place in the solve's world", size=3)

    engine: engine_settings.chooser()
    engine_name: StringProperty(default=engine_settings.DEFAULT_ENGINE)
    options: PointerProperty(type=engine_settings.RetakeOptions)
    other_options: StringProperty(name="Options", description="NAME=VALUE, with spaces between them")
    first_frame: StringProperty(
        name="Edited",
        description="Your picture of the first frame, painted over in another program",
        subtype="FILE_PATH",
    )
    prompt: StringProperty(name="Prompt", description="What the picture shows")
    negative_prompt: StringProperty(name="Avoid", description="What the picture must not show")
    seed: IntProperty(name="Seed", description="Same seed, same edit: same frames", default=0, min=0)
    use_range: BoolProperty(name="Part", description="Render a part of the footage only")
    range: IntVectorProperty(name="Frames", description="First and last scene frame to render", size=2, default=(1, 81))
    use_size: BoolProperty(name="Other size", description="Render at another size than the footage's")
    render_size: IntVectorProperty(name="Size", size=2, default=(672, 384), min=16, max=8192)
    takes: CollectionProperty(type=RetakeTake)
    active_take: IntProperty(name="Take", default=-1)


class RetakeState(PropertyGroup):
    """What happens now. Never saved."""

    job: StringProperty()
    job_state: EnumProperty(name="Job", items=JOB_STATES, default="IDLE")
    stage: StringProperty()
    done: FloatProperty(description="Of total; bytes of a long video are more than an int holds")
    total: FloatProperty()
    started: FloatProperty(description="time.monotonic() at the start of the job, as float: only for time left")
    message: StringProperty()
    cancel: BoolProperty(description="The user asked the running job to stop")
    backend_state: EnumProperty(name="Backend", items=BACKEND_STATES, default="OFF")
    backend_message: StringProperty()


_register_classes, _unregister_classes = bpy.utils.register_classes_factory(
    (RetakeTake, RetakeHandle, RetakeMark, RetakeShot, RetakeState)
)

_PROPERTIES = (
    (Object, "retake_role", EnumProperty(name="Part of the shot", items=ROLES, default="NONE")),
    (Object, "retake_track", IntProperty(name="Track", default=-1, min=-1)),
    (Object, "retake", PointerProperty(type=RetakeShot)),
    (Object, "retake_handle", PointerProperty(type=RetakeHandle)),
    (MovieClip, "retake_marks", CollectionProperty(type=RetakeMark)),
    (Mesh, "retake_archive", StringProperty(subtype="BYTE_STRING")),
    (Mesh, "retake_sha256", StringProperty(description="Of retake_archive, so that it is parsed only once")),
    (
        Scene,
        "retake_shot",
        PointerProperty(name="Shot", type=Object, poll=lambda self, ob: ob.retake_role == "SHOT"),
    ),
    (WindowManager, "retake", PointerProperty(type=RetakeState, options={"SKIP_SAVE"})),
)


def register() -> None:
    engine_settings.register()
    _register_classes()
    for owner, name, definition in _PROPERTIES:
        setattr(owner, name, definition)


def unregister() -> None:
    for owner, name, _ in reversed(_PROPERTIES):
        delattr(owner, name)
    _unregister_classes()
    engine_settings.unregister()
