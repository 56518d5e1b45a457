"""`short_repr`: a decorator for NamedTuples that hold arrays, whose own `repr` would print megabytes in a notebook."""

import os
from typing import Any, TypeVar

T = TypeVar("T", bound=type)
_MOST = 900  # characters of a whole
_MOST_OF_ONE = 160  # of one field


def short_repr(cls: T) -> T:
    """Gives a NamedTuple a `repr` of at most 900 characters: arrays by dtype and shape, whatever is long by its size."""
    setattr(cls, "__repr__", _repr)  # noqa: B010 (a type checker takes an assignment for a mistake)
    return cls


def _repr(record: Any) -> str:
    words = [f"{name}={_cut(_described(value), _MOST_OF_ONE)}" for name, value in record._asdict().items()]
    return _cut(f"{type(record).__name__}({', '.join(words)})", _MOST)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 4]} ..."


def _described(value: Any) -> str:
    """An array as float32(3, 4), a function as <name>, a container by its entries, or by their number within another one."""
    if hasattr(value, "_asdict"):
        if not all(isinstance(entry, bool | int | float | str | None) for entry in value):
            return f"{type(value).__name__}(...)"
        return f"{type(value).__name__}({', '.join(f'{k}={_entry(v)}' for k, v in value._asdict().items())})"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key!r}: {_entry(entry)}' for key, entry in list(value.items())[:8])}}}"
    if isinstance(value, tuple | list):
        left, right = "()" if isinstance(value, tuple) else "[]"
        more = f", {len(value)} in all" if len(value) > 3 else "," if len(value) == 1 and left == "(" else ""
        return f"{left}{', '.join(_entry(entry) for entry in value[:3])}{more}{right}"
    return _entry(value)


def _entry(value: Any) -> str:
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"{value.dtype}{tuple(value.shape)}"
    if isinstance(value, tuple | list | dict) and not hasattr(value, "_fields"):
        return f"{type(value).__name__} of {len(value)}"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, os.PathLike):
        return repr(os.fspath(value))
    if isinstance(value, bool | int | str | None):
        return repr(value)
    if callable(value) and hasattr(value, "__name__"):
        return f"<{value.__name__.strip('<>')}>"
    return f"{type(value).__name__}(...)"
