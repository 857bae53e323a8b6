"""Real brokers and workers in processes of their own, and a shot small enough for many of them."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import psutil
import pytest
from retake_backend import footage
from retake_shared import archive, connection
from retake_shared.client import Client, JobSpec
from retake_shared.shot import Cameras, Edit, RenderSettings, Solve, Tracks

FRAMES, HEIGHT, WIDTH = 8, 48, 64
SERVE = """
import sys
from pathlib import Path
from pathlib import PosixPath
from retake_backend.broker.server import Limits, serve
from retake_backend.broker.supervisor import Patience
serve(Path(sys.argv[1]), Limits(**eval(sys.argv[2])))
"""


class Backend:
    """A broker on a home of its own. `start` may be called again after `kill` or `wait`."""

    def __init__(self, home, **limits):
        self.home, self.limits, self.process = home, limits, None

    @property
    def command(self):
        return [sys.executable, "-c", SERVE, str(self.home), repr(self.limits)]

    def start(self, **popen):
        file = self.home / connection.FILE_NAME
        before = file.read_bytes() if file.exists() else b""
        self.home.mkdir(parents=True, exist_ok=True)
        with (self.home / "backend.log").open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log, **popen)
        deadline = time.monotonic() + 20
        while not file.exists() or file.read_bytes() == before:
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < deadline, "the broker does not come up"
            time.sleep(0.01)
        return self

    def client(self):
        return Client.connect(self.home / connection.FILE_NAME)

    def log(self):
        return (self.home / "backend.log").read_text(errors="replace")

    def kill(self):
        """The broker alone, the hard way."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
        if self.process and self.process.poll() is None:
            self.kill()


@pytest.fixture(scope="session", autouse=True)
def trial_engines():
    """Workers started from these tests know the trial engines."""
    before = dict(os.environ)
    os.environ["RETAKE_ENGINES"] = "trial_engines:Trial trial_engines:Chattering"
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    os.environ.pop("RETAKE_MODELS", None)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def start_backend(tmp_path):
    """start_backend(home=..., **limits) -> a running Backend, ended after the test."""
    backends = []

    def start(home=None, **limits):
        backends.append(Backend(home or tmp_path / "home", **limits))
        return backends[-1].start()

    yield start
    for backend in backends:
        backend.stop()


@pytest.fixture(scope="module")
def shared_backend(tmp_path_factory):
    """One broker for the tests of a module that leave it as they found it."""
    backend = Backend(tmp_path_factory.mktemp("home")).start()
    yield backend
    backend.stop()


class Shot:
    """A little footage file, its solve and the edit that changes nothing."""

    def __init__(self, folder):
        self.rng = np.random.default_rng(1)
        self.pictures = [
            np.kron(self.rng.integers(0, 255, (HEIGHT // 8, WIDTH // 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
            for _ in range(FRAMES)
        ]
        self.footage = folder / "shot.mp4"
        footage.write_video(self.footage, self.pictures, Fraction(16))
        K = np.array([[60.0, 0, WIDTH / 2], [0, 60, HEIGHT / 2], [0, 0, 1]])
        cameras = Cameras(np.tile(np.eye(4), (FRAMES, 1, 1)), np.tile(K, (FRAMES, 1, 1)), WIDTH, HEIGHT)
        points = self.rng.uniform([-1, -1, 3], [1, 1, 5], (30, 3))
        self.solve = Solve(cameras, Tracks.make(np.tile(points, (FRAMES, 1, 1))))
        self.solve_bytes = archive.to_bytes(self.solve)
        self.edit_bytes = archive.to_bytes(Edit.identity(self.solve))

    def spec(self, client, engine="trial", frames=None, seed=0, **options):
        """Send the assets, return the job."""
        return JobSpec(
            client.ensure_asset(self.footage),
            self.footage.name,
            client.ensure_asset(self.solve_bytes),
            client.ensure_asset(self.edit_bytes),
            RenderSettings(engine=engine, frames=frames, seed=seed, options=options),
        )

    def submit(self, client, **wanted):
        return client.submit(self.spec(client, **wanted))


@pytest.fixture(scope="session")
def shot(tmp_path_factory):
    return Shot(tmp_path_factory.mktemp("shot"))


@pytest.fixture
def worker_of():
    """worker_of(client) -> psutil.Process of the broker's worker, once it is up."""

    def find(client, timeout=15):
        deadline = time.monotonic() + timeout
        while client.info.worker in ("", "starting") or not client.stats()["worker_pid"]:
            assert time.monotonic() < deadline, "no worker comes up"
            time.sleep(0.02)
            client.info = client.hello()
        return psutil.Process(client.stats()["worker_pid"])

    return find
