"""Writes the ELBO and log p(x) of each row of new data under a trained model."""

import environment

from vae_jax.cli.score import main
from vae_jax.cli.script import run_script

if __name__ == "__main__":
    environment.expect_packages()
    run_script(main)
