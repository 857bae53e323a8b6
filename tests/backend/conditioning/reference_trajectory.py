"""Trajectory Attention as the paper writes it, in float64 loops: what the implementation must agree with.

Independent of it: nothing here is vectorised, cached or shared with `retake_backend`.
"""

import math

import numpy as np


def corners(x, y, height, width, sampling):
    """[(row, column, weight)] of a screen position: the cell it lies in, or its four nearest centres."""
    x, y = x * width, y * height
    if sampling == "nearest":
        return [(min(math.floor(y), height - 1), min(math.floor(x), width - 1), 1.0)]
    left, top = math.floor(x - 0.5), math.floor(y - 0.5)
    found = []
    for row in (top, top + 1):
        for column in (left, left + 1):
            weight = (1 - abs(x - 0.5 - column)) * (1 - abs(y - 0.5 - row))
            found.append((min(max(row, 0), height - 1), min(max(column, 0), width - 1), weight))
    return found


def sample(Z, Tr, M, sampling):
    """Algorithm 1. Z (F, H, W, C), Tr (F, L, 2) screen units, M (F, L) -> Z_t (F, L, C)."""
    F, H, W, C = Z.shape
    L = M.shape[1]
    Z_t = np.zeros((F, L, C))
    for i in range(L):
        for f in range(F):
            if M[f, i]:
                for row, column, weight in corners(*Tr[f, i], H, W, sampling):
                    Z_t[f, i] += weight * Z[f, row, column]
    return Z_t


def back_project(Z_t, Tr, M, H, W, sampling):
    """Algorithm 2. Z_t (F, L, C) -> Z_p (F, H, W, C). Invalid tokens add nothing to the sum nor to the count."""
    F, L, C = Z_t.shape
    Z_p, U = np.zeros((F, H, W, C)), np.zeros((F, H, W))
    for i in range(L):
        for f in range(F):
            if M[f, i]:
                for row, column, weight in corners(*Tr[f, i], H, W, sampling):
                    Z_p[f, row, column] += weight * Z_t[f, i]
                    U[f, row, column] += weight
    for f in range(F):
        for row in range(H):
            for column in range(W):
                if U[f, row, column] > 0:
                    Z_p[f, row, column] /= U[f, row, column]
    return Z_p


def rms_norm(x, weight, eps):
    return x / math.sqrt(sum(v * v for v in x) / len(x) + eps) * weight


def turn_by_frame(x, frame, turned):
    """Rotary embedding of one head's channels: pair p of the first `turned` channels by frame / 10000^(2p/turned)."""
    out = x.copy()
    for p in range(turned // 2):
        angle = frame / 10000 ** (2 * p / turned)
        a, b = x[2 * p], x[2 * p + 1]
        out[2 * p] = a * math.cos(angle) - b * math.sin(angle)
        out[2 * p + 1] = a * math.sin(angle) + b * math.cos(angle)
    return out


def attend(Z_t, M, weights, heads, turned=0, eps=None):
    """Multi-head attention along F within each trajectory, over its valid frames, then the output projection.

    weights: float64 arrays of a branch's state dict. turned: channels of a head that its frame turns.
    """

    def linear(name, x):
        y = weights[f"{name}.weight"] @ x
        return y + weights[f"{name}.bias"] if f"{name}.bias" in weights else y

    F, L, C = Z_t.shape
    out = np.zeros((F, L, C))
    for i in range(L):
        frames = [f for f in range(F) if M[f, i]]
        q, k, v = ({f: linear(name, Z_t[f, i]) for f in frames} for name in ("to_q", "to_k", "to_v"))
        if eps is not None:
            q = {f: rms_norm(q[f], weights["norm_q.weight"], eps) for f in frames}
            k = {f: rms_norm(k[f], weights["norm_k.weight"], eps) for f in frames}
        for f in frames:
            together = []
            for head in range(heads):
                size = len(v[f]) // heads
                part = slice(head * size, (head + 1) * size)
                query = turn_by_frame(q[f][part], f, turned)
                scores = [query @ turn_by_frame(k[g][part], g, turned) / math.sqrt(size) for g in frames]
                shares = [math.exp(s - max(scores)) for s in scores]
                together.append(sum(share * v[g][part] for share, g in zip(shares, frames, strict=True)) / sum(shares))
            out[f, i] = linear("to_out", np.concatenate(together))
    return out


def branch(Z, Tr, M, weights, heads, sampling, turned=0, eps=None):
    """The whole branch: sample, attend, project back. Z (F, H, W, C) -> the residual of the same shape."""
    _, H, W, _ = Z.shape
    Z_t = attend(sample(Z, Tr, M, sampling), M, weights, heads, turned, eps)
    return back_project(Z_t, Tr, M, H, W, sampling)


def moved_pixel(u, v, depth, K, c2w, K_target, c2w_target):
    """Where pixel (u, v) of one camera at a depth lies in another: (u', v', depth') by K, R and t, one at a time."""
    ray = np.linalg.solve(K, np.array([u, v, 1.0]))
    world = c2w @ np.array([*(ray * depth), 1.0])
    x, y, z, _ = np.linalg.inv(c2w_target) @ world
    u2, v2, w2 = K_target @ np.array([x, y, z])
    return u2 / w2, v2 / w2, z


def image_trajectories(depth, image, path):
    """Algorithm 3 on every pixel of the depth map: Tr (F, h*w, 2) px, M (F, h*w)."""
    h, w = depth.shape
    Tr, M = np.zeros((len(path), h * w, 2)), np.zeros((len(path), h * w), bool)
    for f in range(len(path)):
        for row in range(h):
            for column in range(w):
                C = np.array([(column + 0.5) * path.width / w, (row + 0.5) * path.height / h])
                if depth[row, column] <= 0:
                    continue
                u, v, z = moved_pixel(*C, depth[row, column], image.K[0], image.c2w[0], path.K[f], path.c2w[f])
                T = np.array([u, v]) - C
                Tr[f, row * w + column] = T + C
                M[f, row * w + column] = z > 0 and 0 <= u < path.width and 0 <= v < path.height
    return Tr, M


def video_trajectories(P, M_o, depth, source, target):
    """Algorithm 4 with T read at the nearest pixel: Tr (F, L, 2) px, M (F, L)."""
    F, L, _ = P.shape
    _, h, w = depth.shape
    Tr, M = np.zeros((F, L, 2)), np.zeros((F, L), bool)
    for f in range(F):
        for i in range(L):
            x, y = P[f, i]
            if not (0 <= x < source.width and 0 <= y < source.height):
                continue
            row, column = int(y / source.height * h), int(x / source.width * w)
            if depth[f, row, column] <= 0:
                continue
            C = np.array([(column + 0.5) * source.width / w, (row + 0.5) * source.height / h])
            u, v, z = moved_pixel(*C, depth[f, row, column], source.K[f], source.c2w[f], target.K[f], target.c2w[f])
            Tr[f, i] = P[f, i] + np.array([u, v]) - C
            inside = z > 0 and 0 <= Tr[f, i, 0] < target.width and 0 <= Tr[f, i, 1] < target.height
            M[f, i] = inside and M_o[f, i]
    return Tr, M
