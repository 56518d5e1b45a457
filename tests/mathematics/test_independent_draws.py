"""Draws for different purposes are independent: no two uses have a key, or a number, in common."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from budget import accept_mean

from vae_jax import data, likelihoods, model, training
from vae_jax.config import Hyperparams
from vae_jax.evaluation import annealed_importance as annealed
from vae_jax.evaluation.annealed_importance import ais, bdmc, bdmc_simulated
from vae_jax.evaluation.annealing import Annealing
from vae_jax.evaluation.gaps import GapSettings, gaps
from vae_jax.model import VAE
from vae_jax.networks import Network
from vae_jax.objectives import Terms
from vae_jax.objectives import batch as cross_batch
from vae_jax.priors import Prior
from vae_jax.training.step import make_terms

CHILDREN = 40  # of every key that is looked at: those that `split` and `fold_in` make of it


def words(key):
    """A key as an array, which programs can return."""
    return jax.random.key_data(key)


@jax.jit
@jax.vmap
def _families(key_words):
    """A key and what `split` and `fold_in` make of it."""
    key = jax.random.wrap_key_data(key_words)
    folded = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(CHILDREN))
    return jnp.concatenate([words(key[None]), words(jax.random.split(key, CHILDREN)), words(folded)])


def assert_unrelated(**uses):
    """No two uses (arrays of the words of keys) have a key in common, nor is one a child of the other or both of one parent."""
    names, rows = [], []
    for name, keys in uses.items():
        keys = np.asarray(keys, np.uint32).reshape(-1, 2)
        names += [f"{name}[{i}]" for i in range(len(keys))]
        rows.append(keys)
    families = [set(map(tuple, family.tolist())) for family in np.asarray(_families(np.concatenate(rows)))]
    for (one, of_one), (other, of_other) in itertools.combinations(zip(names, families, strict=True), 2):
        assert not of_one & of_other, f"{one} and {other} have draws in common"


def test_keys_that_are_related_are_found():
    key = jax.random.key(0)
    first, second = jax.random.split(key)
    assert_unrelated(one=words(first), other=words(second))
    for related in (first, key, jax.random.fold_in(first, 3), jax.random.split(first, 7)[5]):
        with pytest.raises(AssertionError, match="in common"):
            assert_unrelated(one=words(first), other=words(related))


def plain_vae(encode=lambda params, x: (x, x), decode=lambda params, z: z, size=2, likelihood=None):
    return VAE(lambda key: {}, encode, decode, likelihood or likelihoods.gaussian(1.0), (size,), size)


def of_example(key, encode, decode, log_prob, x, hyperparams):
    zero = jnp.zeros(())
    return Terms(zero, zero, zero, {"key": words(key)})


def of_batch(key, encode, decode, log_prob, x, hyperparams, state):
    zeros = jnp.zeros(len(x))
    return Terms(zeros, zeros, zeros, {"key": words(key)}), state


@pytest.mark.parametrize("objective", [of_example, cross_batch.BatchObjective(of_batch)], ids=["examples", "batch"])
def test_in_a_step_the_pixels_and_each_code_have_noise_of_their_own(objective):
    seen = {}

    def train_input(key, batch):
        seen["pixels"] = words(key)
        return batch

    terms_of = make_terms(plain_vae(), objective, train_input)
    terms, _ = terms_of({}, (), jax.random.key(3), jnp.zeros((5, 2)), Hyperparams())
    codes = np.asarray(terms.extra["key"]).reshape(-1, 2)
    assert len(codes) == (5 if objective is of_example else 1)
    assert_unrelated(pixels=seen["pixels"], codes=codes)


@pytest.mark.parametrize("objective", [of_example, cross_batch.BatchObjective(of_batch)], ids=["examples", "batch"])
def test_in_a_step_the_networks_draw_apart_from_the_pixels_and_codes(objective):
    """The keys of dropout of 5 examples, encoder and decoder, beside those of the pixels and of z."""
    seen = {}

    def train_input(key, batch):
        seen["pixels"] = words(key)
        return batch

    def with_networks(key, encode, decode, log_prob, x, hyperparams, *state):
        terms = objective(key, encode, decode, log_prob, x, hyperparams) if not state else None
        terms, *state = (terms,) if terms else objective.terms(key, encode, decode, log_prob, x, hyperparams, *state)
        used = (encode(x)[0], decode(x)) if not state else (jax.vmap(encode)(x)[0], jax.vmap(lambda x: decode(x.event, x))(x))
        terms = terms._replace(extra=terms.extra | dict(zip(("encoder", "decoder"), used, strict=True)))
        return (terms, *state) if state else terms

    vae = plain_vae(lambda params, x, key=None: (words(key), x), lambda params, z, key=None: words(key))._replace(
        is_stochastic=True
    )
    chosen = with_networks if objective is of_example else cross_batch.BatchObjective(with_networks)
    terms, _ = make_terms(vae, chosen, train_input)({}, (), jax.random.key(3), jnp.zeros((5, 2)), Hyperparams())
    assert np.asarray(terms.extra["encoder"]).shape == (5, 2)
    assert_unrelated(
        pixels=seen["pixels"], codes=terms.extra["key"], encoder=terms.extra["encoder"], decoder=terms.extra["decoder"]
    )


def test_no_step_of_a_run_repeats_the_noise_of_another_nor_that_of_another_run():
    """Two epochs of six steps, of two seeds."""

    def train_step(state, key, batch, hyperparams):
        zero = jnp.float32(0)
        seen = state.params.at[state.step].set(words(key))
        return state._replace(step=state.step + 1, params=seen), training.StepMetrics(zero, zero, zero)

    run_epoch, images = jax.jit(training.make_epoch(train_step, 10)), jnp.zeros((64, 1), jnp.uint8)
    found = {}
    for seed in (0, 1):
        keys = training.run_keys(seed)
        state = training.TrainState(jnp.int32(0), jnp.zeros((12, 2), jnp.uint32), ())
        for epoch in range(2):
            state, _, _ = run_epoch(state, keys, jnp.int32(epoch), images, Hyperparams())
        found |= {f"steps of seed {seed}": state.params, f"start of seed {seed}": words(keys.init)}
    assert_unrelated(**found)


def test_the_networks_of_a_model_start_from_keys_of_their_own():
    def network(apply):
        return Network(lambda key: words(key), lambda params, x: apply(x))

    prior = Prior("none", words, lambda params, encode, z: jnp.sum(z), lambda params, encode, key: jnp.zeros(2))
    vae = model.make_vae(network(lambda x: (x, x)), network(lambda z: z), likelihoods.gaussian("shared"), (2,), prior)
    params = jax.jit(vae.init)(jax.random.key(0))
    assert_unrelated(**{name: params[name] for name in ("encoder", "decoder", "prior")})


def test_layers_of_one_shape_do_not_start_equal():
    vae = model.mlp_vae((6,), likelihoods.gaussian(1.0), latent_dim=6, hidden=(6, 6))
    params = jax.jit(vae.init)(jax.random.key(0))
    kernels = [np.asarray(leaf) for leaf in jax.tree.leaves(params) if leaf.shape == (6, 6)]
    assert len(kernels) == 5  # two hidden layers of each network, and the decoder's last
    for one, other in itertools.combinations(kernels, 2):
        assert np.mean(one == other) < 0.1


ROWS, GREY = 2100, 100  # more than two thousand rows, since whole splits are treated in parts of 1,024


@pytest.mark.parametrize("treatment", [{"binarization": "dynamic"}, {"binarization": "fixed"}, {"dequantize": True}], ids=str)
def test_splits_of_equal_images_are_drawn_apart_and_so_are_the_parts_of_each(treatment):
    """Training (where it is drawn once), validation and test; of binary draws about half agree by chance."""
    images = np.full((ROWS, 2, 2, 1), GREY, np.uint8)
    prepared = data.prepare(data.Dataset("gray", images, images, images, None, 255, "by hand"), **treatment)
    splits = {"validation": prepared.validation, "test": prepared.test}
    if treatment == {"binarization": "fixed"}:
        splits["train"] = prepared.train
    expected = 0.0 if "dequantize" in treatment else (GREY / 255) ** 2 + (1 - GREY / 255) ** 2
    # The first rows of each part that is treated at once: what has one key is equal there.
    pieces = {
        f"{name} from {first}": np.asarray(split[first : first + 52], np.float32)
        for name, split in splits.items()
        for first in (0, 1024, 2048)
    }
    for (name, one), (other, values) in itertools.combinations(pieces.items(), 2):
        assert abs(np.mean(one == values) - expected) < 0.25, (name, other)  # seven standard deviations


# p(z) = N(0, 1), p(x|z) = N(z, NOISE^2) and x = 0: everything about Gaussian q is known.
NOISE = 0.5


def exact_elbo(mean, log_scale):
    """L[q] of q = N(mean, exp(log_scale)^2) at x = 0, elementwise in float64."""
    mean, log_scale = np.asarray(mean, np.float64), np.asarray(log_scale, np.float64)
    second_moment = mean**2 + np.exp(2 * log_scale)
    log_likelihood = -second_moment / (2 * NOISE**2) - 0.5 * math.log(2 * math.pi * NOISE**2)
    return log_likelihood - ((second_moment - 1) / 2 - log_scale)


def run_gaps(count, **options):
    posterior = (jnp.zeros(1), jnp.full(1, -0.3))

    def one(key):
        bundle = likelihoods.gaussian(NOISE)
        settings = GapSettings(num_samples=1, num_evaluation_samples=2, **options)
        return gaps(key, posterior, lambda z: z, bundle.log_prob, jnp.zeros(1), jnp.zeros(()), settings)

    return jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), count))


def test_reported_gaps_are_not_flattered_by_the_draws_of_the_fit_or_of_the_choice():
    """The fit follows the noise of its one draw, and the choice that of two; the ELBO that is reported is of neither."""
    found = run_gaps(10_000, num_steps=1, learning_rate=0.2)
    mean, log_scale = (np.asarray(a)[:, 0] for a in (found.mean, found.log_scale))
    kept = np.mean(mean == 0)
    assert 0.1 < kept < 0.9
    accept_mean(found.best_elbo - exact_elbo(mean, log_scale), 0.0)
    accept_mean(found.elbo - exact_elbo(0.0, -0.3), 0.0)
    # Over two draws, of which one is left to tell the error.
    ratio = np.mean(np.square(np.asarray(found.elbo_standard_error, np.float64))) / np.var(np.asarray(found.elbo, np.float64))
    assert ratio == pytest.approx(1, abs=0.2)


def test_simulated_data_have_noise_that_is_not_their_codes():
    """X = z + noise: with the noise of the code they would vary by 2.25 and not by 1.25; and each is drawn anew."""
    count, size, variance = 500, 4, 1 + NOISE**2
    encode = lambda params, x: (x / variance, jnp.full(size, 0.5 * math.log(NOISE**2 / variance)))  # noqa: E731
    vae = plain_vae(encode, size=size, likelihood=likelihoods.gaussian(NOISE))
    settings = Annealing(num_temperatures=1, num_chains=1)  # from the true posterior one draw gives log p(x) exactly
    bounds = jax.jit(lambda key: bdmc_simulated(key, vae, {}, count, settings, batch_size=count))(jax.random.key(0))
    entropy = size / 2 * (1 + math.log(2 * math.pi * variance))
    for side in bounds:
        assert len(np.unique(side.log_px)) > 0.9 * count
        accept_mean(side.log_px, -entropy, deviation=math.sqrt(size / 2), slack=1e-4)


def test_chains_of_either_direction_and_those_that_adapt_have_keys_of_their_own(monkeypatch):
    seen = {}

    def adapt(key, problem, settings):
        seen["adapting"] = words(key)

    def anneal(keys, problem, points, reverse, step_sizes, settings):
        seen["chains"] = words(keys)
        return jnp.zeros(len(keys)), jnp.zeros(len(keys))

    @jax.jit
    def keys_of_both(key):
        ais(key, vae, {}, x, settings)
        of_one = dict(seen)
        bdmc(key, vae, {}, x, z, settings)
        return of_one, dict(seen)

    monkeypatch.setattr(annealed, "_adapt", adapt)
    monkeypatch.setattr(annealed, "_anneal", anneal)
    vae, settings, x, z = plain_vae(lambda params, x: (x, jnp.zeros(2))), Annealing(num_chains=3), jnp.zeros(2), jnp.ones(2)
    of_one, of_two = keys_of_both(jax.random.key(0))
    assert (len(of_one["chains"]), len(of_two["chains"])) == (3, 6)
    assert_unrelated(**of_one)
    assert_unrelated(**of_two)
