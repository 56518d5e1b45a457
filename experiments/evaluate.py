"""Evaluates trained runs on their exact test sets and writes evaluation.json."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import tyro
from common import expect_runs, parse, run_script

from vae_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Evaluate run directories: the test ELBO (beta = 1) and its two terms, every test example once, in nats per example.

    Example: python experiments/evaluate.py runs/first --num-samples 100
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run directories written by train.py; one table for all of them."""
    num_samples: int = 10
    """Draws of z for each test example. 1 repeats the number in summary.json."""
    batch_size: int = 1000
    """Examples at once; changes no result beyond rounding."""
    data_dir: str | None = None
    """Where TFDS finds prepared data, if not where the run found it."""


def evaluate_run(path: Path, arguments: Arguments) -> dict[str, Any]:
    """The content of evaluation.json."""
    import jax
    import numpy as np

    from vae_jax.divergences import kl_per_dimension
    from vae_jax.evaluation import encode_dataset, evaluate, means
    from vae_jax.runs import load_run, test_bits_per_dim
    from vae_jax.training import evaluation_key

    run = load_run(path, data_dir=arguments.data_dir)
    for note in run.notes:
        print(f"note: {note}", file=sys.stderr)
    vae, data = run.built.vae, run.built.data

    @jax.jit
    def evaluate_jit(params: Any, test: jax.Array) -> Any:
        return evaluate(
            evaluation_key(run.built.config.test_seed),
            vae,
            params,
            test,
            to_input=data.eval_input,
            batch_size=arguments.batch_size,
            num_samples=arguments.num_samples,
            log_jacobian=data.log_jacobian,
        )

    @jax.jit
    def kl_jit(params: Any, test: jax.Array) -> jax.Array:
        posterior = encode_dataset(vae, params, test, to_input=data.eval_input, batch_size=arguments.batch_size)
        return jax.vmap(kl_per_dimension)(*posterior)

    test = means(evaluate_jit(run.params, data.test))
    kl = np.asarray(kl_jit(run.params, data.test), np.float64).mean(axis=0)
    return {
        "test_elbo": test.elbo,
        "test_log_likelihood": test.log_likelihood,
        "test_kl": test.kl,
        "test_elbo_standard_error": test.elbo_standard_error,
        "num_test_examples": test.num_examples,
        "num_samples": arguments.num_samples,
        "evaluated_epoch": run.epoch,
        "kl_per_dimension": kl.tolist() if vae.prior is None else None,  # defined for N(0, I)
        "test_bits_per_dim": test_bits_per_dim(run.built, test.elbo),
        "unit": "nats per example, beta = 1",
    }


def main() -> int:
    """Parses, evaluates, prints one table."""
    arguments = parse(Arguments)
    expect_runs(arguments.runs)
    for name in ("num_samples", "batch_size"):
        if getattr(arguments, name) < 1:
            flag = name.replace("_", "-")
            raise UserError(f"--{flag}: expected a whole number >= 1, got {getattr(arguments, name)}.")

    from vae_jax.cache import enable_compilation_cache
    from vae_jax.runs import write_json

    enable_compilation_cache()
    width = max(len(str(path)) for path in arguments.runs)
    header = f"{'run':{width}}  {'test ELBO':>10}  {'+-':>6}  {'log-lik.':>10}  {'KL':>8}  {'examples':>8}  {'epoch':>5}"
    for path in arguments.runs:
        result = evaluate_run(path, arguments)
        write_json(path / "evaluation.json", result)
        if path == arguments.runs[0]:
            print(header)
        print(
            f"{path!s:{width}}  {result['test_elbo']:10.3f}  {result['test_elbo_standard_error']:6.3f}  "
            f"{result['test_log_likelihood']:10.3f}  {result['test_kl']:8.3f}  {result['num_test_examples']:8d}  "
            f"{result['evaluated_epoch']:5d}",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    run_script(main)
