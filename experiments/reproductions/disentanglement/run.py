"""Trains beta-VAE and beta-TCVAE at the strengths of Locatello et al. (2019) with several seeds, and computes their metrics."""

if __name__ == "__main__":
    import environment

    environment.expect_packages()

import dataclasses
import json
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vae_jax.cli.arguments import parse
from vae_jax.cli.checks import expect_counts
from vae_jax.cli.disentangle import TITLES
from vae_jax.cli.reproduction import Row, expect_seeds, train_sweep, write
from vae_jax.cli.script import run_script
from vae_jax.cli.tables import markdown
from vae_jax.errors import UserError
from vae_jax.storage.atomic import write_json

if TYPE_CHECKING:
    from vae_jax.config import Config

FOLDER = Path(__file__).parent
STRENGTHS = {"elbo": (1.0, 2.0, 4.0, 6.0, 8.0, 16.0), "beta_tcvae": (1.0, 2.0, 4.0, 6.0, 8.0, 10.0)}
NAMES = {"elbo": "β-VAE", "beta_tcvae": "β-TCVAE"}
SCHEDULES: dict[str, dict[str, Any]] = {
    "full": {"network": "conv", "channels": (32, 32, 64, 64), "batch_size": 64, "learning_rate": 1e-4, "epochs": 300},
    "short": {"network": "mlp", "hidden": (256, 256), "batch_size": 256, "learning_rate": 1e-3, "epochs": 20},
}
PUBLISHED_HOURS = 1.75  # per model of the published study: 19.2 million images on a P100
PUBLISHED_IMAGES = 300_000 * 64  # per model
STUDY_MODELS = 1800  # of the published study on one data set: six methods, six strengths, 50 seeds
IN_SHORT = {
    "beta_vae_score": "BetaVAE",
    "factor_vae_score": "FactorVAE",
    "mig": "MIG",
    "sap": "SAP",
    "dci_disentanglement": "DCI D",
    "dci_completeness": "DCI C",
    "dci_informativeness": "DCI I",
    "modularity": "modularity",
    "explicitness": "explicitness",
    "gaussian_total_correlation": "TC, nats",
    "gaussian_wasserstein_correlation": "Wasserstein",
    "gaussian_wasserstein_correlation_normalised": "Wasserstein, normalized",
    "average_mutual_information": "mean MI, nats",
}


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Train both objectives with every strength, one seed after another, score every model, and extrapolate the cost.

    Results can be written at any time with --collect. Two processes with different seeds may share the folder.

    Example: python experiments/reproductions/disentanglement/run.py --schedule short --seeds 0 1 2
    """

    dataset: str = "sprites"
    """Images with known factors: sprites, or TFDS dsprites."""
    data_dir: str | None = None
    """Folder with prepared TFDS data."""
    schedule: Literal["short", "full"] = "short"
    """full: the protocol's convolutional network, batch 64, Adam 1e-4. short: an MLP, batch 256, Adam 1e-3, 20 epochs."""
    objectives: tuple[Literal["elbo", "beta_tcvae"], ...] = ("elbo", "beta_tcvae")
    """Objectives to train."""
    betas: tuple[float, ...] = ()
    """Strengths of both objectives, by default those of the protocol."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds for every strength. One is trained and scored after another."""
    epochs: int | None = None
    """Epochs, by default those of the schedule."""
    metrics: tuple[str, ...] = ()
    """Metrics of experiments/disentanglement.py, by default all. dci takes minutes per model, more than all others."""
    rows: int = 50_000
    """Images to encode for the metrics."""
    num_points: int = 10_000
    """Rows or votes that a metric is trained on."""
    num_eval: int = 5_000
    """Rows or votes that a metric is evaluated on."""
    rate_epochs: int = 1
    """Epochs of the protocol's network, trained to measure the cost of the full study. 0: it is not measured."""
    minutes: float = float("inf")
    """Stop after this time, at the end of an epoch or of a model's metrics. The same command continues."""
    collect: bool = False
    """Train nothing, and write the results of the models that have scores so far."""
    runs: Path = Path("runs/disentanglement")
    """Folder with a sweep directory for each seed. Unfinished ones are continued."""
    out: Path = FOLDER / "results.json"
    """JSON file to write."""


def title(point: Mapping[str, Any]) -> str:
    """Returns a title with objective and strength."""
    return f"{NAMES[point['objective']]}, β = {point['beta']:g}"


def known_metrics(content: Mapping[str, Any]) -> list[str]:
    """Returns the names of the computed metrics."""
    return [name for name in IN_SHORT if name in content["points"][0]]


def interval_text(number: Mapping[str, Any]) -> str:
    """Returns a mean with its 95 % interval, such as "0.132 [0.101, 0.163]"; the mean alone for a single seed."""
    mean = f"{number['mean']:z.3f}"
    return mean if number["standard_error"] is None else f"{mean} [{number['low']:z.3f}, {number['high']:z.3f}]"


def tables(content: dict[str, Any]) -> str:
    """Returns the tables of metrics, of the spread over strengths and over seeds, and of the cost, in Markdown."""
    names, points = known_metrics(content), content["points"]
    parts = []
    for start in range(0, len(names), 4):
        shown = names[start : start + 4]
        cells = [(title(point), *(interval_text(point[name]) for name in shown)) for point in points]
        parts.append(markdown(("", *(IN_SHORT[name] for name in shown)), cells))
    counts = sorted({point[names[0]]["n"] for point in points})
    intervals = "[ ] is the 95 % t-interval over the seeds, cut at the least and the greatest value of the metric."
    over = " to ".join(f"{count}" for count in {counts[0]: 0, counts[-1]: 0})
    parts.append(f"Means over {over} seeds, {len(content['models'])} of {content['planned']} planned models. {intervals}")
    spread = content["spread"]
    if spread:
        cells = [(IN_SHORT[name], *(f"{spread[name][key]:.3f}" for key in ("strengths", "seeds"))) for name in names]
        parts.append(markdown(("standard deviation", "of the means over strengths", "over seeds at one strength"), cells))
    return "\n\n".join([*parts, cost_text(content["cost"])])


def cost_text(cost: Mapping[str, Any]) -> str:
    """Returns the measured and the extrapolated cost as sentences."""
    training = ""
    if "train_cpu_seconds_per_model" in cost:
        training = (
            f"{cost['train_cpu_seconds_per_model']:.0f} CPU seconds to train on {cost['images'] / 1e6:.1f} million images and "
        )
    lines = [f"Measured: a model takes {training}{cost['metric_cpu_seconds_per_model']:.0f} CPU seconds to score."]
    if "full_study_years" in cost:
        lines.append(
            f"Extrapolated, not measured: the protocol's network takes {cost['full_cpu_seconds_per_image'] * 1e3:.1f} CPU "
            f"milliseconds per image (β-VAE, one epoch), so {STUDY_MODELS:,} models of {PUBLISHED_IMAGES / 1e6:.1f} million "
            f"images would take {cost['full_study_years']:.0f} years of two cores if every method cost as much as β-VAE. "
            f"On a P100 it was {PUBLISHED_HOURS * STUDY_MODELS:,.0f} hours."
        )
    return " ".join(lines)


def minutes_left(end: float) -> float:
    """Returns the minutes until a time of the monotonic clock; 0 if it has passed."""
    return max(0.0, (end - time.monotonic()) / 60)


def base_config(arguments: Arguments, schedule: str) -> "Config":
    """Returns the settings that all models of a schedule share."""
    from vae_jax.config import Config

    return Config(dataset=arguments.dataset, latent_dim=10, **SCHEDULES[schedule])


def members_of(arguments: Arguments, seed: int) -> "list[Config]":
    """Returns the settings of every objective and strength with one seed."""
    from vae_jax import sweep

    chosen = {} if arguments.epochs is None else {"epochs": arguments.epochs}
    base = dataclasses.replace(base_config(arguments, arguments.schedule), seed=seed, **chosen)
    return [
        config
        for objective in arguments.objectives
        for config in sweep.grid(
            dataclasses.replace(base, objective=objective), beta=arguments.betas or STRENGTHS[objective], seed=(seed,)
        )
    ]


def train(members: "list[Config]", folder: Path, arguments: Arguments, end: float) -> int | None:
    """Trains members into a sweep directory, and writes the CPU seconds beside it unless the training was interrupted.

    CPU seconds do not depend on what else the machine is doing, as wall time does.

    Returns:
      None if all members have ended, else the exit status.
    """
    cost_file, fresh = folder.with_name(f"{folder.name}-cost.json"), not folder.exists()
    began = time.process_time()
    status = train_sweep(members, folder, data_dir=arguments.data_dir, minutes=minutes_left(end))
    if status is None and fresh:
        write_json(cost_file, {"cpu_seconds": time.process_time() - began, "models": len(members)})
    return status


def score_settings(arguments: Arguments) -> dict[str, Any]:
    """Returns the settings on which scores depend, as JSON has them."""
    from vae_jax.disentanglement import METRICS

    metrics = list(arguments.metrics or METRICS)
    return {"metrics": metrics, **{name: getattr(arguments, name) for name in ("rows", "num_points", "num_eval")}}


def scores_file(arguments: Arguments, seed: int) -> Path:
    """Returns the file with the scores of a seed, one for each choice of metrics."""
    chosen = f"-{'-'.join(arguments.metrics)}" if arguments.metrics else ""
    return arguments.runs / f"seed-{seed:04d}-scores{chosen}.json"


def read_scores(arguments: Arguments, seed: int) -> dict[str, dict[str, Any]]:
    """Returns the scores of a seed's members by number, as far as they were computed with these settings."""
    file = scores_file(arguments, seed)
    if not file.exists():
        return {}
    content = json.loads(file.read_text())
    return content["members"] if content["settings"] == score_settings(arguments) else {}


def score(arguments: Arguments, seed: int, end: float) -> int | None:
    """Scores the members of a seed that have no scores yet. Returns None if all have, else the exit status."""
    from vae_jax.disentanglement import PUBLISHED
    from vae_jax.runs.codes_and_factors import disentanglement_scores
    from vae_jax.sweep.results import load_params, load_sweep
    from vae_jax.sweep.statistics import DONE

    settings, scores = score_settings(arguments), read_scores(arguments, seed)
    results = load_sweep(arguments.runs / f"seed-{seed:04d}")
    waiting = [row for row in results.rows if row["status"] in DONE and str(row["member"]) not in scores]
    loaded = load_params(results, [row["member"] for row in waiting], arguments.data_dir) if waiting else {}
    sizes = {"num_points": arguments.num_points, "num_eval": arguments.num_eval}
    sizes["num_variance_points"] = min(arguments.rows, PUBLISHED.num_variance_points)
    for row in waiting:
        if minutes_left(end) == 0:
            print(f"saved in {arguments.runs}; the same command continues", flush=True)
            return 0
        (built, params), began = loaded[row["member"]], time.process_time()
        values = disentanglement_scores(built, params, 0, arguments.rows, PUBLISHED._replace(**sizes), settings["metrics"])
        seconds = time.process_time() - began
        known = {"objective": built.config.objective, "beta": row["beta"], "seed": seed, "test_elbo": row["test_elbo"]}
        scores[str(row["member"])] = {**known, "steps": row["steps"], "cpu_seconds": seconds, "scores": values}
        write_json(scores_file(arguments, seed), {"settings": settings, "members": scores})
        print(f"seed {seed}: {title(known)} scored in {seconds:.0f} CPU seconds", flush=True)
    return None


def is_complete(arguments: Arguments, seed: int) -> bool:
    """Returns whether every member of a seed has ended, and has its scores if it ended well."""
    from vae_jax.sweep.results import load_sweep
    from vae_jax.sweep.statistics import DONE

    scores = read_scores(arguments, seed)
    if not scores:  # a sweep of which no member has ended cannot be loaded
        return False
    results = load_sweep(arguments.runs / f"seed-{seed:04d}")
    ended = len(results.rows) == len(results.members)
    return ended and all(str(row["member"]) in scores for row in results.rows if row["status"] in DONE)


def points_of(scored: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns a point for each objective and strength, with mean, standard error and t-interval of each score over seeds."""
    from vae_jax.disentanglement import RANGES
    from vae_jax.sweep.statistics import interval

    groups: dict[tuple[str, float], list[Mapping[str, Any]]] = defaultdict(list)
    for one in sorted(scored, key=lambda one: (list(NAMES).index(one["objective"]), one["beta"], one["seed"])):
        groups[one["objective"], one["beta"]].append(one)
    points = []
    for (objective, beta), models in groups.items():
        point: dict[str, Any] = {"objective": objective, "beta": beta}
        for name in models[0]["scores"]:
            number = interval([model["scores"][name] for model in models])
            least, greatest = RANGES.get(name, (float("-inf"), float("inf")))
            bounds = {"low": max(number.low, least), "high": min(number.high, greatest)}
            single = dict.fromkeys(("standard_error", "low", "high")) if number.n < 2 else {}
            point[name] = {**number._asdict(), **bounds, **single}
        points.append(point)
    return points


def spread_of(scored: Sequence[Mapping[str, Any]], points: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Returns the standard deviations of each score of the beta-VAE over strengths and, at one strength, over seeds.

    The deviation over seeds is the root of the mean variance over the strengths. That over strengths is of the means and has
    the part of the seeds in it, which is 1 / seeds of their variance. {} if there are fewer than two seeds or strengths.
    """
    import numpy as np

    objective = points[0]["objective"]
    chosen = [point for point in points if point["objective"] == objective]
    if len(chosen) < 2 or any(chosen[0][name]["n"] < 2 for name in scored[0]["scores"]):
        return {}
    spread = {}
    for name in scored[0]["scores"]:
        variances = [point[name]["standard_error"] ** 2 * point[name]["n"] for point in chosen]
        means = [point[name]["mean"] for point in chosen]
        spread[name] = {"strengths": float(np.std(means, ddof=1)), "seeds": float(np.mean(variances) ** 0.5)}
    return spread


def cost_of(arguments: Arguments, seeds: Sequence[int], scored: Sequence[Mapping[str, Any]], images: int) -> dict[str, Any]:
    """Returns measured CPU seconds per model, and the extrapolation to the published study."""

    def read(name: str) -> dict[str, Any] | None:
        file = arguments.runs / f"{name}-cost.json"
        return json.loads(file.read_text()) if file.exists() else None

    timed = [one for one in (read(f"seed-{seed:04d}") for seed in seeds) if one]
    cost: dict[str, Any] = {
        "images": images,
        "metric_cpu_seconds_per_model": sum(one["cpu_seconds"] for one in scored) / len(scored),
    }
    if timed:
        models = sum(one["models"] for one in timed)
        cost["train_cpu_seconds_per_model"] = sum(one["cpu_seconds"] for one in timed) / models
    full = read("rate")
    if full is not None:
        per_image = full["cpu_seconds"] / full["images"]
        years = per_image * PUBLISHED_IMAGES * STUDY_MODELS / 2 / 3600 / 24 / 365.25
        cost |= {"full_cpu_seconds_per_image": per_image, "full_study_years": years}
    return cost


def measure_rate(arguments: Arguments, end: float) -> int | None:
    """Trains the protocol's network for `rate_epochs` and records its CPU seconds and images, unless that was done before."""
    folder, cost_file = arguments.runs / "rate", arguments.runs / "rate-cost.json"
    if arguments.rate_epochs < 1 or (cost_file.exists() and "images" in json.loads(cost_file.read_text())):
        return None
    config = dataclasses.replace(base_config(arguments, "full"), epochs=arguments.rate_epochs)
    status = train([config], folder, arguments, end)
    if status is None and cost_file.exists():
        from vae_jax.sweep.results import load_sweep

        (row,) = load_sweep(folder).rows
        write_json(cost_file, json.loads(cost_file.read_text()) | {"images": row["steps"] * config.batch_size})
    return status


def verdicts(content: dict[str, Any]) -> list[str]:
    """Returns the verdict on each row of results.json."""
    planned, done = content["planned"], len(content["models"])
    partly = "" if done == planned else f", and {done} of {planned} models so far"
    images = f"{content['cost']['images'] / 1e6:.1f} million images per model"
    return [f"Different setting: an MLP, {images} and other images{partly}." for _ in content["rows"]]


def collect(arguments: Arguments) -> None:
    """Prints and writes the results of the models that have scores."""
    scored = [one for seed in arguments.seeds for one in read_scores(arguments, seed).values()]
    if not scored:
        raise UserError(f"{arguments.runs}: no model has scores of these metrics and sizes yet.", fix="Leave out --collect.")
    seeds = sorted({one["seed"] for one in scored})
    base, points = members_of(arguments, seeds[0])[0], points_of(scored)
    images = scored[0]["steps"] * base.batch_size
    content = {
        "points": points,
        "spread": spread_of(scored, points),
        "planned": len(arguments.seeds) * len(members_of(arguments, seeds[0])),
        "cost": cost_of(arguments, seeds, scored, images),
        "models": scored,
    }
    print(tables(content))
    rows = []
    for name in known_metrics(content):
        best = (min if name.startswith(("gaussian", "average")) else max)(points, key=lambda point: point[name]["mean"])
        unit = "" if "nats" in TITLES[name] else " (no nats)"
        label = f"best {TITLES[name].removesuffix(' (nats)')}{unit}: {title(best)}"
        rows.append(Row(label, None, best[name]["mean"], best[name]["standard_error"], best[name]["n"]))
    per_model = (content["cost"].get(f"{part}_cpu_seconds_per_model", 0.0) for part in ("train", "metric"))
    seconds = sum(per_model) * len(scored)
    kept = {"schedule": arguments.schedule, "seeds": tuple(seeds), "betas": arguments.betas}
    write(arguments.out, {**dataclasses.asdict(base), **kept, **score_settings(arguments)}, rows, content, seconds, verdicts)


def main() -> int:
    """Trains, scores and writes the results."""
    arguments = parse(Arguments)
    expect_seeds(arguments.seeds)
    expect_counts(1, epochs=arguments.epochs)
    expect_counts(0, rate_epochs=arguments.rate_epochs)
    if not arguments.objectives or not all(beta > 0 for beta in arguments.betas):
        raise UserError("`objectives` and `betas`: expected at least one objective, and strengths > 0.")
    if not arguments.collect:
        end = time.monotonic() + 60 * arguments.minutes
        for seed in arguments.seeds:
            if is_complete(arguments, seed):
                continue
            status = train(members_of(arguments, seed), arguments.runs / f"seed-{seed:04d}", arguments, end)
            if status is None:
                status = score(arguments, seed, end)
            if status is not None:
                return status
        status = measure_rate(arguments, end)
        if status is not None:
            return status
    collect(arguments)
    return 0


if __name__ == "__main__":
    run_script(main)
