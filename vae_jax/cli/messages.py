"""Messages of the library as the command line shows them: parameters become options."""

import re
import sys
from collections.abc import Collection

from vae_jax.errors import UserError

_PARAMETER = re.compile(r"`([a-z_][a-z0-9_]*)(?:=([^`]+))?`")
_options: set[str] = set()  # of the command that runs; a process has one command line, and its threads warn as well


def option(name: str) -> str:
    """Returns the option that sets a parameter: "batch_size" is "--batch-size"."""
    return f"--{name.replace('_', '-')}"


def use_options(parameters: Collection[str]) -> None:
    """Declares the parameters that are options of the command that runs, for the messages from now on."""
    _options.clear()
    _options.update(parameters)


def with_options(text: str, parameters: Collection[str] | None = None) -> str:
    """Returns a text in which the names of parameters that stand in backquotes are replaced by their options.

    `batch_size` becomes --batch-size, `binarize="dynamic"` becomes --binarize dynamic, `stream=True` becomes --stream,
    `report=False` becomes --no-report and `hidden=(256, 256)` becomes --hidden 256 256. Other names stay as they are.

    Args:
      text: a message or a help text.
      parameters: names of the parameters that are options; by default those of the command that runs.
    """
    known = _options if parameters is None else parameters

    def replace(match: re.Match[str]) -> str:
        name, value = match.groups()
        if name not in known:
            return match[0]
        if value is None or value == "True":
            return option(name)
        if value == "False":
            return f"--no-{option(name)[2:]}"
        values = value.strip("()").replace(",", " ").split() if value.startswith("(") else [value]
        return " ".join([option(name), *(word.strip("\"'") for word in values)])

    return _PARAMETER.sub(replace, text)


def render(error: UserError, parameters: Collection[str] | None = None) -> str:
    """Returns the error as one line in which parameters are options.

    Args:
      error: its `field`, and the names in backquotes in its text, are replaced where the command has such an option.
      parameters: names of the parameters that are options; by default those of the command that runs.
    """
    known = _options if parameters is None else parameters
    text = with_options(error.text, known)
    name = error.field and (option(error.field) if error.field in known else error.field)
    return " ".join((f"{name}: {text}" if name else text).split())


def note(text: str) -> None:
    """Prints a note as a line on stderr, with parameters as options."""
    print(f"note: {with_options(text)}", file=sys.stderr, flush=True)
