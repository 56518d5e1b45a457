"""Mistakes with conditions, masks and priors: each ends in a sentence with a call that works."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax import likelihoods, model, networks, priors
from vae_jax.data import Moments
from vae_jax.errors import UserError
from vae_jax.example import Example

EVENT, LATENT, DIM = 4, 3, 2
BERNOULLI = likelihoods.bernoulli()
X, Z, C = jnp.array([0.0, 1.0, 1.0, 0.0]), jnp.arange(3.0), jnp.array([1.0, -2.0])
MASK = jnp.array([True, False, True, True])


@functools.cache
def made(condition_dim=DIM, likelihood=BERNOULLI, **options):
    return model.mlp_vae((EVENT,), likelihood, latent_dim=LATENT, hidden=(5,), condition_dim=condition_dim, **options)


@functools.cache
def params_of(vae):
    return vae.init(jax.random.key(0))


def encode(x, vae=None):
    vae = vae or made()
    return vae.encode(params_of(vae), x)


def decode(*arguments, vae=None):
    vae = vae or made()
    return vae.decode(params_of(vae), *arguments)


CALLS = {
    "no condition to encode": (
        lambda: encode(X),
        "encode: expected a condition c of shape (2,), got none. Call vae.encode(params, Example(x, condition=c)).",
    ),
    "no condition to decode": (
        lambda: decode(Z),
        "expected a condition c of shape (2,), got none. Call vae.decode(params, z, c).",
    ),
    "a batch of conditions": (
        lambda: encode(Example(X, jnp.ones((5, 2)))),
        "For a batch use jax.vmap(vae.encode, in_axes=(None, 0))(params, Example(x_batch, condition=c_batch)).",
    ),
    "a batch of conditions to decode": (
        lambda: decode(Z, jnp.ones((5, 2))),
        "decode: expected one condition of shape (2,), got shape (5, 2). For a batch use jax.vmap(vae.decode, in_axes=",
    ),
    "a batch of codes": (
        lambda: decode(jnp.zeros((5, 3)), jnp.ones((5, 2))),
        "in_axes=(None, 0, 0))(params, z_batch, c_batch).",
    ),
    "a batch of both": (
        lambda: encode(Example(jnp.ones((5, 4)), jnp.ones((5, 2)))),
        "encode: expected one example of shape (4,), got shape (5, 4). For a batch use jax.vmap(vae.encode, in_axes=(None, 0))",
    ),
    "a label": (
        lambda: decode(Z, 1),
        "got int32 of shape (), such as labels. A category is a one-hot vector of floats: pass jax.nn.",
    ),
    "a label to encode": (
        lambda: encode(Example(X, jnp.array(1))),
        "pass jax.nn.one_hot(label, 2), or what prepared.condition",
    ),
    "as many labels as categories": (lambda: decode(Z, jnp.array([1, 0])), "got int32 of shape (2,), such as labels."),
    "stored conditions": (
        lambda: encode(Example(X, jnp.ones(1))),
        "got shape (1,). Conditions as they are stored, one number for",
    ),
    "words": (
        lambda: decode(Z, "cat"),
        "expected the condition as numbers, got 'cat'. Words become numbers by data.from_arrays",
    ),
    "a condition that is not taken": (
        lambda: encode(Example(X, C), vae=made(0)),
        "encode: this model has no condition, got one of shape (2,). Leave it out, or make the model with condition_dim=2.",
    ),
    "a condition that decode does not take": (lambda: decode(Z, C, vae=made(0)), "decode: this model has no condition"),
    "a mask of another shape": (
        lambda: encode(Example(X, C, MASK[:3])),
        "encode: expected a mask of the event's shape (4,), True where an entry is observed, got shape (3,). Pass",
    ),
    "a batch of masks": (
        lambda: encode(Example(X, C, jnp.ones((5, 4), bool))),
        "got shape (5, 4). For a batch use jax.vmap over",
    ),
    "a mask of floats": (
        lambda: encode(Example(X, C, jnp.ones(4))),
        "expected a mask of booleans, True where an entry is observed, got float32. Pass mask.astype(bool)",
    ),
    "a mask of another shape, bound": (
        lambda: model.bind(made(), params_of(made()), Example(X, C, MASK[:3])),
        "bind: expected a mask of the event's shape (4,)",
    ),
    "an Example to log_prob": (
        lambda: made().likelihood.log_prob(X, Example(X, C, MASK)),
        "log_prob: expected the event as an array, got an Example. Call model.bind(vae, params, x).log_prob(output, x.event)",
    ),
}


@pytest.mark.parametrize(("call", "message"), CALLS.values(), ids=CALLS)
def test_a_wrong_condition_or_mask_is_refused_with_the_call_that_works(call, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_the_calls_of_the_messages_work():
    vae, params = made(), params_of(made())
    one_hot = jax.nn.one_hot(1, 2)
    expected = vae.decode(params, Z, one_hot)
    for c in ([0.0, 1.0], np.array([False, True])):
        np.testing.assert_array_equal(vae.decode(params, Z, c), expected)
    batch = Example(jnp.stack([X] * 5), condition=jnp.stack([C] * 5))
    assert jax.vmap(vae.encode, in_axes=(None, 0))(params, batch)[0].shape == (5, 3)
    assert jax.vmap(vae.decode, in_axes=(None, 0, 0))(params, jnp.ones((5, 3)), batch.condition).shape == (5, 4)
    bound = model.bind(vae, params, Example(X, C, MASK))
    by_hand = np.where(MASK, np.asarray(X) * 0.3 - np.logaddexp(0, 0.3), 0).sum()
    assert float(bound.log_prob(jnp.full(4, 0.3), X)) == pytest.approx(by_hand, rel=1e-5)
    as_list = Example([0.0, 1.0, 1.0, 0.0], C, [True, False, True, True])
    np.testing.assert_array_equal(encode(as_list)[0], encode(Example(X, C, MASK))[0])


def test_a_mask_for_a_likelihood_that_does_not_factorize_is_refused():
    vae = made(0, likelihoods.from_log_prob(lambda output, x: -jnp.sum((output - x) ** 2)))
    model_of_x = model.bind(vae, params_of(vae), Example(X, None, MASK))
    with pytest.raises(UserError, match=r"It has no log_prob_per_entry\. .* use a likelihood such as gaussian or bernoulli"):
        model_of_x.log_prob(X, model_of_x.x)


def given(condition_dim, latent_dim):
    return priors.ConditionalGaussian(*networks.mlp_encoder((condition_dim,), latent_dim, hidden=(4,)))


PRIORS = {
    "p(z|c) without c": (lambda: given(DIM, LATENT), 0, "make_vae: a prior p(z|c) needs a condition. Pass condition_dim=, or"),
    "another latent dimension": (
        lambda: given(DIM, 7),
        DIM,
        "each of shape (3,) as the encoder's, got (7,), (7,). Make it for 3 latent dimensions",
    ),
    "another condition": (
        lambda: given(5, LATENT),
        DIM,
        "the prior p(z|c) fails on one condition of shape (2,). from_linen: expected",
    ),
    "one output": (
        lambda: priors.ConditionalGaussian(*networks.mlp_decoder(DIM, (LATENT,))),
        DIM,
        "to return (mean, log_scale), each of shape (3,) as the encoder's, got (3,). Make it",
    ),
    "a network": (
        lambda: networks.mlp_encoder((DIM,), LATENT),
        DIM,
        "got a Network. A network for p(z|c) becomes one by priors.ConditionalGaussian(*network).",
    ),
    "pseudo-inputs without conditions": (
        lambda: priors.vamp(jnp.zeros((5, 4))),
        DIM,
        "the pseudo-inputs of the VampPrior do not fit the encoder: encode: expected a condition c of shape (2,), got none.",
    ),
    "pseudo-inputs with conditions": (
        lambda: priors.vamp(Example(jnp.zeros((5, 4)), jnp.zeros((5, 2)))),
        0,
        "this model has no condition, got one of shape (2,).",
    ),
}


@pytest.mark.parametrize(("prior", "dim", "message"), PRIORS.values(), ids=PRIORS)
def test_a_prior_that_does_not_fit_the_condition_is_refused(prior, dim, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        model.mlp_vae((EVENT,), BERNOULLI, latent_dim=LATENT, hidden=(5,), condition_dim=dim, prior=prior())


def test_the_advised_priors_fit():
    for prior in (priors.ConditionalGaussian(*networks.mlp_encoder((DIM,), LATENT)), priors.vamp(Example(X[None], C[None]))):
        assert made(prior=prior).latent_dim == LATENT


GAUSSIAN = likelihoods.gaussian(1.0)
SCALED = {
    "constants": lambda: made(0, GAUSSIAN, standardize=(0.5, 2.0)),
    "from data": lambda: model.with_moments(made(0, GAUSSIAN), Moments(0.5, 2.0)),
    "no scale": lambda: made(0, GAUSSIAN, standardize=None),
    "constants, given c": lambda: made(DIM, GAUSSIAN, standardize=(0.5, 2.0)),
    "from data, given c": lambda: model.with_moments(made(DIM, GAUSSIAN), Moments(0.5, 2.0)),
}


@pytest.mark.parametrize("make", SCALED.values(), ids=SCALED)
def test_stored_integers_are_refused_before_they_are_scaled(make):
    vae = make()
    params, c = vae.init(jax.random.key(0)), C if vae.condition_dim else None
    stored = np.array([0, 255, 3, 4], np.uint8)
    with pytest.raises(
        ValueError, match="encode: expected the floats that the model is trained on, got uint8, as data are stored"
    ):
        vae.encode(params, Example(stored, c))
    with pytest.raises(ValueError, match=re.escape("encode: expected one example of shape (4,), got shape (5, 4)")):
        vae.encode(params, Example(np.zeros((5, 4), np.float32), c))
    assert vae.encode(params, Example(stored.astype(np.float32), c))[0].shape == (LATENT,)
    if c is not None:
        np.testing.assert_array_equal(vae.decode(params, Z, condition=c), vae.decode(params, Z, c))


def test_counts_are_integers_on_the_scale_of_the_model():
    vae = model.with_moments(made(0, likelihoods.poisson()), Moments(2.0, 1.5, Moments(0.7, 0.5)))
    params, counts = vae.init(jax.random.key(0)), np.array([0, 5, 3, 4])
    np.testing.assert_array_equal(vae.encode(params, counts)[0], vae.encode(params, counts.astype(np.float32))[0])
