"""The state of a mount as bytes, and back in another process, which may run another version of wqfs.

What is kept is a graph of objects of wqfs's own classes. Each is a node with a number; a node's attributes are
pickled, and other nodes stand in them as their numbers, so that a long chain of objects is no deep recursion. What is
not a class of ours, or compared by its value, stands where it is used. Methods are kept by their names: what is kept
may hold bound methods and functools.partial of them, but no function that is made while the program runs.

    head     magic 12 bytes, format u32, length of the body u64, CRC-32 of the body u32, the version of wqfs 28 bytes
    body     pickles, one after the other: the root, then the nodes in the order in which they were found

The format's number changes with the attributes and methods that are kept: tests/kept_shapes.json has those of this
one. What has another number is refused. A pickle can call whatever it names, so what is loaded must be wqfs's own
writing; and yet only what is named here, and wqfs itself, may be named.
"""

from __future__ import annotations

import io
import pickle
import struct
import zlib
from collections.abc import Iterable
from enum import Enum
from types import FunctionType, MethodType
from typing import Any, Final

from wqfs import __version__

FORMAT: Final = 8
"""Of what this version writes, and the only one that it reads."""
_MAGIC: Final = b"wqfs state\0\0"
HEAD: Final = struct.Struct("<12sIQI28s")
"""magic, format, length of the body, its CRC-32, version."""
assert HEAD.size == 56
_FOREIGN: Final = frozenset(
    (
        ("builtins", "bytearray"), ("builtins", "bytes"), ("builtins", "frozenset"), ("builtins", "set"),
        ("collections", "deque"), ("functools", "partial"), ("time", "monotonic"), ("time", "time_ns"),
    )
)  # fmt: skip
"""What a state may name besides wqfs's own."""


_BY_IDENTITY: Final[object] = object.__hash__


class StateRefused(Exception):
    """Bytes that are no state that can be read here: a sentence why."""


class Shapes:
    """What was met while a state was written: `found` has of each class the attributes and the methods that are kept,
    of each module the functions."""

    def __init__(self) -> None:
        self.found: dict[str, set[str]] = {}

    def met_node(self, cls: type, state: object) -> None:
        names = self.found.setdefault(_name_of(cls), set())
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, dict):
                names.update(part)

    def met_method(self, of: object, name: str) -> None:
        self.found.setdefault(_name_of(of if isinstance(of, type) else type(of)), set()).add(f"{name}()")

    def met_other(self, obj: object) -> None:
        cls = type(obj)
        if isinstance(obj, FunctionType):
            self.found.setdefault(obj.__module__, set()).add(f"{obj.__qualname__}()")
        elif cls.__module__.startswith("wqfs.") and not isinstance(obj, Enum):
            names = (*getattr(cls, "__dataclass_fields__", ()), *getattr(cls, "_fields", ()))
            self.found.setdefault(_name_of(cls), set()).update(names)


def dump(root: object, shapes: Shapes | None = None) -> bytes:
    """All that can be reached from `root`. Raises pickle.PicklingError, TypeError or AttributeError for what cannot be
    kept. shapes: told what was met."""
    body = io.BytesIO()
    writer = _Writer(body, shapes)
    writer.dump(root)
    done = 0
    while done < len(writer.nodes):
        states = [writer.state_of(node) for node in writer.nodes[done:]]
        done += len(states)
        writer.dump(states)
    data = body.getvalue()
    return HEAD.pack(_MAGIC, FORMAT, len(data), zlib.crc32(data), __version__.encode()[:28]) + data


def load(data: bytes | memoryview) -> Any:
    """The root again. Raises StateRefused."""
    check(data)
    reader = _Reader(io.BytesIO(data[HEAD.size :]))
    try:
        root = reader.load()
        done = 0
        while done < len(reader.nodes):
            states = reader.load()
            for node, state in zip(reader.nodes[done : done + len(states)], states, strict=True):
                _set_state(node, state)
            done += len(states)
    except Exception as error:  # a pickle can name anything of ours, which may raise anything
        raise StateRefused(f"its format is {FORMAT} and yet it cannot be read: {error!r}") from error
    return root


def check(data: bytes | memoryview) -> None:
    """Look at the head, and whether all is there. Raises StateRefused."""
    if len(data) < HEAD.size or bytes(data[: len(_MAGIC)]) != _MAGIC:
        raise StateRefused("it is no state of a wqfs mount")
    _, format_, size, checksum, version = HEAD.unpack_from(data)
    if format_ != FORMAT:
        by = version.rstrip(b"\0").decode("ascii", "replace")
        raise StateRefused(f"it has the format {format_}, of wqfs {by}; wqfs {__version__} reads the format {FORMAT}")
    if len(data) != HEAD.size + size or zlib.crc32(data[HEAD.size :]) != checksum:
        raise StateRefused(f"it is not whole: expected {size} bytes, and their checksum")


def _is_node(cls: type) -> bool:
    """Whether its objects are nodes: classes of ours that are compared by identity and add nothing to a built-in."""
    return (
        cls.__module__.startswith("wqfs.")
        and getattr(cls, "__hash__", None) is _BY_IDENTITY
        and not issubclass(cls, (Enum, BaseException, type))
        and all(base is object or base.__module__.startswith("wqfs.") for base in cls.__mro__)
    )


class _Writer(pickle.Pickler):
    def __init__(self, file: io.BytesIO, shapes: Shapes | None) -> None:
        super().__init__(file, protocol=5)
        self.nodes: list[object] = []
        self._numbers: dict[int, tuple[int, type]] = {}
        self._node_classes: dict[type, bool] = {}
        self._shapes = shapes

    def persistent_id(self, obj: object) -> tuple[int, type] | None:
        cls = obj.__class__
        is_node = self._node_classes.get(cls)
        if is_node is None:
            is_node = self._node_classes[cls] = _is_node(cls)
        if not is_node:
            return None
        number = self._numbers.get(id(obj))
        if number is None:
            number = self._numbers[id(obj)] = (len(self.nodes), cls)
            self.nodes.append(obj)
        return number

    def reducer_override(self, obj: object) -> Any:
        if isinstance(obj, MethodType):
            if self._shapes is not None:
                self._shapes.met_method(obj.__self__, obj.__name__)
            return _method, (obj.__self__, obj.__name__)
        if isinstance(obj, (type, FunctionType)) and not _may_be_named(obj.__module__, obj.__qualname__):
            raise pickle.PicklingError(f"expected something of wqfs, not {obj!r}")
        if self._shapes is not None:
            self._shapes.met_other(obj)
        return NotImplemented

    def state_of(self, node: object) -> object:
        state = node.__getstate__()
        if self._shapes is not None:
            self._shapes.met_node(type(node), state)
        return state


class _Reader(pickle.Unpickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.nodes: list[Any] = []

    def persistent_load(self, number: tuple[int, type]) -> object:
        at, cls = number
        if at == len(self.nodes):
            if not _is_node(cls):
                raise pickle.UnpicklingError(f"expected a class of wqfs, not {cls!r}")
            self.nodes.append(object.__new__(cls))
        return self.nodes[at]

    def find_class(self, module: str, name: str) -> Any:
        if _may_be_named(module, name):
            found = super().find_class(module, name)
            # Modules of ours have others as attributes, and a name may have dots.
            if not module.startswith("wqfs.") or getattr(found, "__module__", "").startswith("wqfs."):
                return found
        raise pickle.UnpicklingError(f"expected something of wqfs, not {module}.{name}")


def _may_be_named(module: str, name: str) -> bool:
    return module.startswith("wqfs.") or (module, name) in _FOREIGN


def _method(of: object, name: str) -> object:
    """A bound method again, by its name; its object may have no attributes yet."""
    return getattr(type(of), name).__get__(of)


def _set_state(node: Any, state: Any) -> None:
    """What a pickle's BUILD does."""
    if hasattr(node, "__setstate__"):
        node.__setstate__(state)
        return
    parts: Iterable[dict[str, object] | None] = state if isinstance(state, tuple) else (state,)
    for part in parts:
        for name, value in (part or {}).items():
            object.__setattr__(node, name, value)


def _name_of(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
