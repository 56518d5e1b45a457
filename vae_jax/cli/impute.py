"""`vae-jax impute`: fills in the missing entries of a file by a trained run."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from vae_jax.cli.arguments import parse
from vae_jax.cli.checks import expect_counts, expect_runs
from vae_jax.cli.messages import note
from vae_jax.cli.user_parts import FOR_MODEL, PartArguments, load_parts
from vae_jax.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from vae_jax.runs.imputed_rows import Imputed
    from vae_jax.runs.trained import TrainedModel

_ENDINGS = (".npz", ".npy", ".csv", ".parquet")


@dataclasses.dataclass(frozen=True)
class Arguments(PartArguments):
    """Fill in the missing entries of a file: NaN, empty fields of a table, or entries that a mask in an .npz file marks.

    The file has the format and the columns of the data set of the run, and a run that was trained on complete data serves as
    well. Observed entries stay as they are. Missing ones get their conditional mean given the observed ones, and categories the
    most probable one.

    `out` ending in .csv or .parquet is the table with its missing cells filled in, and a second file, NAME.imputations.csv, has
    all random imputations, numbered in a first column named imputation. An .npz file has the arrays mean, imputations
    (imputations, examples, ...), effective_sample_size and mask, and an .npy file the mean alone.

    Example: vae-jax impute runs/first --data incomplete.csv --out complete.csv
    """

    run: tyro.conf.Positional[Path]
    """A run directory."""
    data: Path | None = None
    """File or folder with missing entries, read as the data set of the run."""
    out: Path | None = None
    """File to write, ending in .npz, .npy, .csv or .parquet."""
    num_samples: int = 1000
    """Importance samples of each example."""
    num_imputations: int = 5
    """Random imputations of each example, drawn given its observed entries; 0 for none."""
    seed: int = 0
    """Seed of the samples. Those of an example depend on its position in the file alone."""
    condition: str = ""
    """File with the condition of each example, for a run whose condition came from a file or from labels. Otherwise the
    condition is read from `data`, as in training."""
    overwrite: bool = False
    """Replace files that exist."""
    data_dir: str | None = None
    """Where TFDS finds prepared data, if not where the run found it."""

    def validate(self) -> None:
        """Raises `UserError` for values that are wrong for every run."""
        expect_runs((self.run,))
        expect_counts(1, 10**8, num_samples=self.num_samples)
        expect_counts(0, 10**6, num_imputations=self.num_imputations)
        expect_counts(0, 2**32 - 1, seed=self.seed)
        if self.data is None:
            raise UserError(field="data", expected="a file with missing entries, such as incomplete.csv", got="none")
        if self.out is None or self.out.suffix.lower() not in _ENDINGS:
            expected = f"a file to write, ending in {', '.join(_ENDINGS[:-1])} or {_ENDINGS[-1]}"
            raise UserError(field="out", expected=expected, got=self.out or "none")
        if not self.data.exists():
            raise UserError(f"{self.data}: no such file or folder.", field="data")
        if not self.out.parent.is_dir():
            raise UserError(f"{self.out} cannot be written: {self.out.parent} is not a folder.", field="out")
        for path in self.files():
            if path.is_dir() or (path.exists() and self.data.exists() and path.samefile(self.data)):
                problem = "it is a folder" if path.is_dir() else "it is the file to read"
                raise UserError(f"{path} cannot be written: {problem}. Choose a different name.", field="out")
            if path.exists() and not self.overwrite:
                fix = "Add `overwrite=True`, or choose a different name."
                raise UserError(f"{path} exists.", field="out", fix=fix)

    def files(self) -> tuple[Path, ...]:
        """Returns the files to write."""
        assert self.out is not None
        is_table = self.out.suffix.lower() in (".csv", ".parquet")
        return (self.out, imputations_file(self.out)) if is_table and self.num_imputations else (self.out,)


def imputations_file(out: Path) -> Path:
    """Returns the file beside a table that has all imputations."""
    return out.with_name(f"{out.stem}.imputations{out.suffix}")


def write_outputs(arguments: Arguments, model: "TrainedModel", imputed: "Imputed") -> None:
    """Writes the files; each appears whole or not at all."""
    import io

    import numpy as np

    from vae_jax.data.column_types import write_table
    from vae_jax.runs.imputed_tables import column_types, completed_table, original_table, stacked_table
    from vae_jax.storage.atomic import write_arrays, write_bytes

    assert arguments.out is not None
    assert arguments.data is not None
    match arguments.out.suffix.lower():
        case ".npz":
            arrays = {name: getattr(imputed, name) for name in ("mean", "imputations", "effective_sample_size", "mask")}
            write_arrays(arguments.out, arrays)
        case ".npy":
            buffer = io.BytesIO()
            np.save(buffer, imputed.mean, allow_pickle=False)
            write_bytes(arguments.out, buffer.getvalue())
        case _:
            original = original_table(arguments.data)
            types = column_types(model.description)
            tables = [completed_table(original, types, values) for values in (imputed.mean, *imputed.imputations)]
            if len(tables) > 1:
                write_table(stacked_table(tables[1:]), imputations_file(arguments.out))
            write_table(tables[0], arguments.out)


def report(arguments: Arguments, mask: "np.ndarray", imputed: "Imputed") -> None:
    """Prints what was imputed, and how well the importance samples cover it."""
    import numpy as np

    from vae_jax.runs.imputed_rows import few_samples, heavy_tails, num_few_samples, num_heavy_tails

    incomplete = ~mask.reshape(len(mask), -1).all(axis=1)
    effective = np.asarray(imputed.effective_sample_size)[incomplete]
    print(
        f"imputed {int((~mask).sum())} missing entries of {int(incomplete.sum())} of {len(mask)} rows; {arguments.num_samples} "
        f"samples worth {np.median(effective):.0f} (median), {effective.min():.0f} at least"
    )
    if few := num_few_samples(effective, arguments.num_samples):
        note(few_samples(few, len(mask), arguments.num_samples))
    if heavy := num_heavy_tails(np.asarray(imputed.pareto_k)[incomplete], arguments.num_samples):
        note(heavy_tails(heavy, len(mask)))


def main(argv: Sequence[str] | None = None) -> int:
    """Imputes the file, writes the results, and returns the exit status."""
    arguments = parse(Arguments, argv, "impute")
    arguments.validate()

    from tqdm import tqdm

    from vae_jax.runs.imputed_rows import impute_file, observed_entries
    from vae_jax.runs.imputed_tables import column_types
    from vae_jax.runs.trained import load_model, read_new_data
    from vae_jax.storage.cache import enable_compilation_cache

    enable_compilation_cache()
    model = load_model(arguments.run, **load_parts(arguments, arguments.run, needed=FOR_MODEL))
    assert arguments.data is not None
    assert arguments.out is not None
    if arguments.out.suffix.lower() in (".csv", ".parquet"):
        column_types(model.description)  # refuses images before anything is computed
    data_dir, condition = arguments.data_dir, arguments.condition or None
    file = read_new_data(model, arguments.data, condition=condition, data_dir=data_dir, missing="nan")
    for text in (*model.notes, *file.notes):
        note(text)
    mask = observed_entries(file)
    with tqdm(total=len(mask), desc=arguments.data.name, unit="example", leave=False, disable=None) as bar:
        sizes = (arguments.num_samples, arguments.num_imputations)

        def update(done: int) -> None:
            bar.update(done - bar.n)

        imputed = impute_file(model, file, *sizes, arguments.seed, update)
    write_outputs(arguments, model, imputed)
    if mask.all():
        print(f"{arguments.data}: nothing is missing, so it is written as it is")
    else:
        report(arguments, mask, imputed)
    print(f"written: {', '.join(map(str, arguments.files()))}")
    return 0
