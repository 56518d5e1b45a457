"""Members of a sweep: a list of `Config`s from grids, lists and designs, grouped by the program that they compile to."""

import csv
import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from vae_jax._numerics.short_repr import short_repr
from vae_jax.build import Parts
from vae_jax.config import CUSTOM, Config, Hyperparams, all_settings
from vae_jax.errors import UserError, unknown
from vae_jax.storage.directories import PathLike, as_path

SettingValue = bool | int | float | str | tuple[int, ...]
# All members use the same data, split and test draws. Otherwise their rows could not be compared.
SHARED = (
    *("dataset", "split", "test_fraction", "validation_fraction", "split_seed", "max_level", "layout", "event", "resize"),
    *("crop", "transpose", "array", "label_column", "validation_dataset", "test_dataset"),
    *("condition", "missing", "columns", "test_seed", "eval_batch_size"),
)
_MAX_MEMBERS = 100_000  # of a design


def traced_names() -> tuple[str, ...]:
    """Returns the names of the settings for which a new value needs no new program."""
    return (*Config().hyperparams._fields, "seed")


def static_names() -> tuple[str, ...]:
    """Returns the names of the settings in which members may differ and for which a new value needs a new program."""
    return tuple(field.name for field in dataclasses.fields(Config) if field.name not in (*traced_names(), *SHARED))


@short_repr
class Group(NamedTuple):
    """Members that one program trains, because they differ in traced values only."""

    label: str  # the static settings that distinguish the groups; "" for a single group
    configs: tuple[Config, ...]
    members: tuple[int, ...]  # numbers of the members in the sweep


def check_name(name: str, *, static: bool | None = None) -> None:
    """Raises `UserError` unless a setting can be swept.

    Args:
      name: of the setting.
      static: True for a setting that is swept by groups, False for one that is swept within one program, None for either.
    """
    if name in traced_names() and static is not True:
        return
    if name in static_names() and static is not False:
        return
    if name in SHARED:
        message = f"{name} cannot be swept: all members share the data and its evaluation."
        raise UserError(message, fix="Make a sweep for each value.")
    if name in static_names():
        message = f"{name} is static: it changes the program, so it cannot be traced or vmapped."
        raise UserError(message, fix=f"Sweep it by groups, one program for each value: `groups={name}=...`")
    if name in traced_names():
        raise UserError(f"{name} is traced: one program serves all its values.", fix=f"Sweep it by `over={name}=...`")
    allowed = {None: (*traced_names(), *static_names()), True: static_names(), False: traced_names()}
    raise unknown("setting to sweep", name, allowed[static])


def parse_value(name: str, text: str) -> SettingValue:
    """Returns the value of a setting from text, by the type of the setting. Several widths are written as 256x256.

    Args:
      name: of the setting.
      text: from a command line or a CSV file.

    Raises:
      UserError: the text is not a value of this type.
    """
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
        raise UserError(field=name, expected=kind, got=repr(text)) from None


def grid(base: Config, **values: Sequence[object]) -> list[Config]:
    """Returns every combination of the values. The last name varies fastest.

    Args:
      base: the other settings.
      **values: the values of each setting, by its name.

    Example:
      >>> [(member.beta, member.seed) for member in grid(Config(), beta=[1.0, 4.0], seed=[0, 1])]
      [(1.0, 0), (1.0, 1), (4.0, 0), (4.0, 1)]
    """
    return cross([base], **values)


def cross(members: Sequence[Config], **values: Sequence[object]) -> list[Config]:
    """Returns every member with every combination of the values. The result can be crossed again.

    Args:
      members: the other settings.
      **values: the values of each setting, by its name.
    """
    for name, options in values.items():
        check_name(name)
        if not len(options):
            raise UserError(field=name, expected="at least one value to sweep", got="none")
    combinations = [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]
    return [dataclasses.replace(member, **changes) for member in members for changes in combinations]


def points(base: Config, listed: Sequence[Mapping[str, object]]) -> list[Config]:
    """Returns one member for each mapping from names to values, in place of a grid."""
    for point in listed:
        for name in point:
            check_name(name)
    return [dataclasses.replace(base, **point) for point in listed]


def read_points(base: Config, path: PathLike) -> list[Config]:
    """Reads `points` from a CSV file with a header of names and one line for each member."""
    path = as_path(path)
    try:
        if path.exists() and not path.is_file():  # reading a pipe or a device may never end
            raise OSError("it is not a regular file")
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            lines, names = list(reader), reader.fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as CSV: {error}", field="points") from None
    if len(set(names)) < len(names):
        raise UserError(f"{path}: expected each name once in the header, got {', '.join(names)}.", field="points")
    if not lines:
        message = f"{path}: expected a header of names and at least one line of values, got none."
        raise UserError(message, field="points")
    for number, line in enumerate(lines, 2):
        if None in line or None in line.values():
            message = f"{path}: line {number} has a different number of values from the header."
            raise UserError(message, field="points")
    for name in lines[0]:
        check_name(name)
    return points(base, [{name: parse_value(name, text) for name, text in line.items()} for line in lines])


class Range(NamedTuple):
    """Interval in which a design places a hyperparameter."""

    low: float
    high: float
    log: bool = False  # evenly spaced in the logarithm


def parse_range(text: str) -> tuple[str, Range]:
    """Returns the name and the range from the text NAME=LOW:HIGH or NAME=LOW:HIGH:log."""
    name, _, rest = text.partition("=")
    parts = rest.split(":")
    try:
        if len(parts) not in (2, 3) or parts[2:] not in ([], ["log"]):
            raise ValueError
        return name, Range(float(parts[0]), float(parts[1]), len(parts) == 3)
    except ValueError:
        expected = "NAME=LOW:HIGH or NAME=LOW:HIGH:log (beta=0.1:10:log)"
        raise UserError(field="ranges", expected=expected, got=text) from None


def design(base: Config, ranges: Mapping[str, Range], num_points: int, kind: str = "sobol", seed: int = 0) -> list[Config]:
    """Returns members that are spread over ranges of hyperparameters.

    Args:
      base: the other settings.
      ranges: by name.
      num_points: number of members, >= 1. For a grid, of values in each range.
      kind: "grid" (evenly spaced, both ends included), "random" (independent and uniform) or "sobol" (a scrambled Sobol
        sequence).
      seed: of random and sobol, >= 0.
    """
    _check_design(ranges, num_points, kind, seed)
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
        # Seven digits, about as many as float32 has, so that the table shows exactly the value that was used.
        exact = math.exp(math.log(low) + u * (math.log(high) - math.log(low))) if log else low + u * (high - low)
        return min(max(float(f"{exact:.7g}"), low), high)

    return [
        dataclasses.replace(base, **{name: value(u, *bounds) for u, (name, bounds) in zip(row, ranges.items(), strict=True)})
        for row in unit
    ]


def _check_design(ranges: Mapping[str, Range], num_points: int, kind: str, seed: int) -> None:
    """Raises `UserError` unless these are arguments of `design`."""
    if kind not in ("grid", "random", "sobol"):
        raise unknown("design", kind, ("grid", "random", "sobol"))
    if not ranges or num_points < 1:
        expected, got = "`ranges` and `num_points` >= 1 with it", f"{len(ranges)} ranges and {num_points} points"
        raise UserError(field="design", expected=expected, got=got)
    if (count := num_points ** len(ranges) if kind == "grid" else num_points) > _MAX_MEMBERS:
        raise UserError(field="num_points", expected=f"at most {_MAX_MEMBERS:,} members", got=f"{count:,}")
    if not 0 <= seed < 2**63:
        raise UserError(field="design_seed", expected="a whole number >= 0", got=seed)
    for name, (low, high, log) in ranges.items():
        check_name(name, static=False)
        if name == "seed":
            raise UserError("a seed is a name, not a quantity.", field="ranges", fix="List the seeds by `seeds`.")
        if not (math.isfinite(low) and math.isfinite(high) and low < high and (low > 0 or not log)):
            expected = f"low < high{' and low > 0' if log else ''} for {name}"
            raise UserError(field="ranges", expected=expected, got=f"{low:g} and {high:g}")


def check_members(members: Sequence[Config]) -> None:
    """Raises `UserError` for an empty list, invalid settings, different data, and two members that are the same run."""
    if not members:
        raise UserError(expected="at least one member to sweep", got="none")
    for member in members:
        member.validate()
    if any(member.prior == "refit" for member in members):
        raise UserError(
            '`prior="refit"` fits a prior at the end of a run, and the members of a sweep keep theirs.',
            fix='Sweep with `prior="normal"`, which trains the same networks. Then train the best member as a run with '
            '`prior="refit"`.',
        )
    for name in SHARED:
        if len(values := dict.fromkeys(getattr(member, name) for member in members)) > 1:
            texts = " and ".join(repr(value) for value in values)
            message = f"members have {name} = {texts}, but all members of a sweep share the data and its evaluation."
            raise UserError(message, fix="Make a sweep for each value.")
    numbers: dict[Config, int] = {}
    for number, member in enumerate(members):
        key = identity(member)
        if key in numbers:
            names = varying(members) or ("seed",)
            settings = ", ".join(f"{name} = {getattr(member, name)}" for name in names)
            raise UserError(f"members {numbers[key]} and {number} are the same run ({settings}).", fix="Leave one out.")
        numbers[key] = number


def with_custom_parts(members: Sequence[Config], parts: Parts) -> list[Config]:
    """Returns the members with the name "custom" for every part that is passed.

    Raises:
      UserError: the members differ in the name of such a part.
    """
    for name in parts.given():
        if len(values := dict.fromkeys(getattr(member, name) for member in members)) > 1:
            listed = " and ".join(map(repr, values))
            message = f"all members have the {name} that is passed, but the sweep has {listed}."
            raise UserError(message, field=name, fix=f"Sweep the {name} by its names, or pass one.")
    return [dataclasses.replace(member, **dict.fromkeys(parts.given(), CUSTOM)) for member in members]


def identity(config: Config) -> Config:
    """Returns a configuration that is equal for two members if and only if their runs are the same.

    Defaults are filled in, and numbers are rounded to float32.
    """
    numbers = {name: float(np.float32(v)) for name, v in config.hyperparams._asdict().items()}
    texts = {name: _normalized_number(getattr(config, name)) for name in ("scale", "dispersion")}
    return dataclasses.replace(config, **numbers, **texts, binarize=config.binarization)


def _normalized_number(text: str) -> str:
    """Returns the same text for 1 and 1.0, and any text that is not a number unchanged."""
    try:
        return repr(float(text))
    except ValueError:
        return text


def varying(members: Sequence[Config]) -> tuple[str, ...]:
    """Returns the names of the settings that are not the same in all members."""
    names = (field.name for field in dataclasses.fields(Config))
    return tuple(name for name in names if len({getattr(member, name) for member in members}) > 1)


def groups(members: Sequence[Config], numbers: Sequence[int] | None = None) -> list[Group]:
    """Returns the members grouped by the program that they compile to, in order of appearance.

    Args:
      members: the settings.
      numbers: of the members in the sweep; 0, 1, ... by default.
    """
    positions: dict[Config, list[int]] = {}
    for position, member in enumerate(members):
        positions.setdefault(_static_part(member), []).append(position)
    names = [name for name in varying(list(positions)) if name in static_names() or name in _none_is_static()]
    numbers = range(len(members)) if numbers is None else numbers
    return [
        Group(
            ", ".join(_label(static, name) for name in names),
            tuple(members[i] for i in positions_of_group),
            tuple(numbers[i] for i in positions_of_group),
        )
        for static, positions_of_group in positions.items()
    ]


def _none_is_static() -> set[str]:
    """Returns the names of the traced settings of which None needs a different program from a number."""
    return {setting.name for setting in all_settings() if setting.none_is_static}


def _static_part(config: Config) -> Config:
    """Returns a configuration that is equal for two members if and only if one program trains both."""
    default, apart = Config(), _none_is_static()
    traced = {name: getattr(default, name) for name in traced_names()}
    return dataclasses.replace(config, **traced | {name: 1.0 for name in apart if getattr(config, name) is not None})


def _label(static: Config, name: str) -> str:
    if name in _none_is_static():
        return f"{name} {'not ' if getattr(static, name) is None else ''}given"
    return f"{name} = {plain(getattr(static, name))}"


def plain(value: object) -> object:
    """Returns widths as text, such as 256x256, and any other value of a setting as it is."""
    return "x".join(map(str, value)) if isinstance(value, tuple) else value


def stacked(configs: Sequence[Config]) -> Hyperparams:
    """Returns the traced numbers of a group as float32 arrays (members,)."""
    rows = [config.hyperparams for config in configs]
    columns = (np.array([float(value) for value in column], np.float32) for column in zip(*rows, strict=True))
    return type(rows[0])(*columns)
