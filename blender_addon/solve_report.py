"""How far a solve can be trusted, as the backend wrote it beside the solve: read once, kept in the .blend, put in order
for the panel. No bpy."""

from __future__ import annotations

import contextlib
import functools
import json
from dataclasses import dataclass
from pathlib import Path

SUFFIX = ".report.json"
LIGHTS = {"green": "Good", "yellow": "Look at it before you use it", "red": "Do not use it"}
_MOST = 1 << 20


@dataclass(frozen=True)
class SolveReport:
    """light: one of LIGHTS. reasons: for it, the gravest first. facts: frames solved, reprojection error, focal length
    and the like, then what had to be made do with. notes: what was decided on the way."""

    light: str
    reasons: tuple[str, ...]
    facts: tuple[str, ...]
    notes: tuple[str, ...]


def read_report(solve: Path) -> str:
    """The report that lies with a solve, as JSON; "" where there is none, or no sound one."""
    with contextlib.suppress(OSError):
        path = solve.with_suffix(SUFFIX)
        if solve.is_file() and path.stat().st_size <= _MOST:
            text = path.read_text(encoding="utf-8", errors="replace")
            return text if parsed(text) is not None else ""
    return ""


@functools.lru_cache(maxsize=16)
def parsed(text: str) -> SolveReport | None:
    """A report from its JSON; None where it is none."""
    try:
        data = json.loads(text) if text else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(data, dict) or data.get("light") not in LIGHTS:
        return None
    words, reasons, made_do, notes = (_lines(data.get(name)) for name in ("words", "reasons", "fallbacks", "notes"))
    told = {*reasons, *made_do, *notes}
    facts = [word for word in words[1:] if word not in told]  # the first line is the light and its reason
    return SolveReport(
        data["light"],
        tuple(reason[:1].upper() + reason[1:] for reason in reasons or ["nothing speaks against this solve."]),
        (*facts, *made_do),
        tuple(note for note in notes if note not in made_do),
    )


def _lines(value: object) -> list[str]:
    return [str(line)[:1000] for line in value[:100]] if isinstance(value, list) else []
