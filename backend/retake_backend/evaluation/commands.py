"""`retake evaluate`."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from . import report, running, table
from .sets import open_set


def evaluate(arguments: argparse.Namespace, check: Callable[[], None]) -> int:
    """Run it; 0 when everything was measured, 1 when something failed. Raises RetakeError."""
    plan = running.Plan(
        engines=tuple(arguments.engine),
        out=arguments.out,
        limit=arguments.limit,
        size=arguments.size,
        seed=arguments.seed,
        options=dict(arguments.option or ()),
    )
    strips = report.Strips()
    outcome = running.run(open_set(arguments.set), plan, check, strips.take)
    made = report.write(outcome, strips)
    print(table.markdown(outcome, made), end="")
    print(f"\n{plan.out / 'report.html'}")
    return 1 if outcome.failures else 0
