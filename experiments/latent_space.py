"""Draws one test example of a trained run along the latent dimensions, or on the way to a second example."""

import environment

from vae_jax.cli.latent import main
from vae_jax.cli.script import run_script

if __name__ == "__main__":
    environment.expect_packages()
    run_script(main)
