"""`vae-jax postmortem`: replays the step at which a run, or a member of a sweep, diverged, and explains it."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import tyro

from vae_jax.cli.arguments import parse
from vae_jax.cli.checks import is_sweep
from vae_jax.cli.messages import note, with_options
from vae_jax.cli.tables import markdown
from vae_jax.cli.user_parts import PartArguments, load_parts
from vae_jax.errors import UserError

if TYPE_CHECKING:
    from vae_jax.build import Built
    from vae_jax.config import Config
    from vae_jax.training.step import TrainState


@dataclasses.dataclass(frozen=True)
class Arguments(PartArguments):
    """Repeat the step after the last good state of a run that diverged: which term was not finite, on which examples.

    Example: vae-jax postmortem runs/mine
    """

    run: tyro.conf.Positional[Path]
    """Run directory or sweep directory."""
    member: int | None = None
    """Member of a sweep, by its number in the table."""
    data_dir: str | None = None
    """Where TFDS finds prepared data, if not where the run found it."""
    debug_nans: bool = False
    """Repeat the step operation by operation as well, and name the first that gives NaN or infinity, with its line."""


Record = dict[str, Any]  # the content of diverged.json


class Divergence(NamedTuple):
    """A run or member that diverged, and the replay of its step."""

    built: "Built"
    config: "Config"
    state: "TrainState"  # the last good one
    recorded: Record  # diverged.json, written when it happened
    replayed: Record  # the same from the replay


def diverged_run(arguments: Arguments) -> Divergence:
    """Replays the step at which a run diverged. Raises `UserError` for a run that did not."""
    from vae_jax import runs
    from vae_jax.runs import postmortem
    from vae_jax.storage.atomic import read_json

    if arguments.member is not None:
        raise UserError(f"{arguments.run} is not a sweep directory. Leave it out.", field="member")
    record = arguments.run / "diverged.json"
    runs.read_config(arguments.run)
    if not record.exists():
        raise UserError(f"{arguments.run}: did not diverge (it has no diverged.json).")
    built, state = runs.load_last_good(arguments.run, data_dir=arguments.data_dir, **load_parts(arguments, arguments.run))
    recorded = read_json(record, "term")
    return Divergence(built, built.config, state, recorded, postmortem.examine(built, built.config, state))


def diverged_member(arguments: Arguments) -> Divergence:
    """Replays the step at which a member of a sweep diverged. Raises `UserError` for one that did not."""
    from vae_jax.runs import postmortem
    from vae_jax.storage.atomic import read_json
    from vae_jax.sweep.results import load_states, load_sweep

    results = load_sweep(arguments.run)
    diverged = [row["member"] for row in results.rows if row["status"].startswith("diverged")]
    if not diverged:
        raise UserError(f"{arguments.run}: no member has diverged.")
    member = arguments.member
    if member is None or member not in diverged:
        raise UserError(field="member", expected=f"one that diverged, {', '.join(map(str, diverged))}", got=member)
    parts = load_parts(arguments, arguments.run)
    ((built, state),) = load_states(results, [member], arguments.data_dir, **parts).values()
    config = results.members[member]
    replayed = postmortem.examine(built, config, state)
    record = next((arguments.run / "blocks").glob(f"*/diverged-{member}.json"), None)
    return Divergence(built, config, state, replayed if record is None else read_json(record, "term"), replayed)


def main(argv: Sequence[str] | None = None) -> int:
    """Replays the step, explains it, and returns the exit status."""
    arguments = parse(Arguments, argv, "postmortem")
    from vae_jax.runs.postmortem import ADVICE, NOTHING, locate

    divergence = diverged_member(arguments) if is_sweep(arguments.run) else diverged_run(arguments)
    replayed, term = divergence.replayed, divergence.replayed["term"]
    numbers = ", ".join(f"{name} {replayed['hyperparams'][name]:g}" for name in ("learning_rate", "beta"))
    print(f"step {replayed['step']} (epoch {replayed['epoch']}), {numbers}, {len(replayed['train_indices'])} examples\n")
    cells = [
        (f"**{name}**" if name == term else name, *(f"{value:.4g}" for value in values or (float("nan"),) * 2))
        for name, values in replayed["ranges"].items()
    ]
    print(markdown(("in the order of a step", "least", "greatest (NaN left out)"), cells), end="\n\n")
    if term is None:
        print(f"{NOTHING}; when it diverged: {divergence.recorded['term']}.")
        return 0
    print(f"first not finite: {term}{bad_parts(replayed)}")
    if arguments.debug_nans:
        operation = locate(divergence.built, divergence.config, divergence.state, replayed)
        print(f"operation: {operation or 'none, one by one; the compiled step computes in another order'}")
    print(f"what may help: {with_options(ADVICE[term])}")
    if divergence.recorded["term"] != term:
        note(f"when it diverged the first was {divergence.recorded['term']}")
    return 0


def bad_parts(replayed: Record) -> str:
    """Returns the examples and the parameters at which a term is not finite, as the end of a sentence."""
    text = ""
    if replayed["bad_examples"]:
        examples = replayed["bad_examples"]
        more = " ..." if len(examples) > 10 else ""
        text += f", of {len(examples)} examples; in the training set: {' '.join(map(str, examples[:10]))}{more}"
    if replayed["bad_leaves"]:
        text += f", of {', '.join(replayed['bad_leaves'])}"
    return text
