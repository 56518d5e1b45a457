"""Measures on a GPU, within one sitting, the reproductions that are too long for two cores: priors, IWAE and a ladder."""

if __name__ == "__main__":
    import environment

    environment.expect_packages()

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from vae_jax.cli.arguments import parse
from vae_jax.cli.script import run_script
from vae_jax.errors import UserError

FOLDER = Path(__file__).parent
PARTS = ("priors", "iwae", "ladder")
SHARES = {"priors": 0.45, "iwae": 0.75, "ladder": 1.0}  # of the time, by which each part has to end
ROWS = ("normal", "realnvp", "vamp", "hierarchical", "refit_realnvp")  # a mixture is fitted on the CPU, which takes minutes
MOST_PASSES, PROBE_PASSES = 600, 3  # of IWAE
LADDER = ("--network", "ladder", "--validation-fraction", "0.1", "--early-stopping", "20")
LADDER += ("--beta-warmup-steps", "20000", "--clip-norm", "200")
EVALUATION_SECONDS = 30.0  # kept free at the end of a part for its evaluation


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Train and evaluate the table of priors with three seeds, IWAE with DReG and 50 samples, and a ladder, one after another.

    Each part takes at most its share of the time, and its results are written as soon as it ends.

    Example: python experiments/reproductions/gpu.py --dataset FOLDER --minutes 9
    """

    dataset: str = "mnist"
    """MNIST: a TFDS name, or a folder with its IDX files."""
    data_dir: str | None = None
    """Folder with prepared TFDS data."""
    parts: tuple[str, ...] = PARTS
    """Parts to run, of priors, iwae and ladder."""
    minutes: float = 14.0
    """Time for all parts. The same command continues what has not ended."""
    trial: bool = False
    """Run every part for a pass or two only, to test the command before a GPU is at hand. The numbers are worthless."""
    runs: Path = Path("runs/gpu")
    """Folder of the run and sweep directories."""
    out: Path = Path("runs/gpu/results")
    """Folder to write: priors.json and iwae.json (the results.json of these reproductions), and ladder.json."""


class Sitting:
    """Runs the parts one after another within a limited time.

    Args:
      arguments: those of the script.
    """

    def __init__(self, arguments: Arguments) -> None:
        self.arguments, self.began = arguments, time.monotonic()
        self.data = ["--dataset", arguments.dataset]
        self.data += [] if arguments.data_dir is None else ["--data-dir", arguments.data_dir]

    def seconds_left(self, part: str) -> float:
        """Returns the seconds until a part has to end."""
        return 60 * self.arguments.minutes * SHARES[part] - (time.monotonic() - self.began)

    def call(self, script: Path, flags: Sequence[object], seconds: float) -> int:
        """Runs a script, interrupts it as Ctrl-C does after some seconds, and returns its exit status."""
        command = [sys.executable, str(script), *map(str, flags)]
        print(f"+ {' '.join(command)}", flush=True)
        with subprocess.Popen(command) as process:
            try:
                return process.wait(timeout=max(1.0, seconds))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGINT)
                return process.wait()

    def priors(self) -> int:
        """Trains and evaluates the table of priors, and writes it anew after some of its rows."""
        flags: list[object] = [
            *self.data,
            "--runs",
            self.arguments.runs / "priors",
            "--out",
            self.arguments.out / "priors.json",
        ]
        if self.arguments.trial:
            flags += ["--epochs", 1, "--warmup-steps", 0, "--num-samples", 5, "--seeds", 0]
        for count in (2, 3, len(ROWS)):
            left = self.seconds_left("priors")
            minutes = (left - EVALUATION_SECONDS) / 60
            status = self.call(FOLDER / "priors" / "run.py", [*flags, "--rows", *ROWS[:count], "--minutes", minutes], left)
            if status:
                return status
        return 0

    def iwae(self) -> int:
        """Trains IWAE with DReG and 50 samples for as many passes as there is time for, and adds it to the results so far."""
        script, runs, out = FOLDER / "iwae" / "run.py", self.arguments.runs / "iwae", self.arguments.out / "iwae.json"
        few = ["--num-samples", 5] if self.arguments.trial else []
        started = sorted(runs.glob("dreg-50-*/sweep.json"))  # of an earlier sitting
        if started:
            passes = int(started[0].parent.name.rsplit("-", 1)[1])
        else:
            probe = self.arguments.runs / "probe"
            flags: list[object] = ["--entries", f"dreg:50:1@{PROBE_PASSES}", "--num-samples", 1]
            flags += ["--runs", probe, "--out", probe / "probe.json"]
            status = self.call(script, [*self.data, *flags], self.seconds_left("iwae"))
            if status:
                return status
            [metrics] = probe.glob("dreg-50-*/blocks/0000/metrics.jsonl")
            seconds = json.loads(metrics.read_text().splitlines()[-1])["seconds"]  # the first pass includes compilation
            available = self.seconds_left("iwae") - EVALUATION_SECONDS
            passes = PROBE_PASSES if self.arguments.trial else min(MOST_PASSES, int(0.9 * available / seconds))
            print(f"dreg:50: {seconds:.2f} s a pass, so {passes} passes", flush=True)
            if passes < 1:
                raise UserError("no time is left for IWAE.", field="minutes", fix="Run `parts=iwae` by itself.")
        if not out.exists() and not self.arguments.trial:
            shutil.copyfile(FOLDER / "iwae" / "results.json", out)
        flags = ["--entries", f"dreg:50:1@{passes}", "--merge", "--runs", runs, "--out", out, *few]
        return self.call(script, [*self.data, *flags], self.seconds_left("iwae") + EVALUATION_SECONDS)

    def ladder(self) -> int:
        """Trains a ladder until the time is over, and evaluates it."""
        run, scripts = self.arguments.runs / "ladder", FOLDER.parent
        flags = [*self.data, *LADDER, "--epochs", 1 if self.arguments.trial else 200, "--out", run]
        if self.arguments.trial:
            flags = [flag if flag != "20000" else "0" for flag in flags]
        if not (run / "summary.json").exists():
            flags += ["--resume"] if (run / "config.json").exists() else []
            status = self.call(scripts / "train.py", flags, self.seconds_left("ladder") - EVALUATION_SECONDS)
            if status not in (0, 130):  # an interrupted run is evaluated as it is
                return status
        samples = 5 if self.arguments.trial else 1000
        status = self.call(scripts / "evaluate.py", [run, "--num-samples", samples], self.seconds_left("ladder"))
        if status == 0:
            shutil.copyfile(run / "evaluation.json", self.arguments.out / "ladder.json")
        return status


def main() -> int:
    """Runs the parts and lists those that have not ended."""
    arguments = parse(Arguments)
    if not arguments.minutes > 0:
        raise UserError(field="minutes", expected="a number > 0", got=arguments.minutes)
    if not arguments.parts or not set(arguments.parts) <= set(PARTS):
        raise UserError(field="parts", expected=f"some of {', '.join(PARTS)}", got=" ".join(arguments.parts) or "none")
    arguments.out.mkdir(parents=True, exist_ok=True)
    sitting, missing = Sitting(arguments), []
    for part in arguments.parts:
        status = getattr(sitting, part)()
        if status or not (arguments.out / f"{part}.json").exists():
            missing.append(part)
    written = ", ".join(sorted(path.name for path in arguments.out.glob("*.json")))
    print(f"written to {arguments.out}: {written or 'nothing'}")
    if missing:
        print(f"not finished: {', '.join(missing)}; the same command continues")
    return 1 if missing else 0


if __name__ == "__main__":
    run_script(main)
