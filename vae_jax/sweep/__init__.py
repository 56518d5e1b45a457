"""Sweeps: members that differ in traced values are one compiled program, on one device, many devices or many hosts."""

from vae_jax.sweep.in_memory import Sweep as Sweep
from vae_jax.sweep.in_memory import sweep as sweep
from vae_jax.sweep.members import Group as Group
from vae_jax.sweep.members import Range as Range
from vae_jax.sweep.members import cross as cross
from vae_jax.sweep.members import design as design
from vae_jax.sweep.members import grid as grid
from vae_jax.sweep.members import points as points
from vae_jax.sweep.results import Results as Results
from vae_jax.sweep.results import load_sweep as load_sweep
from vae_jax.sweep.statistics import Interval as Interval
from vae_jax.sweep.statistics import Point as Point
from vae_jax.sweep.statistics import lower_hull as lower_hull
from vae_jax.sweep.successive_halving.in_memory import HalvingSweep as HalvingSweep
from vae_jax.sweep.successive_halving.in_memory import halving as halving
from vae_jax.sweep.successive_halving.rule import Halving as Halving
