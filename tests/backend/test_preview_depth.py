"""The depth of one picture of the footage, from maps or from tracks alone, against a scene of known depth."""

from dataclasses import replace

import cv2
import numpy as np
from retake_backend.engines.preview.depth import dense_depth, depth_maps
from retake_shared.geometry import intrinsics
from retake_shared.shot import Cameras, Solve, Tracks

WIDTH, HEIGHT, FRAMES, FOCAL = 96, 64, 4, 90.0
BOX = slice(20, 44), slice(30, 60)
"""Rows and columns of a near box in the picture."""


def truth():
    """A wall that leans away to the right, from z = 4 to 6, and a box at z = 2 in front of it."""
    x = (np.arange(WIDTH) + 0.5) / WIDTH
    depth = np.tile(1 / (1 / 4 + (1 / 6 - 1 / 4) * x), (HEIGHT, 1))
    depth[BOX] = 2.0
    return depth


def picture(index):
    rgb = cv2.resize(np.random.default_rng(1).integers(40, 120, (8, 12, 3), np.uint8), (WIDTH, HEIGHT))
    rgb[BOX] = (240, 60, 30)
    return rgb


def solved(maps=None, masks=True):
    """Tracks on a grid over the wall and the box, seen by a camera that stands still."""
    K = intrinsics(FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2)
    cameras = Cameras(np.tile(np.eye(4), (FRAMES, 1, 1)), np.tile(K, (FRAMES, 1, 1)), WIDTH, HEIGHT)
    x, y = (a.ravel() for a in np.meshgrid(np.arange(2, WIDTH, 4), np.arange(2, HEIGHT, 4)))
    z = truth()[y, x]
    points = np.stack([(x + 0.5 - WIDTH / 2) / FOCAL * z, (y + 0.5 - HEIGHT / 2) / FOCAL * z, z], -1)
    objects = (z == 2.0).astype(np.int32)
    mask = np.zeros((FRAMES, HEIGHT, WIDTH), np.uint8)
    mask[:, BOX[0], BOX[1]] = 1
    depth = None if maps is None else np.repeat(maps[None], FRAMES, 0).astype(np.float32)
    tracks = Tracks.make(np.tile(points, (FRAMES, 1, 1)), objects=objects)
    return Solve(cameras, tracks, depth=depth, masks=mask if masks else None, object_names={1: "box"})


def share_off(depth):
    """Share of the pixels that are more than 3 % off."""
    return float((np.abs(depth - truth()) > 0.03 * truth()).mean())


def test_tracks_alone_give_every_pixel_its_surface():
    for masks, allowed in ((True, 0.02), (False, 0.06)):
        solve = solved(masks=masks)
        depth = dense_depth(solve, solve.cameras, 1, picture, lambda: None)
        assert depth.shape == (HEIGHT, WIDTH)
        assert share_off(depth) <= allowed


def test_maps_are_brought_to_the_scale_of_the_tracks():
    solve = solved(maps=truth()[::2, ::2] * 3)
    maps = depth_maps(solve, np.array([0, 3]))
    assert maps.shape == (2, HEIGHT // 2, WIDTH // 2)
    np.testing.assert_allclose(maps[0], truth()[::2, ::2], rtol=0.02)
    assert share_off(dense_depth(solve, solve.cameras, 1, picture, lambda: None)) <= 0.05
    assert depth_maps(solved(), np.array([0])) is None


def test_nothing_known_is_nothing_invented():
    solve = solved()
    empty = replace(solve, tracks=Tracks.empty(FRAMES), masks=None)
    assert not dense_depth(empty, solve.cameras, 0, picture, lambda: None).any()
