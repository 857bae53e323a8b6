"""What `retake train` can train, by the name that a configuration gives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol, get_args, get_type_hints, runtime_checkable

from retake_shared.errors import RetakeError

from ..engines.base import Report
from .config import from_table
from .trainees import Trainee


@dataclass(frozen=True)
class Kind:
    """Where a trainee's class is: it takes one argument, `settings`, a dataclass. start: the key of its settings that
    names a folder of weights to go on from, "" where it has none."""

    module: str
    name: str
    start: str = ""


TRAINEES: Mapping[str, Kind] = {
    "edit-by-track": Kind("wan_trainees", "EditByTrackTrainee", "parts"),
    "track2view": Kind("wan_trainees", "Track2ViewTrainee", "parts"),
    "trajectory-attention": Kind("wan_trainees", "TrajectoryAttentionTrainee", "parts"),
    "draft": Kind("draft_trainees", "DraftTrainee", "start"),
    "refiner": Kind("draft_trainees", "RefinerTrainee", "start"),
    "paper": Kind("draft_trainees", "PaperTrainee"),
}


@runtime_checkable
class ReadsCaptions(Protocol):
    """A trainee that is told all captions before the training begins."""

    def read_captions(self, captions: Iterable[str], report: Report) -> None:
        """Prepare for these texts."""
        ...


def kind_of(name: str) -> Kind:
    """Raises RetakeError naming those that there are."""
    if name not in TRAINEES:
        raise RetakeError(f'there is no trainee "{name}".', "trainee", f"There are: {', '.join(TRAINEES)}.")
    return TRAINEES[name]


def make_trainee(name: str, settings: Mapping[str, Any]) -> Trainee:
    """The trainee of that name, its weights made or loaded. Raises RetakeError: no such name, key or weights."""
    kind = kind_of(name)
    make: Callable[..., Trainee] = getattr(import_module(f".{kind.module}", __package__), kind.name)
    hint = get_type_hints(make.__init__)["settings"]  # type: ignore[misc]
    settings_kind = next(each for each in get_args(hint) or (hint,) if each is not type(None))
    return make(from_table(settings_kind, settings, "model"))
