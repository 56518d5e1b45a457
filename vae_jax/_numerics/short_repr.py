"""`short_repr`: a decorator for NamedTuples that hold arrays, whose default `repr` would print megabytes in a notebook."""

import os
from typing import Any, TypeVar

T = TypeVar("T", bound=type)
_MAX_LENGTH = 900  # characters of a record
_MAX_FIELD_LENGTH = 160  # characters of one field


def short_repr(cls: T) -> T:
    """Gives a NamedTuple a `repr` of at most 900 characters.

    Arrays are shown by dtype and shape, long containers by their size.
    """
    setattr(cls, "__repr__", _repr)  # noqa: B010 (a type checker takes an assignment for a mistake)
    return cls


def _repr(record: Any) -> str:
    fields = [f"{name}={_truncate(_describe(value), _MAX_FIELD_LENGTH)}" for name, value in record._asdict().items()]
    return _truncate(f"{type(record).__name__}({', '.join(fields)})", _MAX_LENGTH)


def _truncate(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 4]} ..."


def _describe(value: object) -> str:
    """Describes a field: records, dicts, tuples and lists by their entries, everything else by `_describe_entry`."""
    if hasattr(value, "_asdict") and isinstance(value, tuple):
        if not all(isinstance(entry, bool | int | float | str | None) for entry in value):
            return f"{type(value).__name__}(...)"
        fields: dict[str, object] = value._asdict()  # pyright: ignore[reportAttributeAccessIssue]
        return f"{type(value).__name__}({', '.join(f'{name}={_describe_entry(entry)}' for name, entry in fields.items())})"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key!r}: {_describe_entry(entry)}' for key, entry in list(value.items())[:8])}}}"
    if isinstance(value, tuple | list):
        left, right = "()" if isinstance(value, tuple) else "[]"
        more = f", {len(value)} in all" if len(value) > 3 else "," if len(value) == 1 and left == "(" else ""
        return f"{left}{', '.join(_describe_entry(entry) for entry in value[:3])}{more}{right}"
    return _describe_entry(value)


def _describe_entry(value: Any) -> str:
    """Describes an array as float32(3, 4), a container by its size, a function as <name>."""
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
