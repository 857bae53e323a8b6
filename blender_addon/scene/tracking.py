"""Blender's own tracking data: a Movie Clip that libmv solved becomes a shot, and a shot becomes a clip to solve.

A clip counts its frames from 1; marker positions are shares of the picture from its bottom left; a reconstructed
camera looks along -z with y up, at the scale that libmv chose. Blender's Python cannot write a reconstruction, only
libmv can make one: so a shot goes the other way as markers, lens and sensor, which libmv then solves, and the camera
that follows its solution is laid over the shot's own.
"""

from __future__ import annotations

from collections.abc import Iterable

import bpy
import numpy as np
from mathutils import Matrix
from numpy.typing import NDArray
from retake_shared import exports, geometry, lifting
from retake_shared.errors import BadShot, RetakeError
from retake_shared.formats.colmap_cameras import ModelCamera
from retake_shared.shot import BACKGROUND, Cameras, Footage, Solve, Tracks

from . import camera, footage_clip, objects, shots, tracks

DEFAULT_MARKERS = 150
"""Tracks that become 2D tracks of a clip: libmv solves with this many in seconds."""


# ------------------------------------------------------------------------------------------------ a clip as a shot


def solved_clips() -> list[bpy.types.MovieClip]:
    """The movie clips of this .blend whose camera is solved."""
    return [
        clip for clip in bpy.data.movieclips
        if any(part.is_camera and part.reconstruction.is_valid for part in clip.tracking.objects)
    ]  # fmt: skip


def import_clip(
    context: bpy.types.Context, clip: bpy.types.MovieClip, *, density: int = shots.DEFAULT_DENSITY, set_scene: bool
) -> bpy.types.Object:
    """The clip's footage and solution as a new shot; see `shots.import_shot`. Raises RetakeError, the scene untouched."""
    footage = footage_clip.footage_of(clip, context.scene)
    solve, notes = solve_of(clip, footage)
    return shots.import_shot(context, footage, solve, density=density, set_scene=set_scene, report=notes)


def solve_of(clip: bpy.types.MovieClip, footage: Footage) -> tuple[Solve, list[str]]:
    """The solution of a clip as a solve of its footage, and notes.

    Tracks of the camera with a bundle stand still; those without are triangulated from their markers where they can
    be. Tracks of tracking objects that are solved too become objects that move. Visible is what has an enabled marker
    on the frame. Frames after the last solved one are left out. Raises BadShot when the camera is not solved.
    """
    main = _camera_object(clip)
    if not main.reconstruction.is_valid or not len(main.reconstruction.cameras):
        raise BadShot(
            "its camera is not solved.", clip.name, "Press Solve Camera Motion in the Movie Clip Editor first."
        )
    notes: list[str] = []
    c2w, solved = _poses(main, clip, footage.frames)
    count = int(solved[-1]) + 1
    if len(solved) < count:
        notes.append(f"{count - len(solved)} frames have no solved camera: it is interpolated, or held at the start.")
    if count < footage.frames:
        notes.append(f"The solution ends at frame {count} of {footage.frames}: so does the shot.")
    cameras = Cameras(c2w[:count], np.repeat(_intrinsics(clip)[None], count, 0), footage.width, footage.height)
    parts, names = [], {}
    still, left = _tracks_of(main, clip, cameras, BACKGROUND, None)
    parts.append(still)
    if left:
        lifted, more = _lifted(left, clip, cameras)
        parts.append(lifted)
        notes += more
    for number, moving in enumerate((part for part in clip.tracking.objects if not part.is_camera), 1):
        if not moving.reconstruction.is_valid:
            if len(moving.tracks):
                notes.append(f'The object "{moving.name}" is not solved: its {len(moving.tracks)} tracks are left out.')
            continue
        own, _ = _poses(moving, clip, footage.frames)
        own[:, :3, 3] *= moving.scale
        to_world = cameras.c2w @ geometry.invert_rigid(own[:count])
        parts.append(_tracks_of(moving, clip, cameras, number, (to_world, moving.scale))[0])
        names[number] = moving.name
    joined = _joined(parts, count)
    notes.append(
        f"Solved by Blender with a mean error of {main.reconstruction.average_error:.2f} px; {len(joined)} tracks."
    )
    bend = _bend(clip, cameras)
    if bend >= 0.1:
        notes.append(
            f"The lens ({clip.tracking.camera.distortion_model.lower()}) bends the picture by up to {bend:.1f} px at "
            "the corners; the camera is imported as a pinhole. Undistort the footage for exact results."
        )
    return Solve(cameras, joined, object_names=names, source="Blender's motion tracking"), notes


def _camera_object(clip: bpy.types.MovieClip) -> bpy.types.MovieTrackingObject:
    return next(part for part in clip.tracking.objects if part.is_camera)


def _row(clip: bpy.types.MovieClip, frame: int) -> int:
    """The footage's frame that the clip shows at its own frame."""
    return frame - 1 + clip.frame_offset


def _poses(
    part: bpy.types.MovieTrackingObject, clip: bpy.types.MovieClip, frames: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Poses (T, 4, 4), OpenCV axes, interpolated between the solved frames and held outside, and those frames (S,)."""
    by_row = {_row(clip, pose.frame): np.array(pose.matrix) for pose in part.reconstruction.cameras}
    rows = np.array(sorted(row for row in by_row if 0 <= row < frames), np.int64)
    if not len(rows):
        raise BadShot("its solution lies outside the footage.", clip.name, "Reset the clip's frame offset.")
    solved = camera.poses_from_matrices(np.stack([by_row[row] for row in rows.tolist()]))
    return geometry.interpolate_poses(rows, solved, np.arange(frames)), rows


def _intrinsics(clip: bpy.types.MovieClip) -> NDArray[np.float64]:
    """K (3, 3). libmv works in square pixels: rows are as high as pixel_aspect is small."""
    lens, height = clip.tracking.camera, clip.size[1]
    centre = lens.principal_point_pixels
    focal = lens.focal_length_pixels
    return geometry.intrinsics(focal, focal * lens.pixel_aspect, centre[0], height - centre[1])


def _markers(
    track: bpy.types.MovieTrackingTrack, clip: bpy.types.MovieClip, frames: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Frames (M,) on which the track has an enabled marker, and where (M, 2), px from the top left."""
    size = np.array(clip.size[:])
    kept = [(m.frame, m.co[0], m.co[1]) for m in track.markers if not m.mute]
    table = np.array(kept, np.float64).reshape(-1, 3)
    rows = _row(clip, table[:, 0].astype(np.int64))
    uv = np.stack([table[:, 1], 1 - table[:, 2]], 1) * size
    inside = (rows >= 0) & (rows < frames)
    return rows[inside], uv[inside]


def _tracks_of(
    part: bpy.types.MovieTrackingObject,
    clip: bpy.types.MovieClip,
    cameras: Cameras,
    number: int,
    motion: tuple[NDArray[np.float64], float] | None,
) -> tuple[Tracks, list[bpy.types.MovieTrackingTrack]]:
    """World tracks of what has a bundle, as object `number`, and the tracks without one.

    motion: (T, 4, 4) of the object's space to the world and the scale of its bundles; None where they stand still.
    """
    frames = len(cameras)
    bundled = [track for track in part.tracks if track.has_bundle]
    positions = np.zeros((frames, len(bundled), 3))
    visible = np.zeros((frames, len(bundled)), bool)
    confidence = np.zeros(len(bundled))
    for column, track in enumerate(bundled):
        bundle = np.array(track.bundle)
        if motion is None:
            positions[:, column] = bundle
        else:
            positions[:, column] = geometry.transform(motion[0], bundle[None] * motion[1])[:, 0]
        visible[_markers(track, clip, frames)[0], column] = True
        confidence[column] = np.exp(-max(track.average_error, 0.0) / 2)
    made = Tracks.make(positions, visible, confidence * visible, np.full(len(bundled), number))
    return made, [track for track in part.tracks if not track.has_bundle]


def _lifted(
    left: list[bpy.types.MovieTrackingTrack], clip: bpy.types.MovieClip, cameras: Cameras
) -> tuple[Tracks, list[str]]:
    """Tracks of the markers that libmv found no place for, as far as they can be triangulated."""
    frames = len(cameras)
    uv, visible = np.full((frames, len(left), 2), np.nan), np.zeros((frames, len(left)), bool)
    for column, track in enumerate(left):
        rows, at = _markers(track, clip, frames)
        uv[rows, column], visible[rows, column] = _undistorted(clip, cameras, at), True
    try:
        lifted, _ = lifting.lift(uv, visible, cameras)
    except BadShot:
        return Tracks.empty(frames), [f"{len(left)} tracks that Blender gave no place were left out."]
    notes = [f"{len(lifted)} tracks that Blender gave no place were triangulated from their markers."]
    if len(lifted) < len(left):
        notes.append(f"{len(left) - len(lifted)} more were left out: they move, or are seen from one place only.")
    return lifted, notes


def _joined(parts: Iterable[Tracks], frames: int) -> Tracks:
    parts = [part for part in parts if len(part)]
    if not parts:
        return Tracks.empty(frames)
    return Tracks.make(
        np.concatenate([part.positions for part in parts], 1),
        np.concatenate([part.visibility for part in parts], 1),
        np.concatenate([part.confidence for part in parts], 1),
        np.concatenate([part.objects for part in parts]),
    )


def _undistorted(clip: bpy.types.MovieClip, cameras: Cameras, uv: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where a pinhole would show what the lens shows at uv (M, 2) px. Nuke's model is left as it is."""
    lens, K = clip.tracking.camera, cameras.K[0]
    focal, centre = K[[0, 1], [0, 1]], K[:2, 2]
    bent = (uv - centre) / focal
    if lens.distortion_model == "DIVISION":
        r2 = (bent**2).sum(-1, keepdims=True)
        return bent / (1 + lens.division_k1 * r2 + lens.division_k2 * r2**2) * focal + centre
    if lens.distortion_model == "BROWN":
        numbers = (lens.brown_k1, lens.brown_k2, lens.brown_p1, lens.brown_p2, lens.brown_k3)
    elif lens.distortion_model == "POLYNOMIAL":
        numbers = (lens.k1, lens.k2, 0.0, 0.0, lens.k3)
    else:
        return uv
    model = ModelCamera("FULL_OPENCV", cameras.width, cameras.height, (*focal, *centre, *numbers, 0.0, 0.0, 0.0))
    straight = bent.copy()
    for _ in range(20):
        straight += bent - model.distort(straight)
    good = np.abs(model.distort(straight) - bent).max(-1, keepdims=True) < 1e-6
    return np.where(good, straight, bent) * focal + centre


def _bend(clip: bpy.types.MovieClip, cameras: Cameras) -> float:
    """Greatest distance, in px, between pinhole and real lens over the picture's corners and edges."""
    width, height = cameras.width, cameras.height
    around = np.array([[x, y] for x in (0, width / 2, width) for y in (0, height / 2, height)], np.float64)
    return float(np.linalg.norm(_undistorted(clip, cameras, around) - around, axis=-1).max())


# ------------------------------------------------------------------------------------------------ a shot as a clip


def clip_from_shot(root: bpy.types.Object, limit: int = DEFAULT_MARKERS) -> tuple[bpy.types.MovieClip, list[str]]:
    """A new movie clip of the shot's footage with its lens, and at most `limit` of its tracks as 2D tracks; and notes.

    Tracks that stand still belong to the clip's camera, those of each moving object to a tracking object of its name.
    Raises BadShot when no track can be shown.
    """
    solve = objects.current_solve(root)
    content = exports.of_solve(solve, root.name)
    rows = tracks.choose(solve.tracks, solve.cameras, limit)
    standing = np.isin(rows, exports.static_tracks(content)[0])
    uv, depth = solve.cameras.project(solve.tracks.positions[:, rows])
    seen = geometry.inside_image(uv, depth, solve.cameras.width, solve.cameras.height)
    seen &= solve.tracks.visibility[:, rows]
    if not seen.any():
        raise BadShot("none of its tracks is seen in the picture.", root.name, "Solve the footage again.")
    clip = footage_clip.load_clip(root.retake.footage)
    clip.name, clip.frame_start = f"{root.name} tracks", root.retake.start
    notes = _set_lens(clip, solve.cameras)
    share = uv / [solve.cameras.width, solve.cameras.height]
    share[..., 1] = 1 - share[..., 1]
    parts: dict[int, bpy.types.MovieTrackingObject] = {}
    left = 0
    for column, row in enumerate(rows.tolist()):
        number = int(solve.tracks.objects[row])
        frames = np.flatnonzero(seen[:, column])
        if len(frames) < 2 or (number == BACKGROUND and not standing[column]):
            left += 1
            continue
        if standing[column]:
            part = _camera_object(clip)
        else:
            part = parts.get(number) or clip.tracking.objects.new(solve.object_names[number])
            parts[number] = part
        track = part.tracks.new(name=f"{solve.object_names[number]} {solve.tracks.ids[row]}", frame=int(frames[0]) + 1)
        for frame in frames.tolist():
            track.markers.insert_frame(frame + 1, co=share[frame, column])
        track.lock = True
    pair = _keyframes(solve.cameras, seen[:, standing])
    clip.tracking.settings.use_keyframe_selection = pair is None
    clip.tracking.settings.use_tripod_solver = _on_tripod(solve.cameras)
    if pair is not None:
        _camera_object(clip).keyframe_a, _camera_object(clip).keyframe_b = pair[0] + 1, pair[1] + 1
    if left:
        notes.append(f"{left} tracks are seen too briefly, or move without belonging to an object, and were left out.")
    return clip, notes


def _keyframes(cameras: Cameras, seen: NDArray[np.bool_]) -> tuple[int, int] | None:
    """The two frames to start from: far apart, with many of the tracks seen (T, N) in common. None when none will do.

    libmv's own search for them takes longer than the rest of its work.
    """
    common = seen.astype(np.int64) @ seen.T.astype(np.int64)
    centres = cameras.c2w[:, :3, 3]
    apart = np.linalg.norm(centres[:, None] - centres, axis=-1)
    apart[common < max(12, common.max() // 2)] = 0.0
    if not apart.any():
        return None
    a, b = sorted(np.unravel_index(int(apart.argmax()), apart.shape))
    return int(a), int(b)


def _on_tripod(cameras: Cameras) -> bool:
    """Whether the camera turns and does not travel."""
    return bool(np.ptp(cameras.c2w[:, :3, 3], axis=0).max() < 1e-9)


def _set_lens(clip: bpy.types.MovieClip, cameras: Cameras) -> list[str]:
    """Give the clip the cameras' median lens, without distortion; notes on what changes from frame to frame."""
    K = np.median(cameras.K, axis=0)
    lens = clip.tracking.camera
    lens.sensor_width, lens.pixel_aspect = camera.SENSOR_WIDTH, K[1, 1] / K[0, 0]
    lens.units = "PIXELS"
    lens.focal_length_pixels = K[0, 0]
    lens.principal_point_pixels = K[0, 2], clip.size[1] - K[1, 2]
    lens.distortion_model, lens.k1, lens.k2, lens.k3 = "POLYNOMIAL", 0.0, 0.0, 0.0
    change = float(np.ptp(cameras.K[:, 0, 0]) / K[0, 0])
    if change < 1e-3:
        return []
    return [f"The focal length changes by {change:.1%} over the shot; a movie clip has one, and gets the median."]


def solve_clip(context: bpy.types.Context, clip: bpy.types.MovieClip) -> None:
    """Have libmv solve the clip's camera from the keyframes that it has, its lens kept. Raises RetakeError.

    Needs a window; `-b` has one too. The window is held meanwhile.
    """
    window = context.window or next(iter(context.window_manager.windows), None)
    if window is None or not window.screen.areas:
        raise RetakeError("there is no window to solve it in.", clip.name, "Solve it in the Movie Clip Editor.")
    settings = clip.tracking.settings
    for name in ("focal_length", "principal_point", "radial_distortion", "tangential_distortion"):
        setattr(settings, f"refine_intrinsics_{name}", False)
    area = window.screen.areas[0]
    kind = area.ui_type
    try:
        area.ui_type = "CLIP_EDITOR"
        area.spaces.active.clip = clip
        clip.tracking.objects.active = _camera_object(clip)
        region = next(region for region in area.regions if region.type == "WINDOW")
        with context.temp_override(window=window, area=area, region=region):
            result = bpy.ops.clip.solve_camera("EXEC_DEFAULT")
    except RuntimeError as error:  # an operator's report of an error
        raise RetakeError(f"Blender cannot solve it: {str(error).strip()}", clip.name, "Use more tracks.") from error
    finally:
        area.ui_type = kind
    if result != {"FINISHED"} or not _camera_object(clip).reconstruction.is_valid:
        raise RetakeError("Blender found no solution.", clip.name, "Use more tracks, or a longer shot.")


def follow_clip(root: bpy.types.Object, clip: bpy.types.MovieClip) -> tuple[bpy.types.Object, float]:
    """A new camera that follows the clip's solution, laid over the shot's source camera; and how far off it is at most.

    The distance is that of the two cameras' centres, as a share of the path's length. Raises BadShot.
    """
    solve = objects.current_solve(root)
    theirs, rows = _poses(_camera_object(clip), clip, len(solve))
    ours = solve.cameras.c2w[rows]
    theirs = theirs[rows]
    similarity = align(theirs, ours)
    aligned = geometry.transform(similarity, theirs[:, :3, 3])
    path = max(float(np.linalg.norm(np.diff(ours[:, :3, 3], axis=0), axis=1).sum()), 1e-9)
    away = float(np.linalg.norm(aligned - ours[:, :3, 3], axis=1).max()) / path
    shift = np.eye(4)
    shift[:3, 3] = -np.array(root.retake.origin)
    source = root.retake.source_camera
    made = bpy.data.objects.new(f"{root.name} tracked camera", source.data.copy())
    made.data.animation_data_clear()
    lens = camera.lens_of(solve.cameras, tuple(root.retake.pixel_aspect))
    for name, values in vars(lens).items():
        setattr(made.data, name, float(np.median(values)))
    made.parent = root
    made.matrix_basis = Matrix((shift @ similarity).tolist())
    follow = made.constraints.new("CAMERA_SOLVER")
    follow.use_active_clip, follow.clip = False, clip
    objects.collection_of(root).objects.link(made)
    return made, away


def align(theirs: NDArray[np.float64], ours: NDArray[np.float64]) -> NDArray[np.float64]:
    """The similarity (4, 4) that lays camera poses (S, 4, 4) best over others: rotation by their views, scale and shift
    by their centres; scale 1 where either does not move."""
    u, _, vt = np.linalg.svd(np.einsum("tij,tkj->ik", ours[:, :3, :3], theirs[:, :3, :3]))
    rotation = u @ np.diag([1, 1, np.sign(np.linalg.det(u @ vt))]) @ vt
    a, b = theirs[:, :3, 3], ours[:, :3, 3]
    turned = (a - a.mean(0)) @ rotation.T
    size = float((turned**2).sum())
    scale = float((turned * (b - b.mean(0))).sum()) / size if size > 1e-18 else 0.0
    scale = scale if scale > 1e-12 else 1.0
    similarity = np.eye(4)
    similarity[:3, :3] = scale * rotation
    similarity[:3, 3] = b.mean(0) - scale * rotation @ a.mean(0)
    return similarity
