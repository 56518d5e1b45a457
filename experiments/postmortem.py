"""Replays the step at which a run, or a member of a sweep, diverged, and explains it."""

import environment

from vae_jax.cli.postmortem import main
from vae_jax.cli.script import run_script

if __name__ == "__main__":
    environment.expect_packages()
    run_script(main)
