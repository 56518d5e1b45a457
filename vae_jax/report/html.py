"""Building blocks of every report: figures saved beside the page and embedded in it, tables, notes, and the page itself."""

import base64
import io
import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from vae_jax.runs.in_words import describe_shape
from vae_jax.storage.atomic import write_bytes

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1f2933; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin: 2rem 0 .3rem; }
p.lead { color: #616e7c; margin-top: .2rem; } .note { background: #fff3c4; padding: .5rem .8rem; border-radius: 4px; }
table { border-collapse: collapse; margin: 1rem 0; } td { padding: .25rem .9rem .25rem 0; border-bottom: 1px solid #e4e7eb; }
th { text-align: left; font-weight: 500; color: #616e7c; padding: .25rem .9rem .25rem 0; border-bottom: 2px solid #cbd2d9;
  position: sticky; top: 0; background: white; vertical-align: bottom; }
td.value { font-variant-numeric: tabular-nums; font-weight: 600; white-space: nowrap; } td.unit { color: #616e7c; }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap; }
.box { max-height: 34rem; overflow: auto; margin: 1rem 0; } .box table { margin: 0; font-size: .87rem; width: 100%; }
summary { cursor: pointer; }
ul.remarks { color: #616e7c; font-size: .9rem; margin: .5rem 0; padding-left: 1.2rem; }
img { max-width: 100%; }
pre { background: #f5f7fa; padding: .8rem; overflow-x: auto; border-radius: 4px; white-space: pre-wrap; }
figure { margin: 0; } figcaption { color: #616e7c; font-size: .9rem; }
"""

Record = dict[str, Any]  # an object of a JSON file, such as a line of metrics.jsonl


class Section(NamedTuple):
    """One picture of a page, with its heading and caption."""

    name: str  # of the file, without its suffix
    title: str
    caption: str
    picture: Figure | bytes  # a figure, or an animation as a GIF


class Quantity(NamedTuple):
    """A row of a table of results, and a remark for the list below that table."""

    name: str
    value: str
    unit: str = ""
    remark: str = ""  # one or more full sentences


def write_sections(sections: Sequence[Section], folder: Path, folders: Mapping[str, Path] | None = None) -> str:
    """Saves each picture as NAME.png or NAME.gif and returns the HTML in which all of them are embedded.

    Args:
      sections: in the order of the page.
      folder: where the pictures are saved.
      folders: section name -> the folder for the pictures that belong elsewhere.
    """
    folder.mkdir(exist_ok=True)
    return "".join(_write(section, (folders or {}).get(section.name, folder)) for section in sections)


def _write(section: Section, folder: Path) -> str:
    kind = "png" if isinstance(section.picture, Figure) else "gif"
    encoded = base64.b64encode(write_picture(folder / f"{section.name}.{kind}", section.picture)).decode()
    title = escape(section.title)
    return (
        f'<h2>{title}</h2><figure><img alt="{title}" src="data:image/{kind};base64,{encoded}">'
        f"<figcaption>{escape(section.caption)}</figcaption></figure>"
    )


def write_picture(path: Path, picture: Figure | bytes) -> bytes:
    """Writes a figure as a PNG, or the bytes of an animation unchanged, and returns the bytes."""
    if isinstance(picture, Figure):
        buffer = io.BytesIO()
        picture.savefig(buffer, format="png", dpi=110)
        picture = buffer.getvalue()
    write_bytes(path, picture)
    return picture


def heading(text: str) -> str:
    """Returns a section heading."""
    return f"<h2>{escape(text)}</h2>"


def caption(text: str) -> str:
    """Returns a caption."""
    return f"<figcaption>{escape(text)}</figcaption>"


def notes(texts: Sequence[str]) -> str:
    """Returns highlighted boxes with warnings for the top of a page; names in backquotes are set as code."""
    return "".join(f'<p class="note">{_with_code(text)}</p>' for text in texts)


def _with_code(text: str) -> str:
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(text))


def table(rows: Sequence[Sequence[str]], classes: Sequence[str], header: Sequence[str] = ()) -> str:
    """Returns a table of text cells with one style-sheet class per column.

    A table with a header scrolls within its own box when it is long or wide.
    """
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join(
        "<tr>" + "".join(f'<td class="{name}">{escape(cell)}</td>' for name, cell in zip(classes, row, strict=True)) + "</tr>"
        for row in rows
    )
    return f'<div class="box"><table><tr>{head}</tr>{body}</table></div>' if head else f"<table>{body}</table>"


def quantity_table(quantities: Sequence[Quantity]) -> str:
    """Returns a table of names, values and units, followed by a list of the remarks."""
    rows = table([(one.name, one.value, one.unit) for one in quantities], ("", "value", "unit"))
    remarks = "".join(f"<li>{escape(one.remark)}</li>" for one in quantities if one.remark)
    return rows + (f'<ul class="remarks">{remarks}</ul>' if remarks else "")


def describe_data(dataset: str, facts: Record, with_preprocessing: bool = True) -> str:
    """Describes the training data in a sentence, from the facts that config.json and sweep.json record about it."""
    shape = describe_shape(tuple(facts["shape"])).replace(" x ", " × ")
    held_out = f", {facts['validation_examples']} validation" if facts.get("validation_examples") else ""
    preprocessing = f", {facts['treatment']}" if with_preprocessing else ""
    return (
        f"{dataset}: {facts['train_examples']} training{held_out} and {facts['test_examples']} test examples of {shape}"
        f"{preprocessing}; split: {facts['split']}."
    )


def repeat_section(kind: str, command: str, description: Record, remark: str = "") -> str:
    """Returns the end of a page: the command that repeats the run or sweep, and all of its recorded settings."""
    return (
        f"<h2>How to repeat this {kind}</h2><pre>{escape(command)}</pre><p>{escape(remark)} All settings, versions and the "
        f"fingerprint of the data:</p><pre>{escape(json.dumps(description, indent=2))}</pre>"
    )


def write_page(path: Path, title: str, heading: str, lead: str, body: str) -> Path:
    """Writes the page and returns its path. Title, heading and lead are plain text; the body is HTML."""
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{escape(heading)}</h1>"
        f'<p class="lead">{escape(lead)}</p>{body}</body></html>\n'
    )
    write_bytes(path, page.encode())
    return path
