"""The train command, called in this process."""

import pytest

from vae_jax.cli import train
from vae_jax.cli.script import run_script


@pytest.fixture
def train_command():
    """Calls the command with arguments and returns its exit status."""

    def call(arguments):
        with pytest.raises(SystemExit) as stop:
            run_script(lambda: train.main(arguments), ends_process=False)
        return stop.value.code

    return call
