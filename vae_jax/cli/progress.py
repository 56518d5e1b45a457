"""Progress on the terminal, or line by line elsewhere, and Ctrl-C that saves before the process ends."""

import math
import signal
import sys
import time
from collections.abc import Mapping
from types import FrameType
from typing import TYPE_CHECKING

from vae_jax.cli.script import stop_at_once

if TYPE_CHECKING:
    from tqdm import tqdm

    from vae_jax.sweep.directory import Tick


class Interrupt:
    """Context in which the first Ctrl-C or SIGTERM is noted for the end of the epoch, and a second Ctrl-C stops at once.

    Args:
      part: what is finished first, for the message.
    """

    def __init__(self, part: str = "the epoch") -> None:
        self.signal: int | None = None
        self._part = part

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            stop_at_once(number, frame)
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
        """Exit status of a process that this signal ended, by the shell's convention."""
        return 128 + (self.signal or 0)


class EpochProgress:
    """Bar over the epochs of a run on a terminal; elsewhere about twenty lines in all.

    Args:
      epochs: epochs of the whole run.
      done: epochs that were finished before, for a run that is resumed.
    """

    def __init__(self, epochs: int, done: int) -> None:
        from tqdm import tqdm

        self._epochs = epochs
        self._stride = max(1, math.ceil(epochs / 20))
        self._terminal = sys.stderr.isatty()
        self._done, self._last_line = done, time.monotonic()
        self._bar = tqdm(total=epochs, initial=done, unit="epoch", disable=not self._terminal, dynamic_ncols=True)

    def update(self, line: Mapping[str, float]) -> None:
        """Shows one line of metrics.jsonl."""
        numbers = (
            f"ELBO {line['test_elbo']:z.2f}  log-likelihood {line['test_log_likelihood']:z.2f}  KL {line['test_kl']:z.2f}  "
            f"{line['train_examples_per_second']:,.0f} examples/s"
        )
        self._done, self._last_line = int(line["epoch"]), time.monotonic()
        if self._terminal:
            self._bar.set_description_str("", refresh=False)
            self._bar.set_postfix_str(numbers, refresh=False)
            self._bar.update()
        elif self._done == 1 or self._done % self._stride == 0 or self._done == self._epochs:
            print(f"epoch {self._done}/{self._epochs}  {numbers}", flush=True)

    def within(self, share: float) -> None:
        """Shows the finished share of an epoch that takes long, once a minute if stderr is not a terminal."""
        if self._terminal:
            self._bar.set_description_str(f"{share:.0%} of epoch {self._done + 1}", refresh=False)
            self._bar.update(0)
        elif time.monotonic() - self._last_line >= 60:
            self._last_line = time.monotonic()
            print(f"epoch {self._done + 1}/{self._epochs}  {share:.0%} done", flush=True)

    def write(self, line: str) -> None:
        """Prints a line on stderr, above the bar."""
        self._bar.write(line, file=sys.stderr)

    def close(self) -> None:
        """Ends the bar's line."""
        self._bar.close()


class SweepProgress:
    """Bar over epochs times members on a terminal; elsewhere about twenty lines in all."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None
        self._shown = self._first = 0  # member epochs at the last line, and when the bar was made
        self._began = 0.0

    def update(self, tick: "Tick") -> None:
        """Shows the state after an epoch."""
        from tqdm import tqdm

        is_terminal, epochs = sys.stderr.isatty(), tick.group.configs[0].epochs
        if self._bar is None:
            running = tick.progress.status.count("running")
            self._bar = tqdm(total=tick.total, unit=" member-epochs", disable=not is_terminal, dynamic_ncols=True)
            self._bar.n = self._bar.initial = self._shown = self._first = tick.done - running
            self._began = time.perf_counter() - tick.seconds
        rate = (tick.done - self._first) / max(time.perf_counter() - self._began, 1e-9)
        seconds_left = (tick.total - tick.done) / rate if rate else float("nan")
        elbos = [history[-1].test.elbo for history in tick.progress.histories if history]
        elbos = [elbo for elbo in elbos if math.isfinite(elbo)]
        num_diverged = tick.progress.status.count("diverged")
        # Under successive halving, members begin at different times.
        text = f"epoch {tick.progress.epoch}" + (f"/{epochs}" if tick.progress.status.count("waiting") == 0 else "")
        text += f"  best ELBO {max(elbos):z.2f}" if elbos else ""
        text += f"  {num_diverged} diverged" if num_diverged else ""
        text += f"  {rate / epochs:.2f} members/s"
        if is_terminal:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(tick.done - self._bar.n)
        elif tick.done == tick.total or tick.done - self._shown >= tick.total / 20:
            self._shown = tick.done
            print(f"{tick.done}/{tick.total} member-epochs  {text}  {seconds_left:.0f} s left", flush=True)

    def close(self) -> None:
        """Ends the bar's line."""
        if self._bar is not None:
            self._bar.close()
