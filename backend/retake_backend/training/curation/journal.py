"""What a curation has done: `curation.jsonl`, a line for every stretch that was looked at and every video that is through,
and `curation.json`, the counts. Whoever is killed goes on behind the last whole line."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from retake_shared.errors import BadFile, RetakeError

from .stretches import Settings

LOG, SUMMARY = "curation.jsonl", "curation.json"
VERSION = 2


class Journal:
    """The journal of the curation that fills `folder`; a context manager. Raises RetakeError when that one wanted
    other examples, BadFile when it cannot be read.

    done: names of the stretches that were looked at. ended: names of the videos and scenes that are through.
    """

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder, self.settings = folder, settings
        self.lines: list[dict[str, Any]] = []
        path = folder / LOG
        wanted = json.loads(json.dumps(asdict(settings)))
        self._stream = open(path, "a+b")  # noqa: SIM115 - held until the end
        self._stream.seek(0)
        data = self._stream.read()
        whole = data.rfind(b"\n") + 1
        self._stream.truncate(whole)  # a line that was cut off is written again
        try:
            self.lines = [json.loads(line) for line in data[:whole].splitlines()]
            first = self.lines.pop(0) if self.lines else None
            begun, version = (first["settings"], first["version"]) if first else (None, VERSION)
            self.done = {line["name"] for line in self.lines if "name" in line}
            self.ended = {line["ended"] for line in self.lines if "ended" in line}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self._stream.close()
            raise BadFile(f"is damaged ({error}).", str(path), "Use another folder for --out.") from error
        if version != VERSION:
            self._stream.close()
            raise BadFile(f"is version {version!r:.40}.", str(path), "Use another folder for --out.")
        if begun is None:
            self._write({"retake": "curation", "version": VERSION, "settings": wanted})
        elif begun != wanted:
            self._stream.close()
            other = ", ".join(f"{key} {begun.get(key)}" for key in wanted if begun.get(key) != wanted[key])
            raise RetakeError(f"was begun with {other}.", str(folder), "Use the same settings, or another folder.")

    def looked_at(self, name: str, verdict: str, seconds: float, **facts: Any) -> None:
        """Note a stretch: "kept", or the reason why it was left out."""
        line = {"name": name, "verdict": verdict, "seconds": round(seconds, 2), **facts}
        self._write(line)
        self.lines.append(line)
        self.done.add(name)

    def through(self, name: str, source: str, notes: tuple[str, ...] = ()) -> None:
        """Note that nothing is left to do with a video or scene, and write the summary."""
        line = {"ended": name, "source": source, **({"notes": list(notes)} if notes else {})}
        self._write(line)
        self.lines.append(line)
        self.ended.add(name)
        self.summarise()

    def summary(self) -> dict[str, Any]:
        """Counts of all runs together. examples_per_hour: of the time in which stretches were looked at."""
        looked = [line for line in self.lines if "name" in line]
        kept = [line for line in looked if line["verdict"] == "kept"]
        seconds = sum(line["seconds"] for line in looked)
        examples = sum(line.get("examples", 0) for line in kept)
        return {
            "retake": "curation",
            "version": VERSION,
            "settings": asdict(self.settings),
            "videos": len(self.ended),
            "looked_at": len(looked),
            "kept": len(kept),
            "examples": examples,
            "left_out": _counted(line["verdict"] for line in looked if line["verdict"] != "kept"),
            "scenes": _counted(line["scene"] for line in kept),
            "cameras": _counted(line["camera"] for line in kept),
            "hours": round(seconds / 3600, 4),
            "examples_per_hour": round(3600 * examples / seconds, 1) if seconds else 0.0,
        }

    def summarise(self) -> Mapping[str, Any]:
        """Write the summary, whole or not at all, and return it."""
        content = self.summary()
        part = self.folder / f"{SUMMARY}.part"
        part.write_text(json.dumps(content, indent=1), encoding="utf-8")
        part.replace(self.folder / SUMMARY)
        return content

    def _write(self, line: Mapping[str, Any]) -> None:
        self._stream.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")
        self._stream.flush()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()


def _counted(values: Any) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))
