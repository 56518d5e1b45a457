"""Reads a command line: the options of a command, and for some commands the settings of a run."""

import ast
import contextlib
import dataclasses
import inspect
import io
import itertools
import os
import re
import sys
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, TypeVar

from vae_jax.cli.messages import use_options, with_options
from vae_jax.cli.program import current_program
from vae_jax.errors import UserError

if typing.TYPE_CHECKING:
    from vae_jax.config import Config

T = TypeVar("T")
_PATHS = ("out", "data_dir", "points", "dataset", "data")  # options that are paths, or may be
TRAINING_OPTIONS = {"out", "resume", "data_dir"}  # messages of every command may advise to train again, or to continue


def option_names(*classes: type) -> set[str]:
    """Returns the parameters of these dataclasses that are options on the command line, which positional arguments are not."""
    return {
        field.name
        for cls in classes
        for hints in [typing.get_type_hints(cls, include_extras=True)]
        for field in dataclasses.fields(cls)
        if not _is_positional(hints[field.name])
    }


def _is_positional(hint: object) -> bool:
    import tyro

    return tyro.conf.Positional in getattr(hint, "__metadata__", ())


def attribute_docstrings(cls: type) -> dict[str, str]:
    """Returns the strings below the attributes of a class and of its bases, by the name of the attribute."""
    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        try:
            tree = ast.parse(inspect.cleandoc("\n" + inspect.getsource(base)))
        except (OSError, TypeError, SyntaxError):  # made at run time, or built in
            continue
        body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
        for attribute, below in itertools.pairwise(body):
            text = below.value.value if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) else None
            if isinstance(attribute, ast.AnnAssign) and isinstance(attribute.target, ast.Name) and isinstance(text, str):
                texts[attribute.target.id] = text
    return texts


def extend(*classes: type, defaults: Mapping[str, object] | None = None, helps: Mapping[str, str] | None = None) -> type:
    """Makes one dataclass with the fields of several, in their order, each annotated with its help for the command line.

    Fields that are keywords alone, such as those of `user_parts.PartArguments`, come last.

    The help of a field is `metadata["help"]`, or else the string below the attribute. The dataclass is made when a command
    runs, because `Config` has more fields once a new objective or likelihood is registered.

    Args:
      *classes: dataclasses, such as `Config` and the command's options.
      defaults: values that replace the defaults of the fields, by name.
      helps: texts that replace the help of the fields, by name.
    """
    import tyro

    names, fields = option_names(*classes), []
    for cls in classes:
        hints = typing.get_type_hints(cls, include_extras=True)
        has_docstrings = any("help" not in field.metadata for field in dataclasses.fields(cls))
        texts = attribute_docstrings(cls) if has_docstrings else {}
        for field in sorted(dataclasses.fields(cls), key=lambda field: bool(field.kw_only)):
            if field.name in (name for name, *_ in fields):
                raise UserError(f"`{field.name}` is an option of this command and a registered setting. Rename the setting.")
            text = (helps or {}).get(field.name) or field.metadata.get("help") or texts.get(field.name, "")
            hint = Annotated[hints[field.name], tyro.conf.arg(help=with_options(" ".join(text.split()), names) or None)]
            default = (defaults or {}).get(field.name, field.default)
            copied = dataclasses.field(default=default, default_factory=field.default_factory)  # pyright: ignore
            fields.append((field.name, hint, copied))
    return dataclasses.make_dataclass(classes[-1].__name__, fields, frozen=True, kw_only=True)


def parse(arguments: type[T], argv: Sequence[str] | None = None, command: str | None = None) -> T:
    """Reads the command line of a command that has no settings of a run.

    Args:
      arguments: a dataclass with the options. Its docstring is the description that `--help` shows.
      argv: the words of the command line; by default those that this process was started with.
      command: name of the command, such as "evaluate"; None for other scripts.

    Raises:
      UserError: for a mistake in the command line.
    """
    return _instance(arguments, _read(extend(arguments), arguments, argv, command))


def parse_with_config(
    arguments: type[T], argv: Sequence[str] | None, command: str, defaults: Mapping[str, object] | None = None
) -> tuple[T, "Config"]:
    """Reads the command line of a command that has the settings of a run as well.

    Args:
      arguments: a dataclass with the command's other options.
      argv: as for `parse`.
      command: as for `parse`.
      defaults: values that replace the defaults of options and settings, by name.

    Returns:
      The options, and the settings with absolute paths of the data set and of the file of its condition, so that they are
      found from any folder.
    """
    from vae_jax.config import Config

    helps = _long_helps() if {"-h", "--help"} & set(sys.argv if argv is None else argv) else None
    values = _read(extend(Config, arguments, defaults=defaults, helps=helps), arguments, argv, command)
    config = _instance(Config, values)
    return _instance(arguments, values), _with_absolute_dataset(config)


def _long_helps() -> dict[str, str]:
    """Returns the names and files that `data.load` takes, and what a part of the user is."""
    from vae_jax.cli.user_parts import HELP
    from vae_jax.config import Config
    from vae_jax.data.readers import help_lines

    texts = {field.name: field.metadata["help"] for field in dataclasses.fields(Config) if field.name in HELP}
    return {"dataset": f"{'; '.join(help_lines())}."} | {name: f"{text} {HELP[name]}" for name, text in texts.items()}


def _with_absolute_dataset(config: "Config") -> "Config":
    """Returns the settings with absolute paths of the data sets, unless they are names of bundled or TFDS data sets."""
    from vae_jax.data.conditions.setting import is_condition_path

    fields = ["dataset", "validation_dataset", "test_dataset"]
    if is_condition_path(config.condition):
        fields.append("condition")
    return dataclasses.replace(config, **{field: _absolute(getattr(config, field)) for field in fields})


def _absolute(name: str) -> str:
    path = os.path.expanduser(name)
    if not name or not os.path.lexists(path):
        return name
    from vae_jax.data.readers.registry import bundled

    return name if name in bundled() else os.path.abspath(path)


def _instance(cls: type[T], values: object) -> T:
    """Returns an instance of a dataclass with the attributes of another object."""
    return cls(**{field.name: getattr(values, field.name) for field in dataclasses.fields(cls)})  # pyright: ignore


def _read(cls: type, arguments: type, argv: Sequence[str] | None, command: str | None) -> object:
    """Returns an instance of `cls` made from the command line. A mistake becomes a `UserError` of one line."""
    import tyro

    from vae_jax.config import Config

    names = option_names(cls, Config) | TRAINING_OPTIONS
    use_options(names)
    program = current_program()
    name = program.name(command) if command else sys.argv[0]
    description = with_options(inspect.getdoc(arguments) or "", names)
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            return _with_paths(tyro.cli(cls, prog=name, description=program.in_text(description), args=argv))
    except SystemExit as stop:
        if stop.code != 2:
            raise
        # tyro draws a box with a title, the message, and where to find help.
        lines = [re.sub(r"[│╭╮╰╯─]", " ", line).strip() for line in box.getvalue().splitlines()]
        message = " ".join(line for line in lines[1:] if line).split("For full helptext")[0].split("Argument helptext")[0]
        raise UserError(f"{message.strip().rstrip('.')}. {name} --help lists the options.") from None


def _with_paths(values: T) -> T:
    """Returns the values with `~` expanded, which a shell does not do in --out=~/runs."""
    paths = {field.name: getattr(values, field.name) for field in dataclasses.fields(values) if field.name in _PATHS}  # pyright: ignore
    expanded = {name: type(path)(os.path.expanduser(path)) for name, path in paths.items() if path is not None}
    for name, path in expanded.items():
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raise UserError(field=name, expected="a name that can be written as UTF-8", got=repr(path)) from None
    return dataclasses.replace(values, **expanded)  # pyright: ignore
