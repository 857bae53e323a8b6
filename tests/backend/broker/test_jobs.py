"""A job from submit to take, over real sockets and through real processes."""

import json
import time
import uuid

import numpy as np
import pytest
from retake_backend.footage import FootageReader
from retake_shared import protocol
from retake_shared.client import Refused
from retake_shared.shot import Take

cv2 = pytest.importorskip("cv2")

FRAMES = 8


def kinds(events):
    return [event.kind for event in events if event.kind not in ("progress", "frame")]


def test_a_take_comes_back_frame_exact(shared_backend, shot, tmp_path):
    with shared_backend.client() as client:
        events = list(client.events(shot.submit(client), timeout=30))
        assert kinds(events) == ["queued", "running", "done"]
        frames = {(e.data["kind"], e.data.get("index")): e.data for e in events if e.kind == "frame"}
        assert len(frames) == 2 * FRAMES + 1
        stored = [event.sequence for event in events if event.sequence]
        assert stored == sorted(set(stored))
        assert any(event.kind == "progress" for event in events)

        with FootageReader(shot.footage) as reader:
            for index in range(FRAMES):
                data = frames["rgb", index]
                into = tmp_path / f"{index}.png"
                assert client.fetch(data["sha256"], into) == data["nbytes"]
                picture = cv2.cvtColor(cv2.imread(str(into)), cv2.COLOR_BGR2RGB)
                assert np.array_equal(picture, reader.frame(index))
        take = Take.from_json(json.loads(client.fetch_bytes(frames["take", None]["sha256"])))
        assert (take.start, take.stop, take.notes) == (0, FRAMES, ("a trial",))
        assert take.footage_sha256 == client.ensure_asset(shot.footage)
        assert not list(tmp_path.glob("*.part"))
        state = client.job(events[0].job)
        assert (state.state, state.attempt, state.sequence) == ("done", 1, stored[-1])
