"""Measures the bias of importance sampling: the NLL of one VAE by up to 50,000 samples from its encoder, and by AIS."""

if __name__ == "__main__":
    import environment

    environment.expect_packages()

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vae_jax._numerics.keys import Stream, stream
from vae_jax.cli.arguments import parse
from vae_jax.cli.checks import expect_counts
from vae_jax.cli.progress import EpochProgress, Interrupt
from vae_jax.cli.reproduction import Row, expect_seeds, summarize, with_error, write
from vae_jax.cli.script import run_script
from vae_jax.cli.tables import markdown
from vae_jax.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    import jax
    import numpy as np

    from vae_jax.runs import Run

FOLDER = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Train a VAE on MNIST, or take an existing one, and estimate log p(x) of its first test images in several ways.

    Example: python experiments/reproductions/ais/run.py --dataset mnist --data-dir ~/tensorflow_datasets
    """

    dataset: str = "mnist"
    """MNIST: a TFDS name, or a folder with its IDX files."""
    data_dir: str | None = None
    """Folder with prepared TFDS data."""
    run: Path = Path("runs/ais")
    """Run directory. A missing one is trained for `epochs`, an unfinished one is continued, and a finished one is used."""
    epochs: int = 50
    """Passes over the training set."""
    samples: tuple[int, ...] = (1, 5, 50, 500, 5000, 50_000)
    """Importance samples."""
    temperatures: int = 1000
    """Temperatures of annealing."""
    chains: int = 16
    """Chains per image."""
    num_images: int = 100
    """Number of test images, from the first on."""
    num_simulated: int = 20
    """Images simulated from the model, on which annealing is bounded from both sides."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the estimates. The network is the same for all of them."""
    out: Path = FOLDER / "results.json"
    """JSON file to write."""


def load_or_train(arguments: Arguments) -> "Run | None":
    """Returns the run, which is trained if need be, or None if the training was interrupted."""
    from vae_jax import runs
    from vae_jax.build import build
    from vae_jax.config import Config
    from vae_jax.storage.directories import is_fresh

    fresh = is_fresh(arguments.run)
    if fresh or not (arguments.run / "summary.json").exists():
        config = Config(dataset=arguments.dataset, hidden=(200, 200), activation="tanh", latent_dim=50, epochs=arguments.epochs)
        progress = EpochProgress(arguments.epochs, 0)
        with Interrupt() as interrupt:

            def on_epoch(line: Mapping[str, float]) -> bool:
                progress.update(line)
                return interrupt.signal is not None

            built = build(config, data_dir=arguments.data_dir)
            fit, _ = runs.train(built, arguments.run, resume=not fresh, data_dir=arguments.data_dir, on_epoch=on_epoch)
        progress.close()
        if fit.status == "interrupted":
            return None
    return runs.load_run(arguments.run, data_dir=arguments.data_dir)


def tables(content: dict[str, Any]) -> str:
    """Returns the table of estimates in Markdown."""
    best = content["estimates"]["AIS"]["nll"]["mean"]
    cells = [
        (name, with_error(estimate["nll"], 3), f"{estimate['nll']['mean'] - best:+.3f}", f"{estimate['seconds']:.0f}")
        for name, estimate in content["estimates"].items()
    ]
    table = markdown(("", "NLL, nats", "above AIS", "seconds, compilation included"), cells)
    return f"{table}\n\nBDMC on simulated images: the bounds are {with_error(content['bdmc'], 3)} nats apart."


class Estimator:
    """Estimates of the NLL of the same images under the same run, by several methods.

    Args:
      run: the trained model.
      arguments: seeds, and numbers of images, samples, temperatures and chains.
    """

    def __init__(self, run: "Run", arguments: Arguments) -> None:
        from vae_jax.evaluation import Annealing

        self.run, self.arguments, self.vae, data = run, arguments, run.built.vae, run.built.data
        self.images = data.test[: arguments.num_images]
        self.options: dict[str, Any] = {"to_input": data.eval_input, "log_jacobian": data.log_jacobian}
        self.annealing = Annealing(num_temperatures=arguments.temperatures, num_chains=arguments.chains)
        self.estimates: dict[str, dict[str, Any]] = {}

    def estimate(self, name: str, log_px: "Callable[..., jax.Array]", use: "Stream") -> None:
        """Adds an estimate: the mean over the images, for one seed after another in the same compiled program."""
        import jax
        import numpy as np

        start, program = time.perf_counter(), jax.jit(log_px)
        per_seed = [
            np.asarray(program(self.run.params, self.images, stream(seed, use)), np.float64) for seed in self.arguments.seeds
        ]
        count = len(self.images)
        self.estimates[name] = {
            "nll": summarize([-values.mean() for values in per_seed]),
            "standard_error_over_images": float(per_seed[0].std(ddof=1) / count**0.5) if count > 1 else None,
            "seconds": time.perf_counter() - start,
        }
        print(f"{name}: {self.estimates[name]['nll']['mean']:.3f} ({self.estimates[name]['seconds']:.0f} s)", flush=True)

    def run_all(self) -> None:
        """Estimates the NLL by importance sampling with each number of samples, and by annealing."""
        from vae_jax.evaluation import ais_dataset, importance_log_px

        for count in self.arguments.samples:

            def by_importance(params: Any, images: Any, key: Any, count: int = count) -> Any:
                return importance_log_px(key, self.vae, params, images, num_samples=count, **self.options).log_px

            self.estimate(f"k = {count:,}", by_importance, Stream.LOG_PX)

        def by_annealing(params: Any, images: Any, key: Any) -> Any:
            return ais_dataset(key, self.vae, params, images, self.annealing, **self.options).log_px

        self.estimate("AIS", by_annealing, Stream.ANNEALING)

    def bdmc_gaps(self) -> "np.ndarray":
        """Returns the distance between the two bounds of annealing on simulated images, in nats, (images,)."""
        import jax
        import numpy as np

        from vae_jax.evaluation import bdmc_simulated

        count = self.arguments.num_simulated
        gap = jax.jit(lambda params, key: bdmc_simulated(key, self.vae, params, count, self.annealing).gap)
        return np.asarray(gap(self.run.params, stream(self.arguments.seeds[0], Stream.SIMULATED)), np.float64)


def verdicts(content: dict[str, Any]) -> list[str]:
    """Returns the verdict on each row of results.json."""
    *_, largest, annealing = content["estimates"].values()
    above = largest["nll"]["mean"] - annealing["nll"]["mean"]
    texts = ["Different setting: another network, and no published number for this k." for _ in content["estimates"]]
    published = "published, on another network with 100,000 samples and all test images: 0.84"
    texts[-2] = f"Different setting: {above:.2f} nats above AIS ({published})."
    texts[-1] = "Different setting: the lowest estimate, as published, but of another network."
    if above < 0:
        texts[-1] = "Different setting: not the lowest estimate, as it was with the published network."
    return [*texts, "Different setting: the published gaps are those of continuous images."]


def main() -> int:
    """Trains, estimates and writes the results."""
    arguments = parse(Arguments)
    expect_seeds(arguments.seeds)
    names = ("epochs", "temperatures", "chains", "num_images", "num_simulated")
    expect_counts(1, **{name: getattr(arguments, name) for name in names})
    if not arguments.samples or min(arguments.samples) < 1:
        raise UserError("`samples`: expected at least one whole number >= 1.")
    from vae_jax.storage.cache import enable_compilation_cache

    enable_compilation_cache()
    run = load_or_train(arguments)
    if run is None:
        print(f"saved in {arguments.run}; the same command continues")
        return 130
    began, estimator = time.perf_counter(), Estimator(run, arguments)
    estimator.run_all()
    gaps = estimator.bdmc_gaps()
    seconds = time.perf_counter() - began
    assert run.summary is not None
    bdmc = summarize(gaps.tolist())
    details = {"estimates": estimator.estimates, "bdmc": bdmc, "test_elbo": run.summary["test_elbo"]}
    print(f"\n{tables(details)}")
    rows = []
    for name, estimate in estimator.estimates.items():
        nll = estimate["nll"]
        title = f"NLL of {len(estimator.images)} test images, {name}"
        rows.append(Row(title, None, nll["mean"], nll["standard_error"], len(arguments.seeds)))
    # The error of this number is over the images.
    rows.append(Row(f"BDMC: bounds of {len(gaps)} images apart", None, bdmc["mean"], bdmc["standard_error"], 1))
    kept = {"config": {**dataclasses.asdict(run.built.config), "dataset": Path(run.built.config.dataset).name}}
    kept |= {name: value for name, value in dataclasses.asdict(arguments).items() if name not in ("run", "dataset", "epochs")}
    write(arguments.out, kept, rows, details, seconds, verdicts)
    return 0


if __name__ == "__main__":
    run_script(main)
