"""Sweeps: members that differ in traced values are one compiled program, on one device, many devices or many hosts."""

from vae_jax.sweep.design import Group as Group
from vae_jax.sweep.design import Range as Range
from vae_jax.sweep.design import cross as cross
from vae_jax.sweep.design import design as design
from vae_jax.sweep.design import grid as grid
from vae_jax.sweep.design import points as points
from vae_jax.sweep.results import Results as Results
from vae_jax.sweep.results import load_sweep as load_sweep
from vae_jax.sweep.run import Sweep as Sweep
from vae_jax.sweep.run import sweep as sweep
from vae_jax.sweep.table import Interval as Interval
from vae_jax.sweep.table import Point as Point
from vae_jax.sweep.table import lower_hull as lower_hull
