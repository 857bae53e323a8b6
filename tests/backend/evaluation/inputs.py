"""What the measures are tried on, here and by other people's implementations: made from a seed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from retake_shared.geometry import rotation_from_vector

SEEDS = (0, 1, 2)


def pictures(seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A picture (70, 93, 3) with structure, and the true one that it is a noisy, shifted copy of."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (10, 13, 3)).astype(np.float64)
    truth = np.kron(coarse, np.ones((7, 8, 1)))[:, :93] + rng.normal(0, 6, (70, 93, 3))
    picture = np.roll(truth, 1, 1) + rng.normal(0, 14, truth.shape)
    return np.clip(picture, 0, 255).astype(np.uint8), np.clip(truth, 0, 255).astype(np.uint8)


def mask(seed: int) -> NDArray[np.bool_]:
    """(70, 93): a few blocks and some lone pixels."""
    rng = np.random.default_rng(seed + 100)
    blocks = np.kron(rng.random((7, 10)) > 0.5, np.ones((10, 10), bool))[:, :93]
    return np.asarray(blocks[:70] ^ (rng.random((70, 93)) > 0.97), bool)


def camera_paths(seed: int, frames: int = 30) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """An estimated path (T, 4, 4) in axes and scale of its own, and the true one."""
    rng = np.random.default_rng(seed + 200)
    truth = np.tile(np.eye(4), (frames, 1, 1))
    turns = np.cumsum(rng.normal(0, 0.05, (frames, 3)), 0)
    truth[:, :3, :3] = rotation_from_vector(turns)
    truth[:, :3, 3] = np.cumsum(rng.normal(0.1, 0.1, (frames, 3)), 0)
    noisy = truth.copy()
    noisy[:, :3, :3] = truth[:, :3, :3] @ rotation_from_vector(rng.normal(0, 0.02, (frames, 3)))
    noisy[:, :3, 3] += rng.normal(0, 0.05, (frames, 3))
    world = np.eye(4)
    world[:3, :3], world[:3, 3] = rotation_from_vector(rng.normal(0, 1, 3)), rng.normal(0, 5, 3)
    moved = world @ noisy
    moved[:, :3, 3] *= 0.3
    return moved, truth


def lpips_weights(seed: int) -> dict[str, NDArray[np.float32]]:
    """Random weights of AlexNet's features and LPIPS' heads under their published names."""
    rng = np.random.default_rng(seed + 300)
    shapes = {0: (64, 3, 11, 11), 3: (192, 64, 5, 5), 6: (384, 192, 3, 3), 8: (256, 384, 3, 3), 10: (256, 256, 3, 3)}
    weights: dict[str, NDArray[np.float32]] = {}
    for number, shape in shapes.items():
        spread = np.sqrt(2 / np.prod(shape[1:]))
        weights[f"features.{number}.weight"] = rng.normal(0, spread, shape).astype(np.float32)
        weights[f"features.{number}.bias"] = rng.normal(0, 0.1, shape[0]).astype(np.float32)
    for number, width in enumerate(shape[0] for shape in shapes.values()):
        weights[f"lin{number}.model.1.weight"] = rng.uniform(0, 0.2, (1, width, 1, 1)).astype(np.float32)
    return weights
