"""Trains a sweep over beta, seeds, learning rates ... as one compiled program and writes its table, figures and report."""

import environment

from vae_jax.cli.script import run_script
from vae_jax.cli.sweep import main

if __name__ == "__main__":
    environment.expect_packages()
    run_script(main)
