"""The devices that a command asks for. JAX makes virtual ones on CPU before it starts, and not later."""

import contextlib

from vae_jax.cli.checks import expect_counts

MOST_DEVICES = 256


def make_devices(count: int) -> None:
    """Makes virtual devices on CPU. A backend that runs already keeps the devices that it has."""
    import jax

    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", count)


def expect_devices(count: int | None) -> None:
    """Raises `UserError` for a number of devices that no machine has."""
    expect_counts(1, MOST_DEVICES, devices=count)
