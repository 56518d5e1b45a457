"""Rebuilds the README's table of reproductions from the results.json files that are committed."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import parse, run_script
from tables import markdown

from vae_jax.errors import UserError

FOLDER = Path(__file__).parent
README = FOLDER.parents[1] / "README.md"
BEGIN, END = "<!-- reproductions: made by experiments/reproductions/summary.py -->", "<!-- reproductions: end -->"


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Print the table of all reproductions, published numbers beside measured ones; with --write put it into the README."""

    write: bool = False
    """Replace the table in README.md."""


def _numbers(value: float | None, error: float | None = None) -> str:
    """A number and its error to the same digits."""
    if value is None:
        return "—"
    digits = 0 if value == 0 else 4 if abs(value) < 0.1 else 2
    return f"{value:.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")


def _lines(name: str, content: dict[str, Any] | None) -> list[tuple[str, ...]]:
    link = f"[`{name}`](experiments/reproductions/{name}/README.md)"
    if content is None:
        return [(link, "not yet measured", "", "", "", "")]
    seconds, lines = content["wall_seconds"], []
    time = f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
    for row in content["rows"]:
        measured = _numbers(row["measured"], row["standard_error"])
        lines.append((link, row["what"], _numbers(row["published"]), measured, str(row["seeds"]), time))
        link = time = ""  # once for all lines of one
    return lines


def table() -> str:
    """Markdown, a line for each number; those without a results.json say so."""
    lines = []
    for script in sorted(FOLDER.glob("*/run.py")):
        results = script.with_name("results.json")
        content = json.loads(results.read_text()) if results.is_file() else None
        lines += _lines(script.parent.name, content)
    return markdown(
        ("reproduction", "number (nats, where no other unit is named)", "published or exact", "measured", "seeds", "wall time"),
        lines,
    )


def main() -> int:
    """Prints, or writes, the table."""
    arguments = parse(Arguments)
    if not arguments.write:
        print(table())
        return 0
    text = README.read_text()
    if BEGIN not in text or END not in text:
        raise UserError(f"README.md: expected the lines {BEGIN} and {END} around the table, found none.")
    before, rest = text.split(BEGIN)
    README.write_text(f"{before}{BEGIN}\n\n{table()}\n\n{END}{rest.split(END)[1]}")
    return 0


if __name__ == "__main__":
    run_script(main)
