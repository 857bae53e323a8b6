"""What programs of their own are sent for over the link, by kind ("import", "frame"): on their way, or how they ended.

Plain data that operators and the link's messages fill; drawing and operators read it.
"""

from __future__ import annotations

from .messages import ErrandEnded

_last: dict[str, ErrandEnded | None] = {}


def begin(errand: str) -> None:
    """Remember that one of this kind is on its way."""
    _last[errand] = None


def apply(message: ErrandEnded) -> None:
    """Remember what a message tells."""
    _last[message.errand] = message


def forget() -> None:
    """Know of none any more: nobody is left to tell how those on their way end."""
    _last.clear()


def running(errand: str) -> bool:
    """Whether one of this kind is on its way."""
    return errand in _last and _last[errand] is None


def ended(errand: str) -> ErrandEnded | None:
    """How the last one of this kind ended; None while it runs, and before there was any."""
    return _last.get(errand)
