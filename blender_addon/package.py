"""Builds the extension from this folder; not part of it. `build.py package` runs this.

An extension brings its Python packages as wheels: retake_shared, and pyzmq for one platform and one kind of Python. So
there are two builds for each platform: `cp311` for Blender 4.2 to 5.0 and `abi3` for 5.1 and later, whose Python
refuses a manifest that names both. The repository index lists all under one id; Blender picks the one that fits.
"""

from __future__ import annotations

import argparse
import importlib.util
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ADDON = Path(__file__).resolve().parent
ROOT = ADDON.parent
NOT_SHIPPED = shutil.ignore_patterns("package.py", "pictures", "requirements*.txt", "__pycache__", ".*", "*.pyc")

PLATFORMS = {
    "linux-x64": ("manylinux_2_28_x86_64", "manylinux_2_26_x86_64", "manylinux2014_x86_64"),
    "windows-x64": ("win_amd64",),
    "macos-arm64": ("macosx_11_0_arm64", "macosx_10_15_universal2"),
    "macos-x64": ("macosx_10_15_x86_64", "macosx_10_15_universal2"),
}
"""Blender's name of a platform: the wheel tags that run there."""


@dataclass(frozen=True)
class Build:
    """One archive a platform. Blender from `minimum` up to, without, `below`; the Python and ABI of its wheels."""

    name: str
    minimum: str
    below: str | None
    python: str
    abi: str


BUILDS = (Build("cp311", "4.2.0", "5.1.0", "3.11", "cp311"), Build("abi3", "5.1.0", None, "3.13", "abi3"))


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the extension.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--platform", default="current", choices=["current", *PLATFORMS])
    parser.add_argument("--all", action="store_true", help="every platform, and a repository index")
    parser.add_argument("--for", dest="version", help="only the build for this Blender version, as in 5.2.2")
    parser.add_argument("--blender", help="let this Blender build, not the tool in the bpy wheel")
    arguments = parser.parse_args()

    tool = [arguments.blender, "--command", "extension"] if arguments.blender else [sys.executable, str(_wheel_tool())]
    names = (
        list(PLATFORMS) if arguments.all else [_current() if arguments.platform == "current" else arguments.platform]
    )
    builds = [build for build in BUILDS if arguments.version is None or fits(build, arguments.version)]
    if not builds:
        sys.exit(f"No build is for Blender {arguments.version}; Retake needs {BUILDS[0].minimum} or later.")

    arguments.out.mkdir(parents=True, exist_ok=True)
    for stale in arguments.out.glob("retake-*.zip"):
        stale.unlink()
    with tempfile.TemporaryDirectory(prefix="retake-package-") as place:
        shared = _shared_wheel(Path(place) / "shared")
        for name in names:
            for build in builds:
                stage = Path(place) / f"{name}-{build.name}"
                archive = make(stage, shared, name, build, arguments.out, tool)
                print(f"{archive}  {archive.stat().st_size / 2**20:.1f} MB  {name}, {_blenders(build)}", flush=True)
    if arguments.all:
        _call([*tool, "server-generate", "--repo-dir", str(arguments.out)])
        print(f"{arguments.out / 'index.json'}  the repository: publish this folder, or add it by its file:// address")
    return 0


def make(stage: Path, shared: Path, name: str, build: Build, out: Path, tool: list[str]) -> Path:
    """Stage, build and validate the archive for one platform and one kind of Python; its path."""
    shutil.copytree(ADDON, stage, ignore=NOT_SHIPPED)
    shutil.copy(ROOT / "LICENSE", stage)
    (stage / "wheels").mkdir()
    shutil.copy(shared, stage / "wheels")
    tags = [word for tag in PLATFORMS[name] for word in ("--platform", tag)]
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "download", "--no-deps"]
    python = ["--only-binary", ":all:", "--python-version", build.python, "--implementation", "cp", "--abi", build.abi]
    _call([*pip, *python, *tags, "--dest", str(stage / "wheels"), _pin("pyzmq")])

    manifest = (ADDON / "blender_manifest.toml").read_text(encoding="utf-8")
    wheels = sorted(f"./wheels/{wheel.name}" for wheel in (stage / "wheels").iterdir())
    (stage / "blender_manifest.toml").write_text(with_build(manifest, name, build, wheels), encoding="utf-8")
    version = re.search(r'^version = "(.+)"', manifest, re.MULTILINE)[1]
    archive = out / f"retake-{version}-{name}-{build.name}.zip"
    _call([*tool, "build", "--source-dir", str(stage), "--output-filepath", str(archive)])
    _call([*tool, "validate", str(archive)])
    return archive


def with_build(manifest: str, name: str, build: Build, wheels: list[str]) -> str:
    """The manifest's text with the fields of one build in place of whatever it says of them."""
    fields = [f'blender_version_min = "{build.minimum}"', f'platforms = ["{name}"]']
    if build.below:
        fields.append(f'blender_version_max = "{build.below}"')
    fields.append(f"wheels = [{', '.join(repr(wheel).replace(chr(39), chr(34)) for wheel in wheels)}]")
    own = re.sub(
        r"^(blender_version_m(in|ax)|platforms|wheels)\s*=\s*(\[[^\]]*\]|.*)\n", "", manifest, flags=re.MULTILINE
    )
    head, table, tail = re.match(r"(.*?)(^\[.*|\Z)(.*)", own, re.DOTALL | re.MULTILINE).groups()
    return head + "\n".join(fields) + "\n\n" + table + tail


def fits(build: Build, version: str) -> bool:
    """Whether Blender `version` takes this build."""

    def parts(text: str) -> list[int]:
        return [int(part) for part in text.split(".")]

    return parts(build.minimum) <= parts(version) and (build.below is None or parts(version) < parts(build.below))


def _blenders(build: Build) -> str:
    return (
        f"Blender {build.minimum} up to before {build.below}" if build.below else f"Blender {build.minimum} and later"
    )


def _current() -> str:
    arm = platform.machine().lower() in ("arm64", "aarch64")
    name = {"linux": "linux", "win32": "windows", "darwin": "macos"}.get(sys.platform, sys.platform)
    current = f"{name}-{'arm64' if arm else 'x64'}"
    if current not in PLATFORMS:
        sys.exit(f"There is no build for {current}; choose one of {', '.join(PLATFORMS)} with --platform.")
    return current


def _wheel_tool() -> Path:
    """Blender's own tool for extensions: plain Python inside the bpy wheel, found without importing bpy."""
    found = importlib.util.find_spec("bpy")
    if found is None or found.origin is None:
        sys.exit("This Python has no bpy; run `build.py package`, or name a Blender with --blender.")
    return next(Path(found.origin).parent.glob("*/scripts/addons_core/bl_pkg/cli/blender_ext.py"))


def _pin(name: str) -> str:
    lines = (ADDON / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if line.startswith(f"{name}=="))


def _shared_wheel(place: Path) -> Path:
    """The wheel of retake_shared, built from a copy so that building leaves nothing in the repository."""
    shutil.copytree(ROOT / "shared", place, ignore=shutil.ignore_patterns("sample_shot", "*.egg-info", "__pycache__"))
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "wheel", "--no-deps"]
    _call([*pip, "--no-build-isolation", "--wheel-dir", str(place / "dist"), str(place)])
    return next((place / "dist").glob("*.whl"))


def _call(command: list[str]) -> None:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}")


if __name__ == "__main__":
    sys.exit(main())
