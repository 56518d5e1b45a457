"""Compares training on a sparse matrix of counts with the same counts as a dense array."""

if __name__ == "__main__":
    import environment

    environment.expect_packages()

import dataclasses
import tempfile
from pathlib import Path

import numpy as np
import scipy.sparse
from streaming import measure, result_rows, table

from vae_jax.cli.arguments import parse
from vae_jax.cli.checks import expect_counts
from vae_jax.cli.results_file import write_results
from vae_jax.cli.script import run_script
from vae_jax.config import Config


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Benchmark training on sparse counts against dense ones; prints a table and writes JSON.

    Example: python experiments/benchmarks/sparse.py --examples 2500 --columns 20000
    """

    examples: int = 5000
    """Rows of the matrix, such as cells."""
    columns: int = 2000
    """Columns of the matrix, such as genes."""
    density: float = 0.05
    """Share of the numbers that are not zero."""
    likelihood: str = "poisson"
    """Likelihood of counts."""
    epochs: int = 8
    """Epochs of each, in turns. The first one is left out because its caches are cold."""
    seed: int = 0
    """Seed of the counts and of the training."""
    out: Path | None = None
    """JSON file to write."""


def make_counts(arguments: Arguments) -> scipy.sparse.csr_array:
    """Returns counts with rows of different lengths, as those of cells of different sizes."""
    rng = np.random.default_rng(arguments.seed)
    popularity = rng.gamma(1.0, 1.0, arguments.columns)
    sizes = rng.lognormal(0.0, 0.4, arguments.examples)
    rows = []
    for size in sizes / sizes.mean():
        present = rng.random(arguments.columns) < arguments.density * popularity * size
        rows.append(
            scipy.sparse.csr_array(np.where(present, 1 + rng.poisson(0.5, arguments.columns), 0).astype(np.int32)[None])
        )
    return scipy.sparse.csr_array(scipy.sparse.vstack(rows))


def main() -> int:
    """Writes the counts, trains in both ways in turns, and prints the table."""
    arguments = parse(Arguments)
    expect_counts(1, **{name: getattr(arguments, name) for name in ("examples", "columns", "epochs")})
    with tempfile.TemporaryDirectory() as folder:
        counts = make_counts(arguments)
        share = counts.nnz / (arguments.examples * arguments.columns)
        print(f"{arguments.examples:,} x {arguments.columns:,} counts, {share:.1%} not zero", flush=True)
        scipy.sparse.save_npz(Path(folder) / "sparse.npz", counts)
        np.save(Path(folder) / "dense.npy", counts.toarray())
        config = Config(
            likelihood=arguments.likelihood,
            hidden=(128,),
            latent_dim=10,
            batch_size=128,
            epochs=arguments.epochs,
            seed=arguments.seed,
        )
        files = {"sparse": "sparse.npz", "dense": "dense.npy"}
        configs = {name: dataclasses.replace(config, dataset=f"{folder}/{file}") for name, file in files.items()}
        measured = measure(configs, arguments.epochs, [arguments.seed])
    rows = result_rows(measured, "dense")
    print(f"\n{table(rows, 'dense')}")
    if arguments.out is not None:
        content = {"rows": rows, "rates": {name: one.rates for name, one in measured.items()}}
        content |= {"settings": dataclasses.asdict(arguments) | {"out": None}}
        write_results(arguments.out, content, ("jax", "jaxlib", "scipy", "numpy"))
    return 0


if __name__ == "__main__":
    run_script(main)
