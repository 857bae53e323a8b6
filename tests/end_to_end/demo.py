"""The demo: a shot goes the whole road through the add-on's public operators, without a window.

    PYTHON_WITH_BPY tests/end_to_end/demo.py --out DIR
    blender -b --python tests/end_to_end/demo.py -- --out DIR --footage FILE [--solve FILE]

`build.py demo` calls it. Footage without a solve is solved first; a solve that its own report calls red is no shot, and
the demo ends with the report's words. Without footage it takes the sample shot and makes the sample's own edit: the walker
steps closer, the ball starts later, the camera orbits and pushes in. On another shot the first object steps aside, the
second starts later; without objects only the camera moves. `preview` and `draft` make a take of each edit. Then every
large diffusion engine makes the beginning of the last edit, in a few steps: with the weights under $RETAKE_MODELS, else
with tiny random ones, whose pictures mean nothing.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import bpy
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "shared" / "sample_shot"
IDENTITY_BAR = 1e-4
"""An unedited shot reads back as itself to this many pixels."""
ENGINE_FRAMES = 9
ENGINE_OPTIONS = {"steps": 4, "working_size": 224}
"""What the diffusion engines are tried with: little, as a CPU may have to do it."""


class Failed(Exception):
    """A step of the demo did not come out as it must."""


class Report:
    """Steps as they end, and the table of them."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, float]] = []
        self.began = time.monotonic()

    @contextmanager
    def step(self, what: str) -> Iterator[list[str]]:
        """Time a step; the caller appends where its result is, or what it was."""
        print(f"-- {what}", flush=True)
        began, where = time.monotonic(), []
        yield where
        self.rows.append((what, "; ".join(where), time.monotonic() - began))

    def print_table(self) -> None:
        wide = [max(len(row[column]) for row in [("what", "where"), *self.rows]) for column in (0, 1)]
        print(f"\n{'what':{wide[0]}}  {'where':{wide[1]}}  seconds")
        for what, where, seconds in self.rows:
            print(f"{what:{wide[0]}}  {where:{wide[1]}}  {seconds:7.1f}")
        print(f"{'in all':{wide[0]}}  {'':{wide[1]}}  {time.monotonic() - self.began:7.1f}", flush=True)


@contextmanager
def add_on() -> Iterator[str]:
    """Enable the add-on and yield its package: the installed extension in a real Blender, else this repository's own."""
    import addon_utils  # bpy brings it along

    name = "bl_ext.user_default.retake"
    if not any(module.__name__ == name for module in addon_utils.modules()):
        name = "blender_addon"
        sys.path.insert(0, str(ROOT))
    if addon_utils.enable(name, default_set=True) is None:
        raise Failed(f"Blender {bpy.app.version_string} did not enable the add-on {name}.")
    try:
        yield name
    finally:
        addon_utils.disable(name, default_set=True)


def call(operator: object, **settings: object) -> None:
    """Call one of the add-on's operators; what it reports as an error ends the demo."""
    try:
        done = operator(**settings)
    except RuntimeError as error:
        raise Failed(str(error).strip()) from None
    if done != {"FINISHED"}:
        raise Failed(f"{operator.idname_py()} ended with {done}.")


class Demo:
    """One shot on its way. out: where everything goes."""

    def __init__(self, package: str, out: Path, footage: Path, solve: Path | None, edit: dict) -> None:
        self.package, self.out, self.footage, self.edit = package, out, footage, edit
        self.solve_file = solve or out / f"{footage.stem}.solve.npz"
        self.report = Report()
        self.takes: list[Path] = []
        self.whole: list[Path] = []
        """Those of all frames, which are compared with each other; the large engines make only the beginning."""

    def module(self, name: str) -> ModuleType:
        return importlib.import_module(f"{self.package}.{name}")

    @property
    def root(self) -> bpy.types.Object:
        return self.module("scene.shots").active_shot(bpy.context)

    def start_backend(self) -> None:
        with self.report.step("start the backend") as where:
            call(bpy.ops.retake.start_backend)
            self._wait("start", lambda: bpy.ops.retake.test_backend() == {"FINISHED"})
            where.append(os.environ["RETAKE_HOME"])

    def stop_backend(self) -> None:
        if bpy.ops.retake.stop_backend.poll():
            call(bpy.ops.retake.stop_backend)
            running = Path(os.environ["RETAKE_HOME"], "connection.json")
            self._wait("stop", lambda: not running.exists())

    def install_random_weights(self) -> None:
        """Tiny random models in the demo's own folder, where the user names no models of their own."""
        if "RETAKE_MODELS" in os.environ:
            return
        models = Path(os.environ["RETAKE_HOME"], "models")
        with self.report.step("tiny random weights for the diffusion engines") as where:
            os.environ["RETAKE_MODELS"] = str(models)
            self._retake("models", "random")
            where.append(str(models))

    def _retake(self, *words: str) -> None:
        """Run a command of the backend's own command line."""
        command = [*self.module("launch").backend_command(), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Failed(done.stderr.strip())

    def _wait(self, what: str, done: Callable[[], bool], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not done():
            if time.monotonic() > deadline:
                raise Failed(f"The backend did not {what} in {seconds:.0f} s; see its log in $RETAKE_HOME.")
            time.sleep(0.1)

    def solve_footage(self, frames: tuple[int, int] | None) -> None:
        """Solve the footage, tell the solve's own report, and end here where it says that the solve is of no use.

        What an earlier demo solved in the same folder is kept.
        """
        report = self.solve_file.with_suffix(".report.json")
        for stale in (self.solve_file, report):
            stale.unlink(missing_ok=True)
        with self.report.step("solve the footage") as where:
            command = [*self.module("launch").backend_command(), "solve", str(self.footage)]
            command += ["--out", str(self.solve_file), *(["--frames", "{}:{}".format(*frames)] if frames else [])]
            # The random weights that an earlier demo left in this home would make a random depth.
            environ = {"RETAKE_MODELS": str(self.out / "no_models"), **os.environ}
            told_to = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
            said: list[str] = []
            with subprocess.Popen(command, env=environ, **told_to) as running:
                for line in running.stderr or ():
                    said.append(line.strip())
                    print(f"   {line.rstrip()}", flush=True)
            if not report.is_file():
                raise Failed(said[-1] if said else f"retake solve ended with {running.returncode} and without a word.")
            told = json.loads(report.read_text(encoding="utf-8"))
            if running.returncode or told["light"] == "red":
                raise Failed(f"This footage has no solve that can be used.\n{chr(10).join(told['words'])}")
            print("".join(f"   {line}\n" for line in told["words"]), end="", flush=True)
            where.append(f"{self.solve_file}, {told['light']}")

    def import_shot(self, frames: tuple[int, int] | None, size: tuple[int, int] | None) -> None:
        with self.report.step("import the shot") as where:
            call(bpy.ops.retake.import_shot, footage=str(self.footage), solve=str(self.solve_file))
            shot = self.root.retake
            if frames:
                shot.use_range, shot.range = True, (shot.start + frames[0], shot.start + frames[1] - 1)
            if size:
                shot.use_size, shot.render_size = True, size
            call(bpy.ops.wm.save_as_mainfile, filepath=str(self.out / "demo.blend"), check_existing=False)
            where.append(f"{shot.frames} frames, {len(self.module('scene.objects').handles_of(self.root))} objects")

    def check_identity(self) -> None:
        with self.report.step("check that nothing has changed yet") as where:
            self.solve, edit = self.module("scene.readback").read_edit(bpy.context, self.root)
            before, depth = self.solve.cameras.project(self.solve.tracks.positions[:, edit.source_track])
            after, _ = edit.cameras.project(edit.positions)
            error = float(np.linalg.norm(after - before, axis=2)[depth > 0].max(initial=0.0))
            if error > IDENTITY_BAR:
                raise Failed(f"The unedited shot reads back {error:.2g} px away from itself.")
            where.append(f"{error:.1e} px")

    def move_camera(self) -> None:
        """Orbit and push in, about an object where the edit names one."""
        call(bpy.ops.retake.reset_camera)
        for move in self.edit["camera"]:
            about = {"pivot": "OBJECT", "object": move["pivot"]} if "pivot" in move else {"pivot": "SHOT"}
            if move["move"] == "orbit":
                call(bpy.ops.retake.orbit, degrees=move["degrees"], **about)
            else:
                call(bpy.ops.retake.push_in, factor=move["factor"], **about)

    def move_objects(self) -> None:
        """Key the handle of one object, retime another."""
        unit = 1.0 if self.edit.get("unit") == "world" else self._scene_unit()
        for step in self.edit["objects"]:
            if "retime" in step:
                call(bpy.ops.retake.retime, object=step["object"], **step["retime"])
            for key in step.get("keys", ()):
                by = unit * self.solve.cameras.c2w[0, :3, :3] @ np.array(key["translate"])
                handle = self._handle(step["object"])
                handle.location = np.array(handle.location) + by
                handle.keyframe_insert("location", frame=self.root.retake.start + key["frame"])

    def reset_objects(self) -> None:
        for step in self.edit["objects"]:
            call(bpy.ops.retake.reset_object, object=step["object"])

    def _handle(self, label: str) -> bpy.types.Object:
        handles = self.module("scene.objects").handles_of(self.root)
        return next(handle for handle in handles if handle.retake_handle.label == label)

    def _scene_unit(self) -> float:
        from retake_shared import camera_moves

        return camera_moves.median_depth(self.solve, 0)

    def generate(self, what: str) -> None:
        """Render the shot as it is keyed now, and see that the take is on disk and in the sequencer."""
        with self.report.step(what) as where:
            call(bpy.ops.retake.generate)
            item = self.root.retake.takes[-1]
            folder = Path(bpy.path.abspath(item.folder))
            frames = len(list(folder.glob("frame_*.png")))
            take = json.loads((folder / "take.json").read_text(encoding="utf-8"))
            if frames != take["frames"][1] - take["frames"][0]:
                raise Failed(f"{folder} holds {frames} frames, its take.json says {take['frames']}.")
            strip = self.module("scene.sequencer").find(bpy.context.scene, item.strip)
            if strip is None or len(strip.elements) != frames:
                raise Failed(f"{item.strip} is not in the sequencer with its {frames} frames.")
            self.takes.append(folder)
            where.append(f"{folder}, {frames} frames, {frames / max(take['seconds'], 1e-6):.1f} a second")

    def generate_with(self, engines: list[str], what: str) -> None:
        """A take of the edit as it stands by each of the engines."""
        shot, settings = self.root.retake, self.module("engine_settings")
        for engine in engines:
            settings.write(shot, engine, {})
            self.generate(f"take {len(shot.takes) + 1}: {what}, {engine}")
        settings.write(shot, engines[0], {})

    def try_engines(self) -> None:
        """The first frames of the edit by every engine with weights of its own, in the engines' order."""
        from retake_shared import engine_options

        shot, settings = self.root.retake, self.module("engine_settings")
        before = shot.use_range, tuple(shot.range)
        first, last = shot.range if shot.use_range else (shot.start, shot.start + shot.frames - 1)
        shot.use_range, shot.range = True, (first, min(last, first + ENGINE_FRAMES - 1))
        for engine in engine_options.ENGINES:
            if engine.weights and not engine.shipped:
                settings.write(shot, engine.name, ENGINE_OPTIONS)
                self.generate(f"take {len(shot.takes) + 1}: {engine.label}")
        settings.write(shot, "preview", {})
        shot.use_range, shot.range = before

    def save(self) -> None:
        with self.report.step("save the .blend") as where:
            call(bpy.ops.wm.save_mainfile)
            where.append(bpy.data.filepath)

    def compare(self) -> None:
        with self.report.step("source | tracks before and after | take") as where:
            for name, takes in (("side_by_side", self.whole), ("engines", self.takes[len(self.whole) :])):
                if not takes:
                    continue
                video = self.out / f"{name}.mp4"
                self._retake("compare", "--footage", str(self.footage), "--out", str(video), *map(str, takes))
                where.append(str(video))


def sample_edit() -> dict:
    """The edit that the sample shot's second rendering is the truth of."""
    return json.loads((SAMPLE / "edit.json").read_text(encoding="utf-8"))


def edit_for(names: list[str]) -> dict:
    """An edit for any shot; names of its objects without the background."""
    camera: list[dict] = [{"move": "orbit", "degrees": 12}, {"move": "push_in", "factor": 0.14}]
    objects = []
    if names:
        for move in camera:  # about what is looked at: the middle of the shot may be far behind it
            move["pivot"] = names[0]
        objects.append({"object": names[0], "keys": [{"frame": 0, "translate": [0.08, 0, 0]}]})
        objects.append({"object": names[1 % len(names)], "retime": {"offset": 8}})
    return {"camera": camera, "objects": objects}


def peak_megabytes() -> float:
    """Resident memory of this process at most; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def run(
    demo: Demo, frames: tuple[int, int] | None, size: tuple[int, int] | None, *, solving: bool, engines: bool
) -> None:
    if solving:
        demo.solve_footage(frames)
    if engines:
        demo.install_random_weights()
    demo.start_backend()
    demo.import_shot(frames, size)
    demo.check_identity()
    if not demo.edit:
        demo.edit = edit_for([name for number, name in demo.solve.object_names.items() if number])
    small = ["preview", "draft"] if engines else ["preview"]
    demo.move_camera()
    demo.generate_with(small, "another camera")
    if demo.edit["objects"]:
        call(bpy.ops.retake.reset_camera)
        demo.move_objects()
        demo.generate_with(small, "an object moves, another starts later")
        demo.reset_objects()
        demo.move_camera()
        demo.move_objects()
        demo.generate_with(small, "both")
    demo.whole = list(demo.takes)
    if engines:
        demo.try_engines()
    demo.save()
    demo.compare()


def pair(text: str, between: str) -> tuple[int, int]:
    first, second = text.split(between)
    return int(first), int(second)


def main() -> int:
    arguments = sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else sys.argv[1:]
    parser = argparse.ArgumentParser(description="Take a shot the whole road.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--footage", type=Path)
    parser.add_argument("--solve", type=Path)
    parser.add_argument(
        "--frames", type=lambda text: pair(text, ":"), metavar="A:B", help="solve and render these only"
    )
    parser.add_argument("--size", type=lambda text: pair(text, "x"), metavar="WxH", help="of the takes")
    parser.add_argument("--preview-only", action="store_true", help="leave the diffusion engines out")
    parser.add_argument("--json", type=Path, help="write the seconds and the memory there")
    options = parser.parse_args(arguments)
    if options.solve and not options.footage:
        parser.error("--solve needs its --footage")
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(out / "demo_takes", ignore_errors=True)
    os.environ.setdefault("RETAKE_HOME", str(out / "backend"))
    own = options.footage is not None
    footage, solve = (options.footage, options.solve) if own else (SAMPLE / "walk.mp4", SAMPLE / "walk.solve.npz")

    bpy.ops.wm.read_factory_settings(use_empty=True)
    bpy.context.preferences.filepaths.save_version = 0  # no demo.blend1
    try:
        with add_on() as package:
            demo = Demo(package, out, footage.resolve(), solve and solve.resolve(), {} if own else sample_edit())
            try:
                run(demo, options.frames, options.size, solving=solve is None, engines=not options.preview_only)
            finally:
                demo.stop_backend()
    except Failed as failed:
        print(f"The demo failed: {failed}", file=sys.stderr)
        return 1
    demo.report.print_table()
    if options.json:
        seconds = {what: round(spent, 3) for what, _, spent in demo.report.rows}
        figures = {"demo_seconds": sum(seconds.values()), "peak_mb_blender": peak_megabytes(), "seconds": seconds}
        options.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    if code or not bpy.app.background:
        sys.exit(code)
