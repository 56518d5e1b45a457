"""Fills in the missing entries of a file by a trained run."""

import environment

from vae_jax.cli.impute import main
from vae_jax.cli.script import run_script

if __name__ == "__main__":
    environment.expect_packages()
    run_script(main)
