"""Trains a VAE and writes a run directory: config.json, metrics.jsonl, summary.json, checkpoints/, figures/, report.html."""

import environment

from vae_jax.cli.script import run_script
from vae_jax.cli.train import main

if __name__ == "__main__":
    environment.expect_packages()
    run_script(main)
