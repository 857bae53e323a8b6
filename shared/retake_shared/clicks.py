"""Places in footage where the artist says that something moves: `retake solve --click FRAME,X,Y[,NAME]`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .errors import BadShot

MODEL = "sam2.1-tiny"
"""The backend's catalogue calls so what follows an object from a click."""

_LONGEST = 60


@dataclass(frozen=True)
class Click:
    """frame: of the footage, counted from 0. x, y: px of the footage, pixel centres at .5. name: of the object; clicks
    of one name are one object, one without a name is an object of its own. Raises BadShot for what no picture has."""

    frame: int
    x: float
    y: float
    name: str = ""

    def __post_init__(self) -> None:
        if self.frame < 0 or not (0 <= self.x < math.inf and 0 <= self.y < math.inf):
            what = f"is frame {self.frame}, x {self.x:g}, y {self.y:g}."
            raise BadShot(what, "--click", "Count frames from 0 and pixels from the upper left corner.")
        object.__setattr__(self, "name", " ".join(self.name.split())[:_LONGEST])

    def __str__(self) -> str:
        place = f"{self.frame},{self.x:.7g},{self.y:.7g}"
        return f"{place},{self.name}" if self.name else place


def parse(text: str) -> Click:
    """A click from FRAME,X,Y or FRAME,X,Y,NAME. Raises BadShot."""
    try:
        frame, x, y, *name = text.split(",", 3)
        return Click(int(frame), float(x), float(y), *name)
    except ValueError:
        remedy = "Write FRAME,X,Y or FRAME,X,Y,NAME, as in 12,310,204,ball."
        raise BadShot(f"is {text!r:.80}.", "--click", remedy) from None
