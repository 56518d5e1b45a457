"""Fits a prior to the codes of trained runs, and saves it with them."""

import environment

from vae_jax.cli.refit import main
from vae_jax.cli.script import run_script

if __name__ == "__main__":
    environment.expect_packages()
    run_script(main)
