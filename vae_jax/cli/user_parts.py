"""Parts of the user on the command line: MODULE.py:NAME in the options for network, likelihood, prior, objective, optimizer.

The command line is the only place that imports a user's file, and only a file that it names. A run directory records name, file
and SHA-256 of each part, and says what to pass.
"""

import ast
import dataclasses
import difflib
import importlib.abc
import importlib.util
import os
import re
import shlex
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from vae_jax.cli.messages import option
from vae_jax.errors import UserError, unknown

if TYPE_CHECKING:
    from vae_jax.build import PartOptions, PartSource
    from vae_jax.config import Config
    from vae_jax.storage.atomic import JsonObject

    Sources = Mapping[str, PartSource]

_NAMED_FILE = re.compile(r"(?P<file>.+\.py):(?P<name>.*)", re.DOTALL)  # the last ".py:", because paths may have colons
FOR_MODEL = ("network", "likelihood", "prior", "posterior")  # the parts that a model needs, without the state of its training
PARTS = (*FOR_MODEL, "objective", "optimizer")
HELP = {
    "likelihood": "Or a function of yours (decoder_output, x) -> nats, as FILE.py:NAME.",
    "network": "Or a function of yours (config, data) -> (encoder, decoder), as FILE.py:NAME.",
    "prior": "Or a function of yours (config, data) -> prior, as FILE.py:NAME.",
    "posterior": "Or a function of yours (config, data) -> posterior, as FILE.py:NAME.",
    "objective": "Or a function of yours (key, encode, decode, log_prob, x, hyperparams) -> terms, as FILE.py:NAME.",
    "optimizer": "Or a function of yours (learning_rate) -> optax optimizer, as FILE.py:NAME.",
}
"""Sentences for the help of the options of commands that train."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PartArguments:
    """Options of the commands that read a run or a sweep: the parts with which it was trained, where they are the user's own.

    A command's dataclass inherits them, and `load_parts` imports the parts.
    """

    network: str = ""
    """FILE.py:NAME of the network, if the run was trained with one of yours. The file alone is imported, from where it is
    named; it does not see other files of its folder, unless they are installed or PYTHONPATH has the folder."""
    likelihood: str = ""
    """FILE.py:NAME of the likelihood, likewise."""
    prior: str = ""
    """FILE.py:NAME of the prior, likewise."""
    posterior: str = ""
    """FILE.py:NAME of the posterior, likewise."""
    objective: str = ""
    """FILE.py:NAME of the objective, likewise."""
    optimizer: str = ""
    """FILE.py:NAME of the optimizer, likewise."""


def load_parts(arguments: PartArguments, *directories: Path, needed: Sequence[str] = PARTS) -> "PartOptions":
    """Imports the parts that the options name, for functions such as `load_run` and `load_model`.

    Args:
      arguments: the options.
      *directories: the run and sweep directories that are read. They are checked before anything is imported.
      needed: the parts that must be given where a directory has one of the user; `FOR_MODEL` for `load_model`.

    Raises:
      UserError: a part is missing, is not the one that a directory records, or cannot be imported.
    """
    sources = named_sources({name: getattr(arguments, name) for name in PARTS})
    for directory in directories:
        check_recorded(directory, sources, needed)
    return import_parts(sources)


def load_parts_of_each(arguments: PartArguments, directories: Sequence[Path]) -> "list[PartOptions]":
    """Imports the parts for a command that reads several directories, and returns those of each.

    With several directories, each gets only the parts that it was trained with, and every part must be for one of them.
    """
    if len(directories) == 1:
        return [load_parts(arguments, *directories)]
    sources = named_sources({name: getattr(arguments, name) for name in PARTS})
    sources_of_each = []
    for directory in directories:
        names, _ = recorded_parts(directory)
        sources_of_each.append({name: source for name, source in sources.items() if names[name] == "custom"})
        check_recorded(directory, sources_of_each[-1])
    for name in sources:
        if not any(name in some for some in sources_of_each):
            raise UserError(f"none of these directories was trained with a {name} of yours.", field=name, fix="Leave it out.")
    parts = import_parts(sources)
    return [_selected(parts, some) for some in sources_of_each]


def _selected(parts: "PartOptions", sources: "Sources") -> "PartOptions":
    selected: PartOptions = {"sources": sources}
    for name in sources:
        selected[name] = parts[name]
    return selected


def split_parts(config: "Config") -> "tuple[Config, Sources]":
    """Returns the settings with "custom" for each part that the command line names by its file, and the files.

    Nothing is imported.

    Raises:
      UserError: no such file, or a name that is neither registered nor that of a file.
    """
    from vae_jax.config import CUSTOM, KINDS, entries

    named = {name: getattr(config, name) for name in PARTS}
    for name in KINDS:
        value = named[name]
        if not _is_file(value) and value != CUSTOM and value not in entries(name):
            raise unknown(name, value, entries(name), f" A {name} of yours is named by its file, as parts.py:NAME.")
    sources = named_sources({name: value for name, value in named.items() if _is_file(value)})
    return dataclasses.replace(config, **dict.fromkeys(sources, CUSTOM)), sources


def check_new(config: "Config", sources: "Sources") -> None:
    """Raises `UserError` for "custom" in place of the file of a part, where no directory says which part it is."""
    for name in PARTS:
        if getattr(config, name) == "custom" and name not in sources:
            raise UserError(field=name, expected=f"a name, or a {name} of yours as parts.py:NAME", got="custom")


def _is_file(value: str) -> bool:
    return _NAMED_FILE.fullmatch(value) is not None or value.endswith((".py", ".py:"))


def named_sources(values: Mapping[str, str]) -> "Sources":
    """Returns name, absolute file and SHA-256 of each part that is given as FILE.py:NAME; nothing is imported.

    Args:
      values: of the options, by part; "" where an option is not given.
    """
    sources = {}
    for part, value in values.items():
        if value:
            sources[part] = _named_source(part, value)
    return sources


def _named_source(part: str, value: str) -> "PartSource":
    from vae_jax.build import PartSource
    from vae_jax.build.parts import file_sha256

    match = _NAMED_FILE.fullmatch(value)
    file = Path(os.path.abspath(os.path.expanduser(match["file"] if match else value.rstrip(":"))))
    if match is None and file.suffix != ".py":
        raise UserError(field=part, expected=f"the file and the name of a {part} of yours, as parts.py:NAME", got=value)
    if file.is_dir():
        raise UserError(f"{file} is a folder.", field=part, fix="Name a Python file.")
    if not file.is_file():
        there = [path.name for path in file.parent.glob("*.py") if path.is_file()] if file.parent.is_dir() else []
        similar = difflib.get_close_matches(file.name, there)
        fix = f"Did you mean {' or '.join(map(repr, similar))}?" if similar else ""
        raise UserError(f"{file}: no such file.", field=part, fix=fix)
    if match is None or not all(map(str.isidentifier, match["name"].split("."))):
        got = f"{value!r}{_listed_names(file)}"
        raise UserError(field=part, expected=f"the name of an object after the file, as {file.name}:NAME", got=got)
    try:
        return PartSource(match["name"], str(file), file_sha256(file), imported=True)
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}.", field=part) from None


def _listed_names(file: Path) -> str:
    """Returns the names that a file defines at its top level, as the end of an error; the file is not run."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return ""
    kinds = (ast.FunctionDef, ast.ClassDef)
    names = [node.name for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]
    return f". It defines {', '.join(names[:20])}" if names else ""


def recorded_parts(directory: Path) -> "tuple[dict[str, str], JsonObject]":
    """Returns the names of the parts of a run or a sweep ("custom" for the user's), and the records of their origins."""
    from vae_jax.cli.checks import is_sweep
    from vae_jax.runs.config_file import part_names, read_config

    if is_sweep(directory):
        from vae_jax.sweep.directory import read_sweep

        members, content = read_sweep(directory)
        return part_names(members), content.get("parts", {})
    config, content = read_config(directory)
    return part_names([config]), content.get("parts", {})


def check_recorded(directory: Path, sources: "Sources", needed: Sequence[str] = PARTS) -> None:
    """Compares the files of parts with those that a directory records, before anything is imported.

    Args:
      directory: a run or sweep directory.
      sources: from `named_sources`.
      needed: the parts that must be given where the directory has one of the user.

    Raises:
      UserError: a part is missing, is given for a registered one, or is not the recorded one.
    """
    from vae_jax.build.parts import describe_change, recorded_source

    names, records = recorded_parts(directory)
    recorded = {name: recorded_source(records, name) for name in PARTS}
    expect_parts(directory, records, [name for name in needed if names[name] == "custom" and name not in sources])
    for name, source in sources.items():
        if names[name] != "custom":
            raise UserError(
                f"{directory}: was trained with the {name} {names[name]!r}.", field=name, fix=f"Leave `{name}` out."
            )
        if change := describe_change(directory, name, recorded[name], source):
            raise UserError(change, field=name, fix="Pass the file with which it was trained.")


def expect_parts(directory: Path, records: "JsonObject", missing: Sequence[str], alternative: str = "") -> None:
    """Raises `UserError` for parts of the user that a directory needs and that are not given.

    Args:
      directory: a run or sweep directory.
      records: the origins that it records, from `recorded_parts`.
      missing: names of the parts that are not given.
      alternative: a different way out, as a sentence after a space.
    """
    from vae_jax.build.parts import recorded_source

    if not missing:
        return
    recorded = {name: recorded_source(records, name) for name in missing}
    kinds = [f"the {name} {part.describe()} (SHA-256 {part.sha256 or 'unknown'})" for name, part in recorded.items()]
    raise UserError(
        f"{directory}: was trained with {' and '.join(kinds)}. A directory never imports code by itself.",
        fix=f"Add {' '.join(as_option(*part) for part in recorded.items())}{alternative and '.'}{alternative}",
    )


def as_option(part: str, source: "PartSource") -> str:
    """Returns the words of a command line that name a part, such as "--network parts.py:make_network"."""
    file = Path(source.file or "parts.py")
    if not file.is_file():  # the directory comes from a different machine
        file = Path(file.name)
    elif file.is_relative_to(Path.cwd()):
        file = file.relative_to(Path.cwd())
    name = source.name if all(map(str.isidentifier, source.name.split("."))) else "NAME"
    return f"{option(part)} {shlex.quote(f'{file}:{name}')}"


def import_parts(sources: "Sources") -> "PartOptions":
    """Imports the files of parts, each once, and returns the parts with their origins.

    Raises:
      UserError: a file cannot be imported, or lacks a name.
    """
    parts: PartOptions = {"sources": sources}
    for part, source in sources.items():
        parts[part] = _attribute(part, import_file(part, source), source)
    return parts if sources else {}


def _attribute(part: str, module: ModuleType, source: "PartSource") -> object:
    value: object = module
    for name in source.name.split("."):
        if not hasattr(value, name):
            items = vars(value).items() if hasattr(value, "__dict__") else ()
            names = [known for known, item in items if not known.startswith("_") and not isinstance(item, ModuleType)]
            raise unknown(f"name for `{part}` in {source.file}:", source.name, names, list_all=False)
        value = getattr(value, name)
    return value


class _Loader(importlib.abc.SourceLoader):
    """Loads a file from the bytes whose SHA-256 is recorded, without a cache of bytecode, which might be of other bytes."""

    def __init__(self, file: str, content: bytes) -> None:
        self._file, self._content = file, content

    def get_filename(self, fullname: str) -> str:
        return self._file

    def get_data(self, path: str) -> bytes:
        if path != self._file:
            raise OSError(f"{path} is not read")
        return self._content


def import_file(part: str, source: "PartSource") -> ModuleType:
    """Imports a file under a name that no other module has; a file that was imported before is not imported again."""
    import hashlib

    identifier = hashlib.sha256(f"{source.file} {source.sha256}".encode()).hexdigest()[:12]
    name = f"_vae_jax_user_{Path(source.file).stem}_{identifier}"
    if name in sys.modules:
        return sys.modules[name]
    content = Path(source.file).read_bytes()
    if hashlib.sha256(content).hexdigest() != source.sha256:
        raise UserError(f"{source.file} changed while it was read.", field=part, fix="Repeat the command.")
    spec = importlib.util.spec_from_file_location(name, source.file, loader=_Loader(source.file, content))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look for it there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise UserError(f"{source.file}: {_describe_failure(error, source.file)}", field=part) from error
    return module


def _describe_failure(error: BaseException, file: str) -> str:
    """Returns what an import raised, with the line of the file, and advice on modules that stand beside it."""
    if isinstance(error, SyntaxError) and error.filename == file:
        return f"line {error.lineno}: SyntaxError: {error.msg}."
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    where = f"line {lines[-1]}: " if lines else "cannot be imported: "
    text = f"{where}{type(error).__name__}: {' '.join(str(error).split())[:200]}".rstrip(": .")
    if isinstance(error, ModuleNotFoundError) and error.name:
        beside = Path(file).parent / error.name.split(".")[0]
        if beside.with_suffix(".py").is_file() or beside.is_dir():
            return (
                f"{text}. Only the file itself is imported, because its SHA-256 is what the run records. Put the code into it, "
                f"install {error.name.split('.')[0]}, or start the command with PYTHONPATH={shlex.quote(str(beside.parent))}."
            )
    return f"{text}."
