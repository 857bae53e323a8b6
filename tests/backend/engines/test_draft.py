"""The `draft` engine: the preview, corrected where geometry knows nothing, and never touched where it does."""

import hashlib
import shutil

import numpy as np
import pytest
import torch
from retake_backend import engines
from retake_backend.engines.diffusion.framing import Fitted
from retake_backend.engines.draft import DraftEngine
from retake_backend.engines.draft_composition import Composition
from retake_backend.engines.preview import PreviewEngine
from retake_backend.models import resident
from retake_backend.models.draft import DraftTransformer
from retake_backend.models.draft_weights import save_draft
from retake_backend.models.refiner import Refiner
from retake_backend.weights import shipped
from retake_backend.weights.importing import import_folder
from retake_backend.weights.store import WeightStore
from retake_shared.errors import BadShot, Cancelled, RetakeError
from retake_shared.shot import Cameras, Edit

TINY = {
    "width": 24, "heads": 2, "layers": 2, "ffn_dim": 32, "fine": 8, "coarse": 16,
    "track_width": 16, "track_heads": 2,
}  # fmt: skip


def ignore(progress):
    pass


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    """An empty folder of models, and nothing shipped."""
    monkeypatch.setenv("RETAKE_MODELS", str(tmp_path / "models"))
    monkeypatch.setattr(shipped, "SHIPPED", tmp_path / "shipped")
    yield tmp_path
    resident.release()


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """Folders of models: "fresh" changes nothing, "trained" and "refiner" change every picture."""
    folder = tmp_path_factory.mktemp("draft")
    torch.manual_seed(0)
    made = {"fresh": DraftTransformer(**TINY), "trained": DraftTransformer(**TINY), "refiner": Refiner((8, 16, 24), 1)}
    for name, model in made.items():
        if name != "fresh":
            torch.nn.init.normal_(model.head.conv.weight, std=0.02)
            torch.nn.init.normal_(model.head.conv.bias, std=0.05)
        save_draft(folder / name, model)
    return folder


@pytest.fixture
def ship(store, weights):
    """ship(name): the model of this name comes with the backend."""

    def put(name):
        shutil.copytree(weights / name, store / "shipped" / "draft", dirs_exist_ok=True)

    return put


def frames_of(request, engine=None, report=ignore):
    return list((engine or DraftEngine()).render(request, report))


def same(frames, others):
    return [np.array_equal(a.rgb, b.rgb) for a, b in zip(frames, others, strict=True)]


def from_frame(index):
    """An edit that leaves the frames before `index` as they are and then trucks aside."""

    def edit(identity):
        c2w = identity.cameras.c2w.copy()
        c2w[index:, 0, 3] += 0.3
        cameras = Cameras(c2w, identity.cameras.K, identity.cameras.width, identity.cameras.height)
        return Edit(
            cameras, identity.positions, identity.present, identity.source_track, identity.source_frame,
            identity.objects, identity.object_names,
        )  # fmt: skip

    return edit


def test_a_model_that_learnt_nothing_gives_the_preview_bit_for_bit_its_holes_filled_smoothly(shot, ship):
    ship("fresh")
    request = shot(engine="draft")
    preview = list(PreviewEngine().render(shot(engine="preview", options={"fill": "smooth"}), ignore))
    frames = frames_of(request)
    assert [frame.index for frame in frames] == list(range(9))
    assert all(same(frames, preview))
    assert all(np.array_equal(a.holes, b.holes) for a, b in zip(frames, preview, strict=True))
    assert any(frame.holes.any() for frame in frames)


@pytest.mark.parametrize("name", ["trained", "refiner"])
def test_the_footage_is_untouched_where_nothing_is_edited(shot, ship, name):
    ship(name)
    request = shot(engine="draft", edit=from_frame(4))
    footage = [request.footage.frame(index) for index in range(9)]
    untouched = [np.array_equal(frame.rgb, footage[frame.index]) for frame in frames_of(request)]
    assert untouched == [True] * 4 + [False] * 5


@pytest.mark.parametrize("name", ["trained", "refiner"])
def test_without_light_only_the_holes_and_their_seam_change(shot, ship, name):
    ship(name)
    request = shot(engine="draft", options={"light": False, "widen": 1})
    preview = list(PreviewEngine().render(shot(engine="preview", options={}), ignore))
    changed = [np.any(a.rgb != b.rgb, -1) for a, b in zip(frames_of(request), preview, strict=True)]
    assert any(frame.any() for frame in changed)
    for where, frame in zip(changed, preview, strict=True):
        near = np.zeros_like(where)
        for y, x in np.argwhere(frame.holes > 0):
            near[max(0, y - 8) : y + 9, max(0, x - 8) : x + 9] = True
        assert not (where & ~near).any()


def test_the_same_seed_is_the_same_take_and_windows_have_chances_of_their_own(shot, ship):
    ship("trained")
    options = {"window": 5, "overlap": 1}
    first, again, other = (frames_of(shot(13, engine="draft", seed=seed, options=options)) for seed in (3, 3, 4))
    assert [frame.index for frame in first] == list(range(13))
    assert all(same(first, again))
    assert not all(same(first, other))


def test_a_range_of_a_long_shot_at_another_size(shot, ship):
    ship("trained")
    engine = DraftEngine()
    request = shot(14, engine="draft", size=(144, 96), frames=(3, 12), options={"window": 5, "working_size": 48})
    frames = frames_of(request, engine)
    assert [frame.index for frame in frames] == list(range(3, 12))
    assert {frame.rgb.shape for frame in frames} == {(96, 144, 3)}
    told = " ".join(engine.notes())
    assert "The model works at 48 x 32, the take is brought back to 144 x 96." in told
    assert "2 steps, seed 0." in told
    assert "windows of 5" in told
    assert "CPU" in told


def test_a_cancel_comes_through(shot, ship):
    ship("trained")

    def stop(progress):
        if progress.stage.startswith("denoising"):
            raise Cancelled

    with pytest.raises(Cancelled):
        frames_of(shot(engine="draft"), report=stop)


def test_a_picture_of_the_take_is_shown_as_it_is_made(shot, ship):
    ship("trained")
    told = []
    frames_of(shot(engine="draft"), report=told.append)
    assert {"loading the model", "rendering", "denoising"} <= {progress.stage for progress in told}
    assert any(progress.picture is not None and progress.picture.shape == (64, 96, 3) for progress in told)


def test_options_that_make_no_sense_are_refused(shot, ship):
    ship("fresh")
    for options in ({"steps": 0}, {"guidance": 5.0}):
        with pytest.raises(BadShot):
            frames_of(shot(engine="draft", options=options))


def test_without_its_weights_it_says_so(shot, store, ship):
    def ready():
        return {engine["name"]: engine["ready"] for engine in engines.available()}["draft"]

    assert not ready()
    with pytest.raises(RetakeError, match=r"comes with the backend.*installing the backend again"):
        frames_of(shot(engine="draft"))
    ship("fresh")
    assert ready()


def test_an_imported_model_is_used_until_it_is_removed_and_the_take_says_which(shot, ship, weights):
    ship("fresh")
    engine, store = DraftEngine(), WeightStore()
    before = frames_of(shot(engine="draft"), engine)
    (of_the_backend,) = [note for note in engine.notes() if note.startswith("Weights: ")]
    assert "come with the backend" in of_the_backend
    import_folder("draft", weights / "trained", store, lambda done, total, stage: None)
    assert not all(same(before, frames_of(shot(engine="draft"), engine)))
    (imported,) = [note for note in engine.notes() if note.startswith("Weights: ")]
    digest = hashlib.sha256((weights / "trained" / shipped.WEIGHTS).read_bytes()).hexdigest()
    assert imported == f"Weights: imported ones (sha256 {digest[:12]})."
    assert of_the_backend[-14:] != imported[-14:]
    store.remove("draft")
    assert all(same(before, frames_of(shot(engine="draft"), engine)))
    assert of_the_backend in engine.notes()


def test_it_can_be_asked_to_use_another_folder(shot, weights):
    fresh, trained = (frames_of(shot(engine="draft"), DraftEngine(weights / name)) for name in ("fresh", "trained"))
    assert not all(same(fresh, trained))


# --- what the model says, at the take's size ---


@pytest.fixture
def composition():
    """A take of four times the model's size."""
    return Composition(Fitted.plan((384, 256), working_size=96, multiple=8), (384, 256), widen=0, light=True)


def take(composition, seed=0):
    """Footage full of detail, without holes, and what the model sees of it."""
    draw = np.random.default_rng(seed)
    footage = draw.integers(60, 190, (256, 384, 3), dtype=np.uint8)
    return footage, np.zeros((256, 384), bool), composition.fitted.bring(footage)


def test_a_picture_that_the_model_left_alone_comes_through_bit_for_bit(composition):
    footage, holes, moved = take(composition)
    holes[100:140, 100:160] = True
    assert np.array_equal(composition.finished(footage, holes, moved, moved), footage)


def test_noise_that_the_model_adds_outside_of_holes_does_not_reach_the_take(composition):
    footage, holes, moved = take(composition)
    noise = np.random.default_rng(1).integers(-10, 11, moved.shape)
    made = np.clip(moved + noise, 0, 255).astype(np.uint8)
    assert np.array_equal(composition.finished(footage, holes, moved, made), footage)


def test_a_shadow_darkens_the_footage_and_leaves_its_detail(composition):
    footage, holes, moved = take(composition)
    made = moved.copy()
    made[:, :48] -= 40
    finished = composition.finished(footage, holes, moved, made).astype(int)
    darker = finished[:, 40:120] - footage[:, 40:120]
    assert np.abs(darker + 37).max() <= 3  # but for the few levels that count as nothing
    assert np.array_equal(finished[:, 280:], footage[:, 280:])


def test_a_hole_shows_the_models_picture_and_none_of_what_it_disagrees_with(composition):
    footage, holes, moved = take(composition)
    holes[80:180, 80:200] = True
    made = moved.copy()
    made[20:45, 20:50] = (200, 20, 20)
    finished = composition.finished(footage, holes, moved, made).astype(int)
    assert np.abs(finished[110:150, 120:160] - (200, 20, 20)).max() <= 6
    assert np.array_equal(finished[:40], footage[:40])


def test_in_a_hole_that_the_model_agrees_with_the_previews_detail_stays(composition):
    footage, holes, moved = take(composition)
    holes[80:180, 80:200] = True
    made = (moved + 1).astype(np.uint8)
    finished = composition.finished(footage, holes, moved, made)
    assert np.abs(finished.astype(int) - footage).max() <= 3
