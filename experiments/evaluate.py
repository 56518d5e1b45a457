"""Evaluates trained runs on their test sets: log p(x) with its errors, the ELBO and the information in the code."""

import environment

from vae_jax.cli.evaluate import main
from vae_jax.cli.script import run_script

if __name__ == "__main__":
    environment.expect_packages()
    run_script(main)
