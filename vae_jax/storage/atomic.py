"""Atomic writes of files: a reader or a later process sees either the old file or the new one, never half of it."""

import contextlib
import io
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import numpy as np

from vae_jax.errors import UserError

JsonObject = dict[str, Any]  # of JSON values: None, bool, int, float, str, and lists and objects of them
Json = TypeVar("Json")


@contextlib.contextmanager
def naming_path(path: Path) -> Iterator[None]:
    """Adds the path to errors of the operating system, such as a full disk, that are raised within this context."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file atomically. On failure no partial file remains, and the error names the path."""
    with written_file(path) as file:
        file.write(content)


@contextlib.contextmanager
def written_file(path: Path) -> Iterator[BinaryIO]:
    """Opens a file to be written atomically: it appears where the context ends without an error, and else nothing remains."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with naming_path(path), temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        with naming_path(path):
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes text in UTF-8 atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path, content: object) -> None:
    """Writes JSON atomically, with null for numbers that are not finite."""
    write_text(path, json.dumps(as_json(content), indent=2) + "\n")


def read_json(path: Path, *names: str, advice: str = "") -> JsonObject:
    """Reads a JSON object that has these names.

    Args:
      path: the file.
      *names: keys that the object must have.
      advice: what the user can do if the file cannot be read; the end of the error message.

    Raises:
      UserError: the file cannot be read, is not a JSON object, or lacks a name.
    """
    try:
        if path.exists() and not path.is_file():  # reading a pipe or a device may never end
            raise ValueError("it is not a regular file")
        content = json.loads(path.read_text())
        if not isinstance(content, dict) or not set(names) <= content.keys():
            raise ValueError(f"expected an object with {', '.join(names)}")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read: {error}. {advice}".strip()) from None
    return content


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Writes an .npz file atomically."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_bytes(path, buffer.getvalue())


def as_json(content: Json) -> Json:
    """Returns a copy in which None stands for numbers that are not finite, which JSON does not have."""
    if isinstance(content, dict):
        return cast(Json, {name: as_json(value) for name, value in content.items()})
    if isinstance(content, list | tuple):
        return cast(Json, [as_json(value) for value in content])
    return cast(Json, None) if isinstance(content, float) and not math.isfinite(content) else content
