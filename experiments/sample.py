"""Writes examples from a trained model."""

import environment

from vae_jax.cli.sample import main
from vae_jax.cli.script import run_script

if __name__ == "__main__":
    environment.expect_packages()
    run_script(main)
