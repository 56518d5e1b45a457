"""Figures and the one-page report of a run directory or of a sweep."""

from vae_jax.report.run.page import write_report as write_report
from vae_jax.report.sweep.page import write_sweep_report as write_sweep_report
