"""Likelihoods of the columns of a table on the command line: when they are proposed, and how the proposal is printed."""

import dataclasses
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vae_jax.cli.messages import with_options
from vae_jax.cli.tables import markdown

if TYPE_CHECKING:
    from vae_jax.config import Config
    from vae_jax.data.column_proposals import ColumnPlan

_MAX_SHOWN = 30  # columns


def with_proposed_columns(config: "Config", argv: Sequence[str] | None) -> "Config":
    """Returns the configuration with `likelihood="columns"` for a table without a likelihood on the command line.

    Args:
      config: the settings of the command line.
      argv: the words of the command line; None: those that this process was started with.
    """
    given = {word.split("=")[0] for word in (sys.argv[1:] if argv is None else argv)}
    config = dataclasses.replace(config, columns=tuple(map(_absolute, config.columns)))
    if "--likelihood" in given or config.likelihood != "bernoulli":
        return config
    if config.columns:
        return dataclasses.replace(config, likelihood="columns")
    from vae_jax.data.readers.paths import is_table

    as_numbers = config.event in ("auto", "vector") and config.binarize in ("auto", "none") and config.max_level is None
    if as_numbers and not config.dequantize and is_table(config.dataset):
        return dataclasses.replace(config, likelihood="columns", columns=("auto",))
    return config


def _absolute(word: str) -> str:
    """Returns a file of likelihoods with its absolute path, and a column with its likelihood unchanged."""
    path = os.path.expanduser(word)
    return os.path.abspath(path) if os.path.isfile(path) else word


def resolved_columns(config: "Config", data_dir: str | None, shown: bool) -> "Config":
    """Returns the configuration with the likelihood of every column of a mixed table, and prints them as a table if `shown`."""
    if config.likelihood != "columns":
        return config
    from vae_jax.build import load_dataset, with_planned_columns

    config.validate()
    dataset = load_dataset(config, data_dir)
    config, dataset, plans = with_planned_columns(config, dataset, data_dir)
    if plans and shown:
        print(describe_columns(plans, dataset.train_labels is not None), flush=True)
    return config


def describe_columns(plans: "Sequence[ColumnPlan]", has_labels: bool) -> str:
    """Returns the likelihoods of the columns of a mixed table as a table, with the way to change them.

    Args:
      plans: one for each column.
      has_labels: whether a column of the table has the labels.
    """
    rows = [(plan.name, plan.seen, plan.likelihood) for plan in plans[:_MAX_SHOWN]]
    lines = [markdown(("column", "values seen", "likelihood"), [[cell.replace("|", "\\|") for cell in row] for row in rows])]
    if len(plans) > _MAX_SHOWN:
        lines.append(f"The first {_MAX_SHOWN} of {len(plans)} columns are shown. config.json has all of them.")
    lines += [f"{plan.name}: {plan.reason}" for plan in plans[:_MAX_SHOWN] if plan.reason and plan.reason != "as chosen"]
    if has_labels:
        lines.append("The column of labels is not part of the examples. Name it with a likelihood to model it as well.")
    lines.append(
        "To change one use `columns=COLUMN=LIKELIHOOD`, or a JSON file {column: likelihood}. none leaves a column out."
    )
    return with_options("\n".join(lines))
