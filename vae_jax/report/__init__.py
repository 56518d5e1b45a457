"""Figures and the one-page report of a run directory."""

from vae_jax.report.html import write_report as write_report
