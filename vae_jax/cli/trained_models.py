"""Shared by the commands that use a trained model on new data: their options, and opening of the model and the data."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from vae_jax.cli.checks import expect_counts, is_sweep
from vae_jax.cli.messages import note
from vae_jax.cli.output import check_output
from vae_jax.cli.user_parts import FOR_MODEL, PartArguments, load_parts
from vae_jax.errors import UserError

if TYPE_CHECKING:
    from vae_jax.runs import TrainedModel
    from vae_jax.runs.trained.new_data import NewData

_BYTES_IN_MEMORY = 2**24  # larger arrays are read while the rows before are computed


@dataclasses.dataclass(frozen=True)
class ChosenModel(PartArguments):
    """Options that name a trained model."""

    run: tyro.conf.Positional[Path]
    """A run directory, or a sweep directory with `member` or `best`."""
    member: int | None = None
    """Of a sweep: number of the member."""
    best: str = ""
    """Of a sweep: the member with the best value of this column of results.csv, such as validation_elbo."""


@dataclasses.dataclass(frozen=True)
class ModelArguments(ChosenModel):
    """Options of all commands that use a trained model on new data."""

    out: Path | None = None
    """What to write."""
    condition: str = ""
    """Condition of each example, for a conditional model: a file with a row for each. By default it is read from `data`, as in
    training."""
    seed: int | None = None
    """Seed of the draws. By default 0."""
    batch_size: int | None = None
    """Rows that are read and computed at once. By default as many as fill some megabytes. On CPU no result depends on it."""
    overwrite: bool = False
    """Replace what `out` names."""
    data_dir: str | None = None
    """Where TFDS finds prepared data."""

    @property
    def file(self) -> Path:
        """The file or folder to write, after `validate`."""
        assert self.out is not None
        return self.out

    def validate(self, *, folder: bool) -> None:
        """Raises `UserError` for values that are wrong for every model.

        Args:
          folder: whether `out` may be a folder of images.
        """
        check_model(self)
        expect_counts(0, 2**32 - 1, seed=self.seed)
        expect_counts(1, 10**8, batch_size=self.batch_size)
        check_output(self.out, self.overwrite, folder, getattr(self, "data", None))


@dataclasses.dataclass(frozen=True)
class DataArguments(ModelArguments):
    """Options of the commands that read new data."""

    data: str = ""
    """File or folder of any format that train reads, or the name of a data set."""
    part: Literal["all", "train", "validation", "test"] = "all"
    """Rows to use of a source with several parts: all in the order of the source, or one part, which is split off as in
    training where the source has none."""

    def validate(self, *, folder: bool) -> None:
        """Raises `UserError` for values that are wrong for every model."""
        super().validate(folder=folder)
        if not self.data:
            raise UserError(field="data", expected="a file such as new.csv, or the name of a data set", got="none")


def check_model(arguments: ChosenModel) -> None:
    """Raises `UserError` unless the command line names one model."""
    path = arguments.run
    expect_counts(0, 10**9, member=arguments.member)
    if not path.is_dir():
        raise UserError(f"{path}: no such run directory.")
    if is_sweep(path):
        if (arguments.member is None) == (not arguments.best):
            fix = "Add `member=3`, or `best=validation_elbo`."
            raise UserError(f"{path}: a sweep directory, of which one member must be chosen.", fix=fix)
        return
    if not (path / "config.json").is_file():
        raise UserError(
            f"{path}: not a run directory (it has no config.json) and not a sweep directory (it has no sweep.json)."
        )
    for name, value in (("member", arguments.member is not None), ("best", bool(arguments.best))):
        if value:
            raise UserError(f"{path} is a run directory, which has no members.", field=name, fix="Leave it out.")


def open_model(arguments: ChosenModel) -> "TrainedModel":
    """Reads the model that the command line names, and prints its notes."""
    from vae_jax.runs import best, load_model
    from vae_jax.storage.cache import enable_compilation_cache

    enable_compilation_cache()
    member = arguments.member
    if arguments.best:
        member = best(arguments.run, arguments.best)
        note(f"the member {member} has the best {arguments.best}.")
    model = load_model(arguments.run, member=member, **load_parts(arguments, arguments.run, needed=FOR_MODEL))
    for text in model.notes:
        note(text)
    return model


def open_data(arguments: DataArguments, model: "TrainedModel") -> "NewData":
    """Reads the data that the command line names, and prints the notes on them."""
    from vae_jax.runs.trained import read_new_data
    from vae_jax.runs.trained.reading import is_large_array

    data = read_new_data(
        model,
        arguments.data,
        condition=arguments.condition or None,
        part=arguments.part,
        stream=is_large_array(arguments.data, _BYTES_IN_MEMORY),
        data_dir=arguments.data_dir,
    )
    for text in data.notes:
        note(text)
    return data
