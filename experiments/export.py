"""Writes a trained model as plain weights and as programs that JAX alone runs."""

import environment

from vae_jax.cli.export import main
from vae_jax.cli.script import run_script

if __name__ == "__main__":
    environment.expect_packages()
    run_script(main)
