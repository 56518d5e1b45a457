"""Trains the same network under several likelihoods and prints one table in units that can be compared."""

import environment

from vae_jax.cli.compare import main
from vae_jax.cli.script import run_script

if __name__ == "__main__":
    environment.expect_packages()
    run_script(main)
