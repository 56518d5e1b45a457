"""A new objective and a new likelihood, registered at run time, are trained from the command line and in a sweep."""

import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax import likelihoods, runs
from vae_jax.build import build
from vae_jax.config import KINDS, Config, Entry, Hyperparams, Setting, entries, from_dict, register, registry, unregister
from vae_jax.errors import UserError
from vae_jax.objectives import Terms, elbo
from vae_jax.sweep import grid, sweep

SMALL = {"dataset": "digits", "hidden": (8,), "latent_dim": 2, "epochs": 1}


@pytest.fixture(autouse=True)
def _forget():
    """Takes new entries out of the registry again."""
    before = {kind: set(entries(kind)) for kind in KINDS}
    yield
    for kind in KINDS:
        for name in set(entries(kind)) - before[kind]:
            unregister(kind, name)


@pytest.mark.slow
def test_a_new_objective_with_one_traced_number(train_command, tmp_path):
    def squared_kl(key, encode, decode, log_prob, x, hyperparams):
        terms = elbo(key, encode, decode, log_prob, x)
        return Terms(-terms.log_likelihood + hyperparams.kl_power * terms.kl**2, terms.log_likelihood, terms.kl)

    power = Setting("kl_power", float, 0.1, "Weight of the squared KL.", low=0, high=1e30, traced=True)
    register(Entry("objective", "squared_kl", "weighs the squared KL", lambda config, data: squared_kl, (power,)))
    flags = "--objective squared_kl --kl-power 2 --hidden 8 --latent-dim 2 --epochs 1 --no-report"
    assert train_command([*flags.split(), "--out", str(tmp_path / "run")]) == 0
    run = runs.load_run(tmp_path / "run")
    assert run.built.config.kl_power == 2.0
    members = grid(Config(objective="squared_kl", **SMALL), kl_power=(0.0, 2.0))
    table = sweep(members).table
    np.testing.assert_array_equal(table["kl_power"], [0.0, 2.0])
    assert table["test_elbo"][1] == run.summary["test_elbo"]  # the member is the run, bit for bit
    assert table["test_kl"][0] > table["test_kl"][1]
    assert train_command([*flags.replace("power 2", "power -1").split(), "--out", str(tmp_path / "other")]) == 2


@pytest.mark.slow
def test_a_new_likelihood_with_one_setting(train_command, tmp_path):
    def cauchy_log_prob(width, loc, x):
        return -jnp.sum(jnp.log(jnp.pi * width * (1 + jnp.square((x - loc) / width))))

    def make(config, data):
        return likelihoods.from_log_prob(lambda loc, x: cauchy_log_prob(config.width, loc, x), name="cauchy")

    width = Setting("width", float, 1.0, "Half of the width at half of the maximum.", low=1e-6, high=1e6)
    register(Entry("likelihood", "cauchy", "real, no mean", make, (width,)))
    flags = "--likelihood cauchy --width 0.2 --hidden 8 --latent-dim 2 --epochs 1 --no-report"
    assert train_command([*flags.split(), "--out", str(tmp_path / "run")]) == 0
    table = sweep(grid(Config(likelihood="cauchy", **SMALL), width=(0.2, 1.0))).table
    assert table["test_elbo"][0] == runs.load_run(tmp_path / "run").summary["test_elbo"]
    assert table["test_elbo"][0] > table["test_elbo"][1]
    with pytest.raises(UserError, match="`width` belongs to `likelihood` cauchy; bernoulli does not use it"):
        build(Config(width=0.2, **SMALL))


def test_names_and_settings_are_declared_once():
    with pytest.raises(UserError, match="the name 'elbo' is taken"):
        register(Entry("objective", "elbo", "a second one", lambda config, data: elbo))
    with pytest.raises(UserError, match="beta: mine declares this setting differently"):
        register(Entry("objective", "mine", "", lambda config, data: elbo, (Setting("beta", float, 2.0, ""),)))
    with pytest.raises(UserError, match="seed: mine declares this setting differently"):
        register(Entry("objective", "mine", "", lambda config, data: elbo, (Setting("seed", int, 2, ""),)))
    for name in ("validate", "hyperparams", "kl-power", "lambda", "scale"):  # a method, a property, no names, another kind's
        with pytest.raises(UserError):
            register(Entry("objective", "mine", "", lambda config, data: elbo, (Setting(name, str, "auto", ""),)))
    for bad in (Setting("weight", float | None, None, "", traced=True), Setting("weight", float, -1.0, "", low=0)):
        with pytest.raises(UserError, match=r"weight: expected a"):
            register(Entry("objective", "mine", "", lambda config, data: elbo, (bad,)))
    assert "mine" not in registry.entries("objective")
    Config().validate()


def test_settings_that_are_not_registered_here_are_named():
    with pytest.raises(UserError, match=r"unknown settings \['kl_power'\].* call config.register first"):
        from_dict({"kl_power": 1.0})


def test_a_setting_named_like_an_option_of_a_command_is_refused(train_command, tmp_path, capsys):
    register(Entry("prior", "mine", "", lambda config, data: None, (Setting("resume", int, 3, ""),)))
    assert train_command(["--out", str(tmp_path / "run")]) == 2
    assert "is an option of this command and a registered setting" in capsys.readouterr().err


def test_a_configuration_of_before_has_the_new_settings():
    before = Config()
    register(Entry("prior", "mine", "", lambda config, data: None, (Setting("mine_width", int, 3, ""),)))
    assert before.mine_width == 3
    assert before == Config()
    assert hash(before) == hash(Config())
    assert Hyperparams() == Config().hyperparams


def test_every_setting_has_help_and_an_owner_and_its_default_is_allowed():
    Config().validate()
    for name, setting in registry.settings().items():
        assert len(setting.help) > 10, name
        assert registry.users(name)[1], name
        setting.check(setting.default)


def test_reading_the_registry_imports_neither_jax_nor_flax():
    code = "import sys; from vae_jax.config import Config, entries; Config().validate(); print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"jax", "flax", "optax", "numpy"} & set(modules)
