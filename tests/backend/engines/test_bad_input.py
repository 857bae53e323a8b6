"""What an artist gets from a track engine for an odd shot or an odd request: a take, or a clear word."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from retake_backend.engines.diffusion.tracks import TrackEngine
from retake_backend.engines.edit_by_track import EditByTrackEngine
from retake_backend.engines.track2view import Track2ViewEngine
from retake_backend.models import resident
from retake_shared.errors import BadShot
from retake_shared.shot import Cameras

ASIDE = np.array([1000.0, 0, 0])
ENGINES = pytest.mark.parametrize("kind", [EditByTrackEngine, Track2ViewEngine])


def render(engine: TrackEngine, request):
    return list(engine.render(request, lambda progress: None))


def rgb(frames):
    return np.stack([frame.rgb for frame in frames])


def told(engine, words):
    assert any(words in note for note in engine.notes()), engine.notes()


# ------------------------------------------------------------------------------------------------------------ shots


@ENGINES
def test_a_shot_without_tracks_follows_the_footage_alone(models, shot, kind):
    engine = kind()
    made = rgb(render(engine, shot(5, tracks=0, engine=kind.name)))
    told(engine, "No track guides frames 0 to 4: the shot has none.")
    assert (made == rgb(render(engine, shot(5, options={"tracks": 0}, engine=kind.name)))).all()
    told(engine, "none is asked for")


@ENGINES
def test_tracks_that_are_never_in_the_picture_are_told(models, shot, kind):
    def aside(identity):
        return replace(identity, positions=identity.positions + ASIDE)

    request = shot(5, engine=kind.name, edit=aside)
    tracks = replace(request.solve.tracks, positions=request.solve.tracks.positions + ASIDE)
    request = replace(request, solve=replace(request.solve, tracks=tracks))
    engine = kind()
    assert len(render(engine, request)) == 5
    told(engine, "none is in the picture, before or after the edit")


@ENGINES
def test_removing_everything_leaves_the_source_tracks_and_is_told(models, shot, kind):
    request = shot(5, engine=kind.name, edit=lambda identity: replace(identity, present=identity.present & False))
    engine = kind()
    made = rgb(render(engine, request))
    told(engine, "After the edit all are removed in frames 0 to 4")
    # The model still learns where they were: that is how it knows what to take away.
    assert (made != rgb(render(engine, shot(5, options={"tracks": 0}, engine=kind.name)))).any()


@ENGINES
def test_a_camera_that_looks_away_is_told(models, shot, kind):
    def turned(identity):
        cameras = identity.cameras
        c2w = cameras.c2w.copy()
        c2w[:, :3, :3] = np.diag([-1.0, 1.0, -1.0])  # half a turn about the vertical
        return replace(identity, cameras=Cameras(c2w, cameras.K, cameras.width, cameras.height))

    engine = kind()
    assert len(render(engine, shot(5, engine=kind.name, edit=turned))) == 5
    told(engine, "the camera sees none of them in frames 0 to 4")


def test_4k_footage_comes_back_at_4k(models, shot):
    engine = EditByTrackEngine()
    (frame,) = render(engine, shot(1, picture=(3840, 2160), options={"steps": 1}))
    assert frame.rgb.shape == (2160, 3840, 3)
    assert frame.holes.shape == (2160, 3840)


def test_a_picture_of_a_few_pixels_can_be_made(models, shot):
    assert render(EditByTrackEngine(), shot(2, picture=(16, 16)))[0].rgb.shape == (16, 16, 3)


# --------------------------------------------------------------------------------------------------------- requests


def test_a_huge_prompt_is_cut_and_told(models, shot):
    engine = EditByTrackEngine()
    assert len(render(engine, shot(1, prompt="a disc wanders " * 5000, options={"guidance": 3.0}))) == 1
    told(engine, "512")


def test_a_prompt_in_any_script_and_with_markup_is_taken(models, shot):
    for prompt in ("", "   ", "圆盘 &amp; <b>диск</b> 🎬\n\t", "\x00\ufffd"):
        assert len(render(EditByTrackEngine(), shot(1, prompt=prompt))) == 1


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"options": {"step": 3}}, "step"),
        ({"options": {"steps": -1}}, "steps"),
        ({"options": {"memory": "gigantic"}}, "memory"),
        ({"options": {"strength": float("nan")}}, "strength"),
        ({"options": {"tracks": 2.5}}, "tracks"),
        ({"frames": (3, 90)}, "frames"),
    ],
)
def test_settings_that_make_no_sense_are_named_before_anything_loads(models, shot, settings, field):
    resident.release()
    with pytest.raises(BadShot, match=field):
        render(EditByTrackEngine(), shot(5, **settings))
    assert not resident.kept()


def test_a_window_may_be_as_short_as_its_overlap_asks(models, shot):
    request = shot(11, options={"steps": 1, "window": 5, "overlap": 81})
    assert [frame.index for frame in render(EditByTrackEngine(), request)] == list(range(11))


# ---------------------------------------------------------------------------------------------------------- devices


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_same_seed_gives_the_same_frames(models, shot):
    takes = [rgb(render(EditByTrackEngine(), shot(5, options={"memory": "24"}))) for _ in range(2)]
    assert (takes[0] == takes[1]).all()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_profile_without_a_gpu_says_why(models, shot):
    with pytest.raises(Exception, match="GPU"):
        render(EditByTrackEngine(), shot(1, options={"memory": "8"}))
