"""Rebuilds the tables of results in the READMEs from the committed results.json files."""

if __name__ == "__main__":
    import environment

    environment.expect_packages()

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from vae_jax.cli.arguments import parse
from vae_jax.cli.reproduction import rows_with_verdicts
from vae_jax.cli.script import run_script
from vae_jax.cli.tables import markdown
from vae_jax.errors import UserError
from vae_jax.storage.atomic import write_json

FOLDER = Path(__file__).parent
README = FOLDER.parents[1] / "README.md"
BEGIN, END = "<!-- results: made by experiments/reproductions/summary.py -->", "<!-- results: end -->"


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Print the table of all reproductions, with published numbers beside measured ones.

    With --write, renew the verdicts in the results.json files, and put the table into README.md and the tables of each
    reproduction into the README of its folder.
    """

    write: bool = False
    """Replace the verdicts in the results.json files and the tables in the READMEs."""


def _numbers(value: float | None, error: float | None = None) -> str:
    """Returns a number and its standard error with the same digits."""
    if value is None:
        return "—"
    digits = 0 if value == 0 else 4 if abs(value) < 0.1 else 2
    return f"{value:z.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")


def _lines(script: Path) -> list[tuple[str, ...]]:
    """Returns the lines of one reproduction in the table of all."""
    name, content = script.parent.name, _content(script)
    link = f"[`{name}`](experiments/reproductions/{name}/README.md)"
    waiting = getattr(load(script), "waiting", lambda content: [])  # numbers that need a GPU, where a reproduction has any
    pending = [("", what, _numbers(published), "", "", "Not yet measured on a GPU.") for what, published in waiting(content)]
    if content is None:
        return [(link, *(pending[0][1:] if pending else ("", "", "", "", "Not yet measured."))), *pending[1:]]
    seconds, lines = content["wall_seconds"], []
    time = f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
    for row in content["rows"]:
        measured = f"{_numbers(row['measured'], row['standard_error'])} ({row['seeds']})"
        published = _numbers(row["published"], row.get("published_error"))
        lines.append((link, row["what"], published, measured, time, row["verdict"]))
        link = time = ""  # the first line of a reproduction has them
    return lines + pending


def scripts() -> list[Path]:
    """Returns the run.py of every reproduction."""
    return sorted(FOLDER.glob("*/run.py"))


def _content(script: Path) -> dict[str, Any] | None:
    results = script.with_name("results.json")
    return json.loads(results.read_text()) if results.is_file() else None


def load(script: Path) -> ModuleType:
    """Imports the run.py of a reproduction."""
    name = f"reproduction_{script.parent.name}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, script)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def renewed(script: Path) -> dict[str, Any] | None:
    """Returns the content of results.json with the verdicts that run.py gives now, or None if there is no such file."""
    content = _content(script)
    if content is None:
        return None
    return {**content, "rows": rows_with_verdicts(content, load(script).verdicts)}


def reproduction_tables(script: Path) -> str:
    """Returns the tables that a reproduction makes from its results.json."""
    content = _content(script)
    if content is None:
        return "Not yet measured."
    module = load(script)
    seconds, versions = content["wall_seconds"], content["versions"]
    machine = f"{content['machine']}, jax {versions['jax']}, {seconds / 60:.0f} minutes"
    tables = module.tables(content)
    about_errors = "± is the standard error over the seeds. " if "±" in tables else ""
    return f"{tables}\n\n{about_errors}{machine}. [`results.json`](results.json) has every number and setting."


def table() -> str:
    """Returns the table of all reproductions in Markdown, with a line for each number."""
    lines = [line for script in scripts() for line in _lines(script)]
    number = "number (nats, where no other unit is named)"
    return markdown(("reproduction", number, "published or exact", "measured (seeds)", "wall time", "verdict"), lines)


def main() -> int:
    """Prints or writes the table."""
    arguments = parse(Arguments)
    if not arguments.write:
        print(table())
        return 0
    for script in scripts():
        content = renewed(script)
        if content is not None and content != _content(script):
            write_json(script.with_name("results.json"), content)
    replace(README, table())
    for script in scripts():
        replace(script.with_name("README.md"), reproduction_tables(script))
    return 0


def current_tables(readme: Path) -> str:
    """Returns the text between the two marks of a README."""
    text = readme.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise UserError(f"{readme}: expected the lines {BEGIN} and {END} around the table, once each.")
    return text.split(BEGIN)[1].split(END)[0].strip()


def replace(readme: Path, tables: str) -> None:
    """Replaces the text between the two marks of a README."""
    current_tables(readme)  # checks the marks
    before, rest = readme.read_text().split(BEGIN)
    readme.write_text(f"{before}{BEGIN}\n\n{tables}\n\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    run_script(main)
