"""Reads what `torch.save` wrote without running any of it: plain containers, numbers, texts, bytes and tensors.

A .pth is a zip around a pickle, and a pickle is a program: whoever unpickles it runs it. Nothing is unpickled here.
The program's instructions are read one by one (`pickletools` splits them, and executes nothing), and only those that
put together containers and plain values are followed. Of all the functions that a pickle may name, four are known,
each replaced by code of this module: tensor rebuilding, parameters, ordered dictionaries, and texts turned to bytes.
Every other name is refused, by name. Tensors come out as numpy arrays.
"""

from __future__ import annotations

import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from retake_shared.errors import BadFile
from retake_shared.formats.npz import MAX_ARRAY_BYTES, reading

MAX_PROGRAM_BYTES = 256 << 20
"""The pickle itself, in which ATI keeps whole arrays."""

_STORAGES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "|i1",
    "ByteStorage": "|u1",
    "BoolStorage": "|b1",
}

_MARK = object()
_REFUSED = "Only plain tensors, numbers, texts and bytes are read, since anything else could run code."


@dataclass(frozen=True)
class _StorageType:
    dtype: str


@dataclass(frozen=True)
class _Storage:
    dtype: str
    key: str
    count: int


def load(path: Path) -> Any:
    """What the file holds: dict, list, tuple, str, bytes, numbers, None, and numpy arrays in the place of tensors.

    bfloat16 tensors come as float32. Raises BadFile when it holds anything else, is damaged, or is in the layout of
    before PyTorch 1.6, which is a bare pickle.
    """
    where = str(path)
    with reading(where):
        if not zipfile.is_zipfile(path):
            with path.open("rb") as stream:
                if stream.read(1) == b"\x80":
                    raise BadFile(
                        "was saved in the layout of before PyTorch 1.6, which is not read.",
                        where,
                        "Load it with the program that wrote it, and save it again with a newer PyTorch.",
                    )
            raise BadFile("is no file of PyTorch's, or its end is missing.", where, "Copy the file again.")
        with zipfile.ZipFile(path) as archive:
            return _Reader(archive, where).result()


class _Reader:
    """One file: the machine that follows its pickle, and the tensors beside it."""

    def __init__(self, archive: zipfile.ZipFile, where: str) -> None:
        self._archive, self._where = archive, where
        programs = [name for name in archive.namelist() if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(programs) != 1:
            raise BadFile(f"has {len(programs)} parts named data.pkl.", where, "Give a file that torch.save wrote.")
        self._root = programs[0].removesuffix("data.pkl")
        order = self._root + "byteorder"
        if order in archive.namelist() and archive.read(order) != b"little":
            raise BadFile("was saved on a big-endian machine.", where, "Save it again on another one.")
        self._budget = MAX_ARRAY_BYTES
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def result(self) -> Any:
        """Follow the program to its end."""
        program = self._member("data.pkl", MAX_PROGRAM_BYTES)
        for opcode, argument, _ in pickletools.genops(program):
            if opcode.name == "STOP":
                value = self._stack.pop()
                if self._stack or isinstance(value, _StorageType | _Storage) or callable(value):
                    raise BadFile("does not end with a value.", self._where, _REFUSED)
                return value
            self._follow(opcode.name, argument)
        raise BadFile("is cut off.", self._where, "Copy the file again.")

    def _follow(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
        elif name in _LITERALS:
            stack.append(argument)
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif name == "MARK":
            stack.append(_MARK)
        elif name == "TUPLE":
            stack.append(tuple(self._since_mark()))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            items = tuple(stack[-count:])
            if len(items) != count or any(item is _MARK for item in items):
                raise BadFile("has a broken program.", self._where, "Copy the file again.")
            del stack[-count:]
            stack.append(items)
        elif name == "APPEND":
            self._extend([stack.pop()])
        elif name == "APPENDS":
            self._extend(self._since_mark())
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            self._set([key, value])
        elif name == "SETITEMS":
            self._set(self._since_mark())
        elif name == "GLOBAL":
            stack.append(self._named(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            function, module = stack.pop(), stack.pop()
            stack.append(self._named(str(module), str(function)))
        elif name == "BINPERSID":
            stack.append(self._storage(stack.pop()))
        elif name == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            if not isinstance(function, _Known) or not isinstance(arguments, tuple):
                raise BadFile("calls what is no function.", self._where, _REFUSED)
            stack.append(function.make(self, *arguments))
        elif name == "BUILD" and isinstance(stack[-1], dict) and isinstance(stack[-2], OrderedDict):
            stack.pop()  # what a state_dict tells of itself, beside its entries; not wanted
        elif name not in ("PROTO", "FRAME"):
            raise BadFile(f"has a program with the instruction {name}.", self._where, _REFUSED)

    def _since_mark(self) -> list[Any]:
        at = next(i for i in range(len(self._stack) - 1, -1, -1) if self._stack[i] is _MARK)
        items = self._stack[at + 1 :]
        del self._stack[at:]
        return items

    def _extend(self, items: list[Any]) -> None:
        if not isinstance(self._stack[-1], list):
            raise BadFile("adds to what is no list.", self._where, _REFUSED)
        self._stack[-1].extend(items)

    def _set(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise BadFile("puts entries into what is no dictionary.", self._where, _REFUSED)
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str | int):
                raise BadFile("has a key that is neither text nor number.", self._where, _REFUSED)
            target[key] = value

    def _named(self, module: str, name: str) -> Any:
        if module == "torch" and name in _STORAGES:
            return _StorageType(_STORAGES[name])
        known = _KNOWN.get((module, name))
        if known is None:
            raise BadFile(f"names {module}.{name}.".replace("\n", " ")[:200], self._where, _REFUSED)
        return known

    def _storage(self, identity: Any) -> _Storage:
        kind, storage_type, key, _, count = identity
        if kind != "storage" or not isinstance(storage_type, _StorageType):
            raise BadFile("refers to something that is no tensor.", self._where, _REFUSED)
        if not (isinstance(key, str) and key.isdecimal() and isinstance(count, int) and count >= 0):
            raise BadFile("refers to a tensor that is not in the file.", self._where, "Copy the file again.")
        return _Storage(storage_type.dtype, key, count)

    def _member(self, name: str, most: int) -> bytes:
        info = self._archive.getinfo(self._root + name)
        if info.file_size > most:
            raise BadFile(f"holds {info.file_size} bytes in {name}, more than are accepted.", self._where, "")
        with self._archive.open(info) as stream:
            data = stream.read(info.file_size + 1)  # past the end: zipfile compares the checksum
        if len(data) != info.file_size:
            raise BadFile(f"holds more in {name} than it declares.", self._where, "Copy the file again.")
        return data

    def tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> NDArray[Any]:
        """The array of a tensor: `size` elements, `stride` apart, from `offset` on in a storage."""
        numbers = (offset, *size, *stride)
        sound = isinstance(storage, _Storage) and len(size) == len(stride) <= 16
        if not sound or not all(type(n) is int and 0 <= n < 2**40 for n in numbers):
            raise BadFile("holds a tensor of no sound shape.", self._where, "Copy the file again.")
        brain = storage.dtype == "bfloat16"
        dtype = np.dtype("<u2" if brain else storage.dtype)
        count = prod(size)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if count else 0
        if last >= max(storage.count, 1) or (count and not storage.count):
            raise BadFile("holds a tensor larger than its data.", self._where, "Copy the file again.")
        self._budget -= count * max(dtype.itemsize, 4 if brain else 1) + storage.count * dtype.itemsize
        if self._budget < 0:
            raise BadFile(
                f"holds more than {MAX_ARRAY_BYTES >> 30} GiB of tensors.", self._where, "Save a shorter part."
            )
        data = self._member(f"data/{storage.key}", storage.count * dtype.itemsize)
        flat = np.frombuffer(data, dtype)
        if len(flat) != storage.count:
            raise BadFile("holds a tensor with missing bytes.", self._where, "Copy the file again.")
        steps = tuple(step * dtype.itemsize for step in stride)
        view = np.lib.stride_tricks.as_strided(flat[offset:], size, steps, writeable=False)
        if brain:
            return (view.astype(np.uint32) << 16).view(np.float32)
        return np.array(view)


@dataclass(frozen=True)
class _Known:
    """A function that a program may call, as this module does it."""

    make: Callable[..., Any]


def _tensor(reader: _Reader, *arguments: Any) -> NDArray[Any]:
    return reader.tensor(*arguments)


def _parameter(reader: _Reader, data: Any, *_: Any) -> Any:
    return data


def _ordered(reader: _Reader, *arguments: Any) -> dict[Any, Any]:
    if arguments:
        raise BadFile("makes a dictionary of something.", reader._where, _REFUSED)
    return OrderedDict()


def _encoded(reader: _Reader, text: Any, encoding: Any = "") -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise BadFile("turns something else than a text into bytes.", reader._where, _REFUSED)
    return text.encode("latin1")


_KNOWN = {
    ("torch._utils", "_rebuild_tensor_v2"): _Known(_tensor),
    ("torch._utils", "_rebuild_parameter"): _Known(_parameter),
    ("collections", "OrderedDict"): _Known(_ordered),
    ("_codecs", "encode"): _Known(_encoded),
}

_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}

_LITERALS = frozenset(
    [
        "BININT",
        "BININT1",
        "BININT2",
        "LONG1",
        "BINFLOAT",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINUNICODE8",
        "BINBYTES8",
    ]
)
