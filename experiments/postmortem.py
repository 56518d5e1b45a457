"""Replays the step at which a run, or a member of a sweep, diverged, and explains it."""

import environment  # noqa: F401

import dataclasses
import sys
from pathlib import Path
from typing import Any

import tyro
from common import parse, run_script
from tables import markdown

from vae_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Repeats the step after the last good state of a run that diverged: which term was not finite, on which examples.

    Example: python experiments/postmortem.py runs/mine
    """

    run: tyro.conf.Positional[Path]
    """Run directory of train.py or sweep directory of sweep.py."""
    member: int | None = None
    """Of a sweep: the member, by its number in the table."""
    data_dir: str | None = None
    """Where TFDS finds prepared data, if not where the run found it."""
    debug_nans: bool = False
    """Repeat the step operation by operation as well, and name the first that gives NaN or infinity, with its line."""


def replay(arguments: Arguments) -> tuple[dict[str, Any], dict[str, Any], tuple[Any, Any, Any]]:
    """(what the run wrote when it diverged, what its last good state gives now, what that was made of)."""
    from vae_jax import runs
    from vae_jax.runs import postmortem
    from vae_jax.storage.atomic import read_json
    from vae_jax.sweep.results import load_states, load_sweep

    if not (arguments.run / "sweep.json").exists():
        if arguments.member is not None:
            raise UserError(f"--member: {arguments.run} is not a sweep directory. Leave it out.")
        record = arguments.run / "diverged.json"
        runs.read_config(arguments.run)
        if not record.exists():
            raise UserError(f"{arguments.run}: did not diverge (it has no diverged.json).")
        built, state = runs.load_last_good(arguments.run, data_dir=arguments.data_dir)
        return read_json(record, "term"), postmortem.examine(built, built.config, state), (built, built.config, state)
    results = load_sweep(arguments.run)
    lost = [row["member"] for row in results.rows if row["status"].startswith("diverged")]
    if not lost:
        raise UserError(f"{arguments.run}: no member has diverged.")
    member = arguments.member
    if member is None or member not in lost:
        raise UserError(f"--member: expected one that diverged, {', '.join(map(str, lost))}, got {member}.")
    ((built, state),) = load_states(results, [member], arguments.data_dir).values()
    record = next((arguments.run / "blocks").glob(f"*/diverged-{member}.json"), None)
    step = (built, results.members[member], state)
    found = postmortem.examine(*step)
    return (found if record is None else read_json(record, "term")), found, step


def main() -> int:
    """Replays, explains."""
    arguments = parse(Arguments)
    from vae_jax.runs.postmortem import ADVICE, NOTHING, locate

    before, found, (built, config, state) = replay(arguments)
    numbers = ", ".join(f"{name} {found['hyperparams'][name]:g}" for name in ("learning_rate", "beta"))
    print(f"step {found['step']} (epoch {found['epoch']}), {numbers}, {len(found['train_indices'])} examples\n")
    cells = [
        (f"**{name}**" if name == found["term"] else name, *(f"{value:.4g}" for value in values or (float("nan"),) * 2))
        for name, values in found["ranges"].items()
    ]
    print(markdown(("in the order of a step", "least", "greatest (NaN left out)"), cells), end="\n\n")
    term = found["term"]
    if term is None:
        print(f"{NOTHING}; when it diverged: {before['term']}.")
        return 0
    print(f"first not finite: {term}", end="")
    if found["bad_examples"]:
        examples = found["bad_examples"]
        more = " ..." if len(examples) > 10 else ""
        print(f", of {len(examples)} examples; in the training set: {' '.join(map(str, examples[:10]))}{more}", end="")
    if found["bad_leaves"]:
        print(f", of {', '.join(found['bad_leaves'])}", end="")
    print()
    if arguments.debug_nans:
        operation = locate(built, config, state, found)
        print(f"operation: {operation or 'none, one by one; the compiled step computes in another order'}")
    print(f"what may help: {ADVICE[term]}")
    if before["term"] != term:
        print(f"note: when it diverged the first was {before['term']}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    run_script(main)
