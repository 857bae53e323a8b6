"""A made-up scene for the tests of formats: a camera path, a wall and a box that moves, ray-traced with plain numpy.

Nothing of retake_shared is used: what the readers give is compared with this.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

T, W, H = 9, 96, 64
FX, FY, CX, CY = 90.0, 95.0, 50.0, 30.0


def _path() -> np.ndarray:
    """c2w (T, 4, 4): OpenCV axes, a camera that walks to the right, rises and turns about all axes."""
    poses = np.tile(np.eye(4), (T, 1, 1))
    for t in range(T):
        a, b, c = 0.03 * t, -0.04 * t, 0.02 * t - 0.1
        rx = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
        ry = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
        rz = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
        poses[t, :3, :3] = rz @ ry @ rx
        poses[t, :3, 3] = 0.25 * t, -0.08 * t, 0.05 * t * t / T
    return poses


@dataclass(frozen=True)
class Scene:
    """c2w (T, 4, 4), K (3, 3) px (first pixel's centre at .5), depth (T, H, W) float64, moving (T, H, W) bool."""

    c2w: np.ndarray = field(default_factory=_path)
    K: np.ndarray = field(default_factory=lambda: np.array([[FX, 0, CX], [0, FY, CY], [0, 0, 1.0]]))
    box: bool = False

    @property
    def w2c(self) -> np.ndarray:
        return np.linalg.inv(self.c2w)

    def rays(self) -> np.ndarray:
        """(H, W, 3): directions of depth 1 through the pixels' centres, in the camera's axes."""
        x, y = np.meshgrid(np.arange(W) + 0.5, np.arange(H) + 0.5)
        return np.stack([(x - CX) / FX, (y - CY) / FY, np.ones_like(x)], -1)

    def on_wall(self, points: np.ndarray) -> np.ndarray:
        """Signed distance of world points (..., 3) from the wall."""
        return (points @ [0.1, 0.2, 1.0] - 6) / np.linalg.norm([0.1, 0.2, 1.0])

    def render(self) -> tuple[np.ndarray, np.ndarray]:
        """depth (T, H, W) and moving (T, H, W): the wall, and with `box` a square before it that moves to the right."""
        depth, moving = np.zeros((T, H, W)), np.zeros((T, H, W), bool)
        normal = np.array([0.1, 0.2, 1.0])
        for t in range(T):
            direction = self.rays() @ self.c2w[t, :3, :3].T
            origin = self.c2w[t, :3, 3]
            depth[t] = (6 - origin @ normal) / (direction @ normal)
            if self.box:
                near = (3.0 - origin[2]) / direction[..., 2]
                hit = origin + near[..., None] * direction
                centre = np.array([-0.5 + 0.3 * t, -0.1])
                inside = (np.abs(hit[..., :2] - centre) < 0.45).all(-1)
                depth[t][inside], moving[t][inside] = near[inside], True
        return depth, moving

    def project(self, points: np.ndarray) -> np.ndarray:
        """uv (T, N, 2) px of world points (N, 3)."""
        local = np.einsum("tij,nj->tni", self.w2c[:, :3, :3], points) + self.w2c[:, None, :3, 3]
        seen = local @ self.K.T
        return seen[..., :2] / seen[..., 2:]

    def points(self, count: int = 60) -> np.ndarray:
        """World points (N, 3) before all cameras, at many depths."""
        rng = np.random.default_rng(0)
        return np.stack([rng.uniform(-1, 3, count), rng.uniform(-2, 1, count), rng.uniform(4, 12, count)], -1)


def error_px(scene: Scene, cameras, width: int = W, height: int = H, rows: slice = slice(None)) -> float:
    """Largest distance, in px of the scene's picture, between a reader's projections and the scene's own."""
    points = scene.points()
    uv, _ = cameras.project(np.repeat(points[None], len(cameras), 0))
    uv = uv * [width / cameras.width, height / cameras.height]
    return float(np.abs(uv[rows] - scene.project(points)).max())
