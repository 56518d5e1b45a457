"""How long until something happens: twice what is aimed at on a quiet machine, since this one runs other tests as well."""

import os
import subprocess
import sys
import time

import pytest
from scripts import command

HEAVY = ("matplotlib", "tensorflow_datasets", "orbax", "sklearn", "grain", "torch", "tensorflow", "numpyro")


def test_the_package_imports_nothing_heavy():
    modules = "build, config, data, evaluation, model, runs, sweep, training"
    code = f"import sys; from vae_jax import {modules}; print(*(name for name in {HEAVY} if name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == []


@pytest.mark.slow
def test_the_package_imports_soon():
    """Aim: 1.5 s over JAX itself."""
    code = (
        "import time, jax; began = time.perf_counter(); from vae_jax import build, evaluation, runs, sweep, training; "
        "print(time.perf_counter() - began)"
    )
    seconds = [float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout) for _ in range(3)]
    assert min(seconds) < 3


@pytest.mark.slow
def test_the_first_epoch_comes_soon(tmp_path):
    """Aim: within 10 s from a cold start and 5 s with compiled programs in the cache, on digits with the defaults."""
    environment = {**os.environ, "VAE_JAX_CACHE": str(tmp_path / "cache")}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    seconds = []
    for name in ("cold", "warm", "warm again"):
        began = time.perf_counter()
        arguments = command("train.py", "--epochs", 2, "--no-report", "--out", tmp_path / name)
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment) as process:
            assert process.stdout is not None
            assert any(line.startswith("epoch 1/") for line in process.stdout)
            seconds.append(time.perf_counter() - began)
            process.stdout.read()
        assert process.returncode == 0
    print(f"first epoch after {seconds} s")
    assert seconds[0] < 20
    assert min(seconds[1:]) < 10
