"""Times log p(x) of the MNIST test set by importance sampling, against the product rate of the machine and against pythae.

A 784-512-20 Bernoulli VAE (pythae's default network) is trained for a few epochs and then evaluated in one compiled pass, with
thousands of samples for every test image. FLOPs are those of the decoder's two matrix products, 2 (20 x 512 + 512 x 784) per
sample. The roof is the rate of the larger of these products alone, with the same number of rows, measured before and after.
pythae's `get_nll` uses a network of the same size and the same number of samples on part of the images, in a separate process
and without gradients.
"""

if __name__ == "__main__":
    import environment

    environment.expect_packages()

import dataclasses
import importlib.util
import math
import multiprocessing
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from workload import product_rate

from vae_jax.cli.arguments import parse
from vae_jax.cli.checks import expect_counts
from vae_jax.cli.results_file import write_results
from vae_jax.cli.script import run_script
from vae_jax.cli.tables import markdown

HIDDEN, LATENT = 512, 20


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Benchmark the evaluation of log p(x) on MNIST; prints a table and writes JSON.

    Example: python experiments/benchmarks/evaluation_mnist.py --dataset ~/data/mnist --out results.json
    """

    dataset: str = "mnist"
    """MNIST: a TFDS name, or a folder with its IDX files."""
    data_dir: str | None = None
    """Folder with prepared TFDS data."""
    num_samples: int = 5000
    """Importance samples for each test image."""
    epochs: int = 5
    """Epochs of training before the evaluation."""
    pythae_images: int = 10
    """Number of test images that pythae evaluates. 0 leaves it out."""
    examples: int | None = None
    """Evaluate this number of test images only, for a quick trial."""
    out: Path | None = None
    """JSON file to write."""


def pythae(images: np.ndarray, num_samples: int, connection: Any) -> None:
    """Sends the seconds that pythae's `get_nll` takes, and its result."""
    import torch
    from pythae.models import VAE, VAEConfig

    model = VAE(VAEConfig(input_dim=(1, 28, 28), latent_dim=LATENT, reconstruction_loss="bce"))
    data = torch.tensor(images.reshape(len(images), 1, 28, 28), dtype=torch.float32)
    with torch.no_grad():
        model.get_nll(data[:1], n_samples=100, batch_size=100)
        began = time.perf_counter()
        nll = model.get_nll(data, n_samples=num_samples, batch_size=100)
        connection.send((time.perf_counter() - began, nll))


def pythae_seconds(images: np.ndarray, num_samples: int) -> float:
    """Returns the seconds of pythae per image, measured in a separate process."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=pythae, args=(images, num_samples, theirs))
    process.start()
    theirs.close()
    seconds, _ = ours.recv()
    process.join()
    return seconds / len(images)


def main() -> int:
    """Trains, evaluates, compares and prints the table."""
    arguments = parse(Arguments)
    expect_counts(1, num_samples=arguments.num_samples, epochs=arguments.epochs)
    import jax
    import jax.numpy as jnp

    from vae_jax import data, evaluation, likelihoods, model, training
    from vae_jax._numerics.keys import Stream, stream
    from vae_jax.evaluation.importance import chunk_sizes, draw_bytes

    dataset = data.load(arguments.dataset, data_dir=arguments.data_dir)
    prepared = data.prepare(dataset, binarization="dynamic")
    vae = model.mlp_vae(dataset.data_shape, likelihoods.bernoulli(), latent_dim=LATENT, hidden=(HIDDEN,))
    print(f"training {math.prod(dataset.data_shape)}-{HIDDEN}-{LATENT} for {arguments.epochs} epochs ...", flush=True)
    fit = training.fit(vae, prepared, epochs=arguments.epochs, batch_size=128, seed=0)
    test, memory_bytes = prepared.test[: arguments.examples], 2**26 if jax.default_backend() == "cpu" else 2**30
    options = {"num_samples": arguments.num_samples, "to_input": prepared.eval_input, "memory_bytes": memory_bytes}

    def estimate(params: Any, part: Any, first: Any) -> Any:
        part = evaluation.DataSlice(part, first)
        return evaluation.importance_log_px(stream(0, Stream.LOG_PX), vae, params, part, **options)

    rows = max(2, chunk_sizes(draw_bytes(vae, fit.params), 1, arguments.num_samples, memory_bytes)[1])
    program = jax.jit(estimate).lower(fit.params, test, jnp.int32(0)).compile()
    pixels = math.prod(dataset.data_shape)
    roofs = [product_rate(rows, HIDDEN, pixels, repeats=200)]
    print(f"{len(test)} images x {arguments.num_samples} samples ...", flush=True)
    began = time.perf_counter()
    weights = jax.block_until_ready(program(fit.params, test, jnp.int32(0)))
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    roofs.append(product_rate(rows, HIDDEN, pixels, repeats=200))
    means = evaluation.log_px_means(weights, arguments.num_samples)
    rate = len(test) * arguments.num_samples * 2 * (LATENT * HIDDEN + HIDDEN * pixels) / seconds
    share = rate / statistics.mean(roofs)
    content: dict[str, Any] = {
        "images": len(test),
        "seconds": seconds,
        "flops_per_second": rate,
        "roof_flops_per_second": roofs,
        "share_of_roof": share,
        "peak_memory_bytes": peak,
        "log_px": means._asdict(),
        "test_elbo": fit.test.elbo if fit.test else None,
    }
    cells = [
        ("seconds", f"{seconds:.1f}", "300: " + ("met" if seconds < 300 else "missed")),
        ("share of the matrix-product rate", f"{share:.2f} of {statistics.mean(roofs) / 1e9:.0f} GFLOP/s", "0.7"),
        ("peak memory of the process", f"{peak / 2**30:.2f} GiB", "2"),
        ("log p(x)", f"{means.log_px:.3f} +- {means.standard_error:.3f} (MC {means.monte_carlo_error:.4f})", ""),
    ]
    if arguments.pythae_images and importlib.util.find_spec("pythae") is None:
        print("note: pythae is not installed (pip install pythae), so its row is left out.", file=sys.stderr)
    elif arguments.pythae_images:
        images = np.asarray(prepared.eval_input(prepared.test[: arguments.pythae_images]))
        theirs, ours = pythae_seconds(images, arguments.num_samples), seconds / len(test)
        content["pythae"] = {"images": len(images), "seconds_per_image": theirs, "faster_by": theirs / ours}
        cells.append(("faster than pythae's get_nll by", f"{theirs / ours:.0f} x ({theirs:.3f} s an image)", "20"))
    print(f"\n{markdown(('', 'measured', 'target'), cells)}")
    if arguments.out is not None:
        content["settings"] = dataclasses.asdict(arguments) | {"dataset": Path(arguments.dataset).name, "out": None}
        content["settings"] |= {"network": f"{pixels}-{HIDDEN}-{LATENT}", "rows": rows}
        write_results(arguments.out, content, ("jax", "flax", "optax", "torch", "pythae"))
    return 0


if __name__ == "__main__":
    run_script(main)
