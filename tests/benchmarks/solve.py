"""How near `retake solve` comes to the truth, beside pycolmap alone and Blender's libmv on the same frames.

    RETAKE_BLENDER='["PROGRAM", ...]' python tests/benchmarks/solve.py [SCENE ...] [--methods retake colmap libmv]
                                                        [--work FOLDER] [--out FILE.md]

`build.py bench` runs three scenes of it (`measure`); all of them, with the table, are run by hand. What was found is
kept in the work folder: a method that was run on a scene is not run again. `--again` runs it anyway. The table of all
scenes is kept in `results/solve.md`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from retake_backend.evaluation import solve as measures
from retake_backend.footage import FootageReader
from retake_shared import archive, geometry
from retake_shared.errors import RetakeError

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # the modules beside this file, however it was loaded

import solve_scenes  # noqa: E402

RESULTS = HERE / "results" / "solve.md"
SAMPLE = HERE.parents[1] / "shared" / "sample_shot"
METHODS = ("retake", "colmap", "libmv")
LABELS = {"retake": "Retake", "colmap": "pycolmap alone", "libmv": "Blender's libmv"}
QUICK = ("walk", "one_object", "static_ball")
"""What `build.py bench` runs; the first is the sample shot, 81 frames at 672x384."""

FRAMES, ATE, DRIFT, ROTATION, FOCAL = 0.95, 5.0, 2.0, 2.0, 15.0
"""A scene is solved when this share of the frames has a camera, the path is at most ATE percent of its length off (of
a camera that stands still: wanders at most DRIFT percent of the depth), the axes at most ROTATION degrees, and the
focal length, where the footage tells it at all, FOCAL percent."""
_TRACKS = 1500
"""Tracks of a solve that are compared, drawn at random where there are more."""
_LIMIT = 900
"""Seconds after which a method has failed."""

Array = NDArray[np.float64]


class SampleShot:
    """The sample shot with the interface of a rendered scene; what it knows are its exact solve's tracks and depths."""

    name, what, kind = "walk", "the sample shot: a man walks, a ball rolls, the camera on a slow arc", "moving"
    tells_focal = True

    def __init__(self) -> None:
        self.solve = archive.load_solve(SAMPLE / "walk.solve.npz")
        self.cameras = self.solve.cameras
        self.count = len(self.solve)
        self.size = (self.cameras.width, self.cameras.height)
        self._uv, self._depth = self.cameras.project(self.solve.tracks.positions)

    def write(self, path: Path) -> None:
        path.write_bytes((SAMPLE / "walk.mp4").read_bytes())

    def depth_and_objects(self, t: int, step: int = 1) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        assert self.solve.depth is not None
        assert self.solve.masks is not None
        return _sampled(self.solve.depth[t], self.size, step), _sampled(self.solve.masks[t], self.size, step)

    def follow(
        self, born: NDArray[np.int64], uv: Array
    ) -> tuple[Array, NDArray[np.bool_], NDArray[np.uint8], NDArray[np.float32]]:
        """Of the exact track that is seen within 3 px, shifted onto uv; nothing is known of places without one."""
        from scipy.spatial import cKDTree

        row, near = np.zeros(len(uv), np.int64), np.zeros(len(uv), bool)
        for t in np.unique(born):
            which = np.flatnonzero(born == t)
            seen = np.flatnonzero(self.solve.tracks.visibility[t])
            distance, index = cKDTree(self._uv[t, seen]).query(uv[which])
            row[which], near[which] = seen[index], distance < 3
        shift = uv - self._uv[born, row]
        objects = self.solve.tracks.objects[row].astype(np.uint8)
        return (
            self._uv[:, row] + shift,
            self.solve.tracks.visibility[:, row] & near,
            objects,
            self._depth[:, row].astype(np.float32),
        )


Truth = solve_scenes.Scene | SampleShot
NAMES = ("walk", *solve_scenes.SCENES)


def truth(name: str) -> Truth:
    """The scene of that name."""
    return SampleShot() if name == "walk" else solve_scenes.SCENES[name]()


@dataclass
class Found:
    """What a method found. c2w: (T, 4, 4), nan where no camera. focal: (T,) px. uv: (T, N, 2) where its own cameras
    put its own points, nan where it does not see them; z: (T, N) their depths. objects: (N,) or None. depth: (T, h, w)
    or None. light, kind: what it says of itself. seconds: by stage. error: why there is nothing.
    """

    c2w: Array
    focal: Array
    uv: Array
    z: Array
    seconds: dict[str, float]
    total: float
    peak_mb: float
    error: str = ""
    note: str = ""
    objects: NDArray[np.int32] | None = None
    depth: NDArray[np.float32] | None = None

    @classmethod
    def load(cls, path: Path, size: tuple[int, int]) -> Found:
        """What the scripts of the methods wrote."""
        with np.load(path) as file:
            data = {name: file[name] for name in file.files}
        c2w, focal, uv = data["c2w"], data["focal"], data["uv"]
        if "z" in data:
            z = data["z"]
        else:
            K = geometry.intrinsics(
                np.nan_to_num(focal, nan=1.0), np.nan_to_num(focal, nan=1.0), size[0] / 2, size[1] / 2
            )
            seen, z = geometry.project(data["world"], c2w, K)
            known = np.isfinite(uv[..., 0]) & np.isfinite(seen[..., 0])
            own = uv if data.get("projected") else seen
            uv = np.where(known[..., None], own, np.nan)
        return cls(
            c2w, focal, uv, z, dict(zip(data["stages"].tolist(), data["seconds"].tolist(), strict=True)),
            float(data.get("total", 0)), float(data["peak_mb"]), str(data["error"]), str(data["note"]),
            data.get("objects"), data.get("depth"),
        )  # fmt: skip

    @classmethod
    def nothing(cls, frames: int, error: str, seconds: float) -> Found:
        """Of a method that failed."""
        return cls(
            np.full((frames, 4, 4), np.nan), np.full(frames, np.nan), np.full((frames, 0, 2), np.nan),
            np.zeros((frames, 0)), {}, seconds, float("nan"), error,
        )  # fmt: skip


def score(scene: Truth, found: Found) -> dict[str, Any]:
    """All measures of one method on one scene; nan where something is not defined or not there."""
    nothing = float("nan")
    known = np.isfinite(found.c2w[:, 0, 0])
    row: dict[str, Any] = {
        "solved": False, "why": found.error, "frames": float(known.mean()), "ate": nothing, "drift": nothing,
        "rotation": nothing, "focal": nothing, "track": nothing, "within": nothing, "hidden": nothing,
        "length": nothing, "tracks": found.uv.shape[1], "points_depth": nothing, "dense_depth": nothing,
        "objects_found": nothing, "objects_false": nothing,
        "seconds": found.total, "stages": found.seconds, "peak_mb": found.peak_mb, "note": found.note,
    }  # fmt: skip
    if known.sum() < 3:
        row["why"] = found.error or "no cameras"
        return row
    cameras = scene.cameras
    true, c2w = cameras.c2w[known], found.c2w[known]
    row["rotation"] = measures.rotation_error(c2w, true)
    if scene.kind == "moving":
        row["ate"] = measures.ate_percent(c2w, true)
    else:
        seen = np.isfinite(found.uv[..., 0])
        depth = np.median(found.z[seen]) if seen.any() else nothing
        row["drift"] = measures.drift_percent(c2w, float(depth))
    if scene.tells_focal:
        row["focal"] = measures.focal_error_percent(found.focal[known], cameras.K[known, 0, 0])
    _score_tracks(scene, found, row)
    if found.depth is not None:
        row["dense_depth"] = _dense_depth(scene, found.depth)
    off = row["ate"] if scene.kind == "moving" else row["drift"]
    reasons = [
        f"{row['frames']:.0%} of the frames" if row["frames"] < FRAMES else "",
        f"path {off:.3g} % off" if scene.kind == "moving" and not off <= ATE else "",
        f"wanders by {off:.3g} % of the depth" if scene.kind != "moving" and not off <= DRIFT else "",
        f"axes {row['rotation']:.1f} deg off" if not row["rotation"] <= ROTATION else "",
        f"focal length {row['focal']:.0f} % off" if row["focal"] > FOCAL else "",
    ]
    row["why"] = ", ".join(reason for reason in reasons if reason)
    row["solved"] = not row["why"]
    return row


def _score_tracks(scene: Truth, found: Found, row: dict[str, Any]) -> None:
    visible = np.isfinite(found.uv[..., 0])
    rows = np.flatnonzero(visible.sum(0) > 1)
    if not len(rows):
        return
    rows = np.random.default_rng(0).permutation(rows)[:_TRACKS]
    uv, visible = found.uv[:, rows], visible[:, rows]
    born = visible.argmax(0)
    start = uv[born, np.arange(len(rows))]
    inside = geometry.inside_image(start, np.ones(len(start)), *scene.size)
    rows, uv, visible, born, start = rows[inside], uv[:, inside], visible[:, inside], born[inside], start[inside]
    true_uv, true_visible, objects, true_z = scene.follow(born, start)
    asked = true_visible[born, np.arange(len(rows))]  # the truth knows the point
    visible = visible & asked
    error = measures.track_error(uv, visible, true_uv, true_visible)
    row.update(track=error.median, within=error.within, hidden=error.hidden, length=error.length)
    still = visible & true_visible & (objects == 0)
    row["points_depth"] = measures.typical_depth_error_percent(found.z[:, rows][still], true_z[still])
    if found.objects is not None:
        moving, claimed = (objects > 0) & asked, found.objects[rows] > 0
        if moving.any():
            row["objects_found"] = float(claimed[moving].mean())
        if (~moving & asked).any():
            row["objects_false"] = float(claimed[~moving & asked].mean())


def _dense_depth(scene: Truth, depth: NDArray[np.float32]) -> float:
    step = 8
    times = range(0, scene.count, 4)
    true = np.stack([scene.depth_and_objects(t, step)[0] for t in times])
    return measures.depth_error_percent(np.stack([_sampled(depth[t], scene.size, step) for t in times]), true)


def _sampled(values: NDArray[Any], size: tuple[int, int], step: int) -> NDArray[Any]:
    """A map (h, w) of any size, at the centre of every `step`-th px of a picture of `size`."""
    rows, columns = (
        np.floor((np.arange(step // 2, length, step) + 0.5) * count / length).astype(int)
        for length, count in zip(size[::-1], values.shape, strict=True)
    )
    return np.asarray(values)[np.ix_(rows, columns)]


# -- running the methods ---------------------------------------------------------------------------------------------


def prepare(scene: Truth, folder: Path) -> None:
    """The footage and its decoded frames, once: all methods see the same pixels. Made anew when the scene changed."""
    digest = hashlib.sha256(scene.cameras.c2w.tobytes() + scene.cameras.K.tobytes())
    for t in (0, scene.count // 2, scene.count - 1):
        depth, objects = scene.depth_and_objects(t, 16)
        digest.update(np.round(depth, 3).tobytes() + objects.tobytes())
    stamp = folder / "scene.sha256"
    if stamp.exists() and stamp.read_text() == digest.hexdigest():
        return
    shutil.rmtree(folder, ignore_errors=True)
    frames = folder / "frames"
    frames.mkdir(parents=True)
    scene.write(folder / "footage.mp4")
    with FootageReader(folder / "footage.mp4") as reader:
        for t in range(scene.count):
            cv2.imwrite(str(frames / f"frame_{t:05d}.png"), reader.frame(t)[..., ::-1])
    stamp.write_text(digest.hexdigest())


def run(method: str, scene: Truth, folder: Path, again: bool = False) -> Found:
    """Run a method in a process of its own, or read what it found before."""
    out = folder / f"{method}.npz"
    failure = folder / f"{method}.failed.json"
    if again:
        out.unlink(missing_ok=True)
        failure.unlink(missing_ok=True)
    if not out.exists() and not failure.exists():
        if method == "retake":
            command = [sys.executable, str(HERE / "solve.py"), "--retake", str(folder / "footage.mp4"), str(out)]
        elif method == "colmap":
            command = [sys.executable, str(HERE / "solve_colmap.py"), str(folder / "frames"), str(out)]
        else:
            prefix = json.loads(os.environ["RETAKE_BLENDER"])
            separator = ["--"] if len(prefix) > 1 else []
            command = [*prefix, str(HERE / "solve_libmv.py"), *separator, str(folder / "frames"), str(out)]
        began = time.monotonic()
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                timeout=_LIMIT, check=False,
            )  # fmt: skip
            error = "" if done.returncode == 0 else done.stdout.strip().splitlines()[-1][:300]
        except subprocess.TimeoutExpired:
            error = f"stopped after {_LIMIT} s"
        if error or not out.exists():
            failure.write_text(json.dumps({"error": error, "seconds": time.monotonic() - began}))
    if failure.exists():
        failed = json.loads(failure.read_text())
        return Found.nothing(scene.count, failed["error"], failed["seconds"])
    found = Found.load(out, scene.size)
    found.total = found.total or sum(found.seconds.values())
    return found


def retake(footage: Path, out: Path) -> int:
    """`retake solve` in this very process; writes what `Found.load` reads."""
    from retake_backend.solve.pipeline import SolveSettings, solve_footage

    began = time.monotonic()
    with tempfile.TemporaryDirectory() as stages, FootageReader(footage) as reader:
        try:
            solved = solve_footage(reader, SolveSettings(), Path(stages), lambda progress: None)
        except RetakeError as error:
            print(" ".join(str(error).split()))
            return 3
    total = time.monotonic() - began
    solve, report = solved.solve, solved.report
    uv, z = solve.cameras.project(solve.tracks.positions)
    uv[~solve.tracks.visibility] = np.nan
    peak = sum(resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    seconds = dict(report.seconds)
    np.savez(
        out, c2w=solve.cameras.c2w, focal=solve.cameras.K[:, 0, 0], uv=uv, z=z, error="",
        note=f"{report.light}, {report.kind}, says {report.reprojection:.2f} px", objects=solve.tracks.objects, peak_mb=peak, total=total,
        stages=[*seconds, "rest"], seconds=[*seconds.values(), total - sum(seconds.values())],
        **({} if solve.depth is None else {"depth": solve.depth}),
    )  # fmt: skip
    return 0


def table(
    names: Sequence[str], methods: Sequence[str], work: Path, again: bool = False, kept: bool = False
) -> dict[str, Any]:
    """{scene: {method: measures}}; each is printed as it comes. kept: only what was run before."""
    rows: dict[str, Any] = {}
    for name in names:
        folder = work / name
        there = [m for m in methods if not kept or any(folder.glob(f"{m}.*"))]
        if not there:
            continue
        scene = truth(name)
        prepare(scene, folder)
        rows[name] = {"what": scene.what, "kind": scene.kind, "frames": scene.count}
        for method in there:
            row = score(scene, run(method, scene, folder, again))
            rows[name][method] = row
            print(f"{name:16} {LABELS[method]:16} {_line(row)}", file=sys.stderr, flush=True)
    return rows


def _line(row: dict[str, Any]) -> str:
    off = row["ate"] if np.isfinite(row["ate"]) else row["drift"]
    return (
        f"{'solved' if row['solved'] else 'NOT: ' + row['why']} | path {off:.3g} %, axes {row['rotation']:.3f} deg, "
        f"focal {row['focal']:.2f} %, tracks {row['track']:.2f} px ({row['within']:.0%}), depth {row['points_depth']:.1f} % "
        f"({row['dense_depth']:.1f} %), {row['seconds']:.0f} s, {row['note']}"
    )


_MEASURES = {
    "ate": ("ATE, % of the path", "{:.2f}"),
    "drift": ("drift, % of the depth", "{:.2f}"),
    "rotation": ("axes, degrees", "{:.3f}"),
    "focal": ("focal length, %", "{:.1f}"),
    "track": ("tracks, median px", "{:.2f}"),
    "within": ("of them within 3 px", "{:.0%}"),
    "points_depth": ("depth at points, median %", "{:.1f}"),
    "dense_depth": ("depth everywhere, mean %", "{:.1f}"),
    "seconds": ("seconds", "{:.0f}"),
    "peak_mb": ("memory, MB", "{:.0f}"),
}


def summary(rows: dict[str, Any], methods: Sequence[str]) -> dict[str, Any]:
    """Of each method: scenes solved, and the medians of its measures over scenes that ALL methods solved, and over all
    that it solved."""
    common = [name for name, row in rows.items() if all(m in row and row[m]["solved"] for m in methods)]
    totals: dict[str, Any] = {"common": common}
    for method in methods:
        run_on = [name for name, row in rows.items() if method in row]
        own = [name for name in run_on if rows[name][method]["solved"]]
        totals[method] = {"solved": len(own), "scenes": len(run_on)}
        for key in _MEASURES:
            for label, chosen in (("own", own), ("common", common)):
                if key in ("points_depth", "dense_depth"):  # from a camera that stands still it can only be guessed
                    chosen = [name for name in chosen if rows[name]["kind"] == "moving"]
                values = np.array([rows[name][method][key] for name in chosen], float)
                values = values[np.isfinite(values)]
                totals[method][f"{key}_{label}"] = float(np.median(values)) if len(values) else float("nan")
    return totals


def markdown(rows: dict[str, Any], methods: Sequence[str]) -> str:
    """The table, whatever it says."""
    totals = summary(rows, methods)
    lines = [
        "# Solves against the truth", "",
        f"Solved: a camera for {FRAMES:.0%} of the frames, the path within {ATE:g} % of its length (of a camera that stands",
        f"still: within {DRIFT:g} % of the depth), the axes within {ROTATION:g} degrees, the focal length within",
        f"{FOCAL:g} % where the footage tells it. Medians over the scenes that all methods",
        f"solved ({len(totals['common'])} of {len(rows)}), in brackets over all that the method solved.", "",
        "| | " + " | ".join(LABELS[m] for m in methods) + " |",
        "|---|" + "---|" * len(methods),
        "| scenes solved | " + " | ".join(f"{totals[m]['solved']} of {totals[m]['scenes']}" for m in methods) + " |",
    ]  # fmt: skip
    for key, (label, form) in _MEASURES.items():
        cells = [f"{_cell(totals[m][f'{key}_common'], form)} ({_cell(totals[m][f'{key}_own'], form)})" for m in methods]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    lines += [
        "", "| scene | method | solved | " + " | ".join(label for label, _ in _MEASURES.values()) + " | remarks |",
        "|---|---|---|" + "---|" * (len(_MEASURES) + 1),
    ]  # fmt: skip
    for name, row in rows.items():
        for method in (m for m in methods if m in row):
            got = row[method]
            cells = [_cell(got[key], form) for key, (_, form) in _MEASURES.items()]
            remarks = "; ".join(part for part in (got["why"], got["note"], _objects(got)) if part).replace("|", "/")
            solved = "yes" if got["solved"] else "no"
            lines.append(f"| {name} | {LABELS[method]} | {solved} | " + " | ".join(cells) + f" | {remarks} |")
    if "retake" in methods:
        lines += ["", "Seconds of Retake's stages, and their shares:", ""]
        stages: dict[str, list[float]] = {}
        for row in (row for row in rows.values() if "retake" in row):
            for stage, seconds in row["retake"]["stages"].items():
                stages.setdefault(stage, []).append(seconds)
        total = sum(np.mean(values) for values in stages.values())
        lines += ["| stage | mean s | share |", "|---|---|---|"]
        lines += [f"| {stage} | {np.mean(v):.1f} | {np.mean(v) / total:.0%} |" for stage, v in stages.items()]
    return "\n".join(lines) + "\n"


def _plain(value: Any) -> Any:
    """The same for JSON, which has no nan."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value


def _cell(value: float, form: str) -> str:
    return form.format(value) if np.isfinite(value) else "–"


def _objects(got: dict[str, Any]) -> str:
    if not np.isfinite(got["objects_false"]):
        return ""
    found = f"{got['objects_found']:.0%} of moving tracks told, " if np.isfinite(got["objects_found"]) else ""
    return f"{found}{got['objects_false']:.1%} of still ones wrongly"


def measure() -> dict[str, Any]:
    """Three scenes for `build.py bench`, Retake alone; the whole comparison takes an hour and is run by hand."""
    with tempfile.TemporaryDirectory(prefix="retake-bench-solve-") as folder:
        rows = table(QUICK, ("retake",), Path(folder))
    got = {name: rows[name]["retake"] for name in QUICK}
    walk = got["walk"]
    return {
        "solve_seconds": walk["seconds"],
        "solve_peak_mb": walk["peak_mb"],
        "solve_scenes": float(sum(row["solved"] for row in got.values())),
        "solve_ate_percent": walk["ate"],
        "solve_track_px": walk["track"],
        "solve_share_of": {stage: seconds / max(walk["seconds"], 1e-9) for stage, seconds in walk["stages"].items()},
        **{f"solve {name}": _line(row) for name, row in got.items()},
    }


def main() -> int:
    if sys.argv[1:2] == ["--retake"]:
        return retake(Path(sys.argv[2]), Path(sys.argv[3]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", nargs="*", metavar="SCENE", help="all by default: " + ", ".join(NAMES))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "retake-solve-benchmark")
    parser.add_argument(
        "--out", type=Path, help=f"the table as Markdown, as JSON beside it; of all scenes: {RESULTS.relative_to(HERE)}"
    )
    parser.add_argument("--again", action="store_true", help="run methods again that ran before")
    parser.add_argument("--kept", action="store_true", help="run nothing: the table of what ran before")
    options = parser.parse_args()
    unknown = set(options.scenes) - set(NAMES)
    if unknown:
        parser.error(f"no scene is named {', '.join(sorted(unknown))}")
    rows = table(options.scenes or NAMES, options.methods, options.work, options.again, options.kept)
    text = markdown(rows, options.methods)
    print(text)
    out = options.out or (None if options.scenes else RESULTS)
    if out:
        out.parent.mkdir(exist_ok=True)
        out.write_text(text, encoding="utf-8")
        data = {"summary": summary(rows, options.methods), "scenes": rows}
        out.with_suffix(".json").write_text(json.dumps(_plain(data), indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
