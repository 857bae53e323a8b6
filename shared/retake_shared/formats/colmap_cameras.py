"""COLMAP's camera models: which parameters each has, its pinhole part, and how far its lens bends the picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..geometry import Array

MODELS: dict[int, tuple[str, str]] = {
    0: ("SIMPLE_PINHOLE", "f cx cy"),
    1: ("PINHOLE", "fx fy cx cy"),
    2: ("SIMPLE_RADIAL", "f cx cy k1"),
    3: ("RADIAL", "f cx cy k1 k2"),
    4: ("OPENCV", "fx fy cx cy k1 k2 p1 p2"),
    5: ("OPENCV_FISHEYE", "fx fy cx cy k1 k2 k3 k4"),
    6: ("FULL_OPENCV", "fx fy cx cy k1 k2 p1 p2 k3 k4 k5 k6"),
    7: ("FOV", "fx fy cx cy omega"),
    8: ("SIMPLE_RADIAL_FISHEYE", "f cx cy k1"),
    9: ("RADIAL_FISHEYE", "f cx cy k1 k2"),
    10: ("THIN_PRISM_FISHEYE", "fx fy cx cy k1 k2 p1 p2 k3 k4 sx1 sy1"),
    11: ("RAD_TAN_THIN_PRISM_FISHEYE", "fx fy cx cy k0 k1 k2 k3 k4 k5 p0 p1 s0 s1 s2 s3"),
    12: ("SIMPLE_DIVISION", "f cx cy k"),
    13: ("DIVISION", "fx fy cx cy k"),
    14: ("SIMPLE_FISHEYE", "f cx cy"),
    15: ("FISHEYE", "fx fy cx cy"),
    16: ("EUCM", "fx fy cx cy alpha beta"),
    17: ("EQUIRECTANGULAR", "w h"),
}
"""Number in binary files -> name in text files, names of the parameters in file order."""

NUMBERS = {name: number for number, (name, _) in MODELS.items()}


@dataclass(frozen=True)
class ModelCamera:
    """One entry of cameras.txt or cameras.bin: model name, picture size in px, parameters in the model's order."""

    model: str
    width: int
    height: int
    params: tuple[float, ...]

    @property
    def named(self) -> dict[str, float]:
        """Parameters by name; a single `f` counts as fx and fy."""
        values = dict(zip(MODELS[NUMBERS[self.model]][1].split(), self.params, strict=True))
        if "f" in values:
            values["fx"] = values["fy"] = values["f"]
        return values

    def distort(self, xy: Array) -> Array:
        """Where the lens puts the pinhole's normalised coordinates xy (..., 2): bent, still normalised."""
        p = self.named
        x, y = xy[..., 0], xy[..., 1]
        if "FISHEYE" in self.model:
            radius = np.hypot(x, y)
            theta = np.arctan(radius)
            xy = xy * np.where(radius > 1e-12, theta / np.maximum(radius, 1e-12), 1.0)[..., None]
            x, y = xy[..., 0], xy[..., 1]
        r2 = x * x + y * y
        match self.model:
            case "SIMPLE_RADIAL" | "RADIAL" | "SIMPLE_RADIAL_FISHEYE" | "RADIAL_FISHEYE":
                return xy * (1 + p["k1"] * r2 + p.get("k2", 0.0) * r2**2)[..., None]
            case "OPENCV":
                return _tangential(xy * (1 + p["k1"] * r2 + p["k2"] * r2**2)[..., None], x, y, p["p1"], p["p2"])
            case "FULL_OPENCV":
                above = 1 + p["k1"] * r2 + p["k2"] * r2**2 + p["k3"] * r2**3
                below = 1 + p["k4"] * r2 + p["k5"] * r2**2 + p["k6"] * r2**3
                return _tangential(xy * (above / below)[..., None], x, y, p["p1"], p["p2"])
            case "OPENCV_FISHEYE" | "THIN_PRISM_FISHEYE":
                bent = xy * (1 + r2 * (p["k1"] + r2 * (p["k2"] + r2 * (p["k3"] + r2 * p["k4"]))))[..., None]
                if self.model == "OPENCV_FISHEYE":
                    return bent
                prism = np.stack([p["sx1"] * r2, p["sy1"] * r2], -1)
                return _tangential(bent, x, y, p["p1"], p["p2"]) + prism
            case "RAD_TAN_THIN_PRISM_FISHEYE":
                bent = xy * (1 + np.stack([p[f"k{i}"] * r2 ** (i + 1) for i in range(6)]).sum(0))[..., None]
                x, y = bent[..., 0], bent[..., 1]
                r2 = x * x + y * y
                prism = np.stack([p["s0"] * r2 + p["s1"] * r2**2, p["s2"] * r2 + p["s3"] * r2**2], -1)
                return _tangential(bent, x, y, p["p1"], p["p0"]) + prism
            case "FOV":
                omega = p["omega"]
                if abs(omega) < 1e-6:
                    return xy
                radius = np.maximum(np.sqrt(r2), 1e-9)
                stretch: Array = np.arctan(2 * radius * np.tan(omega / 2)) / (radius * omega)
                return xy * stretch[..., None]
            case "SIMPLE_DIVISION" | "DIVISION":
                under = np.maximum(1 - 4 * p["k"] * r2, 0.0)
                return xy * (2 / (1 + np.sqrt(under)))[..., None]
            case "EUCM":
                return xy / (p["alpha"] * np.sqrt(p["beta"] * r2 + 1) + 1 - p["alpha"])[..., None]
        return xy

    def bend_at_corner(self) -> float:
        """Greatest distance, in px, between pinhole and real lens over the picture's corners."""
        p = self.named
        corners = np.array([[x, y] for x in (0.0, self.width) for y in (0.0, self.height)])
        focal, center = np.array([p["fx"], p["fy"]]), np.array([p["cx"], p["cy"]])
        pinhole = (corners - center) / focal
        with np.errstate(all="ignore"):
            moved = np.linalg.norm((self.distort(pinhole) - pinhole) * focal, axis=-1)
        return float(np.nan_to_num(moved, nan=np.inf).max())


def _tangential(bent: Array, x: Array, y: Array, p1: float, p2: float) -> Array:
    r2 = x * x + y * y
    moved: Array = bent + np.stack([2 * p1 * x * y + p2 * (r2 + 2 * x * x), 2 * p2 * x * y + p1 * (r2 + 2 * y * y)], -1)
    return moved
