"""What all reports share: figures saved beside the page and embedded in it, tables, and the page around them."""

import base64
import io
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from vae_jax.storage.atomic import write_bytes

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1f2933; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin: 2rem 0 .3rem; }
p.lead { color: #616e7c; margin-top: .2rem; } .note { background: #fff3c4; padding: .5rem .8rem; border-radius: 4px; }
table { border-collapse: collapse; margin: 1rem 0; } td { padding: .25rem .9rem .25rem 0; border-bottom: 1px solid #e4e7eb; }
th { text-align: left; font-weight: 500; color: #616e7c; padding: .25rem .9rem .25rem 0; border-bottom: 2px solid #cbd2d9;
  position: sticky; top: 0; background: white; vertical-align: bottom; }
td.value { font-variant-numeric: tabular-nums; font-weight: 600; white-space: nowrap; } td.remark { color: #616e7c; }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap; }
.box { max-height: 34rem; overflow: auto; margin: 1rem 0; } .box table { margin: 0; font-size: .87rem; width: 100%; }
summary { cursor: pointer; }
img { max-width: 100%; }
pre { background: #f5f7fa; padding: .8rem; overflow-x: auto; border-radius: 4px; white-space: pre-wrap; }
figure { margin: 0; } figcaption { color: #616e7c; font-size: .9rem; }
"""


class Section(NamedTuple):
    """One picture of a page."""

    name: str  # of the file, without its suffix
    title: str
    caption: str
    picture: Figure | bytes  # a figure, or an animation as a GIF


def write_sections(sections: Sequence[Section], folder: Path, elsewhere: dict[str, Path] | None = None) -> str:
    """Saves each as folder/NAME.png or .gif, or where `elsewhere` puts that name; returns the HTML with all embedded."""
    folder.mkdir(exist_ok=True)
    return "".join(_write(section, (elsewhere or {}).get(section.name, folder)) for section in sections)


def _write(section: Section, folder: Path) -> str:
    kind = "png" if isinstance(section.picture, Figure) else "gif"
    encoded = base64.b64encode(write_picture(folder / f"{section.name}.{kind}", section.picture)).decode()
    title = escape(section.title)
    return (
        f'<h2>{title}</h2><figure><img alt="{title}" src="data:image/{kind};base64,{encoded}">'
        f"<figcaption>{escape(section.caption)}</figcaption></figure>"
    )


def write_picture(path: Path, picture: Figure | bytes) -> bytes:
    """Writes a figure as a PNG, or an animation as it is; returns the bytes."""
    if isinstance(picture, Figure):
        buffer = io.BytesIO()
        picture.savefig(buffer, format="png", dpi=110)
        picture = buffer.getvalue()
    write_bytes(path, picture)
    return picture


def heading(words: str) -> str:
    """Above a part of the page."""
    return f"<h2>{escape(words)}</h2>"


def caption(words: str) -> str:
    """Below or beside it."""
    return f"<figcaption>{escape(words)}</figcaption>"


def notes(words: Sequence[str]) -> str:
    """What a reader should know first, each in a box."""
    return "".join(f'<p class="note">{escape(note)}</p>' for note in words)


def table(rows: Sequence[Sequence[str]], classes: Sequence[str], header: Sequence[str] = ()) -> str:
    """Rows of words, a class of the style sheet for each column; with a header it scrolls by itself when it is long or wide."""
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join(
        "<tr>" + "".join(f'<td class="{name}">{escape(cell)}</td>' for name, cell in zip(classes, row, strict=True)) + "</tr>"
        for row in rows
    )
    return f'<div class="box"><table><tr>{head}</tr>{body}</table></div>' if head else f"<table>{body}</table>"


def data_words(dataset: str, facts: dict[str, Any], with_treatment: bool = True) -> str:
    """Describes the data that was trained on, from the facts about it in config.json or sweep.json."""
    shape = " × ".join(str(size) for size in facts["shape"])
    held_out = f", {facts['validation_examples']} validation" if facts.get("validation_examples") else ""
    treatment = f", {facts['treatment']}" if with_treatment else ""
    return (
        f"{dataset}: {facts['train_examples']} training{held_out} and {facts['test_examples']} test examples of {shape}"
        f"{treatment}; split: {facts['split']}."
    )


def how_to_repeat(what: str, command: str, description: dict[str, Any], remark: str = "") -> str:
    """The command line and all that is recorded of the settings, for the end of the page."""
    return (
        f"<h2>How to repeat this {what}</h2><pre>{escape(command)}</pre><p>{escape(remark)} All settings, versions and the "
        f"fingerprint of the data:</p><pre>{escape(json.dumps(description, indent=2))}</pre>"
    )


def write_page(path: Path, title: str, heading: str, lead: str, body: str) -> Path:
    """Writes the page; title, heading and lead are plain words, the body is HTML. Returns the path."""
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{escape(heading)}</h1>"
        f'<p class="lead">{escape(lead)}</p>{body}</body></html>\n'
    )
    write_bytes(path, page.encode())
    return path
