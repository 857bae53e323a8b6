"""What belongs together by its motion over the clip: bodies with their limbs, balls with all that was seen of them."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from retake_backend.solve.objects import find_objects
from retake_backend.solve.stages import CameraSolve, ObjectGroups, Pictures, PointTracks
from retake_shared import geometry
from retake_shared.shot import Cameras
from scipy.spatial import cKDTree

from tests.backend.solve.sample import quiet

FRAMES, SIZE = 48, (672, 384)
Array = NDArray[np.float64]


class Points:
    """Points before a camera that stands still. Each thing's are followed for some frames, and then others of it."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(3)
        self.uv: list[Array] = []
        self.seen: list[NDArray[np.bool_]] = []
        self.thing: list[NDArray[np.int64]] = []

    def add(self, thing: int, uv: Array, lives: int = FRAMES, ends: tuple[int, ...] = ()) -> None:
        """uv: (T, N, 2). Points live `lives` frames, begun one after the other; in frames `ends` all are lost."""
        count = uv.shape[1]
        start = np.zeros(count, int) if lives >= FRAMES else np.arange(count) % lives - lives
        for begin in range(0, FRAMES + lives, lives):
            frame = np.arange(FRAMES)[:, None]
            seen = (frame >= begin + start) & (frame < begin + start + lives)
            for end in ends:
                cut = (frame >= end) if begin + lives / 2 < end else (frame < end)
                crosses = (begin + start < end) & (begin + start + lives > end)
                seen &= ~(cut & crosses)
            self._keep(thing, uv, seen)

    def _keep(self, thing: int, uv: Array, seen: NDArray[np.bool_]) -> None:
        keep = seen.sum(0) >= 5  # as few as a follower hands on
        self.uv.append(uv[:, keep])
        self.seen.append(seen[:, keep])
        self.thing.append(np.full(int(keep.sum()), thing))

    def ground(self) -> None:
        """Still points all over the picture, hidden where the things that were added are."""
        u, v = np.meshgrid(np.arange(8.0, SIZE[0], 18), np.arange(8.0, SIZE[1], 18))
        still = np.stack([u, v], -1).reshape(-1, 2)
        seen = np.zeros((FRAMES, len(still)), bool)
        for t in range(FRAMES):
            things = np.concatenate([uv[t] for uv in self.uv])
            seen[t] = cKDTree(things).query(still)[0] > 16
        self._keep(0, np.repeat(still[None], FRAMES, 0), seen)

    def find(self, pictures: Pictures | None = None) -> tuple[ObjectGroups, NDArray[np.int64]]:
        uv, seen, thing = np.concatenate(self.uv, 1), np.concatenate(self.seen, 1), np.concatenate(self.thing)
        followed = np.where(seen[..., None], uv, np.nan)
        static = (np.nanmax(followed, 0) - np.nanmin(followed, 0) < 1.5).all(-1)
        followed += self.random.normal(0, 0.15, uv.shape)
        points = PointTracks(followed.astype(np.float32), seen, seen.astype(np.float32))
        return find_objects(points, standing(points, static), None, quiet, pictures), thing


def standing(points: PointTracks, static: NDArray[np.bool_]) -> CameraSolve:
    K = geometry.intrinsics(600.0, 600.0, 336.0, 192.0)
    cameras = Cameras(np.tile(np.eye(4), (FRAMES, 1, 1)), np.tile(K, (FRAMES, 1, 1)), *SIZE)
    world = np.full((len(points), 3), np.nan)
    residual = np.where(points.visible, 0.2, np.nan).astype(np.float32)
    return CameraSolve(cameras, "static", world, static, residual, "assumed", np.ones(FRAMES, bool))


def column(width: float, height: float, apart: float, middle: tuple[float, float]) -> Array:
    """(N, 2)"""
    u, v = np.meshgrid(np.arange(-width / 2, width / 2 + 1, apart), np.arange(-height / 2, height / 2 + 1, apart))
    return np.stack([u, v], -1).reshape(-1, 2) + middle


@cache
def time() -> Array:
    """(T, 1)"""
    return np.arange(FRAMES, dtype=np.float64)[:, None]


def body() -> Array:
    """(T, N, 2) of a body that shifts its weight, slowly."""
    sway = np.stack([12 * np.sin(time() / 8), 4 * np.sin(time() / 5)], -1)
    return np.asarray(column(40, 170, 10, (330, 200)) + sway)


def arm() -> Array:
    """(T, N, 2) of an arm that swings from the body's shoulder to and fro, as fast as 8 px a frame at the hand."""
    angle = 0.9 + 0.7 * np.sin(time() / 5)
    along = np.repeat(np.arange(6.0, 76, 6), 3)
    beside = np.tile((-5.0, 0.0, 5.0), len(along) // 3)
    shoulder = np.array([352.0, 130]) + np.stack([12 * np.sin(time() / 8), 4 * np.sin(time() / 5)], -1)
    u = along * np.sin(angle) + beside * np.cos(angle)
    v = along * np.cos(angle) - beside * np.sin(angle)
    return np.asarray(shoulder + np.stack([u, v], -1))


def ball(count: int = 7, period: int = 16, radius: float = 15) -> Array:
    """(T, N, 2) of a ball that is kicked up before the body every `period` frames and falls again."""
    around = np.arange(count) * 2 * np.pi / count
    phase = (time() % period) / period
    height = 4 * 80 * phase * (1 - phase)
    middle = np.stack([330 + 15 * np.sin(time() / 9), 265 - height], -1)
    return np.asarray(middle + radius * np.stack([np.cos(around), np.sin(around)], -1))


def share(groups: ObjectGroups, thing: NDArray[np.int64], number: int) -> tuple[int, float]:
    """The object that most points of a thing belong to, and how many of them do."""
    counts = np.bincount(groups.labels[thing == number], minlength=2)
    return int(counts.argmax()), float(counts.max() / counts.sum())


def test_a_ball_thrown_before_a_body_is_an_object_of_its_own_and_an_arm_is_not() -> None:
    """Few points on it, each followed for a moment, and it stands still beside the body whenever it turns back."""
    points = Points()
    points.add(1, body(), 24)
    points.add(2, arm(), 24)
    points.add(3, ball(), 9, ends=(16, 32))
    points.ground()
    groups, thing = points.find()
    (man, body_share), (of_arm, arm_share), (of_ball, ball_share) = (share(groups, thing, n) for n in (1, 2, 3))
    assert groups.labels.max() == 2
    assert man > 0
    assert of_arm == man
    assert of_ball not in (0, man)
    assert min(body_share, arm_share) > 0.9
    assert ball_share > 0.8
    assert not groups.labels[thing == 0].any()


def test_a_ball_that_is_lost_with_every_kick_is_one_object() -> None:
    """No point of it is followed over the frames in which it is kicked."""
    points = Points()
    points.add(3, ball(12), 16, ends=(16, 32))
    points.ground()
    groups, thing = points.find()
    assert groups.labels.max() == 1
    assert share(groups, thing, 3)[1] > 0.95


def test_a_ball_that_rolls_past_is_one_object() -> None:
    """Its points come up at one side and go down at the other, faster and slower than the ball."""
    radius, speed = 50.0, 12.0
    middle = np.stack([60 + speed * time(), np.full_like(time(), 220)], -1)
    begun = np.linspace(-np.pi, 4 * np.pi, 160)
    height = np.tile(np.linspace(-0.8, 0.8, 8), 20)
    turn = speed * time() / radius - begun
    across = np.sqrt(1 - height**2) * radius
    uv = middle + np.stack([across * np.sin(turn), np.broadcast_to(radius * height, turn.shape)], -1)
    points = Points()
    points._keep(1, uv, np.abs(turn) < 1.1)
    points.ground()
    groups, thing = points.find()
    assert groups.labels.max() == 1
    assert share(groups, thing, 1)[1] > 0.9


@pytest.mark.parametrize("gap", [25.0, 45.0])
def test_two_that_pass_each_other_are_two_objects(gap: float) -> None:
    points = Points()
    for number, way in ((1, 1), (2, -1)):
        middle = np.stack([336 + way * 5 * (time() - FRAMES / 2), np.full_like(time(), 190 + way * gap)], -1)
        points.add(number, middle + column(30, 30, 9, (0, 0)), 16)
    points.ground()
    groups, thing = points.find()
    (first, a), (second, b) = share(groups, thing, 1), share(groups, thing, 2)
    assert groups.labels.max() == 2
    assert first != second
    assert min(a, b, first, second) > 0.9


def test_a_few_points_that_hardly_move_are_no_object() -> None:
    """Five that creep along an edge, as reflections do; five that cross the picture are one."""
    creeping, crossing = Points(), Points()
    spot = column(16, 8, 8, (300, 200))[:5]
    creeping.add(1, spot + np.stack([0.4 * time(), 0 * time()], -1))
    crossing.add(1, spot + np.stack([6 * time() - 150, 0 * time()], -1), 12)
    for points in (creeping, crossing):
        points.ground()
    assert creeping.find()[0].labels.max() == 0
    groups, thing = crossing.find()
    assert groups.labels.max() == 1
    assert share(groups, thing, 1)[1] > 0.9


def test_what_stands_still_of_a_body_that_came_is_its_own() -> None:
    """Half of its points were never seen to move. What lies on the ground beside it stays there; the mask is whole."""
    middle = 330 - 11 * np.maximum(22 - time(), 0)
    shape = column(56, 150, 11, (0, 190))
    points = Points()
    points.add(1, np.stack([middle, 0 * middle], -1) + shape, 26)
    points.ground()
    random = np.random.default_rng(0)
    grass, cloth = (random.normal(0, 12, (*SIZE[::-1], 1)) + colour for colour in ((70, 120, 40), (110, 105, 120)))

    def seen(t: int) -> NDArray[np.uint8]:
        left = round(float(middle[t, 0])) - 32
        picture = grass.copy()
        picture[110:270, max(left, 0) : left + 64] = cloth[110:270, : left + 64 - max(left, 0)]
        return np.clip(picture, 0, 255).astype(np.uint8)

    groups, thing = points.find(seen)
    assert groups.labels.max() == 1
    assert (groups.labels[thing == 1] == 1).mean() > 0.9
    assert (groups.labels[thing == 0] == 1).mean() < 0.005
    assert groups.masks is not None
    true = cv2.resize((seen(FRAMES - 1)[..., 2] > 75).astype(np.uint8), groups.masks.shape[:0:-1])
    body_there = cv2.medianBlur(true, 5) > 0
    mine = groups.masks[-1] == 1
    assert (mine & body_there).sum() / (mine | body_there).sum() > 0.75
