"""`vae-jax train`: trains a VAE and writes a run directory."""

import dataclasses
import importlib.util
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vae_jax.cli.arguments import parse_with_config
from vae_jax.cli.branching import check_initial_parts, expect_init_from, read_init, read_new
from vae_jax.cli.checks import expect_out, expect_outside_data, expect_seconds
from vae_jax.cli.columns import describe_columns, with_proposed_columns
from vae_jax.cli.devices import expect_devices, make_devices
from vae_jax.cli.messages import note, with_options
from vae_jax.cli.program import current_program
from vae_jax.cli.progress import EpochProgress, Interrupt
from vae_jax.cli.user_parts import check_new, check_recorded, import_parts, split_parts
from vae_jax.config import CUSTOM, Config
from vae_jax.errors import UserError

if TYPE_CHECKING:
    from vae_jax.build import Built
    from vae_jax.training.loop import Fit, Progress


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Train a VAE on a data set; report the test ELBO and its two terms in nats per example.

    Example: vae-jax train --dataset digits --likelihood bernoulli --beta 1.0 --hidden 256 256 --out runs/first
    """

    out: str = ""
    """Run directory to write; it must be new or empty, unless `resume`. Required."""
    resume: bool = False
    """Continue the run in `out`. Settings that are left out are taken from there; others must be the same, except that
    `epochs` may grow, also after the run has finished. If nothing was written yet, training starts from the beginning."""
    init_from: str = ""
    """Run directory, or sweep directory with `init_member`, whose trained parameters the new run starts from. Settings that are
    left out are taken from there, and with a different `dataset` those that name its files, columns and levels are not. The
    optimizer starts anew."""
    init_parts: tuple[Literal["encoder", "decoder", "likelihood", "prior", "posterior"], ...] = ()
    """Parts of the parameters to start from. By default all that both models have; others start at random values."""
    init_member: int | None = None
    """Number of the member of a sweep that `init_from` names."""
    devices: int | None = None
    """Devices that share each batch: 1 by default, a divisor of `batch_size`. The numbers are those of one device up to
    rounding. On CPU they are virtual and share its cores."""
    data_dir: str | None = None
    """Where TFDS finds or keeps prepared data."""
    checkpoint_seconds: float = 15.0
    """Least time between checkpoints; one is always written at the end and on Ctrl-C. 0: after every epoch. With `stream` they
    are written within epochs too."""
    debug_nans: bool = False
    """If the run diverges, repeat that step operation by operation and name the first that gives NaN or infinity."""
    tensorboard: bool = False
    """Write TensorBoard event files as well (needs the extra vae_jax[tensorboard])."""
    report: bool = True
    """Draw the figures and write report.html at the end."""
    compilation_cache: bool = True
    """Keep compiled programs in the user's cache folder, so that the next run starts faster."""


def read_command_line(argv: Sequence[str] | None) -> tuple[Arguments, Config]:
    """Returns the options and the settings. With `resume=True`, the defaults of the settings are those of the run."""
    arguments, config = parse_with_config(Arguments, argv, "train")
    expect_out(arguments.out, "a run directory", "runs/first")
    expect_init_from(arguments)
    if not arguments.resume:
        return _read_new(arguments, config, argv)
    from vae_jax.runs import read_config
    from vae_jax.storage.directories import is_fresh

    if is_fresh(Path(arguments.out)):
        note(f"nothing to resume in {arguments.out}; starting from the beginning")
        return _read_new(arguments, config, argv)
    recorded, content = read_config(Path(arguments.out))
    settings = {field.name: getattr(recorded, field.name) for field in dataclasses.fields(recorded)}
    kept = {"data_dir": content.get("data_dir"), "devices": content.get("devices")}
    return parse_with_config(Arguments, argv, "train", {**settings, **kept, "out": arguments.out, "resume": True})


def _read_new(arguments: Arguments, config: Config, argv: Sequence[str] | None) -> tuple[Arguments, Config]:
    """Returns the options and the settings of a run that begins."""
    arguments, config = read_new("train", arguments, config, argv)
    return arguments, config if arguments.init_from else with_proposed_columns(config, argv)


class Monitor:
    """Shows a run while it trains, and stops it on Ctrl-C: the callbacks of `runs.train`.

    Args:
      arguments: the options.
      built: the data and the model.
      interrupt: the context that notes Ctrl-C.
    """

    def __init__(self, arguments: Arguments, built: "Built", interrupt: Interrupt) -> None:
        self._arguments, self._config, self._interrupt = arguments, built.config, interrupt
        self._built, self._num_train = built, len(built.dataset.train)
        self._progress: EpochProgress | None = None
        self._writer: Any = None  # tensorboardX.SummaryWriter, which is an extra
        self._kl: list[float] = []  # after the warm-ups, since before their end a small KL may be what was asked for
        self._has_warned = False

    def on_start(self, start: "Progress", notes: Sequence[str]) -> None:
        """Shows where the run starts."""
        for text in notes:
            note(text)
        if not start.history and not start.partial:
            from vae_jax.runs.trained.initial import describe_init

            for text in describe_init(self._built):
                print(text, flush=True)
        if self._arguments.resume:
            print(f"resuming after epoch {len(start.history)}{self.steps_done(start)}", flush=True)
        self._progress = EpochProgress(self._config.epochs, len(start.history))
        if self._arguments.tensorboard:
            from tensorboardX import SummaryWriter

            self._writer = SummaryWriter(str(Path(self._arguments.out) / "tensorboard"))

    def on_epoch(self, line: Mapping[str, float]) -> bool:
        """Shows a line of metrics.jsonl, warns once about posterior collapse, and returns True if the run is to stop."""
        from vae_jax.evaluation import posterior_collapse

        assert self._progress is not None
        self._progress.update(line)
        if line["step"] > max(self._config.capacity_warmup_steps, self._config.learning_rate_warmup_steps):
            self._kl.append(line["test_kl"])
        if not self._has_warned and posterior_collapse.is_collapsing(self._kl):
            self._has_warned = True
            remedies = with_options(posterior_collapse.REMEDIES)
            self._progress.write(
                f"note: the KL is {line['test_kl']:z.3f} nats after epoch {line['epoch']}: posterior collapse is under "
                f"way; {remedies}."
            )
        if self._writer is not None:
            for name, value in line.items():
                self._writer.add_scalar(name, value, line["step"])
        return self._interrupt.signal is not None

    def on_chunk(self, share: float) -> bool:
        """Shows the share of a streamed epoch that is done, and returns True if the run is to stop."""
        assert self._progress is not None
        self._progress.within(share)
        return self._interrupt.signal is not None

    def close(self) -> None:
        """Ends the bar and the event files."""
        if self._progress is not None:
            self._progress.close()
        if self._writer is not None:
            self._writer.close()

    def steps_done(self, progress: "Progress") -> str:
        """Returns a phrase about the steps of a streamed epoch that was interrupted; "" between epochs."""
        if not progress.partial:
            return ""
        return f" and {progress.partial.steps} of {self._num_train // self._config.batch_size} steps"


def main(argv: Sequence[str] | None = None) -> int:
    """Trains one model and returns the exit status."""
    arguments, config = read_command_line(argv)
    out = Path(arguments.out)
    config, sources = split_parts(config)
    config.validate()
    expect_seconds(checkpoint_seconds=arguments.checkpoint_seconds)
    expect_devices(arguments.devices)
    data_dir = None if arguments.data_dir is None else os.path.abspath(os.path.expanduser(arguments.data_dir))

    from vae_jax import runs
    from vae_jax.build import build
    from vae_jax.runs.in_words import repeat_command
    from vae_jax.runs.trained.initial import recorded_init
    from vae_jax.storage.cache import enable_compilation_cache
    from vae_jax.storage.directories import check_out, is_fresh

    expect_outside_data(out, config)
    check_out(out, arguments.resume, runs.read_config)
    if arguments.tensorboard and importlib.util.find_spec("tensorboardX") is None:
        raise UserError("`tensorboard` needs tensorboardX: pip install 'vae_jax[tensorboard]'.")
    if arguments.compilation_cache:
        enable_compilation_cache()
    if is_fresh(out):
        check_initial_parts(arguments, config, sources)
        check_new(config, sources)
    else:
        check_recorded(out, sources)
    parts = import_parts(sources)
    if (devices := arguments.devices or 1) > 1:
        make_devices(devices)
    print(f"loading {config.dataset} ...", flush=True)
    built = build(config, data_dir=data_dir, init=read_init(arguments) or recorded_init(out), **parts)
    print_plan(built, out, devices)
    with Interrupt("these steps" if built.config.stream else "the epoch") as interrupt:
        monitor = Monitor(arguments, built, interrupt)
        fit, summary = runs.train(
            built,
            out,
            resume=arguments.resume,
            data_dir=data_dir,
            devices=arguments.devices,
            checkpoint_seconds=arguments.checkpoint_seconds,
            on_start=monitor.on_start,
            on_epoch=monitor.on_epoch,
            on_chunk=monitor.on_chunk,
        )
        monitor.close()
        if fit.status == "interrupted":
            command = repeat_command(built.config, out, data_dir, current_program().parts("train"), built.parts.records())
            print(
                f"saved after epoch {len(fit.progress.history)} of {built.config.epochs}{monitor.steps_done(fit.progress)}; "
                f"continue with:\n  {command} --resume",
                flush=True,
            )
            return interrupt.exit_status
        if fit.status == "diverged" or fit.problem is not None:
            print_failure(fit, built, arguments)
            return 1
    print_summary(fit, summary, out)
    if arguments.report:
        from vae_jax.report import write_report

        print("drawing the report ...", flush=True)
        print(f"report: {write_report(runs.load_run(out, **parts))}")
    else:
        print(f"run directory: {out}")
    return 0


_ARRAYS = (".npy", ".npz", ".mat", ".h5", ".hdf5")  # files whose arrays of three axes may be series


def print_plan(built: "Built", out: Path, devices: int = 1) -> None:
    """Prints the data, the model and the length of the run."""
    from vae_jax.model import num_parameters
    from vae_jax.runs.in_words import describe_network, describe_objective, describe_part, describe_prior, describe_shape
    from vae_jax.training.schedules import first_epoch_at_full_values

    config, dataset, records = built.config, built.dataset, built.parts.records()
    num_steps = len(dataset.train) // config.batch_size
    shape = describe_shape(dataset.data_shape, is_array=Path(config.dataset).suffix in _ARRAYS and config.event == "auto")
    shared = f" shared by {devices} devices" if devices > 1 else ""
    optimizer = f", optimizer {describe_part(config, 'optimizer', records)}" if config.optimizer == CUSTOM else ""
    held_out = "" if dataset.validation is None else f", {len(dataset.validation)} validation"
    print(
        f"{len(dataset.train)} training{held_out} and {len(dataset.test)} test examples of {with_options(shape)} "
        f"({built.data.description}; split: {with_options(dataset.split)})\ntraining {describe_network(config, records)}, "
        f"{describe_part(config, 'likelihood', records)}, objective {describe_objective(config, records)}, prior "
        f"{describe_prior(config, records)}{optimizer}, {config.epochs} epochs of {num_steps} steps of {config.batch_size}"
        f"{shared}, into {out}\n"
        f"{num_parameters(built.vae):,} parameters",
        flush=True,
    )
    if built.column_plans:
        print(describe_columns(built.column_plans, dataset.train_labels is not None), flush=True)
    first_epoch = first_epoch_at_full_values(built.fit_arguments["schedules"], config.epochs, num_steps)
    if config.early_stopping and first_epoch > 1:
        print(f"early stopping counts from epoch {first_epoch} on, when every warm-up has ended", flush=True)


def print_failure(fit: "Fit", built: "Built", arguments: Arguments) -> None:
    """Prints why a run ended without a result, and where its state is."""
    out, epochs = arguments.out, len(fit.progress.history)
    if fit.status != "diverged":
        problem = with_options(fit.problem or "")
        kept = f"The run is kept in {out}; no report is drawn."
        print(f"error: training ended after epoch {epochs}: {problem} {kept}", file=sys.stderr)
        return
    step, rate = int(fit.progress.state.step), built.config.learning_rate
    advice = "Look at the range of the data." if step == 0 else f"Try a lower --learning-rate ({rate:g})."
    print(
        f"error: training diverged: the loss or its gradient was not finite at step {step} (epoch {epochs + 1}). The "
        f"last good state is in {Path(out) / 'last_good'}, the step in {Path(out) / 'diverged.json'}; "
        f"{current_program().name('postmortem')} {out} explains it. {advice}",
        file=sys.stderr,
    )
    if arguments.debug_nans:
        from vae_jax.runs.postmortem import examine, locate

        replayed = (built, built.config, fit.progress.state)
        print(f"operation: {locate(*replayed, examine(*replayed)) or 'none, one by one'}", file=sys.stderr)


def print_summary(fit: "Fit", summary: Mapping[str, Any], out: Path) -> None:
    """Prints the test result of a run, and notes about collapsed latent dimensions and overfitting."""
    from vae_jax import runs
    from vae_jax.evaluation.overfitting import describe_overfit, overfit
    from vae_jax.evaluation.posterior_collapse import describe_collapse
    from vae_jax.runs.notation import Notation

    error = summary["test_elbo_standard_error"]  # not defined for a single test example
    print(
        f"test ELBO {summary['test_elbo']:z.3f}{'' if math.isnan(error) else f' +- {error:.3f}'} nats  =  log-likelihood "
        f"{summary['test_log_likelihood']:z.3f} - KL {summary['test_kl']:z.3f}   (+- is the standard error over "
        f"{summary['num_test_examples']} examples; {fit.status} after {len(fit.progress.history)} epochs, "
        f"{summary['train_examples_per_second']:,.0f} examples/s)",
        flush=True,
    )
    print(f"active units {summary['active_units']} of {summary['latent_dim']}", flush=True)
    notation = Notation.read(dict(summary))
    if notation != Notation():
        print(notation.translate("the ELBO is a bound of log p(x)"), flush=True)
    if "refit" in summary:
        from vae_jax.cli.refit import summary_line

        print(summary_line(summary["refit"]), flush=True)
    num_collapsed = len(summary.get("collapsed_units", ()))
    collapse = describe_collapse(num_collapsed, summary["latent_dim"], summary["test_kl"])
    if collapse:
        note(collapse)
    overfitted = overfit(runs.read_metrics(out), summary["evaluated_epoch"])
    if overfitted:
        note(describe_overfit(overfitted))
