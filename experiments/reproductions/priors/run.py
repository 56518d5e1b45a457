"""Reproduces the table of priors on dynamically binarized MNIST (Tomczak & Welling 2018), and adds two priors to it.

VAEs with N(0, I), a RealNVP prior, a VampPrior and two stochastic layers are trained with several seeds. A further prior is
refitted to the codes of the trained VAEs with N(0, I). The NLL is estimated with 5,000 samples.
"""

if __name__ == "__main__":
    import environment

    environment.expect_packages()

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vae_jax.cli.arguments import parse
from vae_jax.cli.checks import expect_counts
from vae_jax.cli.reproduction import Number, Row, expect_seeds, judge, summarize, with_error, write
from vae_jax.cli.reproduction_entries import kept, measure_members, member_nll, nll, train_entries
from vae_jax.cli.script import run_script
from vae_jax.cli.tables import markdown
from vae_jax.errors import UserError, unknown

if TYPE_CHECKING:
    from vae_jax.build import Built
    from vae_jax.config import Config
    from vae_jax.evaluation.refitting import Kind
    from vae_jax.model import Params

FOLDER = Path(__file__).parent
TRAINED: dict[str, dict[str, Any]] = {
    "normal": {},
    "realnvp": {"prior": "realnvp", "prior_layers": 8, "prior_hidden": (128, 128)},
    "vamp": {"prior": "vamp", "prior_components": 500},
    "hierarchical": {"prior": "hierarchical", "prior_latent_dim": 40, "prior_hidden": (300, 300)},
}
# row -> kind of prior that is fitted to the codes of `normal`
REFITTED: "dict[str, Kind]" = {"refit": "mixture", "refit_realnvp": "realnvp"}
COMPONENTS = 100  # most components of the refitted mixture; the number is chosen on held-out codes
TITLES = {
    "normal": "N(0, I)",
    "refit": "N(0, I), refitted as a mixture of Gaussians after training",
    "refit_realnvp": "N(0, I), refitted as a RealNVP after training",
    "realnvp": "RealNVP",
    "vamp": "VampPrior, 500 pseudo-inputs",
    "hierarchical": "two stochastic layers",
}
# NLL and its error by data set: the table of the Exemplar VAE's repository (Norouzi, Fleet & Norouzi 2020), which reruns these.
PUBLISHED: dict[str, dict[str, tuple[float, float]]] = {
    "mnist": {"normal": (84.45, 0.12), "vamp": (82.43, 0.06), "hierarchical": (82.39, 0.11)},
    "fashion_mnist": {"normal": (228.70, 0.15), "vamp": (227.35, 0.05), "hierarchical": (227.37, 0.1)},
}
MARGIN = 0.3  # nats, for the optimizer and the binarization of the test images, which differ from the published ones
GPU_SEEDS = 3  # of the rows that two cores take hours for
SHORT_OF = {
    "normal": "the optimizer and the clipping of log σ differ from the published ones",
    "vamp": "pseudo-inputs start at training images, and the optimizer differs from the published one",
    "hierarchical": "the decoder sees the first layer only, and the second is inferred from the first alone",
}


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Train a VAE with each prior and seed as resumable sweeps, and estimate the NLL of each member.

    Example: python experiments/reproductions/priors/run.py --dataset mnist --data-dir ~/tensorflow_datasets
    """

    dataset: str = "mnist"
    """MNIST: a TFDS name, or a folder with its IDX files."""
    fashion_mnist: str | None = None
    """Fashion-MNIST, likewise: the same rows for it as well."""
    data_dir: str | None = None
    """Folder with prepared TFDS data."""
    rows: tuple[str, ...] = ("normal", "refit", "realnvp", "vamp:1")
    """Priors: normal, refit, refit_realnvp, realnvp, vamp, hierarchical. vamp:1 uses the first seed only."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the rows."""
    epochs: int = 2000
    """Most passes over the training set."""
    warmup_steps: int = 50_000
    """Steps in which the weight of the KL rises from 0 to 1. A pass has 500 steps."""
    early_stopping: int = 50
    """Passes without a better validation ELBO after which a member stops."""
    num_samples: int = 5000
    """Importance samples of the NLL."""
    minutes: float = float("inf")
    """Stop after this time. The same command continues."""
    runs: Path = Path("runs/priors")
    """Folder of the sweep directories, one for each row, such as normal. Unfinished ones are continued."""
    out: Path = FOLDER / "results.json"
    """JSON file to write when all members have ended."""


class Entry(NamedTuple):
    """One row of the table."""

    dataset: str  # "mnist" or "fashion_mnist"
    row: str
    members: "list[Config]"  # of the trained sweep; for a refitted prior those of `normal`

    @property
    def key(self) -> str:
        """The name in results.json."""
        return f"{self.dataset} {self.row}"

    @property
    def folder(self) -> str:
        """The name of the sweep directory."""
        row = "normal" if self.row in REFITTED else self.row
        return row if self.dataset == "mnist" else f"{self.dataset}/{row}"


def parse_row(text: str, seeds: int) -> tuple[str, int]:
    """Splits "vamp:1" into ("vamp", 1). A row without a number of seeds uses all of them."""
    row, _, number = text.partition(":")
    if row not in TITLES:
        raise unknown("row", row, TITLES)
    if ":" in text and not (number.isdecimal() and 1 <= int(number) <= seeds):
        raise UserError(field="rows", expected=f"a number of seeds from 1 to {seeds} after the colon", got=repr(text))
    return row, int(number) if number else seeds


def make_entries(arguments: Arguments) -> list[Entry]:
    """Returns the rows with their members."""
    from vae_jax import sweep
    from vae_jax.config import Config

    datasets = {"mnist": arguments.dataset, "fashion_mnist": arguments.fashion_mnist}
    entries: list[Entry] = []
    for name, dataset in datasets.items():
        if not dataset:
            continue
        base = Config(
            dataset=dataset,
            validation_fraction=1 / 6,  # 10,000 of 60,000
            hidden=(300, 300),
            gated=True,
            activation="linear",
            latent_dim=40,
            batch_size=100,
            beta_warmup_steps=arguments.warmup_steps,
            learning_rate=5e-4,
            early_stopping=arguments.early_stopping,
            epochs=arguments.epochs,
            output_bias="zeros",
        )
        for text in arguments.rows:
            row, used = parse_row(text, len(arguments.seeds))
            config = dataclasses.replace(base, **TRAINED.get(row, {}))
            # A prior is refitted to members of the sweep `normal`, which has all seeds.
            entry = Entry(name, row, sweep.grid(config, seed=arguments.seeds[:used]))
            if entry.key in (other.key for other in entries):
                raise UserError(field="rows", expected="each once", got=f"{row} twice")
            entries.append(entry)
    return entries


def sweeps(arguments: Arguments, entries: list[Entry]) -> "dict[str, list[Config]]":
    """Returns the members to train by sweep directory. Refitted rows share the sweep of `normal`."""
    members: dict[str, list[Config]] = {}
    for entry in entries:
        members[entry.folder] = max(members.get(entry.folder, []), entry.members, key=len)
    return members


def elbo_terms(built: "Built", params: "Params") -> dict[str, float]:
    """Returns ELBO and KL of the test images in nats, from 10 draws of z each."""
    import jax

    from vae_jax.evaluation import evaluate, means
    from vae_jax.training import evaluation_key

    @jax.jit
    def terms(params: "Params", test: Any) -> Any:
        key, data = evaluation_key(built.config.test_seed), built.data
        options = {"num_samples": 10, "to_input": data.eval_input, "log_jacobian": data.log_jacobian}
        return evaluate(key, built.vae, params, test, **options)

    result = means(terms(params, built.data.test))
    return {"elbo": result.elbo, "kl": result.kl}


def measure(arguments: Arguments, entry: Entry) -> list[dict[str, Any]]:
    """Returns the numbers of each member. They are kept in the sweep directory and computed only once."""
    from vae_jax.sweep.results import load_params, load_sweep

    folder = arguments.runs / entry.folder
    count, data_dir = arguments.num_samples, arguments.data_dir

    def load(number: int) -> "tuple[Built, Params]":
        return load_params(load_sweep(folder), [number], data_dir)[number]

    def trained(number: int) -> dict[str, Any]:
        numbers = member_nll(folder, number, num_samples=count, data_dir=data_dir)
        return {**numbers, **kept(folder / "evaluation" / f"{number}-elbo.json", lambda: elbo_terms(*load(number)))}

    def refitted(number: int) -> dict[str, Any]:
        def compute() -> dict[str, Any]:
            built, params, fitted = refit(*load(number), REFITTED[entry.row], folder / "evaluation" / f"{number}-{entry.row}")
            return {**nll(built, params, num_samples=count), **elbo_terms(built, params), **fitted}

        return kept(folder / "evaluation" / f"{number}-{count}-{entry.row}.json", compute)

    return measure_members(entry.key, folder, entry.members, refitted if entry.row in REFITTED else trained)


def refit(built: "Built", params: "Params", kind: "Kind", folder: Path) -> "tuple[Built, Params, dict[str, Any]]":
    """Fits a prior to codes of the training images, and keeps it in a folder.

    Args:
      built: the model with its data.
      params: its parameters.
      kind: "mixture" of Gaussians with full covariances, or "realnvp".
      folder: where prior.safetensors is written.

    Returns:
      (the model with the fitted prior, its parameters, numbers to record).
    """
    from vae_jax.runs.refit import RefitOptions, refit_model
    from vae_jax.runs.trained.refitted_file import make_prior, read_refitted, with_prior

    kept_prior = read_refitted(folder)
    if kept_prior is None:
        flow = TRAINED["realnvp"]
        options = RefitOptions(kind, COMPONENTS, flow["prior_layers"], flow["prior_hidden"])
        folder.mkdir(parents=True, exist_ok=True)
        refit_model(folder, built, params, 0, options)
        kept_prior = read_refitted(folder)
        assert kept_prior is not None
    record, prior_params = kept_prior
    vae, params = with_prior(built.vae, params, make_prior(record), prior_params)
    names = ("num_components", "num_epochs", "marginal_kl_gain", "marginal_kl_gain_standard_error")
    return built._replace(vae=vae), params, {name: record[name] for name in names if name in record}


def better_than_normal(details: dict[str, Any], dataset: str, members: list[dict[str, Any]]) -> Number | None:
    """Returns by how many nats the members are better than those of N(0, I) with the same seeds."""
    normal = {one["seed"]: one["nll"] for one in details.get(f"{dataset} normal", {"members": []})["members"]}
    differences = [normal[one["seed"]] - one["nll"] for one in members if one["seed"] in normal]
    return summarize(differences) if differences else None


def tables(content: dict[str, Any]) -> str:
    """Returns the tables of each data set in Markdown: the NLL, and the terms of the ELBO."""
    parts = []
    for dataset in PUBLISHED:
        likelihoods, terms = [], []
        for entry in content["entries"].values():
            if entry["dataset"] != dataset:
                continue
            title, members, published = TITLES[entry["row"]], entry["members"], entry["published"]
            better = "" if entry["better"] is None or entry["row"] == "normal" else with_error(entry["better"])
            stated = "—" if published is None else f"{published[0]:.2f} ± {published[1]:.2f}"
            likelihoods.append((title, stated, with_error(entry["nll"]), better, str(len(members))))
            active = " + ".join(with_error(summarize(units), 1) for units in zip(*_active(members), strict=True))
            means = (with_error(summarize([one[name] for one in members])) for name in ("elbo", "kl"))
            terms.append((title, *means, active, with_error(summarize([one["epochs"] for one in members]), 0)))
        if likelihoods:
            name = dataset.replace("_", "-")
            parts.append(markdown((name, "published NLL", "test NLL", "nats better than N(0, I)", "seeds"), likelihoods))
            parts.append(markdown((name, "test ELBO", "KL", "active units", "passes"), terms))
            gains = [
                f"{TITLES[entry['row']]}: {with_error(summarize([one['marginal_kl_gain'] for one in entry['members']]))}"
                for entry in content["entries"].values()
                if entry["dataset"] == dataset and entry["row"] in REFITTED
            ]
            if gains:
                parts.append(f"Marginal KL that refitting buys on held-out codes, in nats. {'; '.join(gains)}.")
    return "\n\n".join(parts)


def _active(members: list[dict[str, Any]]) -> list[list[int]]:
    return [one["active_units"] for one in members]


def verdicts(content: dict[str, Any]) -> list[str]:
    """Returns the verdict on each row of results.json."""
    sentences = []
    for row, entry in zip(content["rows"], content["entries"].values(), strict=True):
        name, better = entry["row"], entry["better"]
        if row["published"] is None:
            sentence = "No published number in this setting."
        else:
            sentence = judge(row, margin=MARGIN, better="lower", because=SHORT_OF[name])
        if name != "normal" and better is not None:
            side = "better" if better["mean"] > 0 else "worse"
            amount = with_error({"mean": abs(better["mean"]), "standard_error": better["standard_error"]})
            sentence += f" It is {amount} nats {side} than N(0, I)."
        sentences.append(sentence)
    return sentences


def waiting(content: dict[str, Any] | None) -> list[tuple[str, float | None]]:
    """Returns the numbers that need a GPU and are not among the results: title and published number."""
    entries = {} if content is None else content["entries"]
    seeds = {key: len(entry["members"]) for key, entry in entries.items()}
    missing = [row for row in ("vamp", "hierarchical") if seeds.get(f"mnist {row}", 0) < GPU_SEEDS]
    return [(f"mnist, {TITLES[row]}: test NLL of {GPU_SEEDS} seeds", PUBLISHED["mnist"][row][0]) for row in missing]


def main() -> int:
    """Trains, evaluates and writes the results."""
    arguments = parse(Arguments)
    expect_seeds(arguments.seeds)
    names = ("epochs", "early_stopping", "num_samples")
    expect_counts(1, **{name: getattr(arguments, name) for name in names})
    expect_counts(0, warmup_steps=arguments.warmup_steps)
    if not arguments.rows:
        raise UserError(field="rows", expected="at least one, such as normal", got="none")
    entries = make_entries(arguments)
    members = sweeps(arguments, entries)
    status = train_entries(members, arguments.runs, data_dir=arguments.data_dir, minutes=arguments.minutes)
    if status is not None:
        return status
    details: dict[str, Any] = {}
    for entry in entries:
        measured = measure(arguments, entry)
        if measured:
            published = PUBLISHED[entry.dataset].get(entry.row)
            summary = {"nll": summarize([one["nll"] for one in measured]), "published": published}
            details[entry.key] = {"dataset": entry.dataset, "row": entry.row, "members": measured, **summary}
    if not details:
        raise UserError("every member diverged. Try other `seeds`.")
    rows = []
    for entry in details.values():
        entry["better"] = better_than_normal(details, entry["dataset"], entry["members"])
        title = f"{entry['dataset']}, {TITLES[entry['row']]}: test NLL"
        number, (value, error) = entry["nll"], entry["published"] or (None, None)
        rows.append(Row(title, value, number["mean"], number["standard_error"], len(entry["members"]), error))
    print(f"\n{tables({'entries': details})}")
    # The trained members of a refitted row are those of `normal`, which count once.
    trained = {(entry["dataset"], entry["row"]): entry for entry in details.values() if entry["row"] not in REFITTED}
    seconds = sum(one["training_seconds"] for entry in trained.values() for one in entry["members"])
    skipped = ("runs", "minutes", "dataset", "fashion_mnist")
    chosen = {name: value for name, value in dataclasses.asdict(arguments).items() if name not in skipped}
    settings = {**dataclasses.asdict(entries[0].members[0]), **chosen}
    write(arguments.out, settings, rows, {"entries": details}, seconds, verdicts)
    return 0


if __name__ == "__main__":
    run_script(main)
