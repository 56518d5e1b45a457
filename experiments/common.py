"""What the scripts share: one line for bad input, Ctrl-C that saves, progress on the terminal or line by line."""

import contextlib
import dataclasses
import io
import logging
import math
import os
import re
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from vae_jax.cli.messages import render
from vae_jax.config import Config
from vae_jax.errors import DataWarning, DivergenceWarning, UserError

T = TypeVar("T")
_PARAMETERS = {field.name for field in dataclasses.fields(Config)} | {"out", "resume", "data_dir"}
_PATHS = ("out", "data_dir", "points", "dataset")  # options that are paths, or may be


def _stop(number: int, frame: Any) -> None:
    """Ctrl-C while nothing has to be saved: libraries that are being imported or collected must not answer it."""
    print("\ninterrupted", file=sys.stderr, flush=True)
    os._exit(128 + number)


signal.signal(signal.SIGINT, _stop)


def _unraisable(unraisable: Any) -> None:
    """As always, but for the writers that a failed checkpoint leaves behind, since that is reported itself."""
    if "Event loop is closed" not in str(unraisable.exc_value):
        sys.__unraisablehook__(unraisable)


@contextlib.contextmanager
def _notes() -> Iterator[None]:
    """Prints each warning about data once, as a line on stderr."""
    said, show = set[str](), warnings.showwarning

    def note(message: Any, category: type[Warning], *arguments: Any, **options: Any) -> None:
        if not issubclass(category, DataWarning):
            show(message, category, *arguments, **options)
        elif str(message) not in said:
            said.add(str(message))
            print(f"note: {message}", file=sys.stderr, flush=True)

    with warnings.catch_warnings():
        warnings.simplefilter("always", DataWarning)
        warnings.showwarning = note
        yield


def with_options(text: str) -> str:
    """Returns a text of the library with its parameters rendered as options."""
    return render(UserError(text), _PARAMETERS)


def run_script(main: Callable[[], int | None]) -> None:
    """Runs a script's main: bad input becomes one line on stderr and exit status 2, without a traceback."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's own remarks; its errors stay
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started this
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        with contextlib.suppress(AttributeError, OSError):
            getattr(sys, name).reconfigure(errors="backslashreplace")  # a terminal that has no β
    sys.unraisablehook = _unraisable
    warnings.simplefilter("ignore", DivergenceWarning)  # every script says it in its own line
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # Orbax's reads of a damaged checkpoint: each is reported as well
    try:
        with _notes():
            status = main()
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {render(error, _PARAMETERS)}", file=sys.stderr)
        status = 2
    except BrokenPipeError:  # the reader of our output, such as `head`, went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141
    except OSError as error:  # a full disk, a folder that may not be written
        words = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        print(f"error: {' '.join(words.split())}", file=sys.stderr)
        if main.__module__ == "__main__":  # Orbax's threads, which wait for what cannot be written, must not hold the process
            sys.stdout.flush()
            os._exit(1)
        status = 1
    except Exception as error:
        words = " ".join(str(error).split())[:160]
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in words or "Out of memory" in words:
            print(f"error: out of memory: {words.rstrip('.')}. Use smaller networks or batches.", file=sys.stderr)
        elif "Unable to initialize backend" in words or "Unknown backend" in words:
            print(f"error: JAX_PLATFORMS: {words}", file=sys.stderr)
        else:
            raise
        status = 1
    sys.exit(status or 0)


def _at_home(arguments: Any) -> Any:
    """`~` expanded, as a shell does not in --out=~/runs."""
    values = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(arguments) if field.name in _PATHS}
    expanded = {name: type(value)(os.path.expanduser(value)) for name, value in values.items() if value is not None}
    if bad := [name for name, value in expanded.items() if not _is_name(value)]:
        raise UserError(
            f"--{bad[0].replace('_', '-')}: expected a name that can be written as UTF-8, got {expanded[bad[0]]!r}."
        )
    return dataclasses.replace(arguments, **expanded)


def _is_name(path: Any) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def parse(cls: type[T], default: T | None = None) -> T:
    """The command line as a `cls`; a mistake in it becomes one line as well."""
    import environment

    environment.expect_packages()
    import tyro

    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            return _at_home(tyro.cli(cls) if default is None else tyro.cli(cls, default=default))
    except SystemExit as stop:
        if stop.code != 2:
            raise
        # tyro draws a box: title, message, then where to find help
        lines = [re.sub(r"[│╭╮╰╯─]", " ", line).strip() for line in box.getvalue().splitlines()]
        message = " ".join(line for line in lines[1:] if line).split("For full helptext")[0].split("Argument helptext")[0]
        raise UserError(f"{message.strip().rstrip('.')}. {sys.argv[0]} --help lists the options.") from None


def config_of(arguments: Config) -> Config:
    """The part of the command line that is needed to repeat the run; a data set's path so that it is found from any folder."""
    values = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(Config)}
    place = os.path.expanduser(values["dataset"])
    if os.path.lexists(place) and values["dataset"] not in ("", "digits", "sprites", "sprites_grid"):
        values["dataset"] = os.path.abspath(place)
    return Config(**values)


def expect_outside_data(out: Path, config: Config) -> None:
    """Raises where the figures of a run would become images of its data set."""
    if os.path.isdir(config.dataset) and Path(os.path.abspath(out)).is_relative_to(os.path.abspath(config.dataset)):
        raise UserError(
            f"--out {out}: expected a folder outside the data set {config.dataset}. Its figures would be images there."
        )


def expect_seconds(**options: float) -> None:
    """Raises unless these options are times."""
    for name, value in options.items():
        if not 0 <= value < math.inf:
            raise UserError(f"--{name.replace('_', '-')}: expected seconds >= 0, got {value}.")


def supervised(work: Callable[[Callable[[], None]], int], timeout: float) -> int:
    """Runs `work` in a child, because JAX aborts a process, with a stack trace, when another one of a group dies.

    Call it before JAX is imported. Here that becomes one line; signals are passed on; the child dies with this process.

    Args:
      work: given a function to call once the processes have joined; returns the exit status.
      timeout: seconds that the joining may take, for the message.
    """
    import threading

    err_read, err_write = os.pipe()
    status_read, status_write = os.pipe()
    life_read, life_write = os.pipe()
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)  # Ctrl-C reaches the supervisor, which passes it on once
        os.dup2(err_write, 2)
        for fd in (err_read, err_write, status_read, life_write):
            os.close(fd)

        def follow() -> None:
            os.read(life_read, 1)  # ends when the supervisor does
            os._exit(1)

        has_joined = False

        def joined() -> None:
            nonlocal has_joined
            has_joined = True
            os.write(status_write, b"j")

        threading.Thread(target=follow, daemon=True).start()
        try:
            run_script(lambda: work(joined))
        except SystemExit as stop:
            if stop.code:  # at its exit JAX would wait for processes that do not know
                sys.stdout.flush()
                if stop.code == 2 and has_joined and sys.modules["jax"].process_index() == 0:
                    time.sleep(3)  # its end is that of the others, which have the same to say
                os._exit(stop.code if isinstance(stop.code, int) else 1)
            raise
    for fd in (err_write, status_write, life_read):
        os.close(fd)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: os.kill(child, number))
    quiet = False  # within a message of JAX's runtime, which may go on over several lines
    with os.fdopen(err_read, errors="replace") as stderr:
        for line in stderr:
            starts = re.match(r"[EWIF]\d{4} |\*\*\* |(error|note|Traceback|interrupted|finishing|saved)\b", line)
            quiet = not starts[1] if starts else quiet
            if not quiet:
                sys.stderr.write(line)
                sys.stderr.flush()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    has_joined = os.read(status_read, 1) == b"j"
    if code != -signal.SIGABRT:
        return code if code >= 0 else 128 - code
    if not has_joined:
        raise UserError(
            f"the processes did not all join within {timeout:g} s. Start every one of them, with the same --num-processes and "
            "--coordinator; --coordinator-timeout waits longer."
        )
    print(
        "error: another process of the sweep died or cannot be reached any more, so this one stops too. Finished epochs are "
        "saved: start all processes again with --resume.",
        file=sys.stderr,
    )
    return 1


def expect_runs(paths: Sequence[Path], *, or_sweeps: bool = False) -> None:
    """Raises unless there is at least one path and all are run directories that may be written to, or sweep directories."""
    from vae_jax.storage.directories import refuse_links

    if not paths:
        raise UserError("expected at least one run directory, such as runs/first, got none.")
    for path in paths:
        try:
            sweep, run = is_sweep(path), (path / "config.json").is_file()
        except OSError as error:  # such as a name that is too long
            raise UserError(f"{path}: cannot be read: {error.strerror}.") from None
        if sweep and not or_sweeps:
            raise UserError(f"{path}: a sweep directory, not a run directory; its members' numbers are in its results.csv.")
        if not sweep and not run:
            no_sweep = " and not a sweep directory (it has no sweep.json)" if or_sweeps else ""
            raise UserError(f"{path}: not a run directory (it has no config.json){no_sweep}.")
        refuse_links(path)


def is_sweep(path: Path) -> bool:
    """Whether sweep.py wrote this directory."""
    return (path / "sweep.json").is_file()


class Interrupt:
    """While active, the first Ctrl-C or SIGTERM is noted, for the end of the epoch (or part); a second Ctrl-C stops at once."""

    def __init__(self, part: str = "the epoch") -> None:
        self.signal: int | None = None
        self._part = part

    def _note(self, number: int, frame: Any) -> None:
        if self.signal is not None and number == signal.SIGINT:
            _stop(number, frame)
        self.signal = number
        print(f"\nfinishing {self._part}, then saving (Ctrl-C again to stop without) ...", file=sys.stderr, flush=True)

    def __enter__(self) -> "Interrupt":
        self._old = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    @property
    def exit_status(self) -> int:
        """The shell's convention for a process ended by this signal."""
        return 128 + (self.signal or 0)


class EpochProgress:
    """A bar over epochs on a terminal; about twenty lines in all elsewhere."""

    def __init__(self, epochs: int, done: int) -> None:
        from tqdm import tqdm

        self._epochs = epochs
        self._stride = max(1, math.ceil(epochs / 20))
        self._terminal = sys.stderr.isatty()
        self._done, self._said = done, time.monotonic()
        self._bar = tqdm(total=epochs, initial=done, unit="epoch", disable=not self._terminal, dynamic_ncols=True)

    def update(self, line: dict[str, Any]) -> None:
        """Shows one line of metrics.jsonl."""
        words = (
            f"ELBO {line['test_elbo']:z.2f}  log-likelihood {line['test_log_likelihood']:z.2f}  KL {line['test_kl']:z.2f}  "
            f"{line['train_examples_per_second']:,.0f} examples/s"
        )
        self._done, self._said = line["epoch"], time.monotonic()
        if self._terminal:
            self._bar.set_description_str("", refresh=False)
            self._bar.set_postfix_str(words, refresh=False)
            self._bar.update()
        elif line["epoch"] == 1 or line["epoch"] % self._stride == 0 or line["epoch"] == self._epochs:
            print(f"epoch {line['epoch']}/{self._epochs}  {words}", flush=True)

    def within(self, share: float) -> None:
        """Shows how much is done of an epoch that takes long; elsewhere than on a terminal once a minute."""
        if self._terminal:
            self._bar.set_description_str(f"{share:.0%} of epoch {self._done + 1}", refresh=False)
            self._bar.update(0)
        elif time.monotonic() - self._said >= 60:
            self._said = time.monotonic()
            print(f"epoch {self._done + 1}/{self._epochs}  {share:.0%} done", flush=True)

    def say(self, note: str) -> None:
        """A line on stderr, above the bar."""
        self._bar.write(note, file=sys.stderr)

    def close(self) -> None:
        """Ends the bar's line."""
        self._bar.close()
