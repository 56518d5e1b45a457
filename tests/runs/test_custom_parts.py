"""Parts of the user from Python: what build takes and refuses, and what run directories record of them."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import user_parts
from flax import linen, nnx
from paths import ROOT

from vae_jax import data, networks, priors, runs, training
from vae_jax.build import Parts, PartSource, build, check_parts
from vae_jax.build.parts import file_sha256, source_of
from vae_jax.config import Config
from vae_jax.errors import UserError
from vae_jax.runs.in_words import describe_network, describe_objective, describe_prior, repeat_command
from vae_jax.sweep.members import with_custom_parts


class Encoder(linen.Module):
    latent_dim: int = 2

    @linen.compact
    def __call__(self, x):
        return jnp.split(linen.Dense(2 * self.latent_dim)(x.reshape(-1)), 2)


class Decoder(linen.Module):
    @linen.compact
    def __call__(self, z):
        return linen.Dense(64)(z).reshape(8, 8, 1)


class NnxDecoder(nnx.Module):
    def __init__(self, rngs):
        self.out = nnx.Linear(2, 64, rngs=rngs)

    def __call__(self, z):
        return self.out(z).reshape(8, 8, 1)


def pure(*shape):
    return networks.Network(lambda key: jnp.zeros(shape), lambda w, x: jnp.split(x.reshape(-1) @ w, 2))


def returning(*made):
    return lambda config, data: made


def conditional(config, data):
    return priors.ConditionalGaussian(*networks.mlp_encoder((data.condition_dim,), config.latent_dim, hidden=(4,)))


def test_linen_modules_are_adapted_to_the_shapes_of_the_data():
    made = build(Config(latent_dim=2), network=returning(Encoder(), Decoder())).vae
    by_hand = networks.from_linen(Encoder(), (8, 8, 1)), networks.from_linen(Decoder(), (2,))
    expected = build(Config(latent_dim=2), network=by_hand).vae
    key = jax.random.key(3)
    assert jax.tree.all(jax.tree.map(np.array_equal, made.init(key), expected.init(key)))


REFUSED = {
    "an NNX module, whose seeds would start alike": (
        {"network": returning(Encoder(), NnxDecoder(nnx.Rngs(0)))},
        {},
        r"decoder: .*from_nnx\(lambda rngs: NnxDecoder\(\.\.\., rngs=rngs\)\)",
    ),
    "a class": ({"network": returning(Encoder, Decoder())}, {}, r"encoder: .*got the class Encoder\. Adapt it"),
    "one network": ({"network": lambda config, data: pure(64, 4)}, {}, r"network: expected a function .*got Network of"),
    "arguments of the factory": (
        {"network": lambda config: 1},
        {},
        r"network: expected a function \(config, data\) .*got <lambda>\(config\)",
    ),
    "arguments of the decoder's factory": (
        {"network": returning(Encoder(), lambda bias: Decoder())},
        {},
        r"network: .*\(outputs_per_dim=, output_bias=\) -> decoder, got",
    ),
    "the size of the code": (
        {"network": returning(Encoder(3), networks.from_linen(Decoder(), (3,)))},
        {},
        r"latent_dim: .*Pass `latent_dim=3`",
    ),
    "Linen modules of different sizes": (
        {"network": returning(Encoder(3), Decoder())},
        {},
        r"network: .*shape \(3,\), which is what the encoder gives",
    ),
    "a module without the condition": (
        {"network": returning(Encoder(), Decoder())},
        {"condition": "labels"},
        r"takes one argument, but there is a condition",
    ),
    "a function without the condition": (
        {"network": returning(pure(64, 4), pure(2, 64))},
        {"condition": "labels"},
        r"network: .*Give it the condition as its last argument",
    ),
    "a bias of the decoder": (
        {"network": returning(Encoder(), Decoder())},
        {"output_bias": "train_mean"},
        r"output_bias: a decoder of your own sets its own bias",
    ),
    "the size of the prior": ({"prior": priors.gaussian_mixture(3)}, {}, r"prior: .*\(3,\)"),
    "a prior for an objective that assumes N(0, I)": (
        {"prior": priors.gaussian_mixture(2)},
        {"objective": "beta_tcvae"},
        r"prior: `objective=\"beta_tcvae\"` assumes N\(0, I\)",
    ),
    "p(z|c) without a condition": ({"prior": conditional}, {}, r"prior: .*needs a condition"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_parts_that_do_not_fit_are_refused_by_name(case):
    parts, settings, message = REFUSED[case]
    with pytest.raises(UserError, match=message):
        build(Config(**{"latent_dim": 2, "hidden": (8,), **settings}), **parts)


def test_a_conditional_gaussian_is_a_prior_for_every_objective():
    config = Config(latent_dim=2, hidden=(4,), condition="labels", objective="beta_tcvae")
    built = build(config, prior=conditional)
    assert built.vae.conditional_prior is not None
    assert runs.describe(built, None)["data"]["codes"].startswith("u = (z - m(c)) / s(c)")


def test_the_flow_of_the_example_is_normalized_and_samples_from_its_density():
    prior = user_parts.make_prior(Config(latent_dim=2), None)
    params = prior.init(jax.random.key(0))
    axis = np.linspace(-24, 24, 721)
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2).astype(np.float32)
    density = np.exp(jax.jit(jax.vmap(lambda z: prior.log_prob(params, None, z)))(grid)).astype(float)
    area = (axis[1] - axis[0]) ** 2
    assert density.sum() * area == pytest.approx(1, abs=1e-4)
    draws = np.asarray(jax.vmap(lambda key: prior.sample(params, None, key))(jax.random.split(jax.random.key(1), 20_000)))
    mean = (grid.astype(float) * density[:, None]).sum(0) * area
    std = np.sqrt(((grid - mean) ** 2 * density[:, None]).sum(0) * area)
    assert np.abs(draws.mean(0) - mean).max() < 5 * std.max() / np.sqrt(len(draws))
    assert np.abs(mean).max() > 0.1  # a flow that did nothing would have the mean 0


def function_of_a_notebook():
    names = {}
    exec(compile("def student(loc, x): return -abs(loc - x).sum()", "ipykernel_7/1.py", "exec"), names)
    return names["student"]


SOURCES = {
    "a function": (conditional, "conditional", True),
    "a lambda": (lambda loc, x: -jnp.sum(jnp.square(loc - x)), "<lambda>", True),
    "a partial function": (functools.partial(conditional, None), "partial(conditional)", True),
    "a module": (Encoder(), "Encoder", True),
    "a method": (user_parts.Encoder.__call__, "Encoder.__call__", True),
    "a bundle": (priors.gaussian_mixture(2), "gaussian_mixture", False),
    "a pair": ((pure(64, 4), pure(2, 64)), "(encoder, decoder)", False),
    "a function of a notebook": (function_of_a_notebook(), "student", False),
    "built in": (len, "len", False),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_name_and_file_of_a_part_are_recorded_where_python_knows_them(kind):
    part, name, has_file = SOURCES[kind]
    source = source_of(part)
    assert (source.name, bool(source.file), source.imported) == (name, has_file, False)
    assert source.sha256 == (file_sha256(source.file) if has_file else "")


def test_a_changed_file_is_a_note_from_python_and_an_error_on_the_command_line(tmp_path):
    old = PartSource("conditional", "/elsewhere/parts.py", "0" * 64)
    names = dict.fromkeys(("likelihood", "network", "posterior", "objective", "optimizer"), "mlp") | {"prior": "custom"}
    compare = functools.partial(check_parts, tmp_path, {"prior": old._asdict()}, names)
    (note,) = compare(Parts(prior=conditional), "load_run")
    now = source_of(conditional).sha256
    assert f"the prior conditional of a file parts.py with the SHA-256 {'0' * 64}, and " in note
    assert note.endswith(f"has the SHA-256 {now}.")
    with pytest.raises(UserError, match=f"{'0' * 64}.*{now}"):
        compare(Parts(prior=conditional, sources={"prior": source_of(conditional)}), "load_run")
    with pytest.raises(UserError, match=r"prior: expected name, file and sha256 in its record, got \{'name': 3\}"):
        check_parts(tmp_path, {"prior": {"name": 3}}, names, Parts(prior=conditional), "load_run")
    assert compare(Parts(prior=function_of_a_notebook()), "load_run") == [
        f"{tmp_path}: was trained with the prior conditional of parts.py, and student is passed."
    ]


def test_plans_and_commands_name_the_functions_of_the_user(tmp_path):
    config = Config(network="custom", prior="custom", objective="custom", optimizer="custom", latent_dim=3, beta=4.0)
    source = PartSource("make", "/home/me/parts.py", "0" * 64, imported=True)
    records = {name: source._asdict() for name in ("network", "prior", "objective", "optimizer")}
    assert describe_network(config, records) == "make of parts.py, 3 latent dimensions"
    assert describe_prior(config, records) == "make of parts.py"
    assert describe_objective(config, records) == "make of parts.py, β = 4.0"
    assert describe_prior(config, {}) == "of your own"
    command = repeat_command(config, tmp_path / "run", records=records)
    assert command.startswith("vae-jax train --dataset digits --network /home/me/parts.py:make --latent-dim 3 --prior /home")
    records["prior"]["imported"] = False  # such as a lambda, which no command can name
    assert repeat_command(config, tmp_path, records=records).splitlines()[0] == (
        "built = build(Config(latent_dim=3, beta=4.0), network=network, prior=prior, objective=objective, optimizer=optimizer)"
    )


def test_the_functions_of_the_page_are_parts():
    page = (ROOT / "docs" / "custom_parts.md").read_text()
    names = {}
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        if "runs." not in code:
            exec(code, names)
    parts = {"likelihood": names["student"], "objective": names["squared"], "optimizer": names["make_optimizer"]}
    for network in ("make_network", "make_nnx_network"):
        built = build(Config(latent_dim=2), network=names[network], prior=names["make_prior"], **parts)
        hyperparams = built.fit_arguments["hyperparams"]
        training.check_step(built.vae, built.data, training.FitOptions.from_keywords(built.fit_arguments), hyperparams)


def test_members_that_differ_in_a_part_that_is_passed_are_refused():
    members = [Config(network="mlp"), Config(network="conv")]
    with pytest.raises(UserError, match=r"all members have the network that is passed, but the sweep has 'mlp' and 'conv'"):
        with_custom_parts(members, Parts(network=returning(Encoder(), Decoder())))
    assert [member.prior for member in with_custom_parts(members, Parts(prior=conditional))] == ["custom", "custom"]


def test_a_run_of_data_and_networks_from_memory_is_read_without_the_data(tmp_path):
    x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    dataset = data.from_arrays(x[:32], x[32:], name="mine")
    config = Config(likelihood="gaussian", latent_dim=2, epochs=1, batch_size=16)
    made = networks.mlp_encoder((3,), 2, hidden=(4,)), networks.mlp_decoder(2, (3,), hidden=(4,))
    runs.train(build(config, dataset=dataset, network=made), tmp_path / "run")
    model = runs.load_model(tmp_path / "run", network=made)
    run = runs.load_run(tmp_path / "run", dataset=dataset, network=made)
    assert jax.tree.all(jax.tree.map(np.array_equal, model.params, run.params))
    code = model.vae.encode(model.params, jnp.asarray(x[0]))
    assert jax.tree.all(jax.tree.map(np.array_equal, code, run.built.vae.encode(run.params, jnp.asarray(x[0]))))
    with pytest.raises(UserError, match=r"the network \(encoder, decoder\), which is not stored here"):
        runs.load_model(tmp_path / "run")
