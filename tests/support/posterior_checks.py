"""Posteriors at several inputs, what they compute there, and checks against dense linear algebra and quadrature."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import expit

from vae_jax import posteriors
from vae_jax.likelihoods import gaussian_log_prob
from vae_jax.posteriors import diagonal, flows, gaussian

LATENT, CONTEXTS, DRAWS = 2, 3, 4
SIDE, HALF_WIDTH = 321, 9.0  # of the grid, in standard deviations; a planar flow needs the fine one
MADE = {
    "diagonal": posteriors.DIAGONAL,
    "full": posteriors.full(LATENT),
    "householder": posteriors.householder(LATENT, num_flows=4),
    "planar": posteriors.planar(LATENT, num_flows=2),
    "iaf": posteriors.iaf(LATENT, num_flows=2, hidden=(6, 5), context_dim=4),
}
GAUSSIAN = ("diagonal", "full", "householder")


@contextlib.contextmanager
def noise_as_key():
    """Within this block the functions of posteriors take their noise in place of a key."""
    modules = (diagonal, gaussian, flows)
    normal = flows.normal
    for module in modules:
        module.normal = lambda noise, shape, dtype=None: noise
    try:
        yield
    finally:
        for module in modules:
            module.normal = normal


def random_weights(posterior, key, size=1.0):
    """Weights that are not near those of the start."""
    shapes = jax.eval_shape(posterior.init, key)
    leaves, structure = jax.tree.flatten(shapes)
    keys = jax.random.split(key, len(leaves))
    draws = [size * jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, draws)


def parameters(posterior, contexts=CONTEXTS, latent=LATENT, seed=0):
    """Parameters q of several inputs: (stacked outputs of an encoder, weights or ())."""
    rng = np.random.default_rng(seed)
    outputs = [rng.normal(size=(contexts, latent)), rng.uniform(-1, 0.5, (contexts, latent))]
    outputs += [rng.normal(size=(contexts, posterior.num_extra))] * bool(posterior.num_extra)
    weights = (random_weights(posterior, jax.random.key(seed)),) if posterior.init else ()
    return tuple(jnp.asarray(o, jnp.float32) for o in outputs), weights


def noise(contexts=CONTEXTS, latent=LATENT):
    return jnp.asarray(np.random.default_rng(7).normal(size=(contexts, DRAWS, latent)), jnp.float32)


def values(posterior):
    """All that the functions of a posterior return for several inputs and draws, from one program."""

    def at_draw(eps, q):
        z, log_q = posterior.sample_and_log_prob(eps, q)
        return {
            "z": z,
            "log_q": log_q,
            "sample": posterior.sample(eps, q),
            "jacobian": jax.jacfwd(lambda eps: posterior.sample_and_log_prob(eps, q)[0])(eps),
            "log_prob": log_q if posterior.log_prob is None else posterior.log_prob(q, z),
            "noise": eps,
        }

    def at_input(eps, outputs, weights):
        q = (*outputs, *weights)
        result = jax.vmap(lambda eps: at_draw(eps, q))(eps) | {"mean": q[0]}
        if posterior.kl_to_standard_normal is not None:
            result |= {"kl": posterior.kl_to_standard_normal(q), "moments": posterior.moments(eps, q)}
        return result

    with noise_as_key():
        made = jax.jit(jax.vmap(at_input, in_axes=(0, 0, None)))(noise(), *parameters(posterior))
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), made)


def check_values(got):
    """Draws, densities, KL and moments agree with each other and with dense linear algebra."""
    np.testing.assert_array_equal(got["sample"], got["z"])
    np.testing.assert_allclose(got["log_prob"], got["log_q"], rtol=1e-5, atol=2e-5)
    log_noise = -0.5 * np.sum(got["noise"] ** 2 + np.log(2 * np.pi), -1)
    expected = log_noise - np.linalg.slogdet(got["jacobian"])[1]
    np.testing.assert_allclose(got["log_q"], expected, rtol=1e-5, atol=2e-5)
    if "kl" in got:
        factor = got["jacobian"][:, 0]
        covariance = factor @ np.swapaxes(factor, 1, 2)
        variance = np.diagonal(covariance, axis1=1, axis2=2)
        quadratic = np.sum(variance + got["mean"] ** 2 - 1, -1)
        np.testing.assert_allclose(got["kl"], 0.5 * (quadratic - np.linalg.slogdet(covariance)[1]), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(got["moments"][0], got["mean"], rtol=1e-6)
        np.testing.assert_allclose(got["moments"][1], 0.5 * np.log(variance), rtol=1e-5, atol=1e-5)


def _planar_noise(posterior, outputs, z):
    """The noise of given codes, by bisection; shares no code with the package."""
    mean, log_scale, extra = (np.asarray(o, np.float64) for o in outputs)
    table = extra.reshape(-1, 2 * LATENT + 1)
    z = z.astype(np.float64)
    for t in reversed(range(len(table))):
        u, w, bias = table[t, :LATENT], table[t, LATENT:-1] + np.eye(LATENT)[t % LATENT], table[t, -1]
        inner = w @ u
        u_hat = u + (np.logaddexp(inner + np.log(np.e - 1), 0) - 1 - inner) * w / (w @ w)
        along, slope = z @ w, w @ u_hat
        low, high = along - abs(slope), along + abs(slope)
        for _ in range(60):
            middle = (low + high) / 2
            above = middle + slope * np.tanh(middle + bias) > along
            low, high = np.where(above, low, middle), np.where(above, middle, high)
        z = z - np.tanh((low + high) / 2 + bias)[:, None] * u_hat
    return (z - mean) * np.exp(-log_scale)


def integrals(posterior):
    """Integrals of the density over the plane for each input, by the trapezoidal rule; they should be 1."""
    outputs, weights = parameters(posterior)
    axis = np.linspace(-HALF_WIDTH, HALF_WIDTH, SIDE)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    with noise_as_key():
        draws = np.random.default_rng(0).normal(size=(400, LATENT)).astype(np.float32)
        sample = jax.jit(jax.vmap(lambda eps, q: posterior.sample(eps, q), in_axes=(0, None)))
        if posterior.log_prob is None:
            log_prob = jax.jit(jax.vmap(lambda eps, q: posterior.sample_and_log_prob(eps, q), in_axes=(0, None)))
        else:
            log_prob = jax.jit(jax.vmap(lambda z, q: posterior.log_prob(q, z), in_axes=(0, None)))
        totals = []
        for i in range(CONTEXTS):
            row = tuple(o[i] for o in outputs)
            q = (*row, *weights)
            z = np.asarray(sample(draws, q), np.float64)
            center, factor = z.mean(0), np.linalg.cholesky(np.cov(z.T))
            codes = (center + grid @ factor.T).astype(np.float32)
            if posterior.log_prob is None:
                reached, log_q = log_prob(_planar_noise(posterior, row, codes).astype(np.float32), q)
                np.testing.assert_allclose(reached, codes, rtol=1e-5, atol=1e-4)
            else:
                log_q = log_prob(codes, q)
            cell = (axis[1] - axis[0]) ** 2 * np.prod(np.diag(factor))
            totals.append(np.sum(np.exp(np.asarray(log_q, np.float64))) * cell)
    return np.array(totals)


def _base(eps, q):
    return gaussian_log_prob(jnp.zeros_like(eps), jnp.zeros_like(eps), eps) - jnp.sum(q[1])


def with_log_q(change):
    """A twin whose log q of a draw is changed: change(log q, log q of the Gaussian at the start, number of dimensions)."""

    def twin(posterior):
        def sample_and_log_prob(eps, q):
            z, log_q = posterior.sample_and_log_prob(eps, q)
            return z, change(log_q, _base(eps, q), eps.size)

        return posterior._replace(sample_and_log_prob=sample_and_log_prob)

    return twin


def gate_at_the_start(num_flows):
    """The factor by which an inverse autoregressive flow with its first weights shrinks the noise, about."""
    return expit(2.0) ** num_flows


def jittered(params, size=0.5):
    """Parameters with draws of N(0, size^2) added."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(11), len(leaves))
    moved = [leaf + size * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(structure, moved)
