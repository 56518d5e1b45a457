"""The train command, called in this process."""

import sys

import pytest
from paths import EXPERIMENTS


@pytest.fixture
def train_command(monkeypatch):
    """Calls the command with arguments and returns its exit status."""
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    import common
    import train

    def call(arguments):
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        with pytest.raises(SystemExit) as stop:
            common.run_script(train.main)
        return stop.value.code

    return call
