"""What an evaluation leaves: report.html (one file, nothing fetched), report.json, table.md."""

from __future__ import annotations

import base64
import html
import json
import math
from collections.abc import Iterator, Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

from .. import __version__
from . import measuring, table
from .running import TRUTH, Outcome, plain
from .sets import Item
from .solve import WITHIN
from .table import Table

MOMENTS, WIDE = 4, 250
"""Pictures of each strip, and their width in px."""
MOST_STRIPS = 12
"""Items whose pictures are in the report; more would make it too large to open."""
_COLOURS = ("#c2410c", "#1d4ed8", "#15803d", "#7e22ce", "#b45309", "#0f766e", "#be185d")
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c1917; background: #fafaf9; margin: 2rem auto; max-width: 72rem;
       padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2.2rem; border-top: 1px solid #d6d3d1; padding-top: 1rem; }
table { border-collapse: collapse; } td, th { padding: .2rem .9rem .2rem 0; text-align: right; }
th:first-child, td:first-child { text-align: left; } thead th { border-bottom: 2px solid #57534e; }
tbody tr:nth-child(even) { background: #f0efed; } td.best { font-weight: 700; } td.truth, th.truth { color: #78716c; }
.strip { display: flex; gap: 4px; margin: 4px 0; align-items: center; } .strip span { width: 6.5rem; flex: none; }
.strip img { display: block; max-width: 22%; } ul { padding-left: 1.2rem; } .note { color: #57534e; }
svg text { font: 12px system-ui, sans-serif; fill: #57534e; }
"""


class Strips:
    """Pictures of the items as they come, small and encoded, so that no item need be kept."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, list[str]]] = {}

    def take(self, name: str, item: Item, takes: Mapping[str, NDArray[np.uint8]]) -> None:
        """Of one item (`running.Shown`)."""
        if len(self.rows) >= MOST_STRIPS:
            return
        videos = {"source": item.pair.source, **({TRUTH: item.pair.target} if item.truth else {}), **takes}
        self.rows[name] = {label: _strip(video) for label, video in videos.items()}


def write(outcome: Outcome, strips: Strips) -> Table:
    """Write the three files into the plan's folder, and return the table. Raises OSError."""
    made = table.make(outcome)
    texts = {
        "table.md": table.markdown(outcome, made),
        "report.json": json.dumps(_as_json(outcome, made), indent=1, ensure_ascii=False),
        "report.html": "".join(_page(outcome, made, strips)),
    }
    for name, text in texts.items():
        part = outcome.plan.out / f"{name}.part"
        part.write_text(text, encoding="utf-8")
        part.replace(outcome.plan.out / name)
    return made


def _as_json(outcome: Outcome, made: Table) -> dict[str, object]:
    plan = outcome.plan
    items = {
        name: {
            engine: {"values": {k: plain(v) for k, v in found.values.items()}, "psnr": [plain(v) for v in found.curve]}
            for engine, found in by_engine.items()
        }
        for name, by_engine in outcome.measured.items()
    }
    return {
        "retake_evaluation": 1,
        "version": __version__,
        "definitions": measuring.VERSION,
        "set": outcome.set_name,
        "engines": list(plan.engines),
        "size": plan.size,
        "seed": plan.seed,
        "options": plan.options,
        "table": {
            row.engine: {k: plain(v) for k, v in row.values.items()} | {"items": row.items, "failed": list(row.failed)}
            for row in made.rows
        },
        "items": items,
        "failures": [{"item": item, "engine": engine, "error": words} for item, engine, words in outcome.failures],
        "left_out": made.left_out,
    }


# --- the page ---


def _page(outcome: Outcome, made: Table, strips: Strips) -> Iterator[str]:
    title = html.escape(f"Retake: {', '.join(outcome.plan.engines)} on {outcome.set_name}")
    yield f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
    yield f"<h1>{title}</h1><p>{len(outcome.measured)} of {len(outcome.items)} items measured"
    yield f", size {outcome.plan.size[0]}x{outcome.plan.size[1]}" if outcome.plan.size else ""
    yield f", seed {outcome.plan.seed}.</p>"
    yield from _table(made)
    yield (
        '<p class="note">Means over items; bold is best. Holes are the places that the source shows nowhere, as '
        "preview finds them. The column truth is the true video measured like a take: what the tracker and the camera "
        "solver err by. EPE is over all visible places of the target tracks; where proven, over those where the tracker "
        f"is right within {WITHIN:g} px on the true video.</p>"
    )
    if outcome.failures:
        yield "<h2>Failed</h2><ul>"
        for item, engine, words in outcome.failures:
            yield f"<li><b>{html.escape(item)}</b>, {html.escape(engine or 'could not be loaded')}: {html.escape(words)}"
        yield "</ul>"
    if made.left_out:
        yield "<h2>Left out</h2><ul>"
        for metric, why in made.left_out.items():
            yield f"<li><b>{html.escape(metric)}</b>: {html.escape(why)}"
        yield "</ul>"
    for name, by_engine in outcome.measured.items():
        yield f"<h2>{html.escape(name)}</h2>"
        for label, pictures in strips.rows.get(name, {}).items():
            images = "".join(f'<img alt="" src="data:image/jpeg;base64,{data}">' for data in pictures)
            yield f'<div class="strip"><span>{html.escape(label)}</span>{images}</div>'
        yield _plot({engine: found.curve for engine, found in by_engine.items() if engine != TRUTH and found.curve})
    yield "</html>\n"


def _table(made: Table) -> Iterator[str]:
    def kind(engine: str) -> str:
        return ' class="truth"' if engine == TRUTH else ""

    yield "<table><thead><tr><th></th>"
    yield "".join(f"<th{kind(row.engine)}>{html.escape(row.engine)}</th>" for row in made.rows)
    yield "</tr></thead><tbody>"
    for measure in made.columns:
        arrow = {1: " ↑", -1: " ↓", 0: ""}[measure.better]
        best = made.best(measure)
        yield f"<tr><td>{html.escape(measure.label)}{arrow}</td>"
        for row in made.rows:
            style = ' class="best"' if row.engine in best else kind(row.engine)
            yield f"<td{style}>{row.cell(measure)}</td>"
        yield "</tr>"
    yield "<tr><td>items</td>" + "".join(f"<td{kind(r.engine)}>{r.items}</td>" for r in made.rows) + "</tr>"
    yield "<tr><td>failed</td>" + "".join(f"<td{kind(r.engine)}>{len(r.failed)}</td>" for r in made.rows) + "</tr>"
    yield "</tbody></table>"


def _plot(curves: Mapping[str, list[float]]) -> str:
    """PSNR of each frame, one line an engine, as SVG."""
    known = [value for curve in curves.values() for value in curve if math.isfinite(value)]
    if not known:
        return ""
    width, height, left, top, right, bottom = 760, 210, 44, 12, 130, 26
    low, high = math.floor(min(known)), max(math.ceil(max(known)), math.floor(min(known)) + 1)
    count = max(len(curve) for curve in curves.values())

    def at(frame: int, value: float) -> str:
        x = left + (width - left - right) * frame / max(count - 1, 1)
        y = top + (height - top - bottom) * (1 - (value - low) / (high - low))
        return f"{x:.1f},{y:.1f}"

    parts = [f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">']
    for value in sorted({low, (low + high) // 2, high}):
        x, y = at(0, value).split(",")
        end = at(count - 1, value).split(",")[0]
        parts.append(f'<line x1="{x}" y1="{y}" x2="{end}" y2="{y}" stroke="#d6d3d1"/>')
        parts.append(f'<text x="{left - 8}" y="{float(y) + 4:.1f}" text-anchor="end">{value}</text>')
    parts.append(f'<text x="{left}" y="{height - 6}">PSNR in dB by frame, 0 to {count - 1}</text>')
    for number, (engine, curve) in enumerate(curves.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        points = " ".join(at(frame, value) for frame, value in enumerate(curve) if math.isfinite(value))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        place = f'x="{width - right + 12}" y="{top + 14 + 18 * number}" style="fill:{colour}"'
        parts.append(f"<text {place}>{html.escape(engine)}</text>")
    return "".join([*parts, "</svg>"])


def _strip(video: NDArray[np.uint8]) -> list[str]:
    """JPEGs of a few moments of a video, in base64."""
    height = max(2, round(WIDE * video.shape[1] / video.shape[2]))
    encoded = []
    for t in np.linspace(0, len(video) - 1, min(MOMENTS, len(video))).round().astype(int):
        small = cv2.resize(cv2.cvtColor(video[t], cv2.COLOR_RGB2BGR), (WIDE, height), interpolation=cv2.INTER_AREA)
        done, data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 85])
        assert done
        encoded.append(base64.b64encode(data.tobytes()).decode())
    return encoded
