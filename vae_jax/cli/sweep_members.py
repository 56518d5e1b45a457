"""The members of a sweep, from the options of its command line."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vae_jax.cli.messages import option
from vae_jax.errors import UserError

if TYPE_CHECKING:
    from vae_jax.cli.sweep import Arguments
    from vae_jax.config import Config

Values = dict[str, Sequence[object]]  # setting -> the values that it takes


def read_members(arguments: "Arguments", base: "Config", argv: Sequence[str]) -> "list[Config]":
    """Returns the members that the command line describes. A sweep that continues as it began needs no CSV file any more.

    Args:
      arguments: the options.
      base: the settings that all members share where the sweep has no values of them.
      argv: the words of the command line.
    """
    from vae_jax.sweep.directory import read_sweep

    out = Path(arguments.out)
    if arguments.resume and arguments.points and not arguments.points.exists() and (out / "sweep.json").exists():
        members, content = read_sweep(out)
        if content["arguments"] == json.loads(json.dumps(arguments.record(base))):
            return members
    return make_members(arguments, base, argv)


def make_members(arguments: "Arguments", base: "Config", argv: Sequence[str]) -> "list[Config]":
    """Returns the members that the options describe, in order, for a sweep that begins."""
    from vae_jax.sweep import cross, design
    from vae_jax.sweep.members import parse_range, read_points

    values = swept_values(arguments, argv)
    ranges = dict(parse_range(text) for text in arguments.ranges)
    if not values and not ranges and arguments.points is None:
        raise UserError(
            "nothing to sweep: expected `betas`, `seeds`, `learning_rates`, `over`, `groups`, `points` or `ranges`."
        )
    if len(ranges) < len(arguments.ranges):
        raise UserError("expected each name once. Give the whole range in one place.", field="ranges")
    if not ranges and (arguments.design, arguments.num_points, arguments.design_seed) != ("grid", 8, 0):
        raise UserError("`design`, `num_points` and `design_seed` place members in `ranges`. Add that, or leave them out.")
    if ranges and arguments.points is not None:
        raise UserError("`ranges` and `points` exclude each other. Leave one out.")
    members = [base]
    if ranges:
        _expect_once("ranges", set(ranges) & set(values))
        members = design(base, ranges, arguments.num_points, arguments.design, arguments.design_seed)
    elif arguments.points is not None:
        members = read_points(base, arguments.points)
        _expect_once("points", {name for name in values if any(getattr(m, name) != getattr(base, name) for m in members)})
    in_order = sorted(values, key=lambda name: (name == "seed", name not in ("beta", "learning_rate")))  # seeds vary fastest
    return cross(members, **{name: values[name] for name in in_order})


def swept_values(arguments: "Arguments", argv: Sequence[str]) -> Values:
    """Returns the values of each setting that the options list."""
    from vae_jax.sweep.members import check_name, parse_value

    values: Values = {}
    for axis, is_static in (("over", False), ("groups", True)):
        for text in getattr(arguments, axis):
            name, _, listed = text.partition("=")
            check_name(name, static=is_static)
            if not listed:
                raise UserError(f"`{axis}={text}`: expected NAME=VALUE,VALUE,..., such as {name}=1,2, got no values.")
            _expect_once(axis, {name} & set(values))
            values[name] = [parse_value(name, value) for value in listed.split(",")]
    for axis, name in (("betas", "beta"), ("learning_rates", "learning_rate"), ("seeds", "seed")):
        listed = getattr(arguments, axis)
        if listed:
            _expect_once(axis, {name} & set(values))
            values[name] = listed
        elif option(axis) in argv:
            raise UserError("expected at least one value, got none.", field=axis)
    return values


def _expect_once(axis: str, repeated: set[str]) -> None:
    """Raises `UserError` for names that another option lists as well."""
    if repeated:
        raise UserError(f"{', '.join(repeated)} is swept twice. Give all its values in one place.", field=axis)
