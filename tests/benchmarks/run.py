"""The benchmark table: every figure is a ratio or a rate taken in one run, so that machines can be compared.

`build.py bench` calls this in the backend's environment; RETAKE_BLENDER names Blender's side. Each part runs in a
process of its own and alone; this file is also what runs it there (`--part`).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
MARK = "retake-figures "
"""What the line with a part's figures starts with, among whatever else Blender prints."""

FIGURES = {
    "import_speedup": ("scene", "import of 2000 tracks x 81 frames, times as fast as keyframe_insert", "{:.1f} x"),
    "readback_ratio": ("scene", "reading the edit back, against a bare frame_set loop", "{:.2f}"),
    "wire_ratio": ("wire", "81 frames through the encrypted socket, against memcpy", "{:.1f}"),
    "preview_fps": ("preview", "preview at 672x384 with 2000 tracks", "{:.1f} frames/s"),
    "preview_remap_ratio": ("preview", "preview, against cv2.remap of the same frames", "{:.1f}"),
    "diffusion_ratio": (
        "diffusion",
        "a forward of the video model, against its bare matrix products and attention",
        "{:.2f}",
    ),
    "conditioner_percent": ("diffusion", "Edit-by-Track's conditioner, once, of 50 guided steps", "{:.2f} %"),
    "standard_speedup": ("diffusion", "quality standard, times as fast as best (random weights)", "{:.2f} x"),
    "solve_seconds": ("solve", "solving the sample shot, 81 frames at 672x384 (the bar: 60 s)", "{:.1f} s"),
    "solve_peak_mb": ("solve", "peak memory of that, its own processes added up", "{:.0f} MB"),
    "solve_ate_percent": ("solve", "error of its camera path, of the path's length", "{:.3f} %"),
    "solve_track_px": ("solve", "error of its tracks, median", "{:.2f} px"),
    "solve_scenes": ("solve", "of three scenes with known truth, solved", "{:.0f}"),
    "demo_seconds": ("demo", "the whole demo", "{:.1f} s"),
    "peak_mb_blender": ("demo", "peak memory of Blender's side in the demo", "{:.0f} MB"),
    "peak_mb_backend": ("demo", "peak memory of broker and worker in the demo", "{:.0f} MB"),
}
"""figure: (part that measures it, what it says, how it is printed)."""

ON_BLENDERS_SIDE = ("scene",)


def main() -> int:
    arguments = sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else sys.argv[1:]
    parser = argparse.ArgumentParser(description="Measure Retake.")
    parser.add_argument(
        "--part", choices=["scene", "wire", "preview", "diffusion", "solve"], help="measure this in this very process"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    parser.add_argument("--gpu", action="store_true", help="the video model alone, at its real size on the GPU")
    options = parser.parse_args(arguments)
    if options.part:
        print(MARK + json.dumps(_load(options.part).measure()), flush=True)
        return 0

    if options.gpu:
        return _gpu(options.json)

    parts = {}
    for name in ("scene", "wire", "preview", "diffusion", "solve", "demo"):
        print(f"-- {name}", flush=True)
        parts[name] = _demo() if name == "demo" else _in_own_process(name)
    figures = {figure: parts[part][figure] for figure, (part, _, _) in FIGURES.items()}
    _print_table(figures, parts)
    if options.json:
        detail = {figure: parts[part] for figure, (part, _, _) in FIGURES.items()}
        options.json.write_text(json.dumps({**figures, "parts": detail}, indent=1) + "\n", encoding="utf-8")
    return 0


def _gpu(copy: Path | None) -> int:
    """The video model at its real size; the table goes into results/ by device and date."""
    from retake_shared.errors import RetakeError

    diffusion = _load("diffusion")
    try:
        figures = diffusion.measure(gpu=True)
    except RetakeError as error:
        print(error, file=sys.stderr)
        return 1
    device = re.sub(r"\W+", "-", figures["diffusion_device"].partition(",")[0]).strip("-").lower()
    place = diffusion.RESULTS / f"{device}-{figures['date']}"
    diffusion.RESULTS.mkdir(exist_ok=True)
    for path in (place, copy.with_suffix("") if copy else None):
        if path is not None:
            path.with_suffix(".json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
            path.with_suffix(".md").write_text(diffusion.markdown(figures), encoding="utf-8")
            print(f"{path}.json, {path}.md")
    _print_part("diffusion", figures)
    return 0


def _load(part: str) -> Any:
    """The module beside this file; it measures with `measure() -> dict of numbers`."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{part}", HERE / f"{part}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _in_own_process(part: str) -> dict[str, Any]:
    prefix = blender() if part in ON_BLENDERS_SIDE else [sys.executable]
    output = _run([*prefix, str(HERE / "run.py"), *_separator(prefix), "--part", part], {"OMP_WAIT_POLICY": "passive"})
    return json.loads(next(line for line in output.splitlines() if line.startswith(MARK)).removeprefix(MARK))


def blender() -> list[str]:
    """What to put before a script to run it on Blender's side."""
    if "RETAKE_BLENDER" not in os.environ:
        sys.exit("RETAKE_BLENDER names no program: run `build.py bench`.")
    return json.loads(os.environ["RETAKE_BLENDER"])


def _separator(prefix: list[str]) -> list[str]:
    return ["--"] if len(prefix) > 1 else []


def _demo() -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="retake-bench-") as place:
        out, home = Path(place) / "out", Path(place) / "home"
        prefix = blender()
        demo = [*prefix, str(REPOSITORY / "tests/end_to_end/demo.py"), *_separator(prefix), "--out", str(out)]
        with BackendMemory(home) as memory:
            _run([*demo, "--json", str(out / "figures.json")], {"RETAKE_HOME": str(home)})
        figures = json.loads((out / "figures.json").read_text())
    return {**figures, "peak_mb_backend": sum(memory.peaks.values()), "peak_mb_of_each": memory.peaks}


class BackendMemory:
    """Watches the broker that serves `home` and its worker. peaks: MB of resident memory at most, by process."""

    def __init__(self, home: Path) -> None:
        self.peaks: dict[str, float] = {}
        self._home = home
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> BackendMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        import psutil
        from retake_shared import connection
        from retake_shared.errors import RetakeError

        while not self._over.wait(0.05):
            try:
                broker = psutil.Process(connection.read(self._home / connection.FILE_NAME).pid)
                for name, process in [("broker", broker), *(("worker", child) for child in broker.children())]:
                    self.peaks[name] = max(self.peaks.get(name, 0.0), process.memory_info().rss / 1e6)
            except (OSError, RetakeError, psutil.Error):
                continue  # not there yet, or gone


def _run(command: list[str], environ: dict[str, str]) -> str:
    began = time.monotonic()
    done = subprocess.run(
        command, cwd=REPOSITORY, env={**os.environ, **environ}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit(
            f"{' '.join(command)}\nended with {done.returncode} after {time.monotonic() - began:.0f} s:\n{done.stdout}"
        )
    return done.stdout


def _print_table(figures: dict[str, float], parts: dict[str, dict[str, Any]]) -> None:
    for title, part in parts.items():
        _print_part(title, part)
    print(f"\n{'figure':20} {'value':>14}  what")
    for figure, value in figures.items():
        _, what, form = FIGURES[figure]
        print(f"{figure:20} {form.format(value):>14}  {what}")


def _print_part(title: str, part: dict[str, Any]) -> None:
    print(f"\n{title}")
    for key, value in part.items():
        for name, number in value.items() if isinstance(value, dict) else [(key, value)]:
            print(f"  {name:44} {number:.4g}" if isinstance(number, float) else f"  {name:44} {number}")


if __name__ == "__main__":
    sys.exit(main())
