"""Tiny models and short shots for the tests of training."""

import numpy as np
import pytest
import torch
from retake_backend.models import resident
from retake_backend.models.random_weights import write_random
from retake_backend.training.batches import collate
from retake_backend.training.pairs import Pair
from retake_shared.geometry import intrinsics
from retake_shared.shot import Cameras, Edit, Solve, Tracks


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory):
    """A folder of models with the tiny Wan alone in it."""
    folder = tmp_path_factory.mktemp("models")
    write_random("wan2.1-t2v-1.3b", folder / "wan2.1-t2v-1.3b")
    return folder


@pytest.fixture
def models(tiny_base, monkeypatch):
    """The folder of models that trainees look into."""
    monkeypatch.setenv("RETAKE_MODELS", str(tiny_base))
    yield tiny_base
    resident.release()


def ball_pair(frames=5, width=64, height=48, seed=0, tracks=30):
    """A bright ball before a ramp; the edit moves the camera sideways, and the target is what it then sees."""
    rng = np.random.default_rng(seed)
    points = np.stack([rng.uniform(-1, 1, tracks), rng.uniform(-0.6, 0.6, tracks), rng.uniform(3, 5, tracks)], -1)
    c2w = np.tile(np.eye(4), (frames, 1, 1))
    K = intrinsics(np.full(frames, 1.2 * width), 1.2 * width, width / 2, height / 2)
    solve = Solve(Cameras(c2w, K, width, height), Tracks.make(np.tile(points, (frames, 1, 1))))
    moved = c2w.copy()
    moved[:, 0, 3] = np.linspace(0, 0.6, frames)
    identity = Edit.identity(solve)
    edit = Edit(
        Cameras(moved, K, width, height), identity.positions, identity.present, identity.source_track,
        identity.source_frame, identity.objects, identity.object_names,
    )  # fmt: skip
    shift = 1.2 * moved[:, 0, 3] / 4  # of the picture's width, at a depth of 4
    return Pair(_ball(np.zeros(frames), width, height), _ball(shift, width, height), solve, edit, caption="a ball")


def _ball(shifts, width, height):
    x, y = (np.arange(width) + 0.5) / width, (np.arange(height)[:, None] + 0.5) / height
    pictures = []
    for frame, shift in enumerate(shifts):
        ball = np.hypot(x + shift - 0.3 - 0.01 * frame, y - 0.5) < 0.2
        ramp = np.stack([255 * ((x + shift) % 1) + 0 * y, 0 * x + 255 * y, 128 + 0 * x * y], -1)
        pictures.append(np.where(ball[..., None], [250, 240, 40], ramp))
    return np.stack(pictures).astype(np.uint8)


@pytest.fixture(scope="session")
def one_of_a_ball():
    """One of them as a batch."""
    return collate([ball_pair()])


@pytest.fixture
def ball():
    """A function that makes a pair; see `ball_pair`."""
    return ball_pair


@pytest.fixture(scope="session")
def pairs_of_a_ball():
    """Two of them as a batch."""
    return collate([ball_pair(seed=0), ball_pair(seed=1)])
