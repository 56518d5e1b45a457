"""Computes disentanglement metrics of every member of a sweep: a table, intervals, a figure."""

import environment

from vae_jax.cli.disentangle import main
from vae_jax.cli.script import run_script

if __name__ == "__main__":
    environment.expect_packages()
    run_script(main)
