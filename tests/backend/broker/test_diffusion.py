"""A diffusion engine with tiny random weights, all the way: from a job to its take, through broker and worker."""

import json

import pytest
from retake_backend.models.random_weights import write_random
from retake_shared.shot import Take

ENGINE = "edit-by-track"
SMALL = {"steps": 3, "working_size": 64, "window": 9, "overlap": 1, "memory": "cpu"}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name in ("wan2.1-t2v-1.3b", ENGINE):
        write_random(name, folder / name)
    return folder


def test_a_diffusion_take_is_made_and_made_again_the_same(start_backend, shot, models, worker_of):
    with start_backend(models=models, cores=1).client() as client:
        worker = worker_of(client)
        assert next(engine["ready"] for engine in client.info.engines if engine["name"] == ENGINE)
        made = []
        for _ in range(2):
            events = list(client.events(shot.submit(client, engine=ENGINE, **SMALL), timeout=120))
            assert events[-1].kind == "done", events[-1].data
            frames = {(e.data["kind"], e.data.get("index")): e.data["sha256"] for e in events if e.kind == "frame"}
            take = Take.from_json(json.loads(client.fetch_bytes(frames.pop(("take", None)))))
            assert (take.start, take.stop) == (0, 8)
            assert any("random" in note for note in take.notes)
            pictures = [event.picture for event in events if event.kind == "picture"]
            assert pictures
            assert all(picture.startswith(b"\xff\xd8") for picture in pictures)
            made.append(frames)
        assert made[0] == made[1]
        assert len(made[0]) == 16
        assert client.stats()["worker_deaths"] == 0
        client.free()
        assert worker.is_running()
        again = list(client.events(shot.submit(client, engine=ENGINE, frames=(0, 5), **SMALL), timeout=120))
        assert again[-1].kind == "done", "what was freed is loaded again"


def test_a_diffusion_job_is_cancelled_between_two_steps(start_backend, shot, models, worker_of):
    with start_backend(models=models, cores=1).client() as client:
        worker = worker_of(client)
        many = {**SMALL, "steps": 200}
        job = shot.submit(client, engine=ENGINE, **many)
        for event in client.events(job, timeout=120):
            if event.kind == "picture":
                client.cancel(job)
        assert event.kind == "cancelled"
        assert worker.is_running(), "what it has loaded is kept"


def test_without_its_weights_a_job_fails_at_once_and_says_how_to_get_them(start_backend, shot):
    with start_backend().client() as client:
        events = list(client.events(shot.submit(client, engine=ENGINE, **SMALL), timeout=120))
        assert events[-1].kind == "failed"
        assert "wan2.1-t2v-1.3b" in events[-1].data["what"]
        assert "retake models" in events[-1].data["remedy"]
        assert client.job(events[-1].job).attempt == 1
