"""Folders of the repository that tests read."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "vae_jax"
EXPERIMENTS = ROOT / "experiments"
FIXTURES = ROOT / "tests" / "system" / "fixtures"
