"""The track conditioners written out from the papers' formulas: float64, one number at a time, no torch.

Shares no code with the implementation. Weights come as {name: array} with the names of the saved file.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Weights = dict[str, Array]


def linear(weights: Weights, name: str, x: Array) -> Array:
    y = weights[f"{name}.weight"] @ x
    return y + weights[f"{name}.bias"] if f"{name}.bias" in weights else y


def gelu(x: Array) -> Array:
    return np.array([0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x])


def layer_norm(weights: Weights, name: str, x: Array) -> Array:
    centred = x - x.mean()
    return centred / math.sqrt((centred**2).mean() + 1e-5) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def fourier(values: Array, frequencies: int) -> Array:
    """gamma(v) = (sin(pi 2^k v), cos(pi 2^k v)): per coordinate all sines, then all cosines."""
    out = []
    for value in values:
        out += [math.sin(math.pi * 2**k * value) for k in range(frequencies)]
        out += [math.cos(math.pi * 2**k * value) for k in range(frequencies)]
    return np.array(out)


def attention(query: Array, keys: list[Array], values: list[Array], heads: int) -> Array:
    """One query over a list of keys and values; nothing to attend to gives zero."""
    out = np.zeros_like(query)
    width = len(query) // heads
    for head in range(heads):
        own = slice(head * width, (head + 1) * width)
        logits = [float(query[own] @ key[own]) / math.sqrt(width) for key in keys]
        scores = [math.exp(logit - max(logits)) for logit in logits]
        for score, value in zip(scores, values, strict=True):
            out[own] += score / sum(scores) * value[own]
    return out


def transformer(weights: Weights, features: Array, present: NDArray[np.bool_], heads: int, layers: int) -> Array:
    """One track: features (f, width), present (f,)."""
    frames, width = features.shape
    x = features.copy()
    for t in range(frames):
        for i in range(0, width, 2):
            x[t, i] += math.sin(t / 10_000 ** (i / width))
            x[t, i + 1] += math.cos(t / 10_000 ** (i / width))
    for layer in range(layers):
        block = f"temporal.blocks.{layer}"
        qkv = [
            np.split(linear(weights, f"{block}.to_qkv", layer_norm(weights, f"{block}.norm_attention", row)), 3)
            for row in x
        ]
        seen = [t for t in range(frames) if present[t]]
        for t in range(frames):
            attended = attention(qkv[t][0], [qkv[s][1] for s in seen], [qkv[s][2] for s in seen], heads)
            x[t] = x[t] + linear(weights, f"{block}.attention_out", attended)
        for t in range(frames):
            hidden = gelu(linear(weights, f"{block}.mlp_in", layer_norm(weights, f"{block}.norm_mlp", x[t])))
            x[t] = x[t] + linear(weights, f"{block}.mlp_out", hidden)
    return np.stack([layer_norm(weights, "temporal.norm", row) for row in x])


def edit_by_track(
    weights: Weights,
    config: dict,
    tokens: Array,
    views: tuple[Array, Array],
    present: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    grid: tuple[int, int],
) -> tuple[Array, Array]:
    """tokens (f * h * w, d); views and present of source and target, (f, N, 3) and (f, N)."""
    h, w = grid
    frames, count = present[0].shape
    heads, octaves, width = config["heads"], config["frequencies"], config["width"]

    def rho(xyz: Array) -> Array:
        gamma = fourier(xyz[: config["dims"]], octaves)
        mlp = linear(weights, "coordinates.mlp_out", gelu(linear(weights, "coordinates.hidden", gamma)))
        return linear(weights, "coordinates.skip", gamma) + mlp

    cells = [np.array([(j + 0.5) / w, (i + 0.5) / h, 0.0]) for i in range(h) for j in range(w)]

    def gaussian(xyz: Array, cell: Array) -> float:
        squared = ((xyz[0] - cell[0]) * w) ** 2 + ((xyz[1] - cell[1]) * h) ** 2
        return math.exp(-squared / (2 * config["gaussian_width"] ** 2))

    values = [linear(weights, "to_values", token) for token in tokens]
    sampled = np.zeros((frames, count, width))
    for t in range(frames):
        here = values[t * h * w : (t + 1) * h * w]
        for n in range(count):
            if not present[0][t, n]:
                continue
            if config["splat"] == "gaussian":
                share = [gaussian(views[0][t, n], cell) for cell in cells]
                sampled[t, n] = sum(s * v for s, v in zip(share, here, strict=True)) / max(sum(share), 1e-12)
            else:
                query = linear(weights, "sampling.to_q", rho(views[0][t, n]))
                keys = [linear(weights, "sampling.to_k", rho(cell)) for cell in cells]
                sampled[t, n] = linear(weights, "sampling_out", attention(query, keys, here, heads))

    features = np.zeros_like(sampled)
    for n in range(count):
        features[:, n] = transformer(weights, sampled[:, n], present[0][:, n], heads, config["temporal_layers"])

    results = []
    for xyz, there in zip(views, present, strict=True):
        tau = np.zeros((frames * h * w, tokens.shape[1]))
        for t in range(frames):
            shown = [n for n in range(count) if there[t, n]]
            features_here = {n: features[t, n] for n in shown}
            if config["depth_injection"]:
                for n in shown:
                    sigma = linear(weights, "disparity.linear", fourier(xyz[t, n, 2:], octaves))
                    features_here[n] = features_here[n] + sigma
            for c, cell in enumerate(cells):
                splatted = np.zeros(width)
                if config["splat"] == "gaussian":
                    share = {n: gaussian(xyz[t, n], cell) for n in shown}
                    for n in shown:
                        splatted += share[n] / max(sum(share.values()), 1.0) * features_here[n]
                else:
                    query = linear(weights, "splatting.to_q", rho(cell))
                    keys = [linear(weights, "splatting.to_k", rho(xyz[t, n])) for n in shown]
                    carried = [linear(weights, "splatting_values", features_here[n]) for n in shown]
                    splatted = attention(query, keys, carried, heads)
                tau[t * h * w + c] = linear(weights, "out", splatted)
        results.append(tau)
    return results[0], results[1]


def four_cells(x: float, y: float, grid: tuple[int, int]) -> list[tuple[int, float]]:
    """Cells around a point and their bilinear weights; the outermost cells hold out to the picture's border."""
    h, w = grid
    u, v = min(max(x * w - 0.5, 0), w - 1), min(max(y * h - 0.5, 0), h - 1)
    j, i = math.floor(u), math.floor(v)
    corners = []
    for row, row_weight in ((i, 1 - (v - i)), (i + 1, v - i)):
        for column, column_weight in ((j, 1 - (u - j)), (j + 1, u - j)):
            if row_weight * column_weight > 0:
                corners.append((row * w + column, row_weight * column_weight))
    return corners


def track2view(
    weights: Weights,
    config: dict,
    tokens: Array,
    views: tuple[Array, Array],
    present: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    visible: NDArray[np.bool_],
    grid: tuple[int, int],
) -> tuple[Array, Array]:
    """tokens (f * h * w, d); views and present of source and target, (f, N, 3) and (f, N); visible (f, N)."""
    h, w = grid
    frames, count = present[0].shape
    octaves, width = config["frequencies"], config["width"]

    def valid(view: int, t: int, n: int) -> bool:
        x, y, _ = views[view][t, n]
        return bool(present[view][t, n]) and 0 <= x < 1 and 0 <= y < 1

    sampled = np.zeros((frames, count, width))
    aggregated = np.zeros((frames, count), bool)
    for t in range(frames):
        for n in range(count):
            if not valid(0, t, n):
                continue
            x, y, _ = views[0][t, n]
            feature = np.zeros(width)
            for cell, share in four_cells(x, y, grid):
                token = tokens[t * h * w + cell]
                feature += share * (linear(weights, "to_values", token) if "to_values.weight" in weights else token)
            feature += linear(weights, "position.linear", fourier(np.array([x, y]), octaves))
            hidden = gelu(linear(weights, "refine_in", layer_norm(weights, "refine_norm", feature)))
            sampled[t, n] = feature + linear(weights, "refine_out", hidden)
            aggregated[t, n] = visible[t, n]

    features = np.zeros_like(sampled)
    for n in range(count):
        features[:, n] = transformer(weights, sampled[:, n], aggregated[:, n], config["heads"], config["layers"])

    results = []
    for view in range(2):
        tau = np.zeros((frames * h * w, tokens.shape[1]))
        for t in range(frames):
            total, share_sum = np.zeros((h * w, width)), np.zeros(h * w)
            for n in range(count):
                if not valid(view, t, n):
                    continue
                x, y, disparity = views[view][t, n]
                feature = features[t, n] + linear(weights, "disparity.linear", fourier(np.array([disparity]), octaves))
                for cell, share in four_cells(x, y, grid):
                    total[cell] += share * feature
                    share_sum[cell] += share if config["average"] == "weights" else 1.0
            for cell in range(h * w):
                if share_sum[cell] > 0:
                    tau[t * h * w + cell] = linear(weights, "out", total[cell] / share_sum[cell])
        results.append(tau)
    return results[0], results[1]


def screen(
    point: Array, c2w: Array, K: Array, framing: tuple[float, float, float, float]
) -> tuple[float, float, float]:
    """x, y as fractions of the framed rectangle (left, top, width, height px), and camera-space depth, of one point."""
    camera = np.linalg.inv(c2w) @ np.append(point, 1.0)
    pixel = K @ camera[:3] / camera[2]
    left, top, width, height = framing
    return (pixel[0] - left) / width, (pixel[1] - top) / height, camera[2]
