#!/usr/bin/env python3
"""The one door to Retake. It needs a Python, 3.11 or 3.13, and nothing else; what is missing it sets up first.

    python3 build.py demo       a sample shot goes the whole road, from import to a take (see --help for your own)
    python3 build.py test       every check and test that this machine can run
    python3 build.py bench      the figures of the benchmark table
    python3 build.py package    the extension, ready to install, in dist/

Two kinds of environment live in .envs/, as in production: `backend`, and `blender-X.Y.Z` for each bpy wheel. Both are
exact pins (requirements.txt beside the code they serve); a stamp in each says what it was made from.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).resolve().parent
BPY_WHEELS = {(3, 11): ("5.0.1", "4.5.15", "4.2.23"), (3, 13): ("5.2.3",)}
"""The bpy wheels that each Python can install; the first is the one that demo and bench use."""

BACKEND_PYTHONS = ((3, 11), (3, 13), (3, 12))
"""What the backend's pins have wheels for, best first."""

WINDOWS = sys.platform == "win32"
PART_LIMIT = 30 * 60
"""Seconds after which a part of the tests counts as hung."""

LONG_TESTS = (
    ("tests/backend/broker", "tests/backend/weights"),
    ("tests/backend/engines", "tests/backend/models"),
    ("tests/backend/solve",),
    ("tests/backend/training", "tests/backend/evaluation"),
)
"""Folders that are parts of their own, so that two cores have something to share to the end."""

STARTED = time.monotonic()

BPY_LIBRARIES = "libx11-6 libxrender1 libxxf86vm1 libxfixes3 libxi6 libxkbcommon0 libsm6 libice6 libgl1 libegl1"


Item, Result = TypeVar("Item"), TypeVar("Result")


class Stop(Exception):
    """The door stays shut: the message says why and what to do."""


def say(text: str) -> None:
    print(f"[{time.monotonic() - STARTED:6.1f} s] {text}", flush=True)


# ---------------------------------------------------------------------------------------------------- processes


@dataclass(frozen=True)
class Ran:
    """A finished command. code: its exit status, None when it was stopped for taking too long."""

    code: int | None
    output: str
    seconds: float


def run(
    command: list[str | Path], label: str = "", environ: dict[str, str] | None = None, limit: float | None = None
) -> Ran:
    """Run to the end in ROOT with output kept; with a label, say every half minute that it is still at work."""
    began = time.monotonic()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [str(word) for word in command],
            cwd=ROOT,
            env={**os.environ, **(environ or {})},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=not WINDOWS,
        )
        RUNNING.add(process)
        code: int | None = None
        try:
            while True:
                try:
                    code = process.wait(30)
                    break
                except subprocess.TimeoutExpired:
                    spent = time.monotonic() - began
                    if limit and spent > limit:
                        break
                    if label:
                        say(f"{label} ({spent:.0f} s so far)")
        finally:
            _end(process)
            RUNNING.discard(process)
        log.seek(0)
        return Ran(code, log.read().decode(errors="replace"), time.monotonic() - began)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Stop the process and, where the system has process groups, all that it started."""
    if WINDOWS:
        process.kill()
    else:
        with contextlib.suppress(ProcessLookupError):  # all gone already, as it should be
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


RUNNING: set[subprocess.Popen[bytes]] = set()


def two_at_a_time(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """work of each item, in threads that wait for processes. When one fails, or on Ctrl-C, all of them stop."""
    with ThreadPoolExecutor(2) as pool:
        try:
            return list(pool.map(work, items))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(RUNNING):
                _end(process)
            raise


def attached(command: list[str | Path], environ: dict[str, str] | None = None) -> int:
    """Run in ROOT with this terminal as its own; Ctrl-C reaches the command, which ends in its own way."""
    process = subprocess.Popen([str(word) for word in command], cwd=ROOT, env={**os.environ, **(environ or {})})
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue


# -------------------------------------------------------------------------------------------------- environments


def find_pythons() -> dict[tuple[int, int], Path]:
    """The Pythons of this machine that Retake can use, by version; the running one stands for its own version."""
    found = {sys.version_info[:2]: Path(sys.executable)}
    for version in sorted({*BPY_WHEELS, *BACKEND_PYTHONS}):
        name = "python{}.{}".format(*version)
        pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
        candidates = [*sorted(pyenv.glob("{}.{}.*/bin/python".format(*version)), reverse=True), shutil.which(name)]
        if WINDOWS:
            base = Path(os.environ.get("LOCALAPPDATA", "")) / "Programs" / "Python"
            candidates.append(base / "Python{}{}".format(*version) / "python.exe")
        for candidate in candidates:
            if version not in found and candidate and _answers(Path(candidate), version):
                found[version] = Path(candidate)
    return found


def _answers(python: Path, version: tuple[int, int]) -> bool:
    probe = [str(python), "-c", "import sys, venv, ensurepip; print(*sys.version_info[:2])"]
    try:
        answer = subprocess.run(probe, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.returncode == 0 and answer.stdout.split() == [str(n) for n in version]


@dataclass(frozen=True)
class Environment:
    """A venv under .envs/ and what belongs into it.

    folder: holds requirements.txt and requirements-dev.txt. extra: further exact pins. editable: packages of this
    repository, installed as links.
    """

    name: str
    base: Path
    folder: str
    editable: tuple[str, ...]
    extra: tuple[str, ...] = ()

    @property
    def root(self) -> Path:
        return Path(os.environ.get("RETAKE_ENVS", ROOT / ".envs")) / self.name

    def bin(self, program: str = "python") -> Path:
        return self.root / (f"Scripts/{program}.exe" if WINDOWS else f"bin/{program}")

    def ready(self, dev: bool = False) -> Environment:
        """Make it what its pins say, touching nothing when it already is. Interrupted, it starts over."""
        stamp = self.root / "retake-stamp.json"
        wanted = {"base": self._hash("requirements.txt")} | ({"dev": self._hash("requirements-dev.txt")} if dev else {})
        present: dict[str, str] = {}
        if stamp.exists() and self.bin().exists():
            present = json.loads(stamp.read_text())
        if wanted.items() <= present.items():
            return self
        began = time.monotonic()
        stamp.unlink(missing_ok=True)
        if present.get("base") != wanted["base"]:
            say(f"{self.name}: a new environment with {self.base}")
            shutil.rmtree(self.root, ignore_errors=True)
            made = run([self.base, "-m", "venv", self.root])
            if made.code:
                raise Stop(_why_no_venv(self.base, made.output))
        pins = "requirements-dev.txt" if dev else "requirements.txt"
        say(f"{self.name}: installing {', '.join([f'{self.folder}/{pins}', *self.extra])}")
        self._pip("install", "-r", ROOT / self.folder / pins, *self.extra)
        for package in self.editable:
            self._pip("install", "--no-deps", "--no-build-isolation", "-e", ROOT / package)
        if any(pin.startswith("bpy") for pin in self.extra):
            self._check_bpy()
        stamp.write_text(json.dumps(wanted))
        say(f"{self.name}: ready after {time.monotonic() - began:.0f} s")
        return self

    def _hash(self, pins: str) -> str:
        """Of all that decides what is inside: the pins, the packages' own settings, the places, the interpreter."""
        digest = hashlib.sha256()
        for path in (self.folder + "/requirements.txt", f"{self.folder}/{pins}"):
            digest.update((ROOT / path).read_bytes())
        for package in self.editable:
            digest.update((ROOT / package / "pyproject.toml").read_bytes())
        digest.update(repr((self.extra, str(ROOT), str(self.root), str(self.base))).encode())
        return digest.hexdigest()

    def _pip(self, *words: str | Path) -> None:
        command = [self.bin(), "-m", "pip", "--quiet", "--no-input", "--disable-pip-version-check", *words]
        done = run(command, f"{self.name}: still installing")
        if done.code:
            raise Stop(f"pip could not set up {self.name}.\n{_tail(done.output, 25)}\n{_why_no_pip(done.output)}")

    def _check_bpy(self) -> None:
        done = run([self.bin(), "-c", "import bpy"])
        missing = re.search(r"(\S+\.so[\.\d]*): cannot open shared object", done.output)
        if missing:
            raise Stop(
                f"{self.name}: bpy needs the system library {missing[1]}, which this machine lacks.\n"
                f"On Debian and Ubuntu: apt-get install {BPY_LIBRARIES}"
            )
        if done.code:
            raise Stop(f"{self.name}: bpy does not start.\n{_tail(done.output, 25)}")


def _why_no_venv(python: Path, output: str) -> str:
    if "ensurepip" in output:
        package = "python{}.{}-venv".format(*sys.version_info[:2])
        return f"{python} has no ensurepip, so no environment can be made.\nOn Debian and Ubuntu: apt-get install {package}"
    return f"{python} cannot make an environment.\n{_tail(output, 15)}"


def _why_no_pip(output: str) -> str:
    network = r"NewConnectionError|Max retries|name resolution|ProxyError|ReadTimeout|\(from versions: none\)|SSLError"
    if re.search(network, output):
        return (
            "The package index could not be reached: connect to the network, or set PIP_INDEX_URL or PIP_FIND_LINKS, and"
            " give the same command again."
        )
    if "No space left" in output:
        return "The disk is full: the environments need 8 GB in all."
    return "Give the same command again; if it fails the same way, this is a mistake of ours."


def _tail(output: str, lines: int) -> str:
    return "\n".join(f"    {line}" for line in output.rstrip().splitlines()[-lines:])


def backend(pythons: dict[tuple[int, int], Path]) -> Environment:
    for version in BACKEND_PYTHONS:
        if version in pythons:
            return Environment("backend", pythons[version], "backend", ("shared", "backend"))
    raise Stop("The backend needs Python 3.11, 3.12 or 3.13. Install one and give the command again.")


def bpy_wheel(version: str, python: Path) -> Environment:
    return Environment(f"blender-{version}", python, "blender_addon", ("shared",), (f"bpy=={version}",))


def default_wheel(pythons: dict[tuple[int, int], Path]) -> Environment:
    """The wheel for the running Python where it has one, else for another Python of this machine."""
    for version in (sys.version_info[:2], *BPY_WHEELS):
        if version in BPY_WHEELS and version in pythons:
            return bpy_wheel(BPY_WHEELS[version][0], pythons[version])
    raise Stop("The bpy wheel needs Python 3.11 or 3.13. Install one, or name a Blender with --blender PATH.")


# ------------------------------------------------------------------------------------------------- a real Blender


@dataclass(frozen=True)
class Blender:
    """The program that plays Blender's side. command: what to put before a script's arguments. environ: added."""

    command: tuple[str, ...]
    environ: dict[str, str]

    def script(self, path: str, *arguments: str | Path) -> list[str | Path]:
        """The command that runs a script of this repository with arguments on this side."""
        return [*self.command, ROOT / path, *(["--"] if len(self.command) > 1 else []), *arguments]


def wheel_as_blender(wheel: Environment, back: Environment) -> Blender:
    return Blender((str(wheel.bin()),), {"RETAKE_BACKEND": str(back.bin())})


def real_blender(program: str, back: Environment, place: Path) -> Blender:
    """A real Blender with the extension built for it and installed under `place`, away from the user's own settings."""
    found = shutil.which(program)
    if not found:
        raise Stop(f"{program} is not a program. Give --blender the path of Blender's own executable.")
    program = str(Path(found).absolute())
    told = run([program, "--version"], limit=120)
    version = re.search(r"Blender (\d+\.\d+\.\d+)", told.output)
    if not version:
        raise Stop(f"{program} --version did not answer as Blender does.\n{_tail(told.output, 10)}")
    say(f"{program} is Blender {version[1]}; building and installing the extension for it")
    environ = {"BLENDER_USER_RESOURCES": str(place / "user"), "RETAKE_BACKEND": str(back.bin())}
    (place / "user").mkdir(parents=True)
    package = [back.bin(), ROOT / "blender_addon/package.py", "--out", place / "dist", "--for", version[1]]
    done = run([*package, "--blender", program], "package: still building")
    if done.code:
        raise Stop(f"The extension could not be built.\n{_tail(done.output, 25)}")
    archive = next((place / "dist").glob("*.zip"))
    install = [program, "-b", "--factory-startup", "--command", "extension", "install-file", "--repo", "user_default"]
    done = run([*install, "--enable", archive], environ=environ, limit=300)
    if done.code or not list((place / "user").rglob("retake/blender_manifest.toml")):
        raise Stop(f"Blender {version[1]} did not take the extension.\n{_tail(done.output, 25)}")
    return Blender((program, "-b", "--python-exit-code", "1", "--python"), environ)


def blender_side(arguments: argparse.Namespace, place: Path) -> tuple[Blender, Environment]:
    """Blender's side as asked for, and the backend's environment."""
    pythons = find_pythons()
    if arguments.blender:
        back = backend(pythons).ready()
        return real_blender(arguments.blender, back, place), back
    wheel, back = two_at_a_time(Environment.ready, (default_wheel(pythons), backend(pythons)))
    return wheel_as_blender(wheel, back), back


# -------------------------------------------------------------------------------------------------------- commands


def demo(arguments: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory(prefix="retake-") as place:
        blender, _ = blender_side(arguments, Path(place))
        words: list[str | Path] = ["--out", Path(arguments.out).resolve()]
        for name in ("footage", "solve"):
            if getattr(arguments, name):
                words += [f"--{name}", Path(getattr(arguments, name)).resolve()]
        if arguments.frames:
            words += ["--frames", arguments.frames]
        say("demo")
        return attached(blender.script("tests/end_to_end/demo.py", *words), blender.environ)


def bench(arguments: argparse.Namespace) -> int:
    if arguments.gpu:  # the video model alone: Blender has no part in it
        words = ["--json", Path(arguments.json).resolve()] if arguments.json else []
        return attached([backend(find_pythons()).ready().bin(), ROOT / "tests/benchmarks/run.py", "--gpu", *words])
    with tempfile.TemporaryDirectory(prefix="retake-") as place:
        blender, back = blender_side(arguments, Path(place))
        words = ["--json", Path(arguments.json).resolve()] if arguments.json else []
        say("bench")
        environ = blender.environ | {"RETAKE_BLENDER": json.dumps(blender.command)}
        return attached([back.bin(), ROOT / "tests/benchmarks/run.py", *words], environ)


def package(arguments: argparse.Namespace) -> int:
    wheel = default_wheel(find_pythons()).ready()
    platforms = ["--all"] if arguments.all else ["--platform", arguments.platform]
    return attached(
        [wheel.bin(), ROOT / "blender_addon/package.py", "--out", Path(arguments.out).resolve(), *platforms]
    )


@dataclass
class Part:
    """One line of the test table. command: pytest's own, or that of a tool that passes or fails as a whole."""

    name: str
    command: list[str | Path]
    environ: dict[str, str] = field(default_factory=dict)


@dataclass
class Outcome:
    """What a part came to. skipped: why, one entry a test. took: seconds and name of each test."""

    name: str
    passed: int = 0
    failed: int = 0
    skipped: list[str] = field(default_factory=list)
    took: list[tuple[float, str]] = field(default_factory=list)
    seconds: float = 0.0
    output: str = ""


def run_part(part: Part) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="retake-") as place:
        report = Path(place) / "report.xml"
        is_pytest = "pytest" in part.command
        command = [*part.command, f"--junitxml={report}"] if is_pytest else part.command
        done = run(command, environ={"PYTHONDONTWRITEBYTECODE": "1", **part.environ}, limit=PART_LIMIT)
        outcome = Outcome(part.name, seconds=done.seconds, output=done.output)
        if report.exists():
            for case in ElementTree.parse(report).iter("testcase"):
                outcome.took.append((float(case.get("time", 0)), f"{case.get('classname')}.{case.get('name')}"))
                skip = case.find("skipped")
                if skip is not None:
                    outcome.skipped.append(skip.get("message") or "no reason given")
                elif case.find("failure") is not None or case.find("error") is not None:
                    outcome.failed += 1
                else:
                    outcome.passed += 1
        elif done.code == 0:
            outcome.passed = 1
        if done.code is None:
            outcome.output += f"\nstopped after {PART_LIMIT} s"
        if done.code != 0 and not outcome.failed:
            outcome.failed = 1  # a tool that failed, a crash, or a test run that ended in no report
    word = "failed" if outcome.failed else "passed"
    say(f"{part.name}: {word} ({outcome.passed} passed, {outcome.failed} failed, {len(outcome.skipped)} skipped)")
    return outcome


def test(arguments: argparse.Namespace) -> int:
    pythons = find_pythons()
    absent: list[str] = []
    wheels = []
    for version, names in BPY_WHEELS.items():
        if version in pythons:
            wheels += [bpy_wheel(name, pythons[version]) for name in names]
        else:
            absent += [f"bpy {name}: no Python {version[0]}.{version[1]} on this machine" for name in names]
    back = backend(pythons)
    if not wheels and not arguments.blender:
        raise Stop("The bpy wheel needs Python 3.11 or 3.13. Install one, or name a Blender with --blender PATH.")

    say(f"setting up: {', '.join(environment.name for environment in (back, *wheels))}")
    two_at_a_time(lambda environment: environment.ready(dev=True), (back, *wheels))

    with tempfile.TemporaryDirectory(prefix="retake-") as place:
        real = real_blender(arguments.blender, back, Path(place)) if arguments.blender else None
        if not real:
            absent.append("real Blender: none named with --blender")
        together, alone = parts(back, wheels, real)
        say(f"running {len(together) + len(alone)} parts, two at a time")
        outcomes = two_at_a_time(run_part, together)
        outcomes += [run_part(part) for part in alone]
    return summary(outcomes, absent)


def parts(back: Environment, wheels: list[Environment], real: Blender | None) -> tuple[list[Part], list[Part]]:
    """What to run: parts that share the two cores, then those that watch the clock and run alone."""
    calm = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    pytest = ["-m", "pytest", "-q", "-p", "no:cacheprovider"]
    typed = ["shared/retake_shared", "backend/retake_backend"]
    rest = [f"--ignore={folder}" for folders in LONG_TESTS for folder in folders]
    together = [
        *(Part(" + ".join(folders), [back.bin(), *pytest, *folders], calm) for folders in LONG_TESTS),
        Part(
            "tests/shared + tests/backend, the rest",
            [back.bin(), *pytest, "tests/shared", "tests/backend", *rest],
            calm,
        ),
        Part("types (mypy)", [back.bin("mypy"), *typed]),
        Part("lint (ruff check)", [back.bin("ruff"), "check"]),
        Part("format (ruff format)", [back.bin("ruff"), "format", "--check"]),
    ]
    for wheel in wheels:
        sides = wheel_as_blender(wheel, back).environ
        command = [wheel.bin(), *pytest, "tests/shared", "tests/blender_addon"]
        together.append(Part(f"tests/shared + tests/blender_addon, {wheel.name}", command, calm | sides))
    alone = []
    if wheels:
        sides = {"RETAKE_BLENDER": json.dumps([str(wheels[0].bin())]), "RETAKE_BACKEND": str(back.bin())}
        alone.append(Part(f"tests/end_to_end, {wheels[0].name}", [back.bin(), *pytest, "tests/end_to_end"], sides))
    if real:
        sides = real.environ | {"RETAKE_BLENDER": json.dumps(real.command)}
        alone.append(Part("tests/end_to_end, real Blender", [back.bin(), *pytest, "tests/end_to_end"], sides))
    return together, alone


def summary(outcomes: list[Outcome], absent: list[str]) -> int:
    for outcome in outcomes:
        if outcome.failed:
            print(f"\n---- {outcome.name}\n{_tail(outcome.output, 60)}")
    width = max(len(outcome.name) for outcome in outcomes)
    print(f"\n{'part':{width}}  passed  failed  skipped  seconds")
    for o in outcomes:
        print(f"{o.name:{width}}  {o.passed:6}  {o.failed:6}  {len(o.skipped):7}  {o.seconds:7.1f}")
    reasons: dict[str, list[str]] = {}
    for outcome in outcomes:
        for reason in outcome.skipped:
            reasons.setdefault(reason, []).append(outcome.name.rpartition(", ")[2])
    for reason, names in reasons.items():
        print(f"skipped {len(names)} x {reason} ({', '.join(dict.fromkeys(names))})")
    for reason in absent:
        print(f"not run: {reason}")
    longest = sorted((took for outcome in outcomes for took in outcome.took), reverse=True)[:10]
    print("longest tests: " + ", ".join(f"{name} {seconds:.0f} s" for seconds, name in longest))
    passed, failed = sum(o.passed for o in outcomes), sum(o.failed for o in outcomes)
    skipped = sum(len(o.skipped) for o in outcomes) + len(absent)
    print(f"\n{time.monotonic() - STARTED:.0f} s in all")
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="build.py", description="Retake: demo, test, bench, package.")
    commands = parser.add_subparsers(required=True, metavar="demo | test | bench | package")
    for name, command, text in (
        ("demo", demo, "take a shot the whole road"),
        ("test", test, "run every check and test"),
        ("bench", bench, "print the benchmark table"),
        ("package", package, "build the extension"),
    ):
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=command)
        if name != "package":
            sub.add_argument(
                "--blender", metavar="PATH", help="a real Blender in place of (test: beside) the bpy wheel"
            )
        if name == "demo":
            sub.add_argument("--out", default="demo_out", metavar="DIR", help="where results go (./demo_out)")
            sub.add_argument("--footage", metavar="FILE", help="your own video; without --solve it is solved first")
            sub.add_argument("--solve", metavar="FILE", help="its solve, in any format that Retake reads")
            sub.add_argument("--frames", metavar="A:B", help="use these frames of it only")
        elif name == "bench":
            sub.add_argument("--json", metavar="FILE", help="also write the figures there")
            sub.add_argument(
                "--gpu",
                action="store_true",
                help="the video model alone, at its real size on the GPU; kept in results/",
            )
        elif name == "package":
            sub.add_argument("--out", default="dist", metavar="DIR", help="where the archives go (./dist)")
            sub.add_argument(
                "--platform", default="current", help="current, linux-x64, windows-x64, macos-arm64, macos-x64"
            )
            sub.add_argument("--all", action="store_true", help="every platform, and a repository index")
    arguments = parser.parse_args()
    if getattr(arguments, "solve", None) and not arguments.footage:
        parser.error("--solve needs its --footage")
    try:
        return arguments.command(arguments)
    except Stop as stop:
        print(f"\n{stop}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on from here.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    if sys.version_info < (3, 11):  # noqa: UP036  (whoever runs this may have any Python)
        sys.exit(f"Retake needs Python 3.11 or newer; this is {sys.version.split()[0]}.")
    sys.exit(main())
