"""What the members of a sweep are: a list of `Config`s, from grids, lists and designs; grouped by what compiles apart."""

import csv
import dataclasses
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vae_jax._numerics.short_repr import short_repr
from vae_jax.config import Config, Hyperparams
from vae_jax.errors import UserError, unknown
from vae_jax.storage.directories import PathLike, as_path

# All members see the same data, split and test draws, or their rows could not be compared.
SHARED = (
    *("dataset", "split", "test_fraction", "validation_fraction", "split_seed", "max_level", "layout"),
    *("test_seed", "eval_batch_size"),
)
_MOST = 100_000  # members of a design


def traced_names() -> tuple[str, ...]:
    """Returns the settings of which a new value is a new number for the same program."""
    return (*Config().hyperparams._fields, "seed")


def static_names() -> tuple[str, ...]:
    """Returns the settings that members of a sweep may differ in and of which a new value needs a new program."""
    return tuple(field.name for field in dataclasses.fields(Config) if field.name not in (*traced_names(), *SHARED))


@short_repr
class Group(NamedTuple):
    """Members that one program serves: they differ in traced values alone."""

    label: str  # the static settings that tell the groups apart; "" for a single one
    configs: tuple[Config, ...]
    members: tuple[int, ...]  # their numbers in the sweep


def check_name(name: str, *, static: bool | None = None) -> None:
    """Raises `UserError` unless a setting of this name can be swept (static=True: by groups; False: inside one program)."""
    if name in traced_names() and static is not True:
        return
    if name in static_names() and static is not False:
        return
    if name in SHARED:
        raise UserError(f"{name} cannot be swept: all members share the data and its evaluation. Make a sweep for each value.")
    if name in static_names():
        raise UserError(
            f"{name} is static: it changes the program, so it cannot be traced or vmapped. Sweep it by groups, one program for "
            f"each value: --groups {name}=..."
        )
    if name in traced_names():
        raise UserError(f"{name} is traced: one program serves all its values. Sweep it by --over {name}=...")
    raise unknown(
        "setting to sweep",
        name,
        (*traced_names(), *static_names()) if static is None else static_names() if static else traced_names(),
    )


def parse_value(name: str, text: str) -> Any:
    """A value of the setting `name` as the command line writes it; several widths as 256x256."""
    default = getattr(Config(), name)
    try:
        if isinstance(default, tuple):
            return tuple(int(width) for width in text.split("x"))
        if name in ("seed", "latent_dim") or (isinstance(default, int) and not isinstance(default, bool)):
            return int(text)
        if isinstance(default, bool):
            return {"true": True, "false": False}[text.lower()]
        return text if isinstance(default, str) else float(text)
    except (ValueError, KeyError):
        kind = {int: "a whole number", bool: "true or false", tuple: "widths such as 256x256"}.get(type(default), "a number")
        raise UserError(f"{name}: expected {kind}, got {text!r}.") from None


def grid(base: Config, **values: Sequence[Any]) -> list[Config]:
    """Every combination of the values, the last name varying fastest.

    Example:
      >>> [(member.beta, member.seed) for member in grid(Config(), beta=[1.0, 4.0], seed=[0, 1])]
      [(1.0, 0), (1.0, 1), (4.0, 0), (4.0, 1)]
    """
    return cross([base], **values)


def cross(members: Sequence[Config], **values: Sequence[Any]) -> list[Config]:
    """Every member with every combination of the values; what is made can be crossed again."""
    for name, options in values.items():
        check_name(name)
        if not len(options):
            raise UserError(f"{name}: expected at least one value to sweep, got none.")
    combinations = [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]
    return [dataclasses.replace(member, **changes) for member in members for changes in combinations]


def points(base: Config, listed: Sequence[Mapping[str, Any]]) -> list[Config]:
    """One member for each mapping from names to values: a list in place of a grid."""
    for point in listed:
        for name in point:
            check_name(name)
    return [dataclasses.replace(base, **point) for point in listed]


def read_points(base: Config, path: PathLike) -> list[Config]:
    """`points` from a CSV file: a header of names, then a member a line."""
    path = as_path(path)
    try:
        if path.exists() and not path.is_file():  # a pipe or a device may never end
            raise OSError("it is no file")
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            lines, names = list(reader), reader.fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"--points {path}: cannot be read as CSV: {error}") from None
    if len(set(names)) < len(names):
        raise UserError(f"--points {path}: expected each name once in the header, got {', '.join(names)}.")
    if not lines:
        raise UserError(f"--points {path}: expected a header of names and at least one line of values, got none.")
    for number, line in enumerate(lines, 2):
        if None in line or None in line.values():
            raise UserError(f"--points {path}: line {number} has another number of values than the header.")
    for name in lines[0]:
        check_name(name)
    return points(base, [{name: parse_value(name, text) for name, text in line.items()} for line in lines])


class Range(NamedTuple):
    """Where a design may place a hyperparameter."""

    low: float
    high: float
    log: bool = False  # even in the logarithm


def parse_range(text: str) -> tuple[str, Range]:
    """NAME=LOW:HIGH or NAME=LOW:HIGH:log."""
    name, _, rest = text.partition("=")
    words = rest.split(":")
    try:
        if len(words) not in (2, 3) or words[2:] not in ([], ["log"]):
            raise ValueError
        return name, Range(float(words[0]), float(words[1]), len(words) == 3)
    except ValueError:
        raise UserError(f"--ranges: expected NAME=LOW:HIGH or NAME=LOW:HIGH:log (beta=0.1:10:log), got {text}.") from None


def design(base: Config, ranges: Mapping[str, Range], num_points: int, kind: str = "sobol", seed: int = 0) -> list[Config]:
    """Members spread over ranges of hyperparameters.

    Args:
      base: the other settings.
      ranges: by name.
      num_points: of the design; of each range for a grid.
      kind: "grid", evenly spaced with both ends; "random", independent and uniform; "sobol", a scrambled Sobol sequence.
      seed: of random and sobol.
    """
    if kind not in ("grid", "random", "sobol"):
        raise unknown("design", kind, ("grid", "random", "sobol"))
    count = num_points ** len(ranges) if kind == "grid" else num_points
    if not ranges or num_points < 1:
        raise UserError(f"--design {kind}: expected --ranges and --num-points >= 1, got {len(ranges)} ranges, {num_points}.")
    if count > _MOST:
        raise UserError(f"--num-points: expected at most {_MOST:,} members, got {count:,}.")
    if not 0 <= seed < 2**63:
        raise UserError(f"--design-seed: expected a whole number >= 0, got {seed}.")
    for name, (low, high, log) in ranges.items():
        check_name(name, static=False)
        if name == "seed":
            raise UserError("--ranges seed: a seed is a name, not a quantity. List them by --seeds.")
        if not (math.isfinite(low) and math.isfinite(high) and low < high and (low > 0 or not log)):
            raise UserError(f"--ranges {name}: expected low < high{' and low > 0' if log else ''}, got {low:g} and {high:g}.")
    if kind == "grid":
        axis = np.linspace(0, 1, num_points) if num_points > 1 else np.array([0.5])
        unit = np.array(list(itertools.product(axis, repeat=len(ranges))))
    elif kind == "random":
        unit = np.random.default_rng(seed).random((num_points, len(ranges)))
    else:
        from scipy.stats import qmc  # slow to import

        sequence = qmc.Sobol(len(ranges), rng=np.random.default_rng(seed))
        unit = sequence.random_base2(math.ceil(math.log2(num_points)))[:num_points]

    def value(u: float, low: float, high: float, log: bool) -> float:
        # Seven digits, about as many as float32 has: what the table shows is what was used.
        exact = math.exp(math.log(low) + u * (math.log(high) - math.log(low))) if log else low + u * (high - low)
        return min(max(float(f"{exact:.7g}"), low), high)

    return [
        dataclasses.replace(base, **{name: value(u, *bounds) for u, (name, bounds) in zip(row, ranges.items(), strict=True)})
        for row in unit
    ]


def check_members(members: Sequence[Config]) -> None:
    """Raises `UserError` for none, for one twice, and for settings that are wrong."""
    if not members:
        raise UserError("expected at least one member to sweep, got none.")
    for member in members:
        member.validate()
        if member.stream:
            raise UserError(
                "--stream: the members of a sweep share data in memory; each would read them in its own order. Use train.py."
            )
    seen: dict[Config, int] = {}
    for number, member in enumerate(members):
        key = identity(member)
        if key in seen:
            names = varying(members) or ("seed",)
            settings = ", ".join(f"{name} = {getattr(member, name)}" for name in names)
            raise UserError(f"members {seen[key]} and {number} are the same run ({settings}). Leave one out.")
        seen[key] = number


def identity(config: Config) -> Config:
    """Equal for two configurations if and only if their runs are the same: defaults filled in, numbers as float32 has them."""
    numbers = {name: float(np.float32(v)) for name, v in config.hyperparams._asdict().items()}
    words = {name: _number(getattr(config, name)) for name in ("scale", "dispersion")}
    return dataclasses.replace(config, **numbers, **words, binarize=config.binarization)


def _number(word: str) -> str:
    """The same for 1 and 1.0."""
    try:
        return repr(float(word))
    except ValueError:
        return word


def varying(members: Sequence[Config]) -> tuple[str, ...]:
    """Names of the settings that are not the same in all members."""
    names = (field.name for field in dataclasses.fields(Config))
    return tuple(name for name in names if len({getattr(member, name) for member in members}) > 1)


def settings_of(config: Config) -> dict[str, Any]:
    """The settings that are not the defaults, as JSON has them."""
    return {
        field.name: json.loads(json.dumps(value))
        for field in dataclasses.fields(Config)
        if (value := getattr(config, field.name)) != field.default
    }


def groups(members: Sequence[Config], numbers: Sequence[int] | None = None) -> list[Group]:
    """Members by what compiles apart, in order of appearance; `numbers` are theirs in the sweep (0, 1, ... by default)."""
    default = Config()
    traced = {name: getattr(default, name) for name in traced_names()}
    found: dict[Config, list[int]] = {}
    for position, member in enumerate(members):
        found.setdefault(dataclasses.replace(member, **traced), []).append(position)
    names = [name for name in varying(members) if name in static_names()]
    numbers = range(len(members)) if numbers is None else numbers
    return [
        Group(
            ", ".join(f"{name} = {_words(getattr(static, name))}" for name in names),
            tuple(members[i] for i in positions),
            tuple(numbers[i] for i in positions),
        )
        for static, positions in found.items()
    ]


def _words(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


def stacked(configs: Sequence[Config]) -> Hyperparams:
    """The traced numbers of a group, each (members,)."""
    rows = [config.hyperparams for config in configs]
    return Hyperparams(*(np.array([float(value) for value in column], np.float32) for column in zip(*rows, strict=True)))
