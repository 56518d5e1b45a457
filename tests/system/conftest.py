"""The scripts' main functions, called in this process."""

import importlib
import os
import sys

import pytest
from scripts import EXPERIMENTS, end_started, run
from small_runs import SMALL

from vae_jax.cli.script import run_script


@pytest.fixture(scope="session", autouse=True)
def _quickly_compiled_scripts():
    """Small programs that run for a moment: most of their time would go into optimizing them."""
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    yield
    del os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"]


@pytest.fixture(autouse=True)
def _nothing_goes_on():
    yield
    end_started()


@pytest.fixture
def script(monkeypatch, capfd):
    """Calls a script's main and returns (exit status, stderr)."""
    monkeypatch.syspath_prepend(str(EXPERIMENTS))

    def call(name, *arguments):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            run_script(importlib.import_module(name).main, ends_process=False)
        return stop.value.code, capfd.readouterr().err

    return call


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """One finished run, used by all tests that only read."""
    out = tmp_path_factory.mktemp("runs") / "first"
    done = run("train.py", *SMALL, "--epochs", 3, "--out", out)
    return out, done
