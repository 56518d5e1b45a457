"""The convolutional ladder: several stochastic layers, with exact densities and KLs given the layers above."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from budget import accept_mean
from scipy import stats

from vae_jax import likelihoods, networks, posteriors
from vae_jax.build import build
from vae_jax.config import Config
from vae_jax.errors import UserError
from vae_jax.evaluation import importance_log_px, log_px_means
from vae_jax.model import bind, make_vae, posterior_moments, posterior_params
from vae_jax.objectives import elbo, free_bits_elbo, iwae

SHAPE = (4, 3, 1)  # sides 2 x 2 after one halving
SMALL = {"latent_channels": (2, 1), "channels": (3,), "num_blocks": 1}


def make(shape=SHAPE, likelihood=None, condition_dim=0, **settings):
    likelihood = likelihood or likelihoods.bernoulli()
    parts = networks.ladder(shape, condition_dim=condition_dim, **{**SMALL, **settings})
    decoder = parts.make_decoder(outputs_per_dim=likelihood.outputs_per_dim, output_bias=None)
    posterior = posteriors.ladder(parts.infer, parts.layers)
    return make_vae(parts.encoder, decoder, likelihood, shape, condition_dim=condition_dim, posterior=posterior)


def perturbed(vae, seed=0, scale=0.1):
    """Parameters of which no head is zero."""
    leaves, tree = jax.tree.flatten(jax.jit(vae.init)(jax.random.key(seed)))
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    return tree.unflatten([x + scale * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)])


@functools.cache
def small():
    vae = make()
    params = perturbed(vae)
    x = jax.random.bernoulli(jax.random.key(3), 0.5, SHAPE).astype(jnp.float32)
    return vae, params, x, posterior_params(vae, params, x)


@pytest.mark.slow
def test_densities_and_the_kls_of_the_layers_agree_over_draws():
    vae, _, _, q = small()
    posterior = vae.posterior

    @jax.jit
    @jax.vmap
    def one(key):
        (z, log_q), (same, kl) = posterior.sample_and_log_prob(key, q), posterior.sample_and_kl(key, q)
        standard = lambda part: posteriors.posterior_log_prob(jnp.zeros_like(part), jnp.zeros_like(part), part)  # noqa: E731
        split = lambda code: networks.split_layers(code, posterior.layers)  # noqa: E731
        # log q - log p of the top layer alone, whose q does not depend on the others
        mean, log_scale = (split(part)[0].reshape(-1) for part in moments)
        top = split(z)[0].reshape(-1)
        ratio = posteriors.posterior_log_prob(mean, log_scale, top) - standard(top)
        return z, same, log_q, posterior.log_prob(q, z), kl, ratio, log_q - standard(z)

    moments = posterior.moments(jax.random.key(9), q)
    draws = one(jax.random.split(jax.random.key(0), 4000))
    z, same, log_q, again, kl, top, ratio = (np.asarray(value, np.float64) for value in draws)
    np.testing.assert_array_equal(z, same)
    np.testing.assert_allclose(again, log_q, atol=1e-4)
    assert kl.min() > 1e-3  # both layers carry something
    accept_mean(ratio - np.sum(kl, axis=1), 0.0)
    accept_mean(top, kl[0, 0])
    np.testing.assert_allclose(kl[:, 0], kl[0, 0], rtol=1e-5)  # closed form, without noise from other layers
    # the lower layer's q depends on the draw of the upper one
    assert np.std(kl[:, 1]) > 1e-3


def test_moments_are_those_of_draws():
    vae, params, x, q = small()
    mean, log_scale = posterior_moments(vae, params, x)
    z = jax.jit(jax.vmap(vae.posterior.sample, in_axes=(0, None)))(jax.random.split(jax.random.key(1), 4000), q)
    z = np.asarray(z, np.float64)
    deviation = np.std(z, axis=0)
    assert np.all(np.abs(mean - np.mean(z, axis=0)) < 6 * deviation / 4)  # 16 draws
    assert np.all(np.abs(log_scale - np.log(deviation)) < 0.8)
    top = int(np.prod(vae.posterior.layers[0]))
    for i in range(top):  # exact
        accept_mean(z[:, i], float(mean[i]), float(np.exp(log_scale[i])))


@pytest.fixture(scope="module")
def linear():
    """A ladder that is linear in its code, with its exact log p(x) of a few examples."""
    vae = make(likelihood=likelihoods.gaussian(1.5), activation="linear", num_blocks=0)
    params = perturbed(vae)
    for layer, (*_, width) in enumerate(vae.posterior.layers):  # constant scales of p(z_l|z_<l)
        head = params["decoder"][f"prior_{layer}"]
        head["kernel"] = head["kernel"].at[..., width:].set(0)
        q = params["decoder"][f"posterior_{layer}"]["heads"]  # wide and not far from the prior, so that weights are even
        q["kernel"], q["bias"] = 0.05 * q["kernel"], 0.5 * q["bias"]
    zero = jnp.zeros(vae.latent_dim)
    loading = np.asarray(jax.jacfwd(lambda u: vae.decode(params, u).reshape(-1))(zero), np.float64)
    offset = np.asarray(vae.decode(params, zero), np.float64).reshape(-1)
    covariance = loading @ loading.T + 2.25 * np.eye(len(offset))
    marginal = stats.multivariate_normal(offset, covariance)
    x = marginal.rvs(4, random_state=0)
    exact = marginal.logpdf(x)
    return vae, params, jnp.asarray(x.reshape(-1, *SHAPE), jnp.float32), exact


def test_importance_sampling_through_all_layers_reaches_exact_log_px(linear):
    vae, params, x, exact = linear
    estimates = jax.jit(lambda p, x: importance_log_px(jax.random.key(0), vae, p, x, num_samples=20_000))(params, x)
    error = np.asarray(estimates.standard_error, np.float64)
    assert error.max() < 0.2
    assert np.all(np.abs(estimates.log_px - exact) < 6 * error + 1e-4)
    assert log_px_means(estimates, 20_000).log_px > float(np.mean(exact)) - 1

    def bounds(key, x):
        m = bind(vae, params, x)
        return elbo(key, m.encode, m.decode, m.log_prob, m.x, **m.keywords).elbo

    bound = jax.jit(jax.vmap(jax.vmap(bounds, in_axes=(0, None)), in_axes=(None, 0)))(
        jax.random.split(jax.random.key(1), 500), x
    )
    assert np.all(np.mean(bound, axis=1) < exact)


@pytest.mark.slow
def test_remat_changes_nothing():
    vae, params, x, _ = small()

    def loss(vae, params):
        m = bind(vae, params, x)
        return elbo(jax.random.key(5), m.encode, m.decode, m.log_prob, m.x, **m.keywords).loss

    made = [jax.jit(jax.value_and_grad(functools.partial(loss, one)))(params) for one in (vae, make(remat=True))]
    for ours, theirs in zip(*map(jax.tree.leaves, made), strict=True):
        assert np.isfinite(ours).all()
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6 * np.abs(ours).max())


@pytest.mark.slow
def test_remat_keeps_less_for_the_gradient():
    x = jax.ShapeDtypeStruct(SHAPE, jnp.float32)

    def kept(vae):
        def loss(params, x):
            m = bind(vae, params, x)
            return elbo(jax.random.key(5), m.encode, m.decode, m.log_prob, m.x, **m.keywords).loss

        params = jax.eval_shape(vae.init, jax.random.key(0))
        residuals = jax.eval_shape(lambda params, x: jax.vjp(lambda p: loss(p, x), params)[1], params, x)
        return sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(residuals))

    assert kept(make(remat=True, num_blocks=3)) < 0.7 * kept(make(num_blocks=3))


@pytest.mark.slow
@pytest.mark.parametrize(("bound", "estimator"), [(elbo, "stl"), (iwae, "dreg")])
def test_gradients_without_the_score_have_the_same_mean(bound, estimator, linear):
    vae, params, (x, *_), _ = linear
    direction = perturbed(vae, seed=7)

    def slope(estimator, key):
        def loss(step):
            m = bind(vae, jax.tree.map(lambda leaf, change: leaf + step * change, params, direction), x)
            arguments = (key, m.encode, m.decode, m.log_prob, m.x)
            return bound(*arguments, num_samples=2, estimator=estimator, **m.keywords).loss

        return jax.jvp(loss, (0.0,), (1.0,))[1]

    keys = jax.random.split(jax.random.key(2), 20_000)
    slopes = [jax.jit(jax.vmap(functools.partial(slope, name)))(keys) for name in (estimator, "reparam")]
    accept_mean(np.subtract(*(np.asarray(values, np.float64) for values in slopes)), 0.0)


def test_free_bits_are_an_allowance_for_each_layer():
    vae, params, x, q = small()
    m = bind(vae, params, x)
    _, kl = vae.posterior.sample_and_kl(jax.random.key(5), q)
    allowance = float(np.sort(kl)[0] + 0.5 * (np.sort(kl)[1] - np.sort(kl)[0]))  # between the KLs of the two layers
    terms = free_bits_elbo(
        jax.random.key(5), m.encode, m.decode, m.log_prob, m.x, free_bits=allowance, beta=2.0, num_groups=1, **m.keywords
    )
    np.testing.assert_allclose(terms.kl, np.sum(kl), rtol=1e-5)
    np.testing.assert_allclose(terms.loss, -terms.log_likelihood + 2 * (allowance + np.max(kl)), rtol=1e-5)


@pytest.mark.parametrize(
    ("shape", "settings", "layers"),
    [
        ((8, 8, 1), {"channels": None, "latent_channels": (8, 4, 2)}, ((4, 4, 8), (4, 4, 4), (4, 4, 2))),
        ((7, 5, 3), {"channels": (2, 3), "latent_channels": (1,) * 6}, ((2, 2, 1),) * 3 + ((4, 3, 1),) * 3),
        ((9, 2), {"channels": (2,), "latent_channels": (2, 1), "condition_dim": 3}, ((5, 2), (5, 1))),
        ((28, 28, 1), {"channels": (2, 2), "halvings": (2, 1)}, ((7, 7, 2), (14, 14, 1))),
    ],
)
def test_any_shape_and_number_of_layers(shape, settings, layers):
    vae = make(shape, **settings)  # `make_vae` checks the shapes of all functions, and computes nothing
    assert vae.posterior.layers == layers
    assert vae.latent_dim == sum(map(np.prod, layers))
    z = jax.ShapeDtypeStruct((7, vae.latent_dim), jnp.float32)
    parts = jax.eval_shape(lambda z: networks.split_layers(z, layers), z)
    assert tuple(part.shape for part in parts) == tuple((7, *layer) for layer in layers)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"latent_channels": (2,)}, "2 to 6 numbers"),
        ({"latent_channels": (2, 0)}, "2 to 6 numbers"),
        ({"halvings": (1, 2)}, "none above the one before"),
        ({"channels": (3, 3), "halvings": (1, 1)}, "where the top layer is"),
        ({"num_blocks": -1}, "num_blocks"),
    ],
)
def test_layers_that_do_not_fit_are_refused(settings, problem):
    with pytest.raises(ValueError, match=problem):
        make(**settings)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"latent_channels": (2,)}, "latent_channels"),
        ({"latent_dim": 7}, "latent_dim"),
        ({"layer_halvings": (1, 2, 1)}, "layer_halvings"),
        ({"posterior": "full"}, "posterior"),
        ({"prior": "vamp"}, "prior"),
        ({"objective": "beta_tcvae"}, "posterior"),
        ({"objective": "free_bits"}, "free_bits_per"),
    ],
)
def test_settings_that_do_not_fit_a_ladder_are_refused(settings, field):
    with pytest.raises(UserError) as raised:
        build(Config(network="ladder", **settings))
    assert field in str(raised.value)


def test_a_ladder_is_built_from_settings_and_a_users_networks():
    named = build(Config(network="ladder", objective="free_bits", free_bits_per="group"))
    assert (named.config.layer_halvings, named.config.latent_dim) == ((1, 1, 1), 224)
    assert build(named.config).config == named.config  # as a run directory records it

    def my_networks(config, data):
        return networks.ladder(data.data_shape, latent_channels=(2, 1), channels=(3, 3))

    mine = build(Config(latent_dim=24), network=my_networks)
    assert mine.vae.posterior.layers == ((2, 2, 2), (4, 4, 1))
