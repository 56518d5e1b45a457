"""A run that continues to a different number of epochs than it began with."""

import dataclasses
import json
from pathlib import Path

from vae_jax.build import Built
from vae_jax.config import Config
from vae_jax.errors import UserError
from vae_jax.storage.atomic import JsonObject, write_json
from vae_jax.training import Progress
from vae_jax.training.schedules import DEPENDS_ON_LENGTH, first_epoch_at_full_values


def settings_that_depend_on_length(config: Config) -> list[str]:
    """Returns the settings that name a schedule whose course depends on the length of the run."""
    return [name for name, courses in DEPENDS_ON_LENGTH.items() if getattr(config, name) in courses]


def settings_of_length(out: Path, recorded: Config, config: Config) -> tuple[str, ...]:
    """Returns the settings in which a run that continues may differ from its record; () if its length does not change.

    They are `epochs`, and each schedule that depended on the length and is restated as one that does not.

    Args:
      out: the run directory, for messages.
      recorded: the settings in config.json.
      config: the settings with which it continues.

    Raises:
      UserError: a schedule depends on the length of the run. What was trained so far would have been trained differently in a
        run of the new length.
    """
    if recorded.epochs == config.epochs:
        return ()
    names = ["epochs"]
    for name, courses in DEPENDS_ON_LENGTH.items():
        there, here, constant = getattr(recorded, name), getattr(config, name), getattr(Config(), name)
        if here in courses:
            raise UserError(
                f'{out}: `{name}="{here}"` depends on the length of the run, so {recorded.epochs} epochs of it are not the '
                f"beginning of {config.epochs}.",
                field="epochs",
                fix=f'Continue with `{name}="{constant}"`, at the full value, or start a new run with `init_from={out}`.',
            )
        if there in courses:
            names.append(name)
    return tuple(names)


def record_length(out: Path, content: JsonObject, built: Built, progress: Progress) -> str:
    """Writes the new length of a run into config.json, together with the earlier ones.

    Args:
      out: the run directory.
      content: of its config.json.
      built: with the new length.
      progress: from which the run continues.

    Returns:
      A note for the user.

    Raises:
      UserError: before anything is written, if more epochs are done already, or if a different length would change nothing.
    """
    config, done, there = built.config, len(progress.history), content["config"]["epochs"]
    if config.epochs < done or (config.epochs == done and progress.partial is not None):
        raise UserError(f"{out}: {done} epochs are done already, and {config.epochs} are asked for.", field="epochs")
    if (out / "diverged.json").exists():
        raise UserError(f"{out}: the run diverged, so more epochs would change nothing.", field="epochs", fix=_NEW_RUN)
    if _has_stopped_early(built, progress):
        raise UserError(
            f"{out}: the run stopped early after epoch {done}, because the validation ELBO had not improved for "
            f"{config.early_stopping} epochs, so a different length would change nothing.",
            field="epochs",
            fix=f"Start a new run with `init_from={out}`, or one with a larger `early_stopping`.",
        )
    change: JsonObject = {"from": there, "to": config.epochs, "after_epoch": done}
    settings = json.loads(json.dumps(dataclasses.asdict(config)))
    for name in DEPENDS_ON_LENGTH:
        if content["config"].get(name) not in (None, settings[name]):
            change[name] = {"from": content["config"][name], "to": settings[name]}
    (out / "summary.json").unlink(missing_ok=True)  # first, because it would say that the longer run has finished
    changes = [*content.get("changed_epochs", []), change]
    write_json(out / "config.json", {**content, "config": settings, "changed_epochs": changes})
    return f"{out}: {_describe(change)}"


_NEW_RUN = "Start a new run, with a lower `learning_rate`."


def describe_lengths(content: JsonObject) -> str:
    """Returns sentences about the earlier lengths of a run, from the content of its config.json; "" if it has had one."""
    return " ".join(
        f"After epoch {change['after_epoch']}, {_describe(change)}." for change in content.get("changed_epochs", ())
    )


def _describe(change: JsonObject) -> str:
    restated = [(name.replace("_", " "), change[name]) for name in DEPENDS_ON_LENGTH if name in change]
    schedules = [f", and its {name} from {one['from']} to {one['to']}" for name, one in restated]
    return f"its length was changed from {change['from']} to {change['to']} epochs{''.join(schedules)}"


def _has_stopped_early(built: Built, progress: Progress) -> bool:
    config, done = built.config, len(progress.history)
    if not (config.early_stopping and done):
        return False
    num_steps = len(built.dataset.train) // config.batch_size
    first_epoch = first_epoch_at_full_values(built.fit_arguments["schedules"], config.epochs, num_steps)
    return done - max(int(progress.best.epoch), first_epoch - 1) >= config.early_stopping
