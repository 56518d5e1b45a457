"""The data set that a `Config` names, and the settings that choose the columns of a mixed table."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from vae_jax import data
from vae_jax.config import CUSTOM, Config
from vae_jax.data import Dataset, Rows, check_pipeline_argument, column_proposals
from vae_jax.errors import UserError

# Settings of `data.load` in a configuration. A data set that is passed to `build` has them already.
_DATA_SETTINGS = (
    *("split", "test_fraction", "validation_fraction", "split_seed", "stream", "max_level", "layout", "event", "resize"),
    *("crop", "transpose", "array", "label_column", "validation_dataset", "test_dataset", "condition", "missing"),
)


def with_dataset(config: Config, dataset: Dataset) -> Config:
    """Returns the configuration of a model of a data set that is in memory: its data set is "custom".

    Raises:
      UserError: not a data set, or a setting that only `data.load` and `data.from_arrays` could follow.
    """
    check_pipeline_argument("build", dataset, Dataset)
    is_streamed = isinstance(dataset.train, Rows)
    recorded: dict[str, Any] = {
        "condition": CUSTOM if dataset.condition else "",
        "missing": "nan" if dataset.has_missing else "refuse",
    }
    if config.dataset == CUSTOM:  # the configuration of a run, which records what its data set had
        for name, thing in (("condition", "condition"), ("missing", "missing entries")):
            if getattr(config, name) not in (getattr(Config(), name), recorded[name]):
                raise UserError(
                    f"the data set {dataset.name!r} has no {thing}, and the one that the run was trained on has.",
                    field="dataset",
                    fix="Make it with the same arguments of data.from_arrays as before.",
                )
    for name in _DATA_SETTINGS:
        if name != "stream" and getattr(config, name) not in (getattr(Config(), name), recorded.get(name, "")):
            raise UserError(
                f"the data set {dataset.name!r} is made already, so `{name}` has no effect on it.",
                field=name,
                fix="Pass it to data.from_arrays or data.load, and leave it out of the Config.",
            )
    if config.stream and not is_streamed:
        raise UserError(f"the data set {dataset.name!r} is in memory.", field="stream", fix="Leave out `stream=True`.")
    return dataclasses.replace(config, dataset=CUSTOM, stream=is_streamed, **recorded)


def load_dataset(config: Config, data_dir: str | None = None) -> Dataset:
    """Loads the data set that the configuration names, split as it says."""
    if config.dataset == CUSTOM:
        raise UserError("the data set was made in memory.", field="dataset", fix="Pass dataset=... to build or load_run.")
    return data.load(
        config.dataset,
        data_dir=data_dir,
        split=config.split,
        test_fraction=config.test_fraction,
        validation_fraction=config.validation_fraction,
        split_seed=config.split_seed,
        stream=config.stream,
        max_level=config.max_level,
        layout=config.layout,
        event=config.event,
        resize=config.resize,
        crop=config.crop,
        transpose=config.transpose,
        array=config.array,
        label_column=config.label_column,
        validation_dataset=config.validation_dataset,
        test_dataset=config.test_dataset,
        condition=config.condition,
        missing=config.missing,
        mixed=names_of_columns(config) if config.likelihood == "columns" else False,
    )


def names_of_columns(config: Config) -> tuple[str, ...]:
    """Returns the names of the columns that the setting `columns` names and does not leave out."""
    chosen = column_proposals.parse_columns([setting for setting in config.columns if setting != column_proposals.AUTO])
    return tuple(name for name, likelihood in chosen.items() if likelihood != column_proposals.LEFT_OUT)


def with_planned_columns(
    config: Config, dataset: Dataset, data_dir: str | None = None
) -> tuple[Config, Dataset, tuple[column_proposals.ColumnPlan, ...]]:
    """Chooses the likelihood of each column of a mixed table, and leaves out columns without one.

    Args:
      config: with `likelihood="columns"`; other configurations are returned as they are.
      dataset: its data.
      data_dir: see `build`.

    Returns:
      The configuration with the likelihood of every column in `columns`, the data set with the columns that have one, and the
      plan of all columns.

    Raises:
      UserError: see `data.column_proposals.plan_columns`.
    """
    if config.likelihood != "columns":
        return config, dataset, ()
    is_auto = column_proposals.AUTO in config.columns
    if is_auto and not column_proposals.is_dense_table(dataset):
        config = dataclasses.replace(config, likelihood="bernoulli", columns=())
        return config, dataset if config.dataset == CUSTOM else load_dataset(config, data_dir), ()
    plans = column_proposals.plan_columns(dataset, config.columns)
    if is_auto and not dataset.has_missing and all(plan.likelihood == "bernoulli" for plan in plans):
        config = dataclasses.replace(config, likelihood="bernoulli", columns=())
        return config, dataset if config.dataset == CUSTOM else load_dataset(config, data_dir), ()
    kept = [i for i, plan in enumerate(plans) if plan.likelihood != column_proposals.LEFT_OUT]
    config = dataclasses.replace(config, columns=tuple(plan.setting for plan in plans))
    return config, dataset if len(kept) == len(plans) else dataset.with_columns(kept), plans


def resolve_columns(members: Sequence[Config], data_dir: str | None = None, dataset: Dataset | None = None) -> list[Config]:
    """Returns configurations that name the likelihood of every column of a mixed table; others are returned as they are."""
    planned: dict[Config, Config] = {}
    resolved = []
    for member in members:
        # Everything that reading and planning depend on, which members of a sweep share.
        key = dataclasses.replace(Config(), **{name: getattr(member, name) for name in _DATA_SETTINGS}, dataset=member.dataset)
        key = dataclasses.replace(key, likelihood=member.likelihood, columns=member.columns)
        if key.likelihood == "columns" and key not in planned:
            planned[key] = with_planned_columns(key, dataset or load_dataset(key, data_dir), data_dir)[0]
        chosen = planned.get(key, key)
        resolved.append(dataclasses.replace(member, likelihood=chosen.likelihood, columns=chosen.columns))
    return resolved
