"""Rebuilds the figures and report.html of run directories and of sweep directories."""

import environment

from vae_jax.cli.report import main
from vae_jax.cli.script import run_script

if __name__ == "__main__":
    environment.expect_packages()
    run_script(main)
