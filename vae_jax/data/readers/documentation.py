"""Tables of the formats that are read and refused, for the README.

`python -m vae_jax.data.readers.documentation README.md` writes them between the two comment marks of a file.
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from vae_jax.data.readers.registry import Reader, bundled, readers
from vae_jax.data.readers.unsupported import KINDS

START = "<!-- formats: made by python -m vae_jax.data.readers.documentation README.md -->"
END = "<!-- formats: end -->"
_TFDS = ("mnist", "omniglot", "dsprites")  # examples of names


def markdown_table() -> str:
    """Returns a Markdown table of the bundled data sets, TFDS and all readers, and one of the formats that are refused."""
    rows = [
        ("format", "published data", "path or name", "options", "streamed", "extra"),
        ("---",) * 6,
        ("bundled", "", _code(bundled()), "", "no", ""),
        ("TensorFlow Datasets", "", f"{_code(_TFDS)} …", _options(["data_dir"]), "yes", ""),
        *map(_row, readers()),
    ]
    refused = [("refused", "read in its place"), ("---",) * 2, *((kind.files, kind.instead) for kind in KINDS)]
    return f"{_lines(rows)}\n\n{_lines(refused)}"


def _row(reader: Reader) -> tuple[str, ...]:
    path = "folder" if reader.recognizes else _code(reader.endings)
    extra = f"`[{reader.extra}]`" if reader.extra else ""
    streamed = "yes" if reader.can_stream else "no"
    return reader.files, ", ".join(reader.published), path, _options(reader.uses), streamed, extra


def _code(names: Iterable[str]) -> str:
    return " ".join(f"`{name}`" for name in names)


def _options(fields: Iterable[str]) -> str:
    return _code(f"--{field.replace('_', '-')}" for field in fields)


def _lines(rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def with_table(text: str) -> str:
    """Returns the text of a file with the tables between the two marks.

    Raises:
      ValueError: the text has no marks.
    """
    before, after = text.index(START) + len(START), text.index(END)
    return f"{text[:before]}\n\n{markdown_table()}\n\n{text[after:]}"


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        path = Path(argument)
        path.write_text(with_table(path.read_text()))
