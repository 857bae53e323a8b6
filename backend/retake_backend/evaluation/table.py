"""The table of an evaluation: means over items, one row an engine."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .measuring import MEASURES, Measure, mean_of
from .running import TRUTH, Outcome

_OF_TRUTH = {measure.key for measure in MEASURES} - {
    *("psnr", "ssim", "lpips", "psnr_holes", "ssim_holes", "psnr_outside", "ssim_outside"),
    *("mpsnr", "mssim", "mlpips", "fvd", "seconds"),
}
"""What the truth's own row tells: not that it equals itself."""


@dataclass(frozen=True)
class Row:
    """engine: its name, or TRUTH. values: by `Measure.key`. items: how many were measured; failed: by name."""

    engine: str
    values: dict[str, float]
    items: int
    failed: tuple[str, ...]

    def cell(self, measure: Measure) -> str:
        """A value as it is shown: "-" where it is not defined."""
        value = self.values.get(measure.key, math.nan)
        return "-" if math.isnan(value) else f"{value:.{measure.digits}f}"


@dataclass(frozen=True)
class Table:
    """rows: engines in the order asked for, TRUTH last. columns: those in which any row has a value. left_out: why, by
    the measure's name."""

    rows: tuple[Row, ...]
    columns: tuple[Measure, ...]
    left_out: dict[str, str]

    def best(self, measure: Measure) -> set[str]:
        """The engines with the best value in a column, where they differ."""
        values = {row.engine: row.values.get(measure.key, math.nan) for row in self.rows if row.engine != TRUTH}
        values = {engine: value for engine, value in values.items() if not math.isnan(value)}
        if measure.better == 0 or len(set(values.values())) < 2:
            return set()
        top = max(values.values(), key=lambda value: measure.better * value)
        return {engine for engine, value in values.items() if value == top}


def make(outcome: Outcome) -> Table:
    """The table of what came of a plan."""
    left_out = dict(outcome.left_out)
    names = [*outcome.plan.engines, TRUTH]
    rows = tuple(row for name in names if (row := _row(outcome, name)) is not None)
    if "FVD" not in left_out and not any("fvd" in row.values for row in rows):
        left_out["FVD"] = "it needs two clips of nine frames with a truth, or more"
    columns = tuple(
        measure for measure in MEASURES if any(not math.isnan(row.values.get(measure.key, math.nan)) for row in rows)
    )
    return Table(rows, columns, left_out)


def _row(outcome: Outcome, name: str) -> Row | None:
    measured = [by_engine[name] for by_engine in outcome.measured.values() if name in by_engine]
    failed = tuple(item for item, engine, _ in outcome.failures if engine == name)
    if name == TRUTH and not measured:
        return None
    values = {}
    for measure in MEASURES:
        if name != TRUTH or measure.key in _OF_TRUTH:
            values[measure.key] = mean_of([clip.values.get(measure.key, math.nan) for clip in measured])
    if name != TRUTH and (fvd := _fvd(outcome, name)) is not None:
        values["fvd"] = fvd
    return Row(name, values, len(measured), failed)


def _fvd(outcome: Outcome, name: str) -> float | None:
    both = [
        (by_engine[name].features, by_engine[TRUTH].features)
        for by_engine in outcome.measured.values()
        if name in by_engine and TRUTH in by_engine and by_engine[name].features and by_engine[TRUTH].features
    ]
    if len(both) < 2:
        return None
    from .fvd import frechet_distance

    return frechet_distance(*(np.array(features) for features in zip(*both, strict=True)))


def markdown(outcome: Outcome, table: Table) -> str:
    """The table as Markdown, with what failed and what was left out."""
    return "\n".join(_lines(outcome, table)) + "\n"


def _lines(outcome: Outcome, table: Table) -> Iterator[str]:
    yield f"{outcome.set_name}: {len(outcome.measured)} of {len(outcome.items)} items"
    yield ""
    yield "| | " + " | ".join(row.engine for row in table.rows) + " |"
    yield "|---" * (len(table.rows) + 1) + "|"
    for measure in table.columns:
        best = table.best(measure)
        cells = (f"**{row.cell(measure)}**" if row.engine in best else row.cell(measure) for row in table.rows)
        yield f"| {measure.label} | " + " | ".join(cells) + " |"
    yield "| items | " + " | ".join(str(row.items) for row in table.rows) + " |"
    yield "| failed | " + " | ".join(str(len(row.failed)) for row in table.rows) + " |"
    yield ""
    for item, engine, words in outcome.failures:
        yield f"- failed: {item}{f', {engine}' if engine else ' (could not be loaded)'}: {words}"
    for metric, why in table.left_out.items():
        yield f"- left out: {metric}: {why}"
