"""Rough pictures on their way to the artist, and the artist's picture on its way to the engine."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from retake_backend.broker.store import JobStore
from retake_backend.footage import encode_png
from retake_shared import protocol
from retake_shared.client import Refused
from retake_shared.shot import Take


def decoded(jpeg):
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


@pytest.mark.parametrize("height", [48, 960])
def test_rough_pictures_of_a_take_arrive_while_it_is_made(shared_backend, shot, height):
    with shared_backend.client() as client, shared_backend.client() as stranger:
        job = shot.submit(client, seconds=0.25, pictures=height)
        events = list(client.events(job, timeout=30))
        pictures = [event for event in events if event.kind == "picture"]
        assert len(pictures) >= 5
        assert events.index(pictures[0]) < [event.kind for event in events].index("done") - 10, "not at the end"
        for event in pictures:
            assert (event.job, event.sequence) == (job, 0)
            assert len(event.picture) <= protocol.PICTURE_BYTES
            assert decoded(event.picture).shape == ((48, 64, 3) if height == 48 else (384, 512, 3))
        last = cv2.resize(decoded(pictures[-1].picture), (64, 48), interpolation=cv2.INTER_AREA)
        assert abs(last.astype(int) - shot.pictures[-1]).mean() < 20
        assert not [event for event in stranger.poll() if event.kind == "picture"], "only who follows the job has them"
        seen = list(client.events(job, ("", 0), timeout=30))
        assert not [event for event in seen if event.kind == "picture"], "they are not kept"


def test_an_edited_first_frame_reaches_the_engine(start_backend, shot, tmp_path):
    rng = np.random.default_rng(2)
    picture = rng.integers(0, 255, (96, 128, 3)).astype(np.uint8)
    with start_backend().client() as client:
        spec = shot.spec(client, frames=(0, 1))
        with pytest.raises(Refused) as refused:
            client.submit(replace(spec, first_frame_sha256="a" * 64))
        assert (refused.value.reason, refused.value.fields["missing"]) == ("missing_assets", ["a" * 64])
        sha256 = client.ensure_asset(encode_png(picture))
        job = client.submit(replace(spec, first_frame_sha256=sha256))
        assert client.submit(replace(spec, first_frame_sha256=sha256), job) == job
        with pytest.raises(Refused, match="another job"):
            client.submit(spec, job)
        made = {e.data["kind"]: e.data["sha256"] for e in client.events(job, timeout=30) if e.kind == "frame"}
        assert np.array_equal(decoded(client.fetch_bytes(made["rgb"])), picture)
        assert Take.from_json(json.loads(client.fetch_bytes(made["take"]))).first_frame_sha256 == sha256

        wrong = {"no image": b"GIF89a, or so it says", "too large": encode_png(np.zeros((8193, 8192), np.uint8))}
        for name, content in wrong.items():
            job = client.submit(replace(spec, first_frame_sha256=client.ensure_asset(content)))
            last = list(client.events(job, timeout=30))[-1]
            assert (last.kind, last.data["where"]) == ("failed", "first frame"), name
            assert client.job(job).attempt == 1


def test_an_edited_first_frame_is_kept_while_its_job_waits(start_backend, shot):
    backend = start_backend()
    with backend.client() as client:
        shot.submit(client, hang=0)
        sha256 = client.ensure_asset(b"a picture")
        client.submit(replace(shot.spec(client), first_frame_sha256=sha256))
    backend.kill()
    store = JobStore(backend.home / "jobs.sqlite")
    assert sha256 in store.needed()
    store.close()
