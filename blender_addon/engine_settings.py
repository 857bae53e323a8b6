"""Engines and their options as properties of a shot, made from the table that the backend reads too.

An option of several engines that means the same in each is one property: what the artist set for one engine holds for
the next. An engine is remembered by its name, never by its place in a list, so that a .blend keeps its engine whatever
the table becomes. Engines that only the backend knows can be chosen as well; their options are written as words.
"""

from __future__ import annotations

import math
import shlex
import zlib
from argparse import ArgumentTypeError
from collections.abc import Mapping, Sequence
from typing import Any

import bpy
from bpy.props import BoolProperty, EnumProperty, FloatProperty, IntProperty
from retake_shared import arguments
from retake_shared.engine_options import ENGINES, EngineDescription, Option, describe
from retake_shared.errors import BadShot

DEFAULT_ENGINE = ENGINES[0].name
SILENT = frozenset({"preview", "draft"})
"""Engines that read no prompt."""


# --------------------------------------------------------------------------------------------------- the properties


def _identifiers() -> dict[tuple[str, str], str]:
    """The property that holds an engine's option, by (engine, option): one for all engines that define it alike.

    The option's own name goes to the definition that most engines share, of equals to the first: an engine that is
    added later takes it from none, and .blend files keep their settings.
    """
    named: dict[str, list[Option]] = {}
    for engine in ENGINES:
        for option in engine.options:
            named.setdefault(option.name, []).append(option)
    plain = {name: max(options, key=options.count) for name, options in named.items()}
    return {
        (engine.name, option.name): option.name
        if option == plain[option.name]
        else f"{engine.name.replace('-', '_')}_{option.name}"
        for engine in ENGINES
        for option in engine.options
    }


_IDENTIFIERS = _identifiers()


def number_of(name: str) -> int:
    """The number under which Blender stores a choice: of its name alone, so that the table may be put in any order."""
    return zlib.crc32(name.encode()) >> 1


def _property(option: Option) -> Any:
    words = {"name": option.label, "description": option.description}
    if option.kind == "choice":
        items = [(value, label, description, number_of(value)) for value, label, description in option.choices]
        return EnumProperty(items=items, default=option.default, **words)
    if option.kind == "switch":
        return BoolProperty(default=option.default, **words)
    limits = {key: value for key, value in (("min", option.low), ("max", option.high)) if math.isfinite(value)}
    if option.kind == "whole":
        return IntProperty(default=option.default, **words, **{key: int(value) for key, value in limits.items()})
    return FloatProperty(default=option.default, step=5, precision=2, **words, **limits)


def _options_group() -> type[bpy.types.PropertyGroup]:
    made = {}
    for engine in ENGINES:
        for option in engine.options:
            made.setdefault(_IDENTIFIERS[engine.name, option.name], _property(option))
    members = {"__annotations__": made, "__doc__": "Every option of every engine.", "__module__": __name__}
    return type("RetakeOptions", (bpy.types.PropertyGroup,), members)


RetakeOptions = _options_group()


def identifier(engine: str, option: str) -> str:
    """The name of the property in `RetakeOptions` that holds this option."""
    return _IDENTIFIERS[engine, option]


def value_of(shot: bpy.types.RetakeShot, engine: str, option: Option) -> str | int | float | bool:
    """An option as the panel has it. Floats come as the artist wrote them, not as Blender's 32 bits hold them."""
    value = getattr(shot.options, identifier(engine, option.name))
    return float(f"{value:.6g}") if option.kind == "number" else value


# ----------------------------------------------------------------------------------------- settings to and from a shot


def read(shot: bpy.types.RetakeShot) -> dict[str, Any]:
    """Those options of the chosen engine that are not the default. Raises BadShot for words that are no options."""
    engine = describe(shot.engine_name)
    if engine is None:
        return _parse(shot.other_options)
    found = {option.name: value_of(shot, engine.name, option) for option in engine.options}
    return {option.name: found[option.name] for option in engine.options if found[option.name] != option.default}


def write(shot: bpy.types.RetakeShot, name: str, options: Mapping[str, Any]) -> list[str]:
    """Choose an engine and set all its options, those not given to their default; notes on what could not be set."""
    shot.engine_name = name
    engine = describe(name)
    if engine is None:
        shot.other_options = " ".join(shlex.quote(f"{key}={_in_words(value)}") for key, value in options.items())
        return []
    notes = [
        f"{engine.label} has no option {key} any more." for key in options.keys() - {o.name for o in engine.options}
    ]
    for option in engine.options:
        try:
            value = option.checked(options.get(option.name, option.default))
        except BadShot as error:
            notes.append(f"{option.label}: {error.what} The default is used.")
            value = option.default
        setattr(shot.options, identifier(name, option.name), value)
    return notes


def _parse(words: str) -> dict[str, Any]:
    try:
        return dict(arguments.option(word) for word in shlex.split(words))
    except (ArgumentTypeError, ValueError) as error:
        raise BadShot(f"{error}.", "Options", "Write NAME=VALUE, with spaces between them.") from None


def _in_words(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def wants_first_frame(engine: str, options: Mapping[str, Any]) -> bool:
    """Whether the engine, with these options, makes its take from an edited first frame."""
    return engine == "trajectory-attention" and options.get("use") == "first-frame"


def reads_prompt(engine: str, options: Mapping[str, Any]) -> bool:
    """Whether the engine, with these options, looks at the prompts."""
    return engine not in SILENT and options.get("base") != "svd"


# ---------------------------------------------------------------------------------------------------- the chooser

_beyond: tuple[tuple[str, str, str], ...] = ()
_lists: dict[tuple[tuple[str, str, str], ...], list[tuple[str, str, str, str, int]]] = {}
"""The chooser's entries by what is beyond the table. Blender keeps no reference to their words, so they stay here."""


def learn(engines: Sequence[Mapping[str, Any]]) -> None:
    """Remember the engines of the backend that the table does not have."""
    global _beyond
    _beyond = tuple(
        (str(told["name"]), str(told.get("label") or told["name"]), str(told.get("description", "")))
        for told in engines
        if describe(str(told["name"])) is None
    )


def label_of(name: str) -> str:
    """What an engine is called in the panel."""
    engine = describe(name)
    return engine.label if engine else next((label for other, label, _ in _beyond if other == name), name)


def description_of(name: str) -> str:
    """What an engine does, in one line."""
    engine = describe(name)
    if engine is not None:
        return engine.description
    return next((words for other, _, words in _beyond if other == name), "Not among the engines of this backend")


def _items(shot: bpy.types.RetakeShot, _context: bpy.types.Context | None) -> list[tuple[str, str, str, str, int]]:
    beyond = _beyond
    if describe(shot.engine_name) is None and all(name != shot.engine_name for name, *_ in beyond):
        # The .blend wants one that this backend lacks, or no backend has told yet.
        beyond = (*beyond, (shot.engine_name, label_of(shot.engine_name), description_of(shot.engine_name)))
    if beyond not in _lists:
        entries = [*((engine.name, engine.label, engine.description) for engine in ENGINES), *beyond]
        _lists[beyond] = [
            (name, label, words, "NONE", 0 if name == DEFAULT_ENGINE else number_of(name))
            for name, label, words in entries
        ]
    return _lists[beyond]


def _get(shot: bpy.types.RetakeShot) -> int:
    return next(number for name, *_, number in _items(shot, None) if name == shot.engine_name)


def _set(shot: bpy.types.RetakeShot, number: int) -> None:
    shot.engine_name = next(name for name, *_, other in _items(shot, None) if other == number)


def chooser() -> Any:
    """The property with which the artist chooses an engine; `engine_name` beside it is what is stored."""
    return EnumProperty(name="Engine", description="What renders the take", items=_items, get=_get, set=_set)


def description(name: str) -> EngineDescription:
    """The table's entry; for an engine that only the backend knows, one without options."""
    return describe(name) or EngineDescription(name, label_of(name), description_of(name))


register, unregister = bpy.utils.register_classes_factory((RetakeOptions,))
