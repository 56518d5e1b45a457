"""Reading of a source of new data with the settings of a trained model, and the choice of its parts."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from vae_jax.config import CUSTOM
from vae_jax.data import column_proposals
from vae_jax.data.conditions.setting import parse_condition
from vae_jax.data.conditions.sources import LABEL, Columns
from vae_jax.data.dataset import Dataset
from vae_jax.data.events import event_kind
from vae_jax.data.in_memory import condition_columns, source_of_array
from vae_jax.data.loading import Interpretation, read_options, read_similar
from vae_jax.data.masks import Missing
from vae_jax.data.new_examples import PARTS, Fields, TrainedAs, new_events
from vae_jax.data.readers import registry
from vae_jax.data.readers.condition_files import read_condition_file
from vae_jax.data.readers.listing import joined
from vae_jax.data.readers.paths import is_path, is_table
from vae_jax.data.readers.registry import ReadOptions
from vae_jax.data.split import Split
from vae_jax.data.splitting import SplitSettings, split_off_parts
from vae_jax.errors import UserError
from vae_jax.example import Examples
from vae_jax.runs.trained.model import TrainedModel

Part = Literal["all", "train", "validation", "test"]
Source: TypeAlias = Examples  # a path or name, a `Dataset`, an array, a table, or a sparse matrix
_STREAMED_BYTES = 2**30  # size above which files of one array stay on disk


class Reading:
    """The settings with which the new data of a model are read."""

    def __init__(self, model: TrainedModel, condition: Examples, missing: Missing | None, data_dir: str | None, stream: bool):
        self.model, self.config, description = model, model.config, model.description
        self.condition, self.data_dir, self.stream = condition, data_dir, stream
        is_custom = self.config.dataset == CUSTOM
        trained_missing: Missing = "nan" if (description.has_missing and is_custom) else self.config.missing
        self.missing: Missing = missing or trained_missing
        planned = column_proposals.parse_columns([text for text in self.config.columns if text != column_proposals.AUTO])
        support = model.vae.likelihood.support
        is_unit = self.config.binarization != "none" or support in ("binary", "unit_interval", "levels")
        self.trained = TrainedAs(
            description.facts.data_shape,
            description.max_level,
            np.dtype(description.dtype if not description.is_rendered else np.uint8),
            description.column_names,
            description.column_types,
            description.label_names,
            description.condition,
            tuple(planned),
            is_unit,
        )
        if self.trained.condition is None and condition is not None:
            raise UserError("the run has no condition. Leave it out.", field="condition")

    def read(self, name: str, source: Source, part: Part) -> tuple[Split, list[str]]:
        """Reads a file, a named data set or an array, and converts it; returns notes as well."""
        is_named = isinstance(source, str | os.PathLike)
        text = self._condition_text(name, is_named)
        if is_named:
            options = self._options(text)
            stream = self.stream or is_large_array(name)
            split = read_similar(name, self.data_dir, options, stream)
        else:
            mixed = self.trained.column_types is not None
            split = source_of_array(name, source, self.trained.column_names, parse_condition(text).names, mixed)
        is_as_trained = not is_named and split.train.shape[1:] == self.trained.data_shape
        meaning = self._meaning(text, is_named, is_as_trained)
        has_part = part in ("all", "train") or getattr(split, part) is not None
        if has_part:
            split = one_part(name, split, part)
        if not text:
            split = self.with_given_condition(name, split)
        split, notes = new_events(name, split, self.trained, meaning)
        if not has_part:
            split = one_part(name, self._split(name, split), part)
        return split, notes

    def _meaning(self, text: str, is_named: bool, is_as_trained: bool) -> Interpretation:
        config, shape = self.config, self.trained.data_shape
        if is_as_trained:
            event = event_kind(shape)
            return Interpretation("channels_last" if event == "image" else "auto", event, None, False, text, self.missing)
        event = config.event
        if config.dataset == CUSTOM and len(shape) == 2:
            event = "series"
        return Interpretation(config.layout, event, None, config.transpose and is_named, text, self.missing)

    def _options(self, text: str) -> ReadOptions:
        config, trained = self.config, self.trained
        options = read_options(config.event, config.resize, config.crop, config.transpose, config.array, config.label_column)
        mixed = trained.column_names if trained.column_types is not None else None
        return options._replace(
            condition=parse_condition(text).names, missing=self.missing, mixed=mixed, columns=trained.column_names
        )

    def _condition_text(self, name: str, is_named: bool) -> str:
        """Returns the setting `condition` that finds the condition in the source; "" where there is none, or it is given."""
        if self.trained.condition is None:
            return ""
        if isinstance(self.condition, str) and parse_condition(self.condition).kind != "file":
            return self.condition
        if self.condition is not None:
            return ""
        text = self.config.condition
        names = [column.name for column in self.trained.condition.columns]
        if text == CUSTOM:
            text = ""
            if names == [LABEL]:
                text = "labels"
            elif not is_named or is_table(name):
                text = ", ".join('"' + one.replace('"', '""') + '"' for one in names)
        kind = parse_condition(text).kind
        if kind in ("none", "file") or (not is_named and kind in ("labels", "factors")):
            came = f"came from the file {Path(text).name}" if kind == "file" else f"is {joined(names)}"
            raise UserError(
                f"{self.model.path}: the condition of the model {came}, and {name} has none.",
                field="condition",
                fix=f"Pass a file or an array with a row for each example of {Path(name).name}.",
            )
        return text

    def with_given_condition(self, name: str, split: Split) -> Split:
        """Returns the source with the condition that the user passes, divided between its parts."""
        if self.trained.condition is None:
            return split._replace(train_condition=None, validation_condition=None, test_condition=None)
        if self.condition is None:
            return split
        if isinstance(self.condition, str | os.PathLike):
            by_part: Mapping[str, Columns] = read_condition_file(os.fspath(self.condition))[0]
            source = os.fspath(self.condition)
        else:
            by_part, source = {"": condition_columns(name, {"train": self.condition})["train_condition"]}, name
        sizes = {part: len(array) for part, array in split.images_by_part().items()}
        if list(by_part) == [""]:
            by_part = _divided(source, by_part[""], sizes)
        absent = [part for part in sizes if part not in by_part]
        if absent:
            raise UserError(f"{source}: has no condition for the {absent[0]} examples of {name}.", field="condition")
        return split._replace(**{f"{part}_condition": by_part[part] for part in sizes})

    def _split(self, name: str, converted: Split) -> Split:
        """Splits the parts off as the run did."""
        config = self.config
        if config.dataset == CUSTOM or config.test_dataset:
            where = config.test_dataset if config.dataset != CUSTOM else "an array in memory"
            raise UserError(
                f"{name}: has no test set, and the one of the run was {where}.",
                field="part",
                fix="Pass it without `part`.",
            )
        fractions = (config.test_fraction, 0.0 if config.validation_dataset else config.validation_fraction)
        return split_off_parts(name, converted, SplitSettings(config.split, *fractions, config.split_seed))


def _divided(name: str, columns: Mapping[str, np.ndarray], sizes: Mapping[str, int]) -> dict[str, dict[str, np.ndarray]]:
    """Divides the rows of a condition between the parts of a source."""
    total = sum(sizes.values())
    for column, values in columns.items():
        if len(values) != total:
            raise UserError(
                f"{name}: expected {total} rows of the condition, one for each example, got {len(values)} in {column!r}.",
                field="condition",
            )
    ends = np.cumsum([0, *sizes.values()])
    return {
        part: {column: values[first:last] for column, values in columns.items()}
        for part, first, last in zip(sizes, ends[:-1], ends[1:], strict=True)
    }


def is_large_array(name: str, bytes_in_memory: int = _STREAMED_BYTES) -> bool:
    """Returns whether a path is a file of a single array with more than so many bytes, which can stay on disk."""
    path = Path(os.path.expanduser(name))
    if not is_path(name) or not path.is_file() or path.stat().st_size <= bytes_in_memory:
        return False
    reader = registry.reader_of_file(path)
    return reader is not None and reader.name in ("npy", "idx") and path.suffix != ".gz"


def one_part(name: str, source: Split, part: Part) -> Split:
    """Returns the source with the examples of one part alone, as its training examples; with those of all parts for "all"."""
    rendering = source.rendering
    if part == "all" and not (rendering is not None and rendering.draw is not None):
        return source
    if part == "all" or (part == "train" and rendering is not None and rendering.draw is not None):
        if part == "train" or source.test is None:
            raise UserError(f"{name}: its training images are drawn anew at every step. Use `part='test'`.", field="part")
        note = f"{name}: its test images are used, because its training images are drawn anew at every step."
        source, part = source._replace(notes=(*source.notes, note)), "test"
    if getattr(source, part) is None:
        raise UserError(f"{name}: has no {part} set.", field="part", fix='Use `part="all"`.')
    if rendering is not None:
        source = source._replace(rendering=rendering._replace(draw=None))
    fields = ("labels", "factors", "condition", "mask")
    alone: Fields = {"train": getattr(source, part), "validation": None, "test": None}
    for field in fields:
        alone |= {f"train_{field}": getattr(source, f"{part}_{field}"), f"validation_{field}": None, f"test_{field}": None}
    return source._replace(**alone)


def as_source(dataset: Dataset) -> Split:
    """Returns the arrays of a data set, with the values of its condition."""
    fields: Fields = {
        f"{part}_{field}": getattr(dataset, f"{part}_{field}") for part in PARTS for field in ("labels", "factors", "mask")
    }
    for part in PARTS:
        numbers = getattr(dataset, f"{part}_condition")
        if dataset.condition is not None and numbers is not None:
            fields[f"{part}_condition"] = {
                column.name: numbers[:, i]
                if column.categories is None
                else np.array(column.categories, dtype=np.str_)[numbers[:, i].astype(int)]
                for i, column in enumerate(dataset.condition.columns)
            }
    return Split(
        dataset.train,
        validation=dataset.validation,
        test=dataset.test,
        max_level=dataset.max_level,
        factor_names=dataset.factor_names,
        rendering=dataset.rendering,
        label_names=dataset.label_names,
        column_names=dataset.column_names,
        column_types=dataset.column_types,
        **fields,
    )
