"""A linear encoder that is trained given a condition, and with missing entries, reaches the exact log-likelihood."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from vae_jax import data, likelihoods, training
from vae_jax.config import Hyperparams
from vae_jax.model import bind, mlp_vae
from vae_jax.networks import mlp_encoder
from vae_jax.objectives import elbo, with_hyperparams
from vae_jax.priors import ConditionalGaussian
from vae_jax.training import schedules

SIGMA, DATA_DIM, LATENT = 0.5, 6, 2
NUM_TRAIN = 4096


def draw(count, seed):
    """Data x = W z + V c + b + noise, c a category of three and a real number."""
    rng = np.random.default_rng(1)
    weights = rng.normal(size=(DATA_DIM, LATENT))
    by_class, slope = rng.normal(size=(3, DATA_DIM)), rng.normal(size=DATA_DIM)
    rng = np.random.default_rng(seed)
    category, number = rng.integers(0, 3, count), 5 + 10 * rng.normal(size=count)
    center = by_class[category] + slope * ((number - 5) / 10)[:, None]
    x = rng.normal(size=(count, LATENT)) @ weights.T + center + SIGMA * rng.normal(size=(count, DATA_DIM))
    truth = stats.multivariate_normal(np.zeros(DATA_DIM), weights @ weights.T + SIGMA**2 * np.eye(DATA_DIM))
    return x.astype(np.float32), {"category": category, "number": number.astype(np.float32)}, truth.logpdf(x - center).mean()


@pytest.mark.slow
@pytest.mark.parametrize(("learned_prior", "epochs"), [(False, 300), (True, 1200)])
def test_a_trained_linear_encoder_is_within_a_hundredth_of_a_nat(learned_prior, epochs):
    x, condition, _ = draw(NUM_TRAIN, seed=0)
    test, test_condition, truth = draw(500, seed=1)
    dataset = data.from_arrays(x, test, condition=condition, test_condition=test_condition)
    prepared = data.prepare(dataset)
    assert prepared.condition_dim == 4
    prior = ConditionalGaussian(*mlp_encoder((4,), LATENT, hidden=())) if learned_prior else None
    vae = mlp_vae(
        (DATA_DIM,),
        likelihoods.gaussian(SIGMA),
        latent_dim=LATENT,
        hidden=(),
        condition_dim=prepared.condition_dim,
        prior=prior,
    )
    # Adam with a learning rate that falls to zero. Gradients of the encoder have no noise at the exact posterior.
    fit = training.fit(
        vae,
        prepared,
        epochs=epochs,
        batch_size=256,
        seed=0,
        hyperparams=Hyperparams(learning_rate=1e-2),
        objective=with_hyperparams(elbo, "beta", num_samples=8, estimator="stl"),
        schedules={"learning_rate": schedules.learning_rate_schedule("cosine", 0, epochs * (NUM_TRAIN // 256))},
    )
    batch = jax.jit(prepared.eval_input)(prepared.test)

    @jax.jit
    @jax.vmap
    def linear(x):
        """The decoder of one example as a linear map, the posterior, and the ELBO's mean over points without noise."""
        model = bind(vae, fit.params, x)
        mean, log_scale = model.encode(model.x)
        steps = LATENT**0.5 * jnp.diag(jnp.exp(log_scale))
        points = jnp.concatenate([mean + steps, mean - steps])
        log_likelihood = jnp.mean(jax.vmap(lambda z: model.log_prob(model.decode(z), model.x))(points))
        origin = jnp.zeros(LATENT)
        kl = jnp.sum(jnp.square(mean) + jnp.exp(2 * log_scale) - 1 - 2 * log_scale) / 2
        return log_likelihood - kl, jax.jacobian(model.decode)(origin), model.decode(origin)

    bound, weights, center = (np.asarray(values, np.float64) for values in linear(batch))
    covariances = weights @ weights.transpose(0, 2, 1) + SIGMA**2 * np.eye(DATA_DIM)
    log_px = np.array(
        [
            stats.multivariate_normal(m, s).logpdf(x)
            for m, s, x in zip(center, covariances, test.astype(np.float64), strict=True)
        ]
    )
    gap = log_px.mean() - bound.mean()
    assert -1e-4 < gap < 1e-2
    # The fitted model is the one that made the data, up to the noise of about 40 parameters: 40 / (2 * 4096) nats.
    assert abs(log_px.mean() - truth) < 0.03
    # The reported ELBO has one draw of each test example.
    assert fit.test.elbo == pytest.approx(bound.mean(), abs=6 * np.sqrt(LATENT / 2 + DATA_DIM) / np.sqrt(len(test)))
