"""A small shot and tiny random models for the tests of the diffusion engines."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from retake_backend.engines.base import RenderRequest
from retake_backend.models import resident
from retake_backend.models.random_weights import write_random
from retake_shared.geometry import intrinsics
from retake_shared.shot import Cameras, Edit, Footage, RenderSettings, Solve, Tracks

WIDTH, HEIGHT = 96, 64


class Pictures:
    """Footage in memory with the reader's interface: a bright disc that wanders over a ramp."""

    def __init__(self, frames, width, height):
        self.footage = Footage("memory", width, height, Fraction(24), frames)
        self.notes = ()

    def frame(self, index):
        width, height = self.footage.width, self.footage.height
        x, y = (np.arange(width) + 0.5) / width, (np.arange(height)[:, None] + 0.5) / height
        disc = np.hypot(x - 0.3 - 0.01 * index, y - 0.5) < 0.2
        ramp = np.stack([255 * x + 0 * y, 0 * x + 255 * y, 128 + 0 * x * y], -1)
        return np.where(disc[..., None], [250, 240, 40], ramp).astype(np.uint8)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)  # tensors this small only wait for a second thread


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory):
    """A folder of models: Wan, its few-step variant, and both track conditioners; not to be changed."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("wan2.1-t2v-1.3b", "fastwan2.1-t2v-1.3b", "edit-by-track", "track2view"):
        write_random(name, folder / name)
    return folder


@pytest.fixture
def models(tiny_models, monkeypatch):
    """The folder of models that the engines look into."""
    monkeypatch.setenv("RETAKE_MODELS", str(tiny_models))
    yield tiny_models
    resident.release()


@pytest.fixture
def shot():
    """A function that makes a request: its length in frames, a camera that trucks sideways, and settings."""

    def make(length=9, tracks=40, picture=(WIDTH, HEIGHT), options=None, edit=None, **settings):
        width, height = picture
        rng = np.random.default_rng(0)
        points = np.stack([rng.uniform(-1, 1, tracks), rng.uniform(-0.6, 0.6, tracks), rng.uniform(3, 5, tracks)], -1)
        c2w = np.tile(np.eye(4), (length, 1, 1))
        K = intrinsics(np.full(length, 1.2 * width), 1.2 * width, width / 2, height / 2)
        cameras = Cameras(c2w, K, width, height)
        solve = Solve(cameras, Tracks.make(np.tile(points, (length, 1, 1))))
        if edit is None:
            moved = c2w.copy()
            moved[:, 0, 3] = np.linspace(0, 0.4, length)
            edit = lambda identity: replace_cameras(identity, Cameras(moved, K, width, height))  # noqa: E731
        options = {"working_size": WIDTH, "steps": 2, "memory": "cpu", **(options or {})}
        settings = RenderSettings(**{"engine": "edit-by-track", "options": options, **settings})
        return RenderRequest(Pictures(length, width, height), solve, edit(Edit.identity(solve)), settings)

    return make


def replace_cameras(edit, cameras):
    """The edit with other target cameras."""
    return Edit(
        cameras, edit.positions, edit.present, edit.source_track, edit.source_frame, edit.objects, edit.object_names
    )
