"""Compares VAEs of MNIST with and without the label as a condition: log p(x), log p(x|c), and the information in the label."""

if __name__ == "__main__":
    import environment

    environment.expect_packages()

import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import Any

from vae_jax.cli.arguments import parse
from vae_jax.cli.checks import expect_counts
from vae_jax.cli.reproduction import Row, expect_seeds, summarize, train_sweep, with_error, write
from vae_jax.cli.script import run_script
from vae_jax.cli.tables import markdown
from vae_jax.errors import UserError

FOLDER = Path(__file__).parent
MODELS: dict[str, dict[str, str]] = {
    "unconditional": {},
    "conditional, prior N(0, I)": {"condition": "labels"},
    "conditional, prior p(z|c)": {"condition": "labels", "prior": "conditional"},
}


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Train three models of MNIST as two resumable sweeps, and estimate log p(x) and log p(x|c) of its first test images.

    Example: python experiments/reproductions/conditional/run.py --dataset mnist --data-dir ~/tensorflow_datasets
    """

    dataset: str = "mnist"
    """MNIST: a TFDS name, or a folder with its IDX files."""
    data_dir: str | None = None
    """Folder with prepared TFDS data."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of every model."""
    epochs: int = 20
    """Passes over the training set."""
    num_images: int = 2000
    """Test images of which log p(x) and log p(x|c) are estimated."""
    num_samples: int = 1000
    """Importance samples of each image; in p(c|x) of a conditional model all classes together have as many."""
    minutes: float = float("inf")
    """Stop the training after this time. The same command continues."""
    runs: Path = Path("runs/conditional")
    """Folder of two sweep directories, without and with the condition. Unfinished ones are continued."""
    out: Path = FOLDER / "results.json"
    """JSON file to write. The figure goes beside it."""


def sweep_directory(arguments: Arguments, config: Any) -> Path:
    """Returns the directory of the members with the condition of a configuration, because members share the data."""
    return arguments.runs / (config.condition or "unconditional")


def evaluate(arguments: Arguments, runs: Path, number: int) -> dict[str, Any]:
    """Returns estimates of one member, in nats per image. The result is kept in a file and computed only once."""
    from vae_jax.storage.atomic import write_json
    from vae_jax.sweep.results import load_params, load_sweep

    folder = runs / "evaluation"
    path = folder / f"{number}-{arguments.num_images}-{arguments.num_samples}.json"
    if path.exists():
        return json.loads(path.read_text())
    built, params = load_params(load_sweep(runs), [number], arguments.data_dir)[number]
    if built.data.condition is None:
        result = estimate_unconditional(built, params, arguments)
    else:
        result = estimate_conditional(built, params, arguments)
    folder.mkdir(exist_ok=True)
    write_json(path, result)
    return result


def estimator(built: Any, num_samples: int) -> Any:
    """Returns the compiled function (params, images, index of the first) -> `LogPx` of a part of the test set."""
    import jax

    from vae_jax._numerics.keys import Stream, stream
    from vae_jax.evaluation import DataSlice, importance_log_px

    key = stream(built.config.test_seed, Stream.LOG_PX)

    @jax.jit
    def estimate(params: Any, part: Any, first: Any) -> Any:
        data = DataSlice(part, first)
        return importance_log_px(key, built.vae, params, data, num_samples=num_samples, to_input=built.data.eval_input)

    def in_parts(params: Any, examples: Any) -> Any:
        import numpy as np

        size = math.gcd(len(examples), 500)
        parts = [jax.device_get(estimate(params, examples[i : i + size], i)) for i in range(0, len(examples), size)]
        return jax.tree.map(lambda *values: np.concatenate(values), *parts)

    return in_parts


def estimate_unconditional(built: Any, params: Any, arguments: Arguments) -> dict[str, Any]:
    """Returns log p(x)."""
    from vae_jax.evaluation import log_px_means

    examples = built.data.test[: arguments.num_images]
    means = log_px_means(estimator(built, arguments.num_samples)(params, examples), arguments.num_samples)
    return {"log_px": means.log_px, "log_px_monte_carlo_error": means.monte_carlo_error}


def estimate_conditional(built: Any, params: Any, arguments: Arguments) -> dict[str, Any]:
    """Returns log p(x|c) of the true class, the mean log p(c|x) and log p(c) of that class, and the accuracy of p(c|x).

    p(c) is the class share in the training set, and p(c|x) is proportional to p(c) p(x|c), with fewer samples for each class.
    The bias of these estimates is much the same for all classes, so that it cancels.
    """
    import numpy as np
    from scipy.special import logsumexp

    from vae_jax.evaluation import log_px_means

    examples = built.data.test[: arguments.num_images]
    given = log_px_means(estimator(built, arguments.num_samples)(params, examples), arguments.num_samples)
    [column] = built.data.condition.columns
    labels = np.asarray(examples.condition)[:, 0].astype(int)
    counts = np.bincount(np.asarray(built.data.train.condition)[:, 0].astype(int), minlength=len(column.categories))
    log_p_class = np.log(counts / counts.sum())
    estimate_class = estimator(built, max(1, arguments.num_samples // len(counts)))
    joint = []
    for label in range(len(counts)):
        as_label = dataclasses.replace(examples, condition=np.full_like(np.asarray(examples.condition), label))
        joint.append(np.asarray(estimate_class(params, as_label).log_px, np.float64) + log_p_class[label])
    joint = np.stack(joint, axis=1)
    log_posterior = joint[np.arange(len(labels)), labels] - logsumexp(joint, axis=1)
    return {
        "log_px_given_c": given.log_px,
        "log_px_given_c_monte_carlo_error": given.monte_carlo_error,
        "log_posterior_of_class": float(log_posterior.mean()),
        "log_prior_of_class": float(log_p_class[labels].mean()),
        "accuracy": float(np.mean(joint.argmax(axis=1) == labels)),
    }


def tables(content: dict[str, Any]) -> str:
    """Returns the tables of the models in Markdown."""
    bounds, information = [], []
    for name, model in content["models"].items():
        given = with_error(model["log_px_given_c"]) if "log_px_given_c" in model else ""
        bounds.append((name, with_error(model["test_elbo"]), with_error(model["test_kl"]), with_error(model["log_px"]), given))
        if given:
            cells = (with_error(model[key], 3) for key in ("gain", "log_posterior_of_class", "accuracy"))
            information.append((name, *cells))
    return "\n\n".join(
        (
            markdown(("model", "test ELBO", "KL", "log p(x)", "log p(x|c)"), bounds),
            markdown(("model", "log p(x|c) − log p(x)", "log p(c|x)", "accuracy"), information),
        )
    )


def measure(arguments: Arguments, members: dict[str, list[Any]]) -> dict[str, Any]:
    """Returns the numbers of every model, each with its mean and standard error over the seeds."""
    from vae_jax.sweep.members import identity
    from vae_jax.sweep.results import load_sweep

    models: dict[str, Any] = {}
    for name, configs in members.items():
        runs = sweep_directory(arguments, configs[0])
        results = load_sweep(runs)
        numbers = {identity(config): number for number, config in enumerate(results.members)}
        measured = []
        for config in configs:
            row = results.rows[numbers[identity(config)]]
            if row["status"] != "finished":
                print(f"note: {name}, seed {config.seed}: {row['status']}, left out", file=sys.stderr)
                continue
            one = evaluate(arguments, runs, row["member"])
            if "log_px_given_c" in one:
                # Bayes' rule: log p(x|c) - log p(x) = log p(c|x) - log p(c).
                one["gain"] = one["log_posterior_of_class"] - one["log_prior_of_class"]
                one["log_px"] = one["log_px_given_c"] - one["gain"]
            measured.append(one | {key: row[key] for key in ("test_elbo", "test_kl", "wall_seconds")})
        if not measured:
            raise UserError(f"every member of the model {name!r} diverged. Try fewer `epochs`.")
        models[name] = {key: summarize([one[key] for one in measured]) for key in measured[0]}
        print(f"{name} evaluated", flush=True)
    return models


def draw_figure(arguments: Arguments, config: Any, path: Path) -> None:
    """Draws samples given the class, one row per class. A column has the same code in all rows."""
    import jax
    import jax.numpy as jnp
    import matplotlib
    import numpy as np

    matplotlib.use("agg")
    from matplotlib import pyplot

    from vae_jax._numerics.keys import Stream, stream
    from vae_jax.sweep.members import identity
    from vae_jax.sweep.results import load_params, load_sweep

    results = load_sweep(sweep_directory(arguments, config))
    number = [identity(member) for member in results.members].index(identity(config))
    built, params = load_params(results, [number], arguments.data_dir)[number]
    assert built.data.condition is not None
    z = jax.random.normal(stream(0, Stream.REPRODUCTION), (12, built.vae.latent_dim))
    classes = built.data.condition.expand(jnp.arange(built.data.condition_dim)[:, None])
    decode = jax.vmap(jax.vmap(built.vae.decode, in_axes=(None, 0, None)), in_axes=(None, None, 0))
    means = np.asarray(jax.nn.sigmoid(jax.jit(decode)(params, z, classes)))[..., 0]
    rows, columns, height, width = means.shape
    picture = means.transpose(0, 2, 1, 3).reshape(rows * height, columns * width)
    pyplot.imsave(path, np.kron(picture, np.ones((2, 2))), cmap="gray", vmin=0, vmax=1)


def verdicts(content: dict[str, Any]) -> list[str]:
    """Returns the verdict on each row of results.json."""
    plain, *conditional = content["models"].values()
    sentences = ["No published number. The other models are compared with this one."]
    for model in conditional:
        for name in ("log_px_given_c", "log_px"):
            above = model[name]["mean"] - plain["log_px"]["mean"]
            sentences.append(f"No published number. {above:+.2f} nats against the unconditional log p(x).")
        most, gain = content["label_information"], model["gain"]["mean"]
        side = "below its bound" if gain <= most else "above its bound, so an estimate is biased"
        sentences.append(f"No published number. It is {side}, the entropy of the label, {most:.2f} nats.")
    return sentences


def main() -> int:
    """Trains, evaluates and writes the results."""
    arguments = parse(Arguments)
    expect_seeds(arguments.seeds)
    expect_counts(1, epochs=arguments.epochs, num_images=arguments.num_images, num_samples=arguments.num_samples)
    from vae_jax import sweep
    from vae_jax.config import Config

    base = Config(
        dataset=arguments.dataset, hidden=(400,), latent_dim=20, epochs=arguments.epochs, batch_size=128, learning_rate=1e-3
    )
    members = {
        name: sweep.grid(dataclasses.replace(base, **settings), seed=arguments.seeds) for name, settings in MODELS.items()
    }
    by_directory: dict[Path, list[Config]] = {}
    for config in (config for configs in members.values() for config in configs):
        by_directory.setdefault(sweep_directory(arguments, config), []).append(config)
    for runs, configs in by_directory.items():
        status = train_sweep(configs, runs, data_dir=arguments.data_dir, minutes=arguments.minutes)
        if status is not None:
            return status
    models = measure(arguments, members)
    content = {"models": models, "label_information": math.log(10)}
    print(tables(content))
    plain, *conditional = models
    rows = [Row(f"{plain}: log p(x)", None, *_number(models[plain]["log_px"]), len(arguments.seeds))]
    for name in conditional:
        for key, title in (("log_px_given_c", "log p(x|c)"), ("log_px", "log p(x)"), ("gain", "log p(x|c) − log p(x)")):
            rows.append(Row(f"{name}: {title}", None, *_number(models[name][key]), len(arguments.seeds)))
    seconds = sum(model["wall_seconds"]["mean"] * len(arguments.seeds) for model in models.values())
    kept = {key: value for key, value in dataclasses.asdict(arguments).items() if key not in ("runs", "minutes")}
    write(arguments.out, {**dataclasses.asdict(base), **kept}, rows, content, seconds, verdicts)
    draw_figure(arguments, members["conditional, prior p(z|c)"][0], arguments.out.with_suffix(".png"))
    return 0


def _number(summary: Any) -> tuple[float, float | None]:
    return summary["mean"], summary["standard_error"]


if __name__ == "__main__":
    run_script(main)
