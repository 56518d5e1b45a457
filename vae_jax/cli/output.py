"""Writes the results of commands part by part, as .npz files, tables or folders of images. Nothing half-written remains."""

import contextlib
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Generic, NamedTuple, NoReturn, TypeVar

from vae_jax.cli.messages import note
from vae_jax.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow

    from vae_jax.runs import TrainedModel
    from vae_jax.runs.trained.new_data import NewData

Part = TypeVar("Part")
_TABLES = (".csv", ".parquet")


def check_output(out: Path | None, overwrite: bool, folder: bool, data: str | None) -> None:
    """Raises `UserError` unless `out` can be written.

    Args:
      out: the option.
      overwrite: whether it may exist.
      folder: whether it may be a folder of images.
      data: what is read; None for nothing.
    """
    from vae_jax.storage.output_files import is_image_folder

    endings = ".npz, .csv or .parquet" + (", or without an ending for a folder of PNG images" if folder else "")
    if out is None:
        raise UserError(field="out", expected=f"a name to write, ending in {endings}", got="none")
    is_folder = folder and not out.suffix
    if not is_folder and out.suffix.lower() not in (".npz", *_TABLES):
        raise UserError(field="out", expected=f"a name ending in {endings}", got=out)
    if not out.parent.is_dir():
        raise UserError(f"{out} cannot be written: {out.parent} is not a folder.", field="out", fix="Make the folder first.")
    if not out.exists():
        return
    if data and Path(data).exists() and out.samefile(data):
        raise UserError(f"{out} cannot be written: it is the data to read. Choose a different name.", field="out")
    if out.is_dir() != is_folder:
        raise UserError(f"{out} cannot be written: it is a {'folder' if out.is_dir() else 'file'}.", field="out")
    if is_folder and not is_image_folder(out):
        raise UserError(f"{out}: has other files than numbered PNG images. Choose a different name.", field="out")
    if not overwrite:
        raise UserError(f"{out} exists.", field="out", fix="Add `overwrite=True`, or choose a different name.")


class Output(NamedTuple, Generic[Part]):
    """Conversions of a part of the results to what the file takes, each from (number of the first row, part).

    Attributes:
      to_arrays: arrays by name, for .npz files.
      to_table: a table of pyarrow, for .csv and .parquet files.
      to_images: uint8 images, for folders; None where there are none.
    """

    to_arrays: "Callable[[int, Part], dict[str, np.ndarray]]"
    to_table: "Callable[[int, Part], pyarrow.Table]"
    to_images: "Callable[[int, Part], np.ndarray] | None" = None


def numbers_output(data: "NewData", arrays: "Callable[[Part], dict[str, np.ndarray]]") -> "Output[Part]":
    """Returns the conversions of numbers for each row of new data.

    Args:
      data: the new data, whose labels are written beside the numbers.
      arrays: part -> arrays by name, each with a leading axis of rows.
    """
    from vae_jax.runs.trained.tables import numbers_table, with_rows

    def labels(first: int, count: int) -> "np.ndarray | None":
        return None if data.labels is None else data.labels[first : first + count]

    def to_arrays(first: int, part: Part) -> "dict[str, np.ndarray]":
        named = arrays(part)
        label = labels(first, _num_rows(part))
        return named if label is None else {**named, "label": label}

    def to_table(first: int, part: Part) -> "pyarrow.Table":
        return with_rows(numbers_table(arrays(part)), first, labels(first, _num_rows(part)), data.label_names)

    return Output(to_arrays, to_table)


def expect_suits(out: Path, model: "TrainedModel", as_pixels: bool = False) -> bool:
    """Raises `UserError` unless examples of the model can be written to `out`: images are no rows of tables.

    Args:
      out: a name from `check_output`.
      model: the model.
      as_pixels: whether the examples are written as pixels in any case.

    Returns:
      Whether they are written as pixels.
    """
    import numpy as np

    from vae_jax.data import is_image
    from vae_jax.runs.trained.tables import column_types

    shape, is_folder = model.vae.data_shape, not out.suffix
    if out.suffix.lower() in _TABLES:
        column_types(model, np.dtype(np.float32))
    if is_folder and not (is_image(shape) and shape[-1] in (1, 3, 4)):
        expected = "examples that are images of 1, 3 or 4 channels for a folder of PNG images"
        raise UserError(field="out", expected=expected, got=f"the shape {shape}", fix="Choose a name that ends in .npz.")
    if (as_pixels or is_folder) and model.description.max_level is None:
        note("the images are floats without levels. Black is 0 and white is 1, and numbers beyond are clipped.")
    return as_pixels or is_folder


def examples_output(model: "TrainedModel", data: "NewData | None") -> "Output[np.ndarray]":
    """Returns the conversions of examples, each part an array (rows, ...).

    Args:
      model: the model.
      data: the new data that belong to the rows, whose numbers and labels stand beside them in tables; None for none.
    """
    from vae_jax.runs.trained.tables import examples_table, with_rows

    def to_table(first: int, part: "np.ndarray") -> "pyarrow.Table":
        labels = None if data is None or data.labels is None else data.labels[first : first + len(part)]
        return with_rows(examples_table(model, part), first, labels, data.label_names if data else None)

    return Output(lambda first, part: {"arr_0": part}, to_table, lambda first, part: part)


def samples_output(model: "TrainedModel", conditions: "np.ndarray | None", rgb: bool) -> "Output[np.ndarray]":
    """Returns the conversions of samples, each part an array (rows, ...), with their conditions beside them.

    Layouts that other programs read (checked in their sources in 2026): the evaluator of guided-diffusion takes `arr_0` of an
    .npz file as (images, height, width, 3) with numbers from 0 to 255, and `arr_1` are labels. pytorch-fid takes .npz files as
    statistics (`mu` and `sigma`), so it reads folders of images, as clean-fid and torch-fidelity do. These three convert gray
    images to RGB by themselves.

    Args:
      model: the model.
      conditions: stored conditions, used again and again; None for none.
      rgb: repeat gray images in three channels.
    """
    import numpy as np

    from vae_jax.runs.trained.tables import condition_table, examples_table

    def given(first: int, part: "np.ndarray") -> "np.ndarray":
        assert conditions is not None
        return conditions[np.arange(first, first + len(part)) % len(conditions)]

    def images(first: int, part: "np.ndarray") -> "np.ndarray":
        return np.repeat(part, 3, axis=-1) if rgb else part

    def to_arrays(first: int, part: "np.ndarray") -> "dict[str, np.ndarray]":
        arrays, condition = {"arr_0": images(first, part)}, model.description.condition
        if condition is None:
            return arrays
        if len(condition.columns) == 1 and condition.columns[0].categories is not None:
            return {**arrays, "arr_1": given(first, part)[:, 0].astype(np.int64)}
        return {**arrays, "condition": given(first, part)}

    def to_table(first: int, part: "np.ndarray") -> "pyarrow.Table":
        table, condition = examples_table(model, part), model.description.condition
        if condition is None:
            return table
        beside = condition_table(condition, given(first, part))
        for name in reversed([name for name in beside.column_names if name not in table.column_names]):
            table = table.add_column(0, name, beside.column(name))
        return table

    return Output(to_arrays, to_table, images)


def write_results(
    out: Path, count: int, chunks: "Callable[[Callable[[int], None]], Iterable[Part]]", output: Output[Part]
) -> None:
    """Writes results part by part, with a progress bar. They appear whole or not at all, also after Ctrl-C.

    Args:
      out: a name from `check_output`.
      count: number of rows in all.
      chunks: (function that is called with the number of rows done) -> parts of the results, each with a leading axis of rows.
      output: conversions of the parts.
    """
    from tqdm import tqdm

    from vae_jax.storage.output_files import in_background

    writer, convert = _writer(out, count, output)

    def show(done: int) -> None:
        bar.update(done - bar.n)

    with (
        tqdm(total=count, desc=out.name, unit="row", leave=False, disable=None) as bar,
        interruptible(),
        writer as write,
        in_background(lambda first, part: write(convert(first, part))) as submit,
    ):
        first = 0
        for part in chunks(show):
            submit(first, part)
            first += _num_rows(part)
    print(f"wrote {out}: {count} row{'' if count == 1 else 's'}")


def _writer(
    out: Path, count: int, output: Output[Part]
) -> "tuple[contextlib.AbstractContextManager[Callable[..., None]], Callable[[int, Part], object]]":
    """Returns the writer of a file or folder, and the conversion to what it takes."""
    from vae_jax.storage.output_files import archive_writer, image_folder_writer, table_writer

    if out.suffix.lower() == ".npz":
        return archive_writer(out), output.to_arrays
    if out.suffix:
        return table_writer(out), output.to_table
    assert output.to_images is not None
    return image_folder_writer(out, count), output.to_images


def _num_rows(part: object) -> int:
    first = part[0] if isinstance(part, tuple) else part
    return len(first)  # pyright: ignore[reportArgumentType]


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Raises `KeyboardInterrupt` on Ctrl-C and SIGTERM within this context, so that unfinished files are removed."""
    import threading

    if threading.current_thread() is not threading.main_thread():  # only the main thread has signals
        yield
        return

    def stop(number: int, frame: object) -> NoReturn:
        for one in old:  # a second signal must not stop the removal
            signal.signal(one, signal.SIG_IGN)
        raise Interrupted(number)

    old = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, with the exit status by the shell's convention."""

    def __init__(self, number: int):
        super().__init__()
        self.exit_status = 128 + number


def run_command(command: Callable[[], None]) -> int:
    """Runs a command and returns its exit status, also where it is interrupted."""
    try:
        command()
    except Interrupted as stop:
        print("\ninterrupted: nothing is written", file=sys.stderr, flush=True)
        return stop.exit_status
    return 0
