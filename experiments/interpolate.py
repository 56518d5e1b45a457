"""Writes examples on the way from one row of new data to another."""

import environment

from vae_jax.cli.interpolate import main
from vae_jax.cli.script import run_script

if __name__ == "__main__":
    environment.expect_packages()
    run_script(main)
