"""The engines' names and their options: one table for the panel, the command line and the engines themselves.

A panel draws from it before any backend runs; an engine reads its settings through `checked`, which fills in what was
left out and refuses what makes no sense. What an engine can do at the moment (which weights are here) only the
backend knows: it says so in `welcome`, see `protocol`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .errors import BadShot

Kind = Literal["choice", "whole", "number", "switch"]


@dataclass(frozen=True)
class Option:
    """One setting of an engine. default also tells its type.

    low, high: inclusive, for "whole" and "number". choices: (value, label, description) of each, for "choice".
    """

    name: str
    label: str
    description: str
    kind: Kind
    default: str | int | float | bool
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[tuple[str, str, str], ...] = ()

    def checked(self, value: Any) -> str | int | float | bool:
        """The value in its own type. Raises BadShot naming the option and what it takes."""
        where = f"settings.options.{self.name}"
        if self.kind == "choice":
            names = [name for name, _, _ in self.choices]
            if str(value) not in names:  # a command line and JSON may well say 8 for "8"
                raise BadShot(f"is {value!r:.40}.", where, f"Use one of {', '.join(names)}.")
            return str(value)
        if self.kind == "switch":
            if not isinstance(value, bool):
                raise BadShot(f"is {value!r:.40}.", where, "Use true or false.")
            return value
        whole = self.kind == "whole"
        good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not good or not self.low <= value <= self.high or (whole and value != int(value)):
            what = "a whole number" if whole else "a number"
            raise BadShot(f"is {value!r:.40}.", where, f"Use {what} from {self.low:g} to {self.high:g}.")
        return int(value) if whole else float(value)


@dataclass(frozen=True)
class EngineDescription:
    """An engine as the artist chooses it.

    weights: names in the backend's catalogue that it cannot do without, the base first; instead: other ones, by the
    value of its option `base` that asks for them. shipped: they come with the backend itself.
    """

    name: str
    label: str
    description: str
    options: tuple[Option, ...] = ()
    weights: tuple[str, ...] = ()
    instead: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    shipped: bool = False

    def needs(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        """The weights that it cannot do without, with these options."""
        return self.instead.get(options.get("base", ""), self.weights)

    def distilled(self, options: Mapping[str, Any]) -> str | None:
        """The few-step weights that these options would take in place of the base where they are here, None for none."""
        needs = self.needs(options)
        return DISTILLED.get(needs[0]) if needs and options.get("quality") == "fast" else None

    def checked(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Every option of this engine, the given ones checked. Raises BadShot for one that it does not have."""
        known = {option.name: option for option in self.options}
        unknown = sorted(options.keys() - known.keys())
        if unknown:
            have = f"It has: {', '.join(known)}." if known else "It has none."
            raise BadShot(f"{self.name} has no such option.", f"settings.options.{unknown[0]}", have)
        return {name: option.checked(options.get(name, option.default)) for name, option in known.items()}


DISTILLED = {"wan2.1-t2v-1.3b": "fastwan2.1-t2v-1.3b"}
"""Few-step weights by the base in whose place they come for the quality "fast"."""

_MEMORY = Option(
    "memory", "Memory", "Of the GPU; less is slower", "choice", "auto",
    choices=(
        ("auto", "Automatic", "What the device has"),
        ("24", "24 GB", "Everything stays on the GPU"),
        ("12", "12 GB", "The model stays on the GPU, the rest comes and goes"),
        ("8", "8 GB", "Weights in 8 bits"),
        ("6", "6 GB", "Weights in 8 bits, a few blocks at a time"),
        ("cpu", "CPU", "No GPU is used; slow"),
    ),
)  # fmt: skip
_WORKING_SIZE = Option(
    "working_size", "Working size", "Longer side in pixels that the model works at; 0 = what it was trained on",
    "whole", 0, 0, 4096,
)  # fmt: skip
_SHOW = Option("show", "Show it grow", "A rough picture of the take after every step", "switch", True)
_DENOISING = (
    Option(
        "quality", "Quality", "How much time goes into each frame", "choice", "standard",
        choices=(
            ("fast", "Fast", "Few steps without guidance; needs the distilled weights"),
            ("standard", "Standard", "All steps, those that change little reuse the one before"),
            ("best", "Best", "All steps, every one computed"),
        ),
    ),
    Option("steps", "Steps", "Denoising steps; 0 = what the quality says", "whole", 0, 0, 200),
    Option("guidance", "Guidance", "How strictly the prompt is followed; 0 = what the quality says, 1 = off",
           "number", 0.0, 0, 30),
    Option(
        "scheduler", "Scheduler", "How a step follows from the one before", "choice", "auto",
        choices=(
            ("auto", "Automatic", "What the quality says"),
            ("unipc", "UniPC", "Second order; the model's own"),
            ("euler", "Euler", "First order"),
            ("few-step", "Few-step", "For distilled weights"),
        ),
    ),
    Option("shift", "Shift", "More of the steps go to the coarse picture; 0 = the model's own", "number", 0.0, 0, 20),
    Option("strength", "Strength", "1 = from noise alone; less keeps more of the picture that it starts from",
           "number", 1.0, 0.05, 1),
    Option(
        "start", "Start from", "The picture that is kept where the strength is below 1", "choice", "preview",
        choices=(
            ("preview", "Preview", "The footage moved along the edit by geometry alone"),
            ("footage", "Footage", "The footage as it was shot"),
        ),
    ),
    _WORKING_SIZE,
    Option(
        "fit", "Fit", "How the picture comes to a size the model can take", "choice", "pad",
        choices=(
            ("pad", "Pad", "Proportions kept, the edges continued and cut off again"),
            ("resize", "Resize", "Stretched by a few pixels"),
        ),
    ),
    Option("window", "Window", "Frames made together; longer shots are made in several windows", "whole", 81, 5, 241),
    Option("overlap", "Overlap", "Frames that a window takes over from the one before", "whole", 17, 1, 81),
    _MEMORY,
    _SHOW,
)  # fmt: skip


def _tracks(default: int) -> Option:
    return Option("tracks", "Tracks", "At most so many tracks guide the picture", "whole", default, 0, 20_000)


ENGINES = (
    EngineDescription(
        "preview",
        "Preview",
        "Geometric reprojection of the footage, on the CPU, in seconds",
        (
            Option(
                "fill", "Fill", "What to put where the frame shows nothing", "choice", "all",
                choices=(
                    ("all", "Everything", "Other frames of the footage, then invention"),
                    ("smooth", "Smooth", "Other frames of the footage, then the colours around"),
                    ("frames", "Frames", "Other frames of the footage; the rest stays grey"),
                    ("none", "Nothing", "Holes stay grey"),
                ),
            ),
        ),
    ),
    EngineDescription(
        "draft",
        "Draft",
        "The preview, corrected by a small diffusion model that comes with the backend; no GPU needed",
        (
            Option("steps", "Steps", "Denoising steps; more are crisper, and further from the likeliest", "whole", 1, 1, 16),
            _WORKING_SIZE,
            Option("window", "Window", "Frames made together; longer shots are made in several windows", "whole", 9, 5, 65),
            Option("overlap", "Overlap", "Frames over which one window fades into the next", "whole", 5, 1, 33),
            _tracks(512),
            Option("widen", "Widen holes", "Pixels of the model's picture around holes that are its painting, too",
                   "whole", 2, 0, 32),
            Option("light", "Light", "Light and shadow that the edit changes are carried over to the footage's own pixels",
                   "switch", True),
            _MEMORY,
            _SHOW,
        ),
        weights=("draft",),
        shipped=True,
    ),
    EngineDescription(
        "edit-by-track",
        "Edit-by-Track",
        "Camera and objects follow the edited tracks (Wan 1.3B)",
        (*_DENOISING, _tracks(2000)),
        ("wan2.1-t2v-1.3b", "edit-by-track"),
    ),
    EngineDescription(
        "track2view",
        "Track2View",
        "The same action from another camera (Wan 1.3B)",
        (*_DENOISING, _tracks(1152)),
        ("wan2.1-t2v-1.3b", "track2view"),
    ),
    EngineDescription(
        "trajectory-attention",
        "Trajectory Attention",
        "A camera move on one image or on the footage, or the footage's motion for an edited first frame",
        (
            Option(
                "use", "Use", "What moves, and where the picture comes from", "choice", "video",
                choices=(
                    ("video", "Footage", "The footage, along the edited camera and objects"),
                    ("image", "One image", "One frame of the footage, along the edited camera"),
                    ("first-frame", "First frame", "An edited picture of the first frame, with the footage's motion"),
                ),
            ),
            Option("image_frame", "Image", "Footage frame that is the one image", "whole", 0, 0, 1_000_000),
            Option(
                "base", "Base", "The video model that the trajectories steer", "choice", "wan",
                choices=(
                    ("wan", "Wan 1.3B", "Attention over all tokens"),
                    ("svd", "Stable Video Diffusion", "Attention over time; 25 frames, no prompt"),
                ),
            ),
            *_DENOISING,
            _tracks(2000),
        ),
        ("wan2.1-t2v-1.3b", "trajectory-attention"),
        {"svd": ("svd-xt", "trajectory-attention-svd")},
    ),
    EngineDescription(
        "vace",
        "VACE",
        "The preview is repainted where the footage shows nothing; public weights (Wan 1.3B)",
        (
            *_DENOISING,
            Option("control", "Control", "How strictly the preview is kept", "number", 1.0, 0, 2),
            Option("grow", "Grow holes", "Pixels of the model's picture by which holes widen, so that torn edges are "
                   "repainted", "whole", 8, 0, 64),
            Option("keep", "Keep footage", "Where the footage shows the place, the take has its own pixels in full "
                   "detail; else all of the picture is the model's", "switch", True),
        ),
        ("wan2.1-vace-1.3b",),
    ),
)  # fmt: skip
"""Every engine that ships with Retake, in the order the artist sees them."""


def describe(name: str) -> EngineDescription | None:
    """The engine of that name, None for one that came with RETAKE_ENGINES."""
    return next((engine for engine in ENGINES if engine.name == name), None)
