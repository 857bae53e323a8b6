"""Trajectory Attention's three uses on both bases, with tiny random models of the real classes."""

import json
import os
import signal
import subprocess
import sys
from fractions import Fraction

import cv2
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLTemporalDecoder
from retake_backend import cli, footage
from retake_backend.conditioning import trajectory_attention as conditioning
from retake_backend.conditioning.trajectory_attention import TrajectoryAttention
from retake_backend.engines.base import Progress
from retake_backend.engines.diffusion.framing import Fitted
from retake_backend.engines.following import checked
from retake_backend.engines.svd import FRAMES, SvdCodec, SvdTrajectories
from retake_backend.engines.trajectory_attention import TrajectoryAttentionEngine
from retake_backend.models import memory, parts, resident
from retake_backend.models.codec import VideoCodec
from retake_backend.models.random_weights import write_random
from retake_backend.weights.store import write_manifest
from retake_shared import archive
from retake_shared.errors import BadShot, Cancelled
from retake_shared.shot import Cameras, Edit, Solve, Tracks

NAMES = ("wan2.1-t2v-1.3b", "trajectory-attention", "svd-xt", "trajectory-attention-svd")
WIDTH, HEIGHT, LENGTH = 64, 64, 5
FAST = {"steps": 2, "memory": "cpu", "working_size": 64}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trajectory-models")
    for name in NAMES:
        write_random(name, folder / name)
    return folder


@pytest.fixture(autouse=True)
def models(tiny, monkeypatch):
    monkeypatch.setenv("RETAKE_MODELS", str(tiny))
    monkeypatch.delenv("RETAKE_ENGINES", raising=False)
    return tiny


@pytest.fixture(scope="module", autouse=True)
def _released():
    yield
    resident.release()


@pytest.fixture
def request_of(shot):
    """A function that makes a request of this engine from its options, at the smallest size."""

    def make(length=LENGTH, first_frame=None, **options):
        made = shot(length, picture=(WIDTH, HEIGHT), engine="trajectory-attention", options={**FAST, **options})
        return made if first_frame is None else type(made)(**{**vars(made), "first_frame": first_frame})

    return make


def made(request, report=lambda progress: None):
    """(frames (F, H, W, 3), notes) of a take."""
    engine = TrajectoryAttentionEngine()
    frames = list(engine.render(request, report))
    assert [frame.index for frame in frames] == list(range(*request.settings.frame_range(request.solve)))
    assert not any(frame.holes.any() for frame in frames)
    return np.stack([frame.rgb for frame in frames]), engine.notes()


def painted():
    """An edited first frame: a red disc on blue."""
    picture = np.full((HEIGHT, WIDTH, 3), (30, 60, 200), np.uint8)
    return np.ascontiguousarray(cv2.circle(picture, (32, 32), 20, (220, 30, 30), -1))


@pytest.fixture
def folder(tmp_path, shot):
    """clip.mp4, solve.npz, edit.npz and an edited first frame, first.jpg."""
    request = shot(LENGTH, picture=(WIDTH, HEIGHT))
    footage.write_video(tmp_path / "clip.mp4", [request.footage.frame(i) for i in range(LENGTH)], Fraction(24))
    archive.save(tmp_path / "solve.npz", request.solve)
    archive.save(tmp_path / "edit.npz", request.edit)
    cv2.imwrite(str(tmp_path / "first.jpg"), painted()[..., ::-1])
    return tmp_path


def words(folder, out, *more, **options):
    inputs = ["--footage", folder / "clip.mp4", "--solve", folder / "solve.npz", "--edit", folder / "edit.npz"]
    chosen = [f"--option={name}={value}" for name, value in {**FAST, **options}.items()]
    return [str(w) for w in ("render", *inputs, "--engine=trajectory-attention", "--out", folder / out, *chosen, *more)]


def run(arguments):
    """The command in this process, its signal handlers put back."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return cli.main(arguments)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("base", ["wan", "svd"])
@pytest.mark.parametrize("use", ["video", "image", "first-frame"])
def test_each_use_makes_a_take_on_both_bases(folder, base, use):
    first = ["--first-frame", str(folder / "first.jpg")] if use == "first-frame" else []
    options = {"base": base, "use": use, "steps": 1, "guidance": 1.0}
    assert run(words(folder, "take", *first, "--seed=3", **options)) == 0
    take = json.loads((folder / "take" / "take.json").read_text("utf-8"))
    assert take["frames"] == [0, LENGTH]
    assert (take["width"], take["height"]) == (WIDTH, HEIGHT)
    pictures = [cv2.imread(str(folder / "take" / f"frame_{i:05d}.png")) for i in range(LENGTH)]
    assert all(picture.shape == (HEIGHT, WIDTH, 3) for picture in pictures)
    assert np.std(pictures) > 1
    notes = " ".join(take["notes"])
    assert "random" in notes
    assert "guide frames 0 to" in notes
    if base == "svd":
        assert "20 are left out" in notes
    kept = folder / "take" / "first_frame.png"
    assert kept.exists() == (use == "first-frame")
    if kept.exists():
        assert take["first_frame_sha256"] == footage.sha256(kept)
        np.testing.assert_array_equal(cv2.imread(str(kept)), cv2.imread(str(folder / "first.jpg")))


def test_a_take_from_a_first_frame_is_made_again_from_its_folder_to_the_byte(folder):
    """In a process of its own, as a user calls it."""
    assert run(words(folder, "take", "--first-frame", folder / "first.jpg", use="first-frame")) == 0
    again = ["render", "--take", folder / "take", "--footage", folder / "clip.mp4", "--out", folder / "again"]
    done = subprocess.run(
        [sys.executable, "-m", "retake_backend.cli", *map(str, again)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    for path in (folder / "take").glob("*.png"):
        assert path.read_bytes() == (folder / "again" / path.name).read_bytes(), path.name


def test_cells_are_computed_once_for_all_steps_and_both_guidance_branches(request_of, monkeypatch):
    computed = []
    own = conditioning.trajectory_cells
    monkeypatch.setattr(conditioning, "trajectory_cells", lambda *a: computed.append(1) or own(*a))
    request = request_of(guidance=3.0)
    settings = request.settings.changed({"prompt": "a room", "negative_prompt": "blur"})
    _, notes = made(type(request)(request.footage, request.solve, request.edit, settings))
    assert len(computed) == 1
    assert any("guidance 3" in note for note in notes)


def test_trajectories_change_the_picture_and_untrained_branches_nothing(request_of, models, tmp_path, monkeypatch):
    without, notes = made(request_of(tracks=0))
    assert any("none is asked for" in note for note in notes)
    followed, _ = made(request_of())
    assert not np.array_equal(followed, without)

    for name in ("wan2.1-t2v-1.3b", "trajectory-attention"):
        write_random(name, tmp_path / name)
    base = parts.load_base(tmp_path / "wan2.1-t2v-1.3b")
    untrained = tmp_path / "trajectory-attention"
    parts.save_branches(untrained, base, TrajectoryAttention.beside(base), base="tiny", licence="CC0-1.0")
    write_manifest(untrained, "trajectory-attention", random=True)
    monkeypatch.setenv("RETAKE_MODELS", str(tmp_path))
    untouched, _ = made(request_of())
    np.testing.assert_array_equal(untouched, without)


def test_wans_first_frame_is_the_edited_picture_itself(request_of, models):
    request = request_of(1, first_frame=painted(), use="first-frame")
    (frame,), _ = made(request)
    codec = VideoCodec.load(models / "wan2.1-t2v-1.3b", memory.choose("cpu"))
    fitted = Fitted.plan((WIDTH, HEIGHT), "pad", 64)
    (expected,) = codec.decode(codec.encode(fitted.bring(painted())[None]))
    np.testing.assert_array_equal(frame, expected)


def test_one_image_is_the_first_frame_where_the_camera_begins_at_it(request_of):
    _, at_its_start = made(request_of(use="image"))
    assert not any("does not begin" in note for note in at_its_start)
    _, elsewhere = made(request_of(use="image", image_frame=LENGTH - 1))
    # The footage's camera stands still, so that any frame is taken from where the edited one begins.
    assert not any("does not begin" in note for note in elsewhere)
    request = request_of(use="image")
    late = request.settings.changed({"frames": (2, LENGTH)})
    _, moved = made(type(request)(request.footage, request.solve, request.edit, late))
    assert any("does not begin where the image was taken" in note for note in moved)


@pytest.mark.parametrize("length", [1, 2])
def test_one_or_two_frames_make_a_take(request_of, length):
    frames, _ = made(request_of(length))
    assert len(frames) == length


def test_stable_video_diffusion_tells_grows_and_stops(request_of):
    """A rough picture after a step; cancelled there; options without a meaning are told."""
    request = request_of(base="svd", strength=0.5)
    seen = []

    def report(progress: Progress):
        seen.append(progress)
        if progress.picture is not None:
            raise Cancelled

    with pytest.raises(Cancelled):
        made(request, report)
    assert seen[-1].stage == "denoising"
    assert (seen[-1].done, seen[-1].total) == (1, 2)
    assert seen[-1].picture.shape == (8, 8, 3)
    options = {"steps": 1, "guidance": 1.0, "show": False}
    settings = request.settings.changed({"prompt": "a room", "frames": (2, LENGTH), "options": options})
    _, notes = made(type(request)(request.footage, request.solve, request.edit, settings))
    assert "Stable Video Diffusion has no strength, prompt: left out." in notes
    assert not any("starts from the preview at strength" in note for note in notes)
    # At frame 2 the edited camera has moved already.
    assert any("starts from the preview of it" in note for note in notes)


def test_stable_video_diffusions_vae_leaves_the_device_also_when_cancelled(models, monkeypatch):
    """Else the next take would find the GPU fuller by it."""
    profile = memory.choose("cpu")
    codec = SvdCodec(AutoencoderKLTemporalDecoder.from_pretrained(models / "svd-xt", subfolder="vae"), profile)
    aside = []
    monkeypatch.setattr(memory, "put_aside", lambda module, profile: aside.append(module))

    def cancel(progress: Progress):
        raise Cancelled

    with pytest.raises(Cancelled):
        codec.encode(np.zeros((1, HEIGHT, WIDTH, 3), np.uint8), cancel)
    with pytest.raises(Cancelled):
        codec.decode(torch.zeros(1, 4, 1, HEIGHT // 8, WIDTH // 8), cancel)
    assert aside == [codec.vae, codec.vae]


def test_few_step_weights_take_the_branches_of_their_base(request_of, models, tmp_path, monkeypatch):
    for name in ("wan2.1-t2v-1.3b", "trajectory-attention"):
        (tmp_path / name).symlink_to(models / name)
    write_random("fastwan2.1-t2v-1.3b", tmp_path / "fastwan2.1-t2v-1.3b")
    monkeypatch.setenv("RETAKE_MODELS", str(tmp_path))
    _, notes = made(request_of(quality="fast"))
    assert any("few-step scheduler" in note for note in notes)
    assert any("tracks guide" in note for note in notes)


def test_stable_video_diffusion_makes_long_ranges_25_frames_at_a_time():
    engine = SvdTrajectories()
    for stop in (1, 14, 25, 26, 49, 60, 200):
        windows = engine.windows(10, 10 + stop, {})
        assert all(window.length == FRAMES for window in windows)
        assert windows[0].start == 10
        assert windows[-1].stop >= 10 + stop
        assert all(window.overlap >= 5 for window in windows[1:])


def test_stable_video_diffusions_windows_keep_what_they_take_over(request_of, monkeypatch):
    """What a window takes over comes out of its denoising as it went in: no seam and no ghost in the crossfade."""
    latents, given = [], []
    own = SvdTrajectories._latents

    def watching(engine, pipeline, job, picture):
        latents.append(own(engine, pipeline, job, picture))
        given.append(None if job.before is None else job.encode(job.before))
        return latents[-1]

    monkeypatch.setattr(SvdTrajectories, "_latents", watching)
    frames, notes = made(request_of(27, base="svd", guidance=1.0))
    assert len(frames) == 27
    assert given[0] is None
    count = given[1].shape[2]
    assert count == 21
    torch.testing.assert_close(latents[1][:, :, :count], given[1], atol=1e-5, rtol=0)
    assert any("in 2 windows of 25" in note for note in notes)


# --- bad input ------------------------------------------------------------------------------------------------------


def test_an_image_outside_the_shot_is_refused(request_of):
    with pytest.raises(BadShot, match=r"image_frame: is 5, the solve has frames 0 to 4"):
        made(request_of(use="image", image_frame=LENGTH))


@pytest.mark.parametrize("base", ["wan", "svd"])
def test_a_missing_or_misshapen_first_frame_is_refused_with_the_remedy(request_of, base):
    with pytest.raises(BadShot, match="--first-frame"):
        made(request_of(use="first-frame", base=base))
    with pytest.raises(BadShot, match="is 96 x 64 px, the footage 64 x 64"):
        made(request_of(use="first-frame", base=base, first_frame=np.zeros((64, 96, 3), np.uint8)))


def test_another_size_of_the_same_proportions_is_brought_to_the_footages(request_of):
    larger = cv2.resize(painted(), (200, 202))
    frames, _ = made(request_of(use="first-frame", first_frame=larger))
    assert frames.shape == (LENGTH, HEIGHT, WIDTH, 3)


def test_a_solve_without_tracks_or_depth_is_told_or_refused(request_of):
    request = request_of()
    empty = Solve(request.solve.cameras, Tracks.empty(LENGTH))
    edit = Edit.identity(empty)
    _, notes = made(type(request)(request.footage, empty, edit, request.settings))
    assert any("the shot has none" in note for note in notes)
    image = request.settings.changed({"options": {"use": "image"}})
    with pytest.raises(BadShot, match="no depth map and no track"):
        made(type(request)(request.footage, empty, edit, image))


@pytest.mark.parametrize("use", ["video", "image"])
def test_a_camera_that_looks_away_is_told(request_of, use):
    request = request_of(use=use)
    away = request.edit.cameras.c2w.copy()
    away[:, :3, :3] = np.diag([-1.0, 1.0, -1.0])
    cameras = Cameras(away, request.edit.cameras.K, WIDTH, HEIGHT)
    edit = Edit(**{**vars(request.edit), "cameras": cameras})
    frames, notes = made(type(request)(request.footage, request.solve, edit, request.settings))
    assert len(frames) == LENGTH
    assert any("the camera sees none of them" in note for note in notes)


def test_options_are_checked_before_anything_loads(request_of, tmp_path, monkeypatch):
    monkeypatch.setenv("RETAKE_MODELS", str(tmp_path))
    with pytest.raises(BadShot, match="use"):
        checked(request_of(use="both"))
    with pytest.raises(BadShot, match="image_frame"):
        made(request_of(use="image", image_frame=99))
