"""Trains a VAE and writes a run directory: config.json, metrics.jsonl, summary.json, checkpoints/, figures/, report.html."""

import environment  # noqa: F401

import dataclasses
import importlib.util
import math
import os
import sys
from pathlib import Path
from typing import Any

from common import EpochProgress, Interrupt, config_of, expect_outside_data, expect_seconds, parse, run_script, with_options

from vae_jax.config import Config, describe_network, describe_objective
from vae_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Arguments(Config):
    """Train a VAE on a data set; report the test ELBO and its two terms in nats per example.

    Example: python experiments/train.py --dataset digits --likelihood bernoulli --beta 1.0 --hidden 256 256 --out runs/first
    """

    out: str = ""
    """Run directory to write; it must be new or empty, unless --resume. Required."""
    resume: bool = False
    """Go on with the interrupted run in --out. Settings left out are taken from there; others must be the same. Where nothing
    was written yet, start."""
    data_dir: str | None = None
    """Where TFDS finds or keeps prepared data."""
    checkpoint_seconds: float = 15.0
    """Least time between checkpoints; one is always written at the end and on Ctrl-C. 0: after every epoch. With --stream they
    are written within epochs too."""
    debug_nans: bool = False
    """If the run diverges, repeat that step operation by operation and name the first that gives NaN or infinity."""
    tensorboard: bool = False
    """Write TensorBoard event files as well (needs the extra vae_jax[tensorboard])."""
    report: bool = True
    """Draw the figures and write report.html at the end."""
    compilation_cache: bool = True
    """Keep compiled programs in the user's cache folder, so that the next run starts faster."""

    @property
    def config(self) -> Config:
        """The part that is needed to repeat the run."""
        return config_of(self)


def parse_arguments() -> Arguments:
    """The command line; with --resume, the run's own settings are the defaults."""
    arguments = parse(Arguments)
    if not arguments.out:
        raise UserError("--out: expected a run directory to write, such as runs/first, got none.")
    if arguments.resume:
        from vae_jax.runs import read_config
        from vae_jax.storage.directories import is_fresh

        if is_fresh(Path(arguments.out)):
            print(f"note: nothing to resume in {arguments.out}; starting from the beginning", file=sys.stderr)
            return arguments
        config, content = read_config(Path(arguments.out))
        own = {field.name: getattr(config, field.name) for field in dataclasses.fields(Config)}
        default = Arguments(**own, data_dir=content.get("data_dir"), out=arguments.out, resume=True)
        arguments = parse(Arguments, default)
    return arguments


def _part(progress: Any, config: Config, num_train: int) -> str:
    """How far a streamed epoch had come, in words."""
    return f" and {progress.partial.steps} of {num_train // config.batch_size} steps" if progress.partial else ""


def main() -> int:
    """Parses, trains, reports."""
    arguments = parse_arguments()
    config, out = arguments.config, Path(arguments.out)
    config.validate()
    expect_seconds(checkpoint_seconds=arguments.checkpoint_seconds)
    data_dir = None if arguments.data_dir is None else os.path.abspath(os.path.expanduser(arguments.data_dir))

    from vae_jax import runs
    from vae_jax.build import build, repeat_command
    from vae_jax.evaluation.overfitting import describe_overfit, overfit
    from vae_jax.evaluation.posterior_collapse import REMEDIES, describe_collapse, is_collapsing
    from vae_jax.model import num_parameters
    from vae_jax.storage.cache import enable_compilation_cache
    from vae_jax.storage.directories import check_out
    from vae_jax.training.schedules import first_epoch_at_full_values

    expect_outside_data(out, config)
    check_out(out, arguments.resume, runs.read_config)
    if arguments.tensorboard and importlib.util.find_spec("tensorboardX") is None:
        raise UserError("--tensorboard needs tensorboardX: pip install 'vae_jax[tensorboard]'.")
    if arguments.compilation_cache:
        enable_compilation_cache()
    print(f"loading {config.dataset} ...", flush=True)
    built = build(config, data_dir=data_dir)
    config, dataset = built.config, built.dataset
    shape = " x ".join(str(size) for size in dataset.data_shape)
    held_out = "" if dataset.validation is None else f", {len(dataset.validation)} validation"
    print(
        f"{len(dataset.train)} training{held_out} and {len(dataset.test)} test examples of {shape} "
        f"({built.data.description}; split: {dataset.split})\ntraining {describe_network(config)}, "
        f"{config.likelihood}, objective {describe_objective(config)}, prior {config.prior}, {config.epochs} "
        f"epochs of {len(dataset.train) // config.batch_size} steps of {config.batch_size}, into {out}\n"
        f"{num_parameters(built.vae):,} parameters",
        flush=True,
    )
    first_epoch = first_epoch_at_full_values(
        built.fit_arguments["schedules"], config.epochs, len(dataset.train) // config.batch_size
    )
    if config.early_stopping and first_epoch > 1:
        print(f"early stopping counts from epoch {first_epoch} on, when every warm-up has ended", flush=True)
    progress: EpochProgress | None = None
    # Until then a small KL may be what was asked for.
    warm_up = max(config.capacity_warmup_steps, config.learning_rate_warmup_steps)
    warned, kl = False, list[float]()
    writer: Any = None
    command = repeat_command(config, out, data_dir, (sys.executable, sys.argv[0]))

    with Interrupt("these steps" if config.stream else "the epoch") as interrupt:

        def on_start(start: Any, notes: list[str]) -> None:
            nonlocal progress, writer
            for note in notes:
                print(f"note: {note}", file=sys.stderr)
            if arguments.resume:
                print(f"resuming after epoch {len(start.history)}{_part(start, config, len(dataset.train))}", flush=True)
            progress = EpochProgress(config.epochs, len(start.history))
            if arguments.tensorboard:
                from tensorboardX import SummaryWriter

                writer = SummaryWriter(str(out / "tensorboard"))

        def on_epoch(line: dict[str, Any]) -> bool:
            nonlocal warned
            assert progress is not None
            progress.update(line)
            if line["step"] > warm_up:
                kl.append(line["test_kl"])
            if not warned and is_collapsing(kl):
                warned = True
                progress.say(
                    f"note: the KL is {line['test_kl']:z.3f} nats after epoch {line['epoch']}: posterior collapse is under "
                    f"way; {with_options(REMEDIES)}."
                )
            if writer is not None:
                for name, value in line.items():
                    writer.add_scalar(name, value, line["step"])
            return interrupt.signal is not None

        def on_chunk(done: float) -> bool:
            assert progress is not None
            progress.within(done)
            return interrupt.signal is not None

        fit, summary = runs.train(
            built,
            out,
            resume=arguments.resume,
            data_dir=data_dir,
            checkpoint_seconds=arguments.checkpoint_seconds,
            on_start=on_start,
            on_epoch=on_epoch,
            on_chunk=on_chunk,
        )
        if progress is not None:
            progress.close()
        if writer is not None:
            writer.close()
        epochs = len(fit.progress.history)
        if fit.status == "interrupted":
            part = _part(fit.progress, config, len(dataset.train))
            print(f"saved after epoch {epochs} of {config.epochs}{part}; continue with:\n  {command} --resume", flush=True)
            return interrupt.exit_status
        if fit.status == "diverged":
            step = int(fit.progress.state.step)
            advice = (
                "Look at the range of the data." if step == 0 else f"Try a lower --learning-rate ({config.learning_rate:g})."
            )
            print(
                f"error: training diverged: the loss or its gradient was not finite at step {step} (epoch {epochs + 1}). The "
                f"last good state is in {out / 'last_good'}, the step in {out / 'diverged.json'}; experiments/postmortem.py "
                f"{out} explains it. {advice}",
                file=sys.stderr,
            )
            if arguments.debug_nans:
                from vae_jax.runs.postmortem import examine, locate

                step = (built, config, fit.progress.state)
                print(f"operation: {locate(*step, examine(*step)) or 'none, one by one'}", file=sys.stderr)
            return 1
        if fit.problem is not None:
            print(
                f"error: training ended after epoch {epochs}: {fit.problem} The run is kept in {out}; no report is drawn.",
                file=sys.stderr,
            )
            return 1
    error = summary["test_elbo_standard_error"]  # not defined for a single test example
    print(
        f"test ELBO {summary['test_elbo']:z.3f}{'' if math.isnan(error) else f' +- {error:.3f}'} nats  =  log-likelihood "
        f"{summary['test_log_likelihood']:z.3f} - KL {summary['test_kl']:z.3f}   (+- is the standard error over "
        f"{summary['num_test_examples']} examples; {fit.status} after {epochs} epochs, "
        f"{summary['train_examples_per_second']:,.0f} examples/s)",
        flush=True,
    )
    print(f"active units {summary['active_units']} of {summary['latent_dim']}", flush=True)
    collapsed = len(summary.get("collapsed_units", ()))
    collapse_note = describe_collapse(collapsed, summary["latent_dim"], summary["test_kl"])
    if collapse_note:
        print(f"note: {with_options(collapse_note)}", file=sys.stderr)
    observed = overfit(runs.read_metrics(out), summary["evaluated_epoch"])
    if observed:
        print(f"note: {with_options(describe_overfit(observed))}", file=sys.stderr)
    if arguments.report:
        from vae_jax.report import write_report

        print("drawing the report ...", flush=True)
        print(f"report: {write_report(runs.load_run(out))}")
    else:
        print(f"run directory: {out}")
    return 0


if __name__ == "__main__":
    run_script(main)
