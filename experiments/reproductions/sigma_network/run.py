"""Finds the settings behind the MNIST numbers of Rybkin et al. (2021): densities of raw pixels under the paper's network."""

if __name__ == "__main__":
    import environment

    environment.expect_packages()

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vae_jax.cli.arguments import parse
from vae_jax.cli.checks import expect_counts
from vae_jax.cli.reproduction import Row, expect_seeds, judge, summarize, train_sweep, with_error, write
from vae_jax.cli.script import run_script
from vae_jax.cli.tables import markdown
from vae_jax.errors import UserError, unknown

if TYPE_CHECKING:
    from vae_jax.build import PartOptions
    from vae_jax.config import Config, TrainingData
    from vae_jax.networks import Network

FOLDER = Path(__file__).parent
NUM_PIXELS = 784
# -log p on MNIST from Table 3 of Rybkin et al. by the variance of the decoder; None: the variance is learned.
PUBLISHED = {"σ = 1": (740.5, 1.0), "β tuned": (-796.2, 0.01), "σ learned": (-896.1, None)}
# -log p on SVHN of 28 x 28 pixels and three channels by β, from their Table 1.
PUBLISHED_SVHN = {0.001: 21.43, 0.01: -3186.0, 0.1: -1223.0, 1.0: 1381.0, 10.0: 4056.0}
PAPER = "paper's network"
EPOCHS = 10  # of the reference code
MARGIN = 10.0  # nats, because the published numbers have no errors, and the bound still falls by nats in the last epoch


class Variant(NamedTuple):
    """One step from the MLP of `sigma` to the published setting."""

    title: str
    settings: dict[str, Any]
    network: str = ""  # "sigmoid" or "paper"; the MLP of the configuration by default
    scale: str = "shared"


MLP = {"hidden": (200, 200), "latent_dim": 10}
WIDE = {"hidden": (200, 200), "latent_dim": 20}
VARIANTS = {
    "dequantized": Variant("MLP, 10 latents, dequantized pixels", {**MLP, "dequantize": True}),
    "raw": Variant("the same, raw pixels", MLP),
    "latents": Variant("and 20 latents", WIDE),
    "sigmoid": Variant("and means from a sigmoid", WIDE, "sigmoid"),
    "paper": Variant(PAPER, {"latent_dim": 20}, "paper"),
    "paper_beta": Variant(f"{PAPER}, σ² = β = 0.01", {"latent_dim": 20}, "paper", "0.1"),
    "paper_one": Variant(f"{PAPER}, σ = 1", {"latent_dim": 20}, "paper", "1.0"),
}
ROWS = {"paper": "σ learned", "paper_beta": "β tuned", "paper_one": "σ = 1"}  # variants with a comparable published number


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Train the steps from our MLP to the network of the paper, and report densities of the test images in nats.

    Example: python experiments/reproductions/sigma_network/run.py --dataset FOLDER
    """

    dataset: str = "mnist"
    """MNIST: a TFDS name, or a folder with its IDX files."""
    data_dir: str | None = None
    """Folder with prepared TFDS data."""
    variants: tuple[str, ...] = tuple(VARIANTS)
    """Steps to train: dequantized, raw, latents, sigmoid, paper, paper_beta, paper_one."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds for every step."""
    epochs: int = EPOCHS
    """Passes over the training set. The reference code makes 10."""
    minutes: float = float("inf")
    """Stop after this time. The same command continues."""
    collect: bool = False
    """Train nothing, and write the results after the epochs so far."""
    runs: Path = Path("runs/sigma_network")
    """Folder with a sweep directory for each step and seed. Unfinished ones are continued."""
    out: Path = FOLDER / "results.json"
    """JSON file to write."""


def gaussian_nll(squared_error: float, variance: float, num_dims: int) -> float:
    """Returns D/2 log(2 pi sigma^2) + S / (2 sigma^2) in nats, for the squared error S of one example."""
    return num_dims / 2 * math.log(2 * math.pi * variance) + squared_error / (2 * variance)


def implied_squared_error(nll: float, kl: float, variance: float | None, num_dims: int) -> float:
    """Returns the squared error per example that a reported bound implies.

    With a fixed variance, S = 2 sigma^2 (nll - kl - D/2 log(2 pi sigma^2)). A learned variance is at its optimum S / D, where
    nll - kl = D/2 (1 + log(2 pi S / D)).

    Args:
      nll: minus the ELBO, nats.
      kl: its KL, nats.
      variance: sigma^2; None: learned.
      num_dims: D.
    """
    if variance is None:
        return num_dims * math.exp(2 * (nll - kl) / num_dims - 1) / (2 * math.pi)
    return 2 * variance * (nll - kl - num_dims / 2 * math.log(2 * math.pi * variance))


def price_of_dequantization(squared_error: float, levels: int, num_dims: int) -> float:
    """Returns the nats that uniform noise of one level adds to the bound of a learned variance.

    The noise has the variance 1 / (12 levels^2) in each of the D dimensions.
    """
    noise = num_dims / (12 * levels**2)
    return num_dims / 2 * math.log1p(noise / squared_error)


def svhn_constants(ratio: float) -> dict[float, float]:
    """Returns what a published number on SVHN leaves for error and KL if sigma^2 = ratio * beta, by beta.

    It is the number minus D/2 log(2 pi ratio beta). No density with that variance leaves less than zero.
    """
    num_dims = 28 * 28 * 3
    return {beta: nll - gaussian_nll(0.0, ratio * beta, num_dims) for beta, nll in PUBLISHED_SVHN.items()}


def sigmoid_network(config: "Config", data: "TrainingData") -> "tuple[Network, Network]":
    """Returns the MLP of the configuration with a sigmoid at the end of the decoder."""
    import jax

    from vae_jax import networks

    encoder = networks.mlp_encoder(data.input_shape, config.latent_dim, hidden=config.hidden)
    decoder = networks.mlp_decoder(config.latent_dim, data.output_shape, hidden=config.hidden)
    return encoder, decoder._replace(apply=lambda params, z: jax.nn.sigmoid(decoder.apply(params, z)))


def factory(name: str) -> "PartOptions":
    """Returns the network of a variant as a keyword of a sweep; {} for that of the configuration."""
    if name == "sigmoid":
        return {"network": sigmoid_network}
    if name == "paper":
        import paper_network

        return {"network": paper_network.make_network}
    return {}


def measure(name: str, seed: int, arguments: Arguments) -> "dict[str, Any] | int | None":
    """Trains one variant with one seed and returns its numbers.

    Returns:
      The numbers after the last epoch, or the exit status if the training was interrupted. With `collect` the numbers after
      the epochs so far, or None without any.
    """
    from vae_jax.build import build
    from vae_jax.config import Config
    from vae_jax.runs.metrics_file import read_metrics

    variant = VARIANTS[name]
    shared = {
        "dataset": arguments.dataset,
        "epochs": arguments.epochs,
        "batch_size": 128,
        "likelihood": "gaussian",
        "seed": seed,
    }
    config = Config(**shared, scale=variant.scale, **variant.settings)
    folder, parts = arguments.runs / f"{name}-{seed}", factory(variant.network)
    if not arguments.collect:
        status = train_sweep([config], folder, data_dir=arguments.data_dir, minutes=arguments.minutes, **parts)
        if status is not None:
            return status
    lines = [line for block in sorted((folder / "blocks").glob("*")) for line in read_metrics(block)]
    if not lines:
        return None
    jacobian = build(config, data_dir=arguments.data_dir, **parts).data.log_jacobian
    curve = [jacobian - line["test_elbo"] for line in lines]
    kl, num_dims = lines[-1]["test_kl"], NUM_PIXELS if arguments.dataset != "digits" else 64
    variance = None if variant.scale == "shared" else float(variant.scale) ** 2
    error = implied_squared_error(curve[-1], kl, variance, num_dims)
    numbers = {"nll": curve[-1], "kl": kl, "squared_error": error, "curve": curve}
    return {**numbers, "epochs": len(curve), "seconds": sum(line["seconds"] for line in lines)}


def tables(content: dict[str, Any]) -> str:
    """Returns the tables of the published numbers, of the steps, and of the consistency of the paper's Table 1."""
    published = [
        (name, f"{nll:.1f}", *(f"{implied_squared_error(nll, kl, variance, NUM_PIXELS):.1f}" for kl in (20, 40, 60)))
        for name, (nll, variance) in PUBLISHED.items()
        if name != "σ = 1"
    ]
    steps = [
        (
            step["title"],
            *(with_error(step[name], digits) for name, digits in (("nll", 1), ("kl", 1), ("squared_error", 2))),
            str(step["seeds"]),
            str(step["epochs"]),
        )
        for step in content["steps"].values()
    ]
    left = [(f"{beta:g}", *(f"{svhn_constants(ratio)[beta]:.0f}" for ratio in (1.0, 0.5))) for beta in PUBLISHED_SVHN]
    rising = [
        f"{step['title']}: −ELBO {', '.join(f'{value:.0f}' for value in step['curve'])} after each epoch."
        for name, step in content["steps"].items()
        if name == "sigmoid" or name.startswith("paper")
    ]
    return "\n\n".join(
        [
            "Squared error per image that a published −log p implies, if the KL is 20, 40 or 60 nats, D = 784",
            markdown(("published", "−log p", "KL = 20", "KL = 40", "KL = 60"), published),
            "Measured, a learned σ where no other is named: −ELBO of the density on [0, 1]",
            markdown(("", "−ELBO", "KL", "squared error", "seeds", "epochs"), steps),
            *rising,
            "SVHN in the paper's Table 1: what is left for squared error and KL after D/2 log 2πσ²",
            markdown(("β", "if σ² = β", "if σ² = β/2"), left),
        ]
    )


def summarize_step(title: str, measured: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns means and standard errors over the seeds of one step, and the mean curve.

    While the trainings are under way, seeds with fewer epochs than the others are left out.
    """
    epochs = max(one["epochs"] for one in measured)
    measured = [one for one in measured if one["epochs"] == epochs]
    numbers = {name: summarize([one[name] for one in measured]) for name in ("nll", "kl", "squared_error")}
    curve = [sum(values) / len(values) for values in zip(*(one["curve"] for one in measured), strict=True)]
    return {"title": title, **numbers, "curve": curve, "seeds": len(measured), "epochs": epochs}


def verdicts(content: dict[str, Any]) -> list[str]:
    """Returns the verdict on each row of results.json."""
    texts = []
    for row, step in zip(content["rows"], content["steps"].values(), strict=True):
        reason = f"only {step['epochs']} of the {EPOCHS} epochs of the reference code are trained so far"
        if step["epochs"] >= EPOCHS:
            reason = "the paper gives neither its network for MNIST nor its number of epochs, and ours are those of its code"
        judged = judge(row, because=reason, margin=MARGIN, better="lower") if row["published"] is not None else ""
        texts.append(judged or "No published number: a step on the way to the published setting.")
    return texts


def main() -> int:
    """Trains the steps, one seed after another, and writes the results."""
    arguments = parse(Arguments)
    expect_seeds(arguments.seeds)
    expect_counts(1, epochs=arguments.epochs)
    for name in arguments.variants:
        if name not in VARIANTS:
            raise unknown("variant", name, VARIANTS)
    if not arguments.variants:
        raise UserError("`variants`: expected at least one.")
    measured: dict[str, list[dict[str, Any]]] = {name: [] for name in arguments.variants}
    for seed in arguments.seeds:
        for name in arguments.variants:
            numbers = measure(name, seed, arguments)
            if numbers is None:
                continue
            if isinstance(numbers, int):
                return numbers
            measured[name].append(numbers)
            print(f"{VARIANTS[name].title}, seed {seed}: −ELBO {numbers['nll']:.1f}", flush=True)
    steps = {name: summarize_step(VARIANTS[name].title, ones) for name, ones in measured.items() if ones}
    if not steps:
        raise UserError(f"{arguments.runs}: no epoch of these steps and seeds has ended yet.", fix="Leave out --collect.")
    rows = []
    for name, step in steps.items():
        published = PUBLISHED[ROWS[name]][0] if name in ROWS else None
        label = f"mnist, {step['title']}: −ELBO of the density on [0, 1]"
        rows.append(Row(label, published, step["nll"]["mean"], step["nll"]["standard_error"], step["seeds"]))
    content = {"steps": steps}
    print(tables(content))
    kept = {name: getattr(arguments, name) for name in ("dataset", "seeds", "epochs")}
    write(arguments.out, kept, rows, content, sum(one["seconds"] for ones in measured.values() for one in ones), verdicts)
    return 0


if __name__ == "__main__":
    run_script(main)
