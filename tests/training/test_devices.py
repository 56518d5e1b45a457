"""One run on several devices: the numbers of one device up to rounding, and a batch that is really divided."""

import dataclasses
import os
import re
import subprocess
import sys

import chex
import jax
import numpy as np
import pytest

from vae_jax import runs, training
from vae_jax.build import build
from vae_jax.config import Config
from vae_jax.errors import UserError
from vae_jax.training import in_memory
from vae_jax.training.placement import place

DEVICES = jax.local_devices()
TWO_DEVICES = pytest.mark.skipif(len(DEVICES) < 2, reason="needs two devices; the last test runs this file with two")
CONFIG = Config(epochs=2, hidden=(8,), latent_dim=2, batch_size=32, validation_fraction=0.1)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "bytes.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (250, 4, 4), dtype=np.uint8))
    return str(path)


def build_on(file, **changes):
    return build(dataclasses.replace(CONFIG, dataset=file, **changes))


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        (len(DEVICES) + 1, rf"devices: expected 1 to {len(DEVICES)}, the number of cpu devices .*jax_num_cpu_devices"),
        (0, "devices: expected 1 to"),
    ],
)
def test_more_devices_than_there_are_and_none_are_refused(file, tmp_path, devices, message):
    built = build_on(file)
    with pytest.raises(UserError, match=message):
        training.fit(built.vae, built.data, **built.fit_arguments, devices=devices)
    with pytest.raises(UserError, match=message):
        runs.train(built, tmp_path / "run", devices=devices)
    assert not (tmp_path / "run").exists()


@TWO_DEVICES
def test_a_batch_that_cannot_be_divided_is_refused(file):
    built = build_on(file, batch_size=33)
    with pytest.raises(UserError, match=r"devices: a batch of 33 .* 2 devices\. Use a `batch_size` that is a multiple of 2"):
        training.fit(built.vae, built.data, **built.fit_arguments, devices=2)


@TWO_DEVICES
@pytest.mark.parametrize("stream", [False, True])
def test_two_devices_make_the_numbers_of_one_up_to_rounding(file, stream):
    built = build_on(file, stream=stream)
    seen = []
    one, two = (training.fit(built.vae, built.data, **built.fit_arguments, devices=n, on_progress=seen.append) for n in (1, 2))
    chex.assert_trees_all_close(*(jax.device_get(fit.progress[:2]) for fit in (one, two)), rtol=1e-4, atol=1e-5)
    for first, second in zip(one.progress.history, two.progress.history, strict=True):
        assert first.train.loss == pytest.approx(second.train.loss, rel=1e-5)
        assert first.test.elbo == pytest.approx(second.test.elbo, rel=1e-5)
    for tree in (two.params, two.progress.state, seen[-1].state):  # on one device, as those of any run
        assert {device for leaf in jax.tree.leaves(tree) for device in leaf.devices()} == {DEVICES[0]}


@TWO_DEVICES
def test_each_device_computes_its_part_of_a_batch(file):
    """The program of two devices has layers of 16 rows, not 32, and sums the gradients over the devices."""

    def program(devices):
        built = build_on(file)
        options = training.FitOptions.from_keywords(built.fit_arguments)
        job = training.loop._make_job(built.vae, built.data, options, [0], built.config.hyperparams, None)
        placement = place(1, "map", data_parallel=devices, devices=DEVICES[:devices])
        return in_memory._compile(job, placement).epoch.as_text()

    one, two = program(1), program(2)
    assert "all-reduce" not in one
    assert len(re.findall(r"f32\[32,8\]", one)) > 0
    assert "all-reduce" in two
    assert len(re.findall(r"f32\[16,8\]", two)) > 0
    assert len(re.findall(r"f32\[32,8\]", two)) == 0


@TWO_DEVICES
def test_a_run_continues_on_as_many_devices(file, tmp_path):
    built = build_on(file)
    whole, summary = runs.train(built, tmp_path / "whole", devices=2)
    runs.train(built, tmp_path / "run", devices=2, on_epoch=lambda line: True)
    with pytest.raises(UserError, match=r"devices: .*began on 2, and on 1 its numbers would differ by rounding"):
        runs.train(built, tmp_path / "run", resume=True, devices=1)
    again, _ = runs.train(built, tmp_path / "run", resume=True)
    chex.assert_trees_all_equal(*(jax.device_get(fit.progress[:2]) for fit in (whole, again)))
    assert summary["devices"] == 2
    assert runs.read_config(tmp_path / "run")[1]["device"] == "2 x cpu"
    run = runs.load_run(tmp_path / "whole")
    chex.assert_trees_all_equal(jax.device_get(run.params), jax.device_get(whole.params))


@pytest.mark.slow
@pytest.mark.skipif(len(DEVICES) > 1, reason="this is the run with two devices")
def test_all_of_this_with_two_virtual_devices():
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "-m", "not slow", __file__]
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout.splitlines()[-1].replace("1 skipped", ""), done.stdout
