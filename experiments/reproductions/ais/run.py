"""How far importance sampling is off: the NLL of one trained VAE by k samples from the encoder, k up to 50,000, and by AIS."""

if __name__ == "__main__":
    import environment

    environment.expect_packages()

import dataclasses
import time
from pathlib import Path
from typing import Any

from vae_jax.cli.arguments import parse
from vae_jax.cli.checks import expect_counts
from vae_jax.cli.progress import EpochProgress, Interrupt
from vae_jax.cli.reproduction import Row, expect_seeds, summarize, with_error, write
from vae_jax.cli.script import run_script
from vae_jax.cli.tables import markdown
from vae_jax.errors import UserError

FOLDER = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Trains a VAE on MNIST, or takes one, and estimates log p(x) of its first test images in all ways.

    Example: python experiments/reproductions/ais/run.py --dataset mnist --data-dir ~/tensorflow_datasets
    """

    dataset: str = "mnist"
    """MNIST: a TFDS name, or a folder with its IDX files."""
    data_dir: str | None = None
    """Where TFDS finds prepared data."""
    run: Path = Path("runs/ais")
    """Run directory: trained with --epochs where it is not there, continued where it is unfinished, else taken as it is."""
    epochs: int = 50
    """Passes over the training set."""
    samples: tuple[int, ...] = (1, 5, 50, 500, 5000, 50_000)
    """Importance samples."""
    temperatures: int = 1000
    """Temperatures of annealing."""
    chains: int = 16
    """Chains of each image."""
    num_images: int = 200
    """Test images, the first so many."""
    num_simulated: int = 50
    """Images simulated from the model, on which annealing is bounded from both sides."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the estimates, all of the same network."""
    out: Path = FOLDER / "results.json"
    """JSON file to write."""


def trained(arguments: Arguments) -> Any:
    """The run, trained if need be; None if that was interrupted."""
    from vae_jax import runs
    from vae_jax.build import build
    from vae_jax.config import Config
    from vae_jax.storage.directories import is_fresh

    fresh = is_fresh(arguments.run)
    if fresh or not (arguments.run / "summary.json").exists():
        config = Config(dataset=arguments.dataset, hidden=(200, 200), activation="tanh", latent_dim=50, epochs=arguments.epochs)
        progress = EpochProgress(arguments.epochs, 0)
        with Interrupt() as interrupt:

            def on_epoch(line: dict[str, Any]) -> bool:
                progress.update(line)
                return interrupt.signal is not None

            built = build(config, data_dir=arguments.data_dir)
            fit, _ = runs.train(built, arguments.run, resume=not fresh, data_dir=arguments.data_dir, on_epoch=on_epoch)
        progress.close()
        if fit.status == "interrupted":
            return None
    return runs.load_run(arguments.run, data_dir=arguments.data_dir)


def tables(content: dict[str, Any]) -> str:
    """The estimates as Markdown."""
    best = content["estimates"]["AIS"]["nll"]["mean"]
    cells = [
        (name, with_error(found["nll"], 3), f"{found['nll']['mean'] - best:+.3f}", f"{found['seconds']:.0f}")
        for name, found in content["estimates"].items()
    ]
    table = markdown(("", "NLL, nats", "above AIS", "seconds, compilation included"), cells)
    return f"{table}\n\nBDMC on simulated images: the bounds are {with_error(content['bdmc'], 3)} nats apart."


def main() -> int:
    """Trains, estimates, writes."""
    arguments = parse(Arguments)
    expect_seeds(arguments.seeds)
    names = ("epochs", "temperatures", "chains", "num_images", "num_simulated")
    expect_counts(1, **{name: getattr(arguments, name) for name in names})
    if not arguments.samples or min(arguments.samples) < 1:
        raise UserError("--samples: expected at least one whole number >= 1.")
    import jax
    import numpy as np

    from vae_jax._numerics.keys import Stream, stream
    from vae_jax.evaluation import Annealing, ais_dataset, bdmc_simulated, importance_log_px
    from vae_jax.storage.cache import enable_compilation_cache

    enable_compilation_cache()
    run = trained(arguments)
    if run is None:
        print(f"saved in {arguments.run}; the same command goes on")
        return 130
    vae, data = run.built.vae, run.built.data
    images = data.test[: arguments.num_images]
    options: dict[str, Any] = {"to_input": data.eval_input, "log_jacobian": data.log_jacobian}
    settings = Annealing(num_temperatures=arguments.temperatures, num_chains=arguments.chains)
    began, estimates = time.perf_counter(), {}

    def estimate(name: str, of: Any, use: Stream) -> None:
        """One after another, each seed in the same compiled program; the mean over the images."""
        start, program = time.perf_counter(), jax.jit(of)
        per_seed = [np.asarray(program(run.params, images, stream(seed, use)), np.float64) for seed in arguments.seeds]
        estimates[name] = {
            "nll": summarize([-values.mean() for values in per_seed]),
            "standard_error_over_images": float(per_seed[0].std(ddof=1) / len(images) ** 0.5) if len(images) > 1 else None,
            "seconds": time.perf_counter() - start,
        }
        print(f"{name}: {estimates[name]['nll']['mean']:.3f} ({estimates[name]['seconds']:.0f} s)", flush=True)

    for count in arguments.samples:

        def by_importance(params: Any, images: Any, key: Any, count: int = count) -> Any:
            return importance_log_px(key, vae, params, images, num_samples=count, **options).log_px

        estimate(f"k = {count:,}", by_importance, Stream.LOG_PX)

    def by_annealing(params: Any, images: Any, key: Any) -> Any:
        return ais_dataset(key, vae, params, images, settings, **options).log_px

    estimate("AIS", by_annealing, Stream.ANNEALING)
    bounds = jax.jit(lambda params, key: bdmc_simulated(key, vae, params, arguments.num_simulated, settings).gap)
    gap = np.asarray(bounds(run.params, stream(arguments.seeds[0], Stream.SIMULATED)), np.float64)
    seconds = time.perf_counter() - began
    details = {"estimates": estimates, "bdmc": summarize(gap.tolist()), "test_elbo": run.summary["test_elbo"]}
    print(f"\n{tables(details)}")
    rows = [
        Row(
            f"NLL of {len(images)} test images, {name}",
            None,
            found["nll"]["mean"],
            found["nll"]["standard_error"],
            len(arguments.seeds),
        )
        for name, found in estimates.items()
    ]
    bdmc = details["bdmc"]  # its error is over the images
    rows.append(Row(f"BDMC: bounds of {len(gap)} images apart", None, bdmc["mean"], bdmc["standard_error"], 1))
    kept = {"config": {**dataclasses.asdict(run.built.config), "dataset": Path(run.built.config.dataset).name}}
    kept |= {name: value for name, value in dataclasses.asdict(arguments).items() if name not in ("run", "dataset", "epochs")}
    write(arguments.out, kept, rows, details, seconds)
    return 0


if __name__ == "__main__":
    run_script(main)
