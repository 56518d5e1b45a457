"""The name of the running program, for messages that tell the user which command to type next."""

import os
import shutil
import sys
from typing import NamedTuple

SCRIPTS = {  # command -> the script in experiments/ that does the same
    "train": "train.py",
    "sweep": "sweep.py",
    "evaluate": "evaluate.py",
    "refit": "refit.py",
    "impute": "impute.py",
    "encode": "encode.py",
    "reconstruct": "reconstruct.py",
    "score": "score.py",
    "sample": "sample.py",
    "interpolate": "interpolate.py",
    "export": "export.py",
    "report": "report.py",
    "compare": "compare_likelihoods.py",
    "latent": "latent_space.py",
    "disentangle": "disentanglement.py",
    "postmortem": "postmortem.py",
}


class Program(NamedTuple):
    """The way in which this process was started: as `vae-jax`, or as a script of a folder such as experiments/."""

    start: tuple[str, ...] = ("vae-jax",)  # the words before the command; for scripts the interpreter
    folder: str | None = None  # the folder of the scripts; None for `vae-jax`

    def parts(self, command: str) -> tuple[str, ...]:
        """Returns the words that start a command in the same way, such as ("vae-jax", "train")."""
        if self.folder is None:
            return (*self.start, command)
        return (*self.start, os.path.join(self.folder, SCRIPTS[command]))

    def name(self, command: str) -> str:
        """Returns the name of a command as a sentence names it: "vae-jax train", or "experiments/train.py"."""
        parts = ["python" if part == sys.executable else part for part in self.parts(command)]
        return " ".join(parts if self.folder is None else parts[-1:])

    def example(self, command: str) -> str:
        """Returns the first words of an example: "vae-jax train", or "python experiments/train.py"."""
        return self.name(command) if self.folder is None else f"python {self.name(command)}"

    def in_text(self, text: str) -> str:
        """Returns a text in which each `vae-jax COMMAND` is replaced by the words that start the command in the same way."""
        for command in SCRIPTS:
            text = text.replace(f"vae-jax {command} ", f"{self.example(command)} ")
        return text


def current_program() -> Program:
    """Returns the program that this process runs."""
    path = sys.argv[0]
    folder, file = os.path.split(path)
    if file in SCRIPTS.values():
        return Program((sys.executable,), folder)
    if file == "__main__.py" and os.path.basename(folder) == "cli":
        return Program((sys.executable, "-m", "vae_jax.cli"))
    if file == "vae-jax" and shutil.which("vae-jax") != path:  # an environment that is not active
        return Program((path,))
    return Program()
