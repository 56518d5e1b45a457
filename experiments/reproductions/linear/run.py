"""Compares trained linear beta-VAEs with their closed form: rate, distortion, collapse and log p(x).

With a linear decoder, a fixed sigma and theta = beta sigma^2, the optimal rate and distortion follow from reverse
water-filling. The unit of an eigenvalue lambda of the data's covariance keeps 1/2 log(lambda / theta) nats, and collapses if
lambda <= theta. With beta = 1 and a learned sigma, the optimal ELBO is the log-likelihood of probabilistic PCA (Tipping &
Bishop 1999; Lucas et al. 2019), because a linear encoder with a diagonal covariance is exact there.
"""

if __name__ == "__main__":
    import environment

    environment.expect_packages()

import dataclasses
import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vae_jax import likelihoods, model, networks, training
from vae_jax.cli.arguments import parse
from vae_jax.cli.checks import expect_counts
from vae_jax.cli.reproduction import Row, expect_seeds, judge, summarize, write
from vae_jax.cli.script import run_script
from vae_jax.cli.tables import markdown
from vae_jax.config import Hyperparams
from vae_jax.divergences import kl_per_dimension
from vae_jax.errors import UserError
from vae_jax.evaluation.posterior_collapse import collapse
from vae_jax.model import Params

FOLDER = Path(__file__).parent
EIGENVALUES = np.array([6.0, 3.0, 1.5, 0.7, 0.35, 0.1])
COUNT, LEARNING_RATE = 500, 0.02


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Train linear VAEs on Gaussian data with a known covariance, and compare them with the closed form.

    Example: python experiments/reproductions/linear/run.py
    """

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of initialization and noise."""
    betas: tuple[float, ...] = (0.05, 0.2, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
    """Values of beta of the rate-distortion curve. Near an eigenvalue, collapse would take forever."""
    latent_dims: tuple[int, ...] = (6, 2)
    """Latent dimensions of the rate-distortion curves: one for each eigenvalue, and too few."""
    components: tuple[int, ...] = (1, 2, 3, 4, 5)
    """Latent dimensions of probabilistic PCA."""
    steps: int = 50_000
    """Steps of Adam on full batches, with a learning rate that falls to 0."""
    out: Path = FOLDER / "results.json"
    """JSON file to write. The figure goes beside it."""


class Optimum(NamedTuple):
    """Rate, distortion and ELBO per example, in nats except for `error`."""

    rate: float
    error: float  # E |x - decode(z)|^2
    units: np.ndarray  # KL of each unit, largest first
    scale: float  # sigma
    elbo: float


def water_filling(latent_dim: int, theta: float, scale: float = 1.0) -> Optimum:
    """Returns the optimum for theta = beta scale^2. Eigenvalues without a latent dimension count as error."""
    kept = EIGENVALUES[:latent_dim]
    units = np.maximum(0, 0.5 * np.log(kept / theta))
    error = np.minimum(theta, kept).sum() + EIGENVALUES[latent_dim:].sum()
    elbo = -0.5 * (len(EIGENVALUES) * math.log(2 * math.pi * scale**2) + error / scale**2) - units.sum()
    return Optimum(units.sum(), error, units, scale, elbo)


def ppca(latent_dim: int) -> Optimum:
    """Returns the maximum-likelihood solution, in which sigma^2 is the mean of the eigenvalues left out."""
    variance = EIGENVALUES[latent_dim:].mean()
    return water_filling(latent_dim, variance, math.sqrt(variance))


def data(seed: int = 0) -> jax.Array:
    """Returns examples whose mean is 0 and whose sample covariance (1/N) has exactly the eigenvalues, in random directions."""
    rng = np.random.default_rng(seed)
    dims = len(EIGENVALUES)
    x = rng.normal(size=(COUNT, dims))
    x -= x.mean(axis=0)
    x = x @ np.linalg.inv(np.linalg.cholesky(x.T @ x / COUNT)).T
    return jnp.asarray((x * np.sqrt(EIGENVALUES)) @ np.linalg.qr(rng.normal(size=(dims, dims)))[0].T, jnp.float32)


def linear_vae(latent_dim: int, learned_scale: bool) -> model.VAE:
    """Returns a VAE with one dense layer each way. Sigma is 1, or learned from an initial value of 1."""
    shape = EIGENVALUES.shape
    encoder = networks.mlp_encoder(shape, latent_dim, hidden=())
    decoder = networks.mlp_decoder(latent_dim, shape, hidden=())
    return model.make_vae(encoder, decoder, likelihoods.gaussian("shared" if learned_scale else 1.0), shape)


def train(vae: model.VAE, x: jax.Array, betas: tuple[float, ...], seeds: tuple[int, ...], steps: int) -> Params:
    """Trains all members on full batches in one program, and returns their parameters with leading axes (beta, seed)."""
    schedules = {"learning_rate": optax.cosine_decay_schedule(1.0, steps)}
    train_step = training.make_train_step(vae, optimizer=optax.adam, schedules=schedules)

    def member(beta: jax.Array, seed: jax.Array) -> Any:
        keys = training.run_keys(seed)

        def body(state: training.TrainState, key: jax.Array) -> tuple[training.TrainState, None]:
            return train_step(state, key, x, Hyperparams(beta=beta, learning_rate=LEARNING_RATE))[0], None

        state = training.init_state(vae, optax.adam, keys.init)
        return jax.lax.scan(body, state, jax.random.split(keys.step, steps))[0].params

    members = jax.vmap(jax.vmap(member, in_axes=(None, 0)), in_axes=(0, None))
    return jax.jit(members)(jnp.asarray(betas, jnp.float32), jnp.asarray(seeds, jnp.uint32))


def measure(vae: model.VAE, params: Params, x: jax.Array) -> tuple[Optimum, int]:
    """Returns the results of training and the number of collapsed units, with expectations in closed form and float64."""
    mean, log_scale = (np.asarray(a, np.float64) for a in jax.vmap(lambda x: vae.encode(params, x))(x))
    kl = np.asarray(jax.vmap(kl_per_dimension)(jnp.asarray(mean), jnp.asarray(log_scale)), np.float64).mean(axis=0)

    def decoded(z: jax.Array) -> jax.Array:
        return vae.likelihood.mean(vae.decode(params, z))

    origin = jnp.zeros(vae.latent_dim)
    weights = np.asarray(jax.jacobian(decoded)(origin), np.float64)
    residual = np.asarray(x, np.float64) - mean @ weights.T - np.asarray(decoded(origin))
    error = np.mean(np.sum(residual**2, axis=1) + np.exp(2 * log_scale) @ np.sum(weights**2, axis=0))
    scale = math.exp(vae.likelihood.shared_values(params["likelihood"])[0]) if "likelihood" in params else 1.0
    elbo = -0.5 * (x.shape[1] * math.log(2 * math.pi * scale**2) + error / scale**2) - kl.sum()
    collapsed = collapse(jnp.asarray(mean), jnp.asarray(log_scale)).collapsed
    return Optimum(kl.sum(), error, np.sort(kl)[::-1], scale, elbo), int(np.sum(collapsed))


def compare(results: list[tuple[Optimum, int]], exact: Optimum, **setting: Any) -> dict[str, Any]:
    """Returns exact values, means over seeds, and the worst difference of any seed in nats."""
    differences = [
        max(
            abs(one.rate - exact.rate),
            abs(one.error - exact.error) / 2 / exact.scale**2,
            abs(one.elbo - exact.elbo),
            float(np.abs(one.units - exact.units).max()),
        )
        for one, _ in results
    ]
    numbers = {
        name: {"exact": float(getattr(exact, name)), **summarize([getattr(one, name) for one, _ in results])}
        for name in ("rate", "error", "elbo", "scale")
    }
    return {
        **setting,
        **numbers,
        "units": {"exact": exact.units.tolist(), "mean": np.mean([one.units for one, _ in results], axis=0).tolist()},
        "collapsed": {"exact": int(np.sum(exact.units == 0)), "measured": [count for _, count in results]},
        "worst_difference": max(differences),
    }


def draw(curves: list[dict[str, Any]], path: Path) -> None:
    """Draws the rate-distortion curve and the KL of each unit against beta, with exact lines and trained points."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    plane, units = figure.subplots(1, 2)
    betas = np.geomspace(0.03, 12, 400)
    for color, latent_dim in enumerate(dict.fromkeys(row["latent_dim"] for row in curves)):
        exact = [water_filling(latent_dim, beta) for beta in betas]
        rows = [row for row in curves if row["latent_dim"] == latent_dim]
        plane.plot([e.rate for e in exact], [e.error / 2 for e in exact], f"C{color}", lw=1)
        rates, errors = ([row[name]["mean"] for row in rows] for name in ("rate", "error"))
        plane.plot(rates, np.array(errors) / 2, f"C{color}o", ms=4, label=f"{latent_dim} latent dimensions")
        if color == 0:
            units.plot(betas, [e.units for e in exact], lw=1)
            units.set_prop_cycle(None)
            units.plot([row["beta"] for row in rows], [row["units"]["mean"] for row in rows], "o", ms=4)
            for eigenvalue in EIGENVALUES[:latent_dim]:
                units.axvline(eigenvalue, color="0.85", lw=0.8, zorder=0)
    plane.set(xlabel="rate: KL (nats)", ylabel="squared error / 2 (nats, no constant)")
    plane.legend(title="line: closed form; points: trained")
    units.set(xscale="log", xlabel="β (a unit collapses at its eigenvalue, gray)", ylabel="KL of each unit (nats)")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def tables(content: dict[str, Any]) -> str:
    """Returns the comparison as tables in Markdown."""

    def cells(row: dict[str, Any], name: str) -> str:
        return f"{row[name]['mean']:.4f} ({row[name]['exact']:.4f})"

    header = ("latent dimensions", "β", "rate (exact)", "squared error (exact)", "collapsed units", "worst difference, nats")
    curves = [
        (
            str(row["latent_dim"]),
            f"{row['beta']:g}",
            *(cells(row, name) for name in ("rate", "error")),
            f"{' '.join(map(str, sorted(set(row['collapsed']['measured']))))} ({row['collapsed']['exact']})",
            f"{row['worst_difference']:.4f}",
        )
        for row in content["curves"]
    ]
    second = ("latent dimensions", "σ (exact)", "ELBO (log p(x))", "worst difference, nats")
    components = [
        (str(row["latent_dim"]), *(cells(row, name) for name in ("scale", "elbo")), f"{row['worst_difference']:.4f}")
        for row in content["components"]
    ]
    return f"{markdown(header, curves)}\n\n{markdown(second, components)}"


def measure_all(
    vae: model.VAE, x: jax.Array, betas: tuple[float, ...], arguments: Arguments
) -> list[list[tuple[Optimum, int]]]:
    """Trains one model with every beta and seed, and returns what `measure` returns for each, by beta and then by seed."""
    params = jax.device_get(train(vae, x, betas, arguments.seeds, arguments.steps))

    def member(i: int, j: int) -> Params:
        return jax.tree.map(lambda leaf: leaf[i, j], params)

    return [[measure(vae, member(i, j), x) for j in range(len(arguments.seeds))] for i in range(len(betas))]


def verdicts(content: dict[str, Any]) -> list[str]:
    """Returns the verdict on each row of results.json."""
    reason = "the noise of the gradient at the end of the schedule is larger than a hundredth of a nat"
    return [judge(row, margin=0.01, because=reason) for row in content["rows"]]


def main() -> int:
    """Trains, compares and writes the results."""
    arguments = parse(Arguments)
    expect_counts(1, steps=arguments.steps)
    expect_seeds(arguments.seeds)
    for name, values, most in (("latent_dims", arguments.latent_dims, 6), ("components", arguments.components, 5)):
        if not all(1 <= value <= most for value in values):
            raise UserError(field=name, expected=f"whole numbers from 1 to {most}", got=" ".join(map(str, values)))
    if not arguments.betas or not all(0 < beta < math.inf for beta in arguments.betas):
        raise UserError(field="betas", expected="numbers > 0", got=" ".join(map(str, arguments.betas)) or "none")
    began, x = time.perf_counter(), data()
    curves, components = [], []
    for latent_dim in arguments.latent_dims:
        vae = linear_vae(latent_dim, learned_scale=False)
        for beta, results in zip(arguments.betas, measure_all(vae, x, arguments.betas, arguments), strict=True):
            curves.append(compare(results, water_filling(latent_dim, beta), latent_dim=latent_dim, beta=beta))
    for latent_dim in arguments.components:
        (results,) = measure_all(linear_vae(latent_dim, learned_scale=True), x, (1.0,), arguments)
        components.append(compare(results, ppca(latent_dim), latent_dim=latent_dim))
    seconds = time.perf_counter() - began

    def worst(rows: list[dict[str, Any]]) -> float:
        return max(row["worst_difference"] for row in rows)

    content = {"curves": curves, "components": components}
    members = (len(curves) + len(components)) * len(arguments.seeds)
    print(f"{tables(content)}\n\n{members} members, {seconds:.0f} s")
    summary = []
    if curves:
        title = f"rate, distortion and each unit's KL of {len(arguments.betas)} β, worst difference from the closed form"
        summary.append(Row(title, 0.0, worst(curves), None, len(arguments.seeds)))
    if components:
        title = "ELBO against log p(x) of probabilistic PCA, worst difference"
        summary.append(Row(title, 0.0, worst(components), None, len(arguments.seeds)))
    settings = {**dataclasses.asdict(arguments), "eigenvalues": EIGENVALUES.tolist(), "examples": COUNT}
    write(arguments.out, settings, summary, content, seconds, verdicts)
    if curves:
        draw(curves, arguments.out.with_suffix(".png"))
    return 0


if __name__ == "__main__":
    run_script(main)
