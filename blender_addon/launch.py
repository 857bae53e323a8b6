"""Finding the backend: a program of its own, in its own environment. No bpy here: the link's thread calls this."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from retake_shared import client, connection
from retake_shared.client import Client
from retake_shared.errors import RetakeError

BACKEND_VARIABLE = "RETAKE_BACKEND"
_REMEDY = "Install the backend, then set its place in Retake's preferences."


@dataclass(frozen=True)
class Place:
    """Where the backend is, as the preferences say.

    home: the folder with its store, its log and its connection file. models: that of the weights; None = $RETAKE_MODELS,
    else `models` in `home`. command: what the user wrote ("" = look for it).
    device, cores: what a backend that is started, or a solve, may use, as `retake serve` and `retake solve` take them.
    connection_file: that of a backend which somebody else runs; None = the one in `home`. may_start: whether a
    backend may be started when none answers.
    """

    home: Path
    models: Path | None = None
    command: str = ""
    device: str = "auto"
    cores: int = 0
    connection_file: Path | None = None
    may_start: bool = True

    def reach(self, start: bool) -> Client:
        """A client of this backend, which is started if it has to be and `start` says so.

        Raises BackendGone, VersionMismatch, StartFailed, or RetakeError when there is no program to start.
        """
        file = self.connection_file or self.home / connection.FILE_NAME
        if not start or self.connection_file is not None:
            return Client.connect(file)
        return client.start_or_find(self.home, self.serve_command())

    def serve_command(self) -> list[str]:
        """The command that serves `home`. Raises RetakeError when no backend is installed."""
        models = ["--models", str(self.models)] if self.models else []
        return [*backend_command(self.command), "serve", "--home", str(self.home), *models, *self.use]

    @property
    def use(self) -> list[str]:
        """Device and cores, as options of `retake`."""
        return ["--device", self.device, "--cores", str(self.cores)]

    def import_model(self, name: str, folder: Path, replace: bool) -> str:
        """Take the files in `folder` in as the model `name` of this backend; blocks. Returns what the program says of
        it. replace: also where one lies there already. Raises RetakeError with the program's reason when it does not
        want them, or when there is no program."""
        return self._run("models", "import", name, str(folder), *(["--replace"] if replace else []))

    def save_frame(self, footage: Path, index: int, target: Path) -> None:
        """Write footage frame `index` to a PNG file, exactly as engines see it; blocks. Raises RetakeError."""
        self._run("frame", "--footage", str(footage), "--frame", str(index), "--out", str(target))

    def program(self, *words: str) -> tuple[list[str], dict[str, str]]:
        """The command `retake` with these words, and the environment in which it works as this home's backend would.
        Raises RetakeError when no backend is installed."""
        environ = {**os.environ, "RETAKE_HOME": str(self.home)}
        if self.models:
            environ["RETAKE_MODELS"] = str(self.models)
        environ.setdefault("RETAKE_MODELS", str(self.home / "models"))  # as the broker of this home has it
        return [*backend_command(self.command), *words], environ

    def cannot_run(self, command: list[str], error: OSError) -> RetakeError:
        """What to say when the system refuses to run a program."""
        return RetakeError(f"cannot be run ({error.strerror}).", command[0], _REMEDY)

    def _run(self, *words: str) -> str:
        """Run `retake` with these words as this home's backend would; its last line. Raises RetakeError."""
        command, environ = self.program(*words)
        environ["PYTHONIOENCODING"] = "utf-8"
        hidden = {"creationflags": 0x08000000} if os.name == "nt" else {}
        try:
            done = subprocess.run(
                command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, encoding="utf-8",
                errors="replace", check=False, **hidden,
            )  # fmt: skip
        except OSError as error:
            raise self.cannot_run(command, error) from None
        lines = (done.stderr if done.returncode else done.stdout).strip().splitlines()
        if done.returncode:
            raise RetakeError(lines[-1].removeprefix("retake: ") if lines else "The program ended without a word.")
        return lines[-1] if lines else ""


def backend_command(written: str = "") -> list[str]:
    """The command that runs `retake`: what the user wrote, else $RETAKE_BACKEND, else `retake` on the PATH.

    Accepts a command line, or the path of the `retake` program, of a Python that has the backend installed, or of the
    folder of its environment. Raises RetakeError when none of them leads to a program.
    """
    written = written.strip() or os.environ.get(BACKEND_VARIABLE, "").strip()
    if not written:
        found = shutil.which("retake")
        if found is None:
            raise RetakeError("no generation backend is installed.", "", _REMEDY)
        return [found]
    path = Path(written).expanduser()
    if path.is_dir():
        inside = [path / name for name in ("bin/retake", "Scripts/retake.exe", "retake")]
        found = next((str(program) for program in inside if program.is_file()), None)
        if found is None:
            raise RetakeError("the folder holds no `retake` program.", str(path), _REMEDY)
        return [found]
    try:
        words = [str(path)] if path.is_file() else shlex.split(written, posix=os.name != "nt")
    except ValueError as error:
        raise RetakeError(f"is no command line ({error}).", written, _REMEDY) from None
    if shutil.which(words[0]) is None:
        raise RetakeError("there is no such program.", words[0], _REMEDY)
    if len(words) == 1 and Path(words[0]).name.lower().startswith("python"):
        words += ["-m", "retake_backend.cli"]
    return words
