"""Files written atomically: a reader, or a later process, sees the old file or the new one, never half of it."""

import contextlib
import io
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vae_jax.errors import UserError


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of writing, such as of a full disk, say which file it was."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file; nothing is left of what fails, and the error names the file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with naming(path), temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with naming(path):
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of text in UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: Path, content: Any) -> None:
    """`write_text` of JSON, with null for numbers that are not finite."""
    write_text(path, json.dumps(as_json(content), indent=2) + "\n")


def read_json(path: Path, *names: str, advice: str = "") -> dict[str, Any]:
    """A JSON object that has these names.

    Raises:
      UserError: where it cannot be read, with the advice.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe or a device may never end
            raise ValueError("it is no file")
        content = json.loads(path.read_text())
        if not isinstance(content, dict) or not set(names) <= content.keys():
            raise ValueError(f"expected an object with {', '.join(names)}")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read: {error}. {advice}".strip()) from None
    return content


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """`write_bytes` of an .npz file."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_bytes(path, buffer.getvalue())


def as_json(content: Any) -> Any:
    """Returns the same with None for numbers that are not finite, which JSON does not have."""
    if isinstance(content, dict):
        return {name: as_json(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [as_json(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
