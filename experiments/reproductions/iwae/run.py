"""Reproduces Tables 1 and 3 of Burda et al. (2016) on MNIST.

VAE, IWAE, STL and DReG are trained with one or two stochastic layers, and their NLL is estimated with 5,000 samples.
"""

if __name__ == "__main__":
    import environment

    environment.expect_packages()

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from vae_jax.cli.arguments import parse
from vae_jax.cli.checks import expect_counts
from vae_jax.cli.reproduction import Row, expect_seeds, judge, summarize, with_error, write
from vae_jax.cli.reproduction_entries import measure_members, member_nll, split_entry, train_entries
from vae_jax.cli.script import run_script
from vae_jax.cli.tables import markdown
from vae_jax.errors import UserError

if TYPE_CHECKING:
    from vae_jax.config import Config

FOLDER = Path(__file__).parent
KINDS: dict[str, dict[str, Any]] = {
    "vae": {"objective": "elbo"},
    "iwae": {"objective": "iwae"},
    "stl": {"objective": "iwae", "estimator": "stl"},
    "dreg": {"objective": "iwae", "estimator": "dreg"},
}
# NLL by binarization and number of stochastic layers. "dynamic" is Table 1. "fixed" is Table 3, with the 50,000 training
# images of Larochelle's fixed binarization.
PUBLISHED: dict[tuple[str, int], dict[str, float]] = {
    ("dynamic", 1): {"vae:1": 86.76, "vae:5": 86.47, "vae:50": 86.35, "iwae:1": 86.76, "iwae:5": 85.54, "iwae:50": 84.78},
    ("dynamic", 2): {"vae:1": 85.33, "vae:5": 85.01, "vae:50": 84.78, "iwae:1": 85.33, "iwae:5": 83.89, "iwae:50": 82.90},
    ("fixed", 1): {"vae:1": 88.71, "vae:5": 88.83, "vae:50": 89.05, "iwae:1": 88.71, "iwae:5": 87.63, "iwae:50": 87.10},
    ("fixed", 2): {"vae:1": 88.08, "vae:5": 87.63, "vae:50": 87.86, "iwae:1": 88.08, "iwae:5": 86.17, "iwae:50": 85.32},
}
LAYERS: dict[int, dict[str, Any]] = {
    1: {"latent_dim": 50},
    2: {"latent_dim": 100, "prior": "hierarchical", "prior_latent_dim": 50, "prior_hidden": (100, 100)},
}
PASSES = 3280  # of the published numbers
GPU_PASSES = 300  # of DReG with k = 50; two cores take hours for them
MARGIN = 0.1  # nats, for numbers of a single run on test images that were binarized by another draw
SCHEDULES: dict[str, dict[str, Any]] = {
    "full": {"batch_size": 20, "learning_rate": 1e-3, "learning_rate_schedule": "burda"},
    "short": {"batch_size": 100, "learning_rate": 2e-3, "learning_rate_schedule": "cosine"},
}
SHORT_PASSES = (1000, 800)  # of the short schedule with k = 1 and with k > 1


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Train every entry as a resumable sweep over seeds, and estimate the NLL of each member.

    Example: python experiments/reproductions/iwae/run.py --dataset mnist --data-dir ~/tensorflow_datasets --schedule short
    """

    dataset: str = "mnist"
    """MNIST: a TFDS name, or a folder with its IDX files; with `binarize="fixed"` also a file of images that are 0 and 1."""
    data_dir: str | None = None
    """Folder with prepared TFDS data."""
    binarize: Literal["dynamic", "fixed"] = "dynamic"
    """dynamic: anew at every step (Table 1). fixed: once (Table 3), and binary images stay as they are."""
    layers: Literal[1, 2] = 1
    """Stochastic layers: 784-200-200-50, or 784-200-200-100-100-100-50."""
    schedule: Literal["short", "full"] = "short"
    """full: batch 20, 3,280 passes, rates as published. short: batch 100, a cosine over the passes of each entry."""
    entries: tuple[str, ...] = ("vae:1", "iwae:5:2")
    """Objective, number of samples, seeds and passes, such as vae:1@1000 or iwae:5:2@800 (the first two seeds, 800 passes)."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the entries."""
    epochs: int | None = None
    """Passes of entries without @, by default 3280 (full), or 1000 with k = 1 and 800 with k > 1 (short)."""
    learning_rate: float | None = None
    """Peak learning rate, by default that of the schedule."""
    validation_fraction: float = 0.0
    """Share of the training images that is held out and evaluated in place of the test images, for choosing settings."""
    num_samples: int = 5000
    """Importance samples of the NLL."""
    minutes: float = float("inf")
    """Stop after this time. The same command continues."""
    merge: bool = False
    """Keep the other entries of `out`, from earlier calls. One with the same objective and number of samples is replaced."""
    runs: Path = Path("runs/iwae")
    """Folder of the sweep directories, one for each entry, such as iwae-5-800. Unfinished ones are continued."""
    out: Path = FOLDER / "results.json"
    """JSON file to write when all members have ended. lengths.json beside run.py is for `validation_fraction`."""


class Entry(NamedTuple):
    """One line of the table."""

    name: str  # such as "iwae:5"
    members: "list[Config]"

    @property
    def epochs(self) -> int:
        """Passes over the training set."""
        return self.members[0].epochs

    @property
    def key(self) -> str:
        """The name in results.json."""
        return f"{self.name}@{self.epochs}"

    @property
    def folder(self) -> str:
        """The name of the sweep directory."""
        return f"{self.name.replace(':', '-')}-{self.epochs}"


def parse_entry(entry: str, seeds: int) -> tuple[str, int, int, int | None]:
    """Splits "iwae:5:2@800" into ("iwae", 5, 2, 800). Without a number of seeds it uses all; without passes they are None."""
    (kind, *numbers), passes = split_entry(entry, "iwae:5@800")
    if kind not in KINDS or len(numbers) not in (1, 2) or not all(n.isdecimal() and int(n) > 0 for n in numbers):
        expected = f"{', '.join(KINDS)} and a number of samples, such as iwae:5"
        raise UserError(field="entries", expected=expected, got=repr(entry))
    count, used = int(numbers[0]), int(numbers[-1]) if len(numbers) == 2 else seeds
    if used > seeds:
        raise UserError(field="entries", expected=f"at most the {seeds} of `seeds`", got=f"{used} seeds in {entry!r}")
    return kind, count, used, passes


def make_entries(arguments: Arguments) -> list[Entry]:
    """Returns the entries with their members."""
    from vae_jax import sweep
    from vae_jax.config import Config

    rate = {} if arguments.learning_rate is None else {"learning_rate": arguments.learning_rate}
    base = Config(
        dataset=arguments.dataset,
        hidden=(200, 200),
        activation="tanh",
        output_bias="train_mean",
        binarize=arguments.binarize,
        validation_fraction=arguments.validation_fraction,
        **LAYERS[arguments.layers],
        **{**SCHEDULES[arguments.schedule], **rate},
    )
    entries: list[Entry] = []
    for text in arguments.entries:
        kind, count, used, passes = parse_entry(text, len(arguments.seeds))
        default = PASSES if arguments.schedule == "full" else SHORT_PASSES[count > 1]
        epochs = passes or arguments.epochs or default
        config = dataclasses.replace(base, num_samples=count, epochs=epochs, **KINDS[kind])
        entry = Entry(f"{kind}:{count}", sweep.grid(config, seed=arguments.seeds[:used]))
        if entry.key in (other.key for other in entries):
            raise UserError(field="entries", expected="each once", got=f"{entry.key} twice")
        entries.append(entry)
    return entries


def published_nll(arguments: Arguments, name: str) -> float | None:
    """Returns the published NLL of an entry. STL and DReG estimate the gradient of the IWAE bound, so they have its number."""
    kind, count = name.split(":")
    iwae = f"iwae:{count}" if "estimator" in KINDS[kind] else name
    return None if arguments.validation_fraction else PUBLISHED[arguments.binarize, arguments.layers].get(iwae)


def earlier_entries(arguments: Arguments, entries: Sequence[Entry]) -> dict[str, Any]:
    """Returns the entries of `out` that this call keeps."""
    if not arguments.merge or not arguments.out.exists():
        return {}
    content = json.loads(arguments.out.read_text())
    for name in ("binarize", "layers", "schedule", "validation_fraction", "num_samples"):
        before, now = (content["settings"].get(name), getattr(arguments, name))
        if before != now:
            fix = "Pass the same settings, or choose a different `out`."
            raise UserError(f"{arguments.out} has {name} = {before}, and this call {now}.", field="merge", fix=fix)
    if arguments.validation_fraction:  # lengths of the same entry are compared
        replaced = {entry.key for entry in entries}
        return {key: entry for key, entry in content["entries"].items() if key not in replaced}
    replaced = {entry.name for entry in entries}
    return {key: entry for key, entry in content["entries"].items() if key.split("@")[0] not in replaced}


def make_rows(arguments: Arguments, details: dict[str, Any]) -> list[Row]:
    """Returns the rows of the README's table."""
    split = "validation" if arguments.validation_fraction else "test"
    layers, rows = "one layer" if arguments.layers == 1 else "two layers", []
    for key, entry in details.items():
        name = key.split("@")[0].replace(":", ", k = ")
        title = f"{split} NLL, {layers}, {name}, {entry['epochs']:,} passes"
        nll = entry["nll"]
        rows.append(Row(title, entry["published"], nll["mean"], nll["standard_error"], len(entry["members"])))
    return rows


def verdicts(content: dict[str, Any]) -> list[str]:
    """Returns the verdict on each row of results.json."""
    sentences = []
    for row, entry in zip(content["rows"], content["entries"].values(), strict=True):
        if row["published"] is None:
            sentences.append("No published number.")
        else:
            reason = f"{entry['epochs']:,} passes were trained instead of {PASSES:,}"
            sentences.append(judge(row, margin=MARGIN, better="lower", because=reason))
    return sentences


def waiting(content: dict[str, Any] | None) -> list[tuple[str, float | None]]:
    """Returns the numbers that need a GPU and are not among the results: title and published number."""
    entries = {} if content is None else content["entries"]
    enough = any(key.startswith("dreg:50@") and entry["epochs"] >= GPU_PASSES for key, entry in entries.items())
    title = f"test NLL, one layer, dreg, k = 50, at least {GPU_PASSES} passes"
    return [] if enough else [(title, PUBLISHED["dynamic", 1]["iwae:50"])]


def tables(content: dict[str, Any]) -> str:
    """Returns the tables in Markdown: the entries, and below those of the test images the lengths that were compared."""
    cells = []
    for key, entry in content["entries"].items():
        layers = zip(*(member["active_units"] for member in entry["members"]), strict=True)
        active = " + ".join(f"{sum(counts) / len(counts):.1f}" for counts in layers)
        published = "—" if entry["published"] is None else f"{entry['published']:.2f}"
        name, nll = key.split("@")[0], with_error(entry["nll"])
        cells.append((f"`{name}`", f"{entry['epochs']:,}", published, nll, active, str(len(entry["members"]))))
    if content["settings"]["validation_fraction"]:
        return markdown(("entry", "passes", "published", "validation NLL", "active units", "seeds"), cells)
    table = markdown(("entry", "passes", "published", "test NLL", "active units", "seeds"), cells)
    lengths = FOLDER / "lengths.json"
    if not lengths.is_file():
        return table
    compared = json.loads(lengths.read_text())
    settings = compared["settings"]
    share, samples = settings["validation_fraction"], settings["num_samples"]
    return (
        f"{table}\n\nLengths compared on the {share:.0%} of the training images that were held out, with {samples:,} samples:"
        f"\n\n{tables(compared)}"
    )


def main() -> int:
    """Trains, evaluates and writes the results."""
    arguments = parse(Arguments)
    expect_seeds(arguments.seeds)
    expect_counts(1, num_samples=arguments.num_samples, epochs=arguments.epochs)
    if not arguments.entries:
        raise UserError(field="entries", expected="at least one, such as iwae:5", got="none")
    entries = make_entries(arguments)
    details = earlier_entries(arguments, entries)
    members = {entry.folder: entry.members for entry in entries}
    status = train_entries(members, arguments.runs, data_dir=arguments.data_dir, minutes=arguments.minutes)
    if status is not None:
        return status
    split = "validation" if arguments.validation_fraction else "test"
    for entry in entries:
        folder = arguments.runs / entry.folder

        def estimate(number: int, folder: Path = folder) -> dict[str, Any]:
            count, data_dir = arguments.num_samples, arguments.data_dir
            return member_nll(folder, number, num_samples=count, data_dir=data_dir, split=split)

        measured = measure_members(entry.key, folder, entry.members, estimate)
        if measured:
            nll, published = summarize([one["nll"] for one in measured]), published_nll(arguments, entry.name)
            details[entry.key] = {"members": measured, "nll": nll, "published": published, "epochs": entry.epochs}
    if not details:
        raise UserError("every member diverged. Try a lower `learning_rate`.")
    kinds = list(KINDS)

    def order(key: str) -> tuple[int, int, int]:
        kind, count, used = key.replace("@", ":").split(":")
        return kinds.index(kind), int(count), int(used)

    details = {key: details[key] for key in sorted(details, key=order)}
    settings = {**dataclasses.asdict(entries[0].members[0]), **recorded_settings(arguments)}
    for name in ("epochs", "seed", "objective", "estimator"):  # of an entry rather than of all
        del settings[name]
    content = {"settings": settings, "entries": details}
    print(f"\n{tables(content)}")
    seconds = sum(one["training_seconds"] for entry in details.values() for one in entry["members"])
    write(arguments.out, settings, make_rows(arguments, details), {"entries": details}, seconds, verdicts)
    return 0


def recorded_settings(arguments: Arguments) -> dict[str, Any]:
    """Returns the arguments that affect the results. The entries have their own seeds and passes."""
    skipped = ("runs", "minutes", "merge", "entries", "seeds", "epochs")
    return {name: value for name, value in dataclasses.asdict(arguments).items() if name not in skipped and value is not None}


if __name__ == "__main__":
    run_script(main)
