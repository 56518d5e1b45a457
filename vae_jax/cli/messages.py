"""Errors of the library as the command line shows them: parameters become options."""

import re
from collections.abc import Collection

from vae_jax.errors import UserError

_PARAMETER = re.compile(r"`([a-z_][a-z0-9_]*)(?:=([^`]+))?`")


def option(name: str) -> str:
    """Returns the option that sets a parameter: "batch_size" is "--batch-size"."""
    return f"--{name.replace('_', '-')}"


def render(error: UserError, parameters: Collection[str]) -> str:
    """Returns the error as one line in which the names of `parameters` are options.

    Args:
      error: its `field`, and the names in backquotes in its text, are replaced where the command has such an option.
      parameters: names of the command's parameters, as in Python.
    """

    def replace(match: re.Match[str]) -> str:
        name, value = match.groups()
        if name not in parameters:
            return match[0]
        if value is None or value == "True":
            return option(name)
        return f"{option(name)} {value.strip('()').replace(',', ' ') if value.startswith('(') else value.strip(chr(34))}"

    text = _PARAMETER.sub(replace, error.text)
    name = error.field and (option(error.field) if error.field in parameters else error.field)
    return " ".join((f"{name}: {text}" if name else text).split())
