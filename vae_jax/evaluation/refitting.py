"""Fits a prior to draws from the aggregate posterior of a trained model, with the number of components or of epochs chosen on
held-out draws.
"""

import warnings
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from vae_jax._numerics.arrays import Params
from vae_jax._numerics.keys import Stream, stream
from vae_jax._numerics.short_repr import short_repr
from vae_jax.errors import UserError
from vae_jax.posteriors import Encode
from vae_jax.priors import Prior, full_mixture, realnvp

Kind = Literal["mixture", "realnvp"]
Progress = Callable[[str, int, int], None]  # (what is fitted, steps done, steps in all)

_COMPONENTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_MIXTURE_DRAWS = 20_000  # most draws to which a mixture is fitted, because EM takes time in proportion
_BATCH_SIZE, _LEARNING_RATE, _PATIENCE = 256, 1e-3, 5


@short_repr
class AggregateDraws(NamedTuple):
    """Draws from q(z) = 1/N sum_n q(z|x_n), split by examples."""

    fitted: Float[np.ndarray, "draws latent"]  # of the examples to which a prior is fitted
    held_out: Float[np.ndarray, "draws latent"]  # of the other ones
    num_draws: int  # of each example, one after another


@short_repr
class FittedPrior(NamedTuple):
    """A prior that was fitted to draws of codes.

    Attributes:
      prior: the bundle.
      params: its parameters.
      size: number of components of a mixture, or of epochs in which a RealNVP was trained.
      held_out: mean log p(z) of the held-out draws in nats, by each number of components or epochs that was tried.
      num_draws: draws to which it was fitted: at most 20,000 for a mixture.
    """

    prior: Prior
    params: Params
    size: int
    held_out: dict[int, float]
    num_draws: int


def no_encoder(x: Array) -> tuple[Array, ...]:
    """Stands for the encoder, which the priors of this module do not use."""
    raise AssertionError("a refitted prior does not use the encoder")


_ENCODE: Encode = no_encoder


def fit_mixture(
    draws: AggregateDraws, max_components: int, seed: int = 0, progress: Progress = lambda name, done, total: None
) -> FittedPrior:
    """Fits a mixture of Gaussians with full covariances by expectation maximization (scikit-learn).

    Numbers of components are tried in rising order until the held-out likelihood falls.

    Args:
      draws: of codes.
      max_components: the largest number of components, >= 1.
      seed: of the initial clusters.
      progress: called after each number of components.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    codes = draws.fitted[:_MIXTURE_DRAWS].astype(np.float64)  # their order is random
    count, latent_dim = codes.shape
    # A component needs about as many draws as its covariance has rows.
    largest = max(1, min(max_components, count // (latent_dim + 1)))
    sizes = [size for size in _COMPONENTS if size < largest] + [largest]
    held_out: dict[int, float] = {}
    best = None
    for done, size in enumerate(sizes, start=1):
        model = GaussianMixture(size, random_state=seed, max_iter=100, reg_covar=1e-6)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the held-out likelihood is what counts
            model.fit(codes)
        held_out[size] = float(model.score(draws.held_out.astype(np.float64)))
        progress("mixture of Gaussians", done, len(sizes))
        if best is not None and held_out[size] <= held_out[best.n_components]:
            break
        best = model
    progress("mixture of Gaussians", len(sizes), len(sizes))
    assert best is not None
    arrays = {"logits": best.weights_, "means": best.means_, "precisions_cholesky": best.precisions_cholesky_}
    params = {name: jnp.asarray(array, jnp.float32) for name, array in arrays.items()}
    params["logits"] = jnp.log(params["logits"])
    size = int(best.n_components)
    return FittedPrior(full_mixture(latent_dim, size), params, size, held_out, count)


def fit_realnvp(
    draws: AggregateDraws,
    num_layers: int,
    hidden: tuple[int, ...],
    seed: int = 0,
    max_epochs: int = 100,
    progress: Progress = lambda name, done, total: None,
) -> FittedPrior:
    """Fits a RealNVP by maximum likelihood with Adam, and stops once the held-out likelihood no longer rises.

    Args:
      draws: of codes.
      num_layers, hidden: of `priors.realnvp`.
      seed: of the initial weights and of the order of the draws.
      max_epochs: the most passes over the draws.
      progress: called after each epoch.
    """
    prior = realnvp(draws.fitted.shape[1], num_layers, hidden)
    optimizer, fitted, others = optax.adam(_LEARNING_RATE), jnp.asarray(draws.fitted), jnp.asarray(draws.held_out)
    batch_size = min(_BATCH_SIZE, len(fitted))
    num_steps = len(fitted) // batch_size
    key_init, key_order = jax.random.split(stream(seed, Stream.REFIT_NETWORK))

    def loss(params: Params, z: Array) -> Array:
        return -jnp.mean(jax.vmap(lambda z: prior.log_prob(params, _ENCODE, z))(z))

    def step(state: tuple[Params, optax.OptState], index: Array) -> tuple[tuple[Params, optax.OptState], None]:
        params, moments = state
        updates, moments = optimizer.update(jax.grad(loss)(params, fitted[index]), moments)
        return (optax.apply_updates(params, updates), moments), None

    @jax.jit
    def epoch(state: tuple[Params, optax.OptState], key: Array) -> tuple[tuple[Params, optax.OptState], Array]:
        order = jax.random.permutation(key, len(fitted))[: num_steps * batch_size].reshape(num_steps, batch_size)
        state, _ = jax.lax.scan(step, state, order)
        return state, -loss(state[0], others)

    params = prior.init(key_init)
    state = params, optimizer.init(params)
    held_out = {0: float(-jax.jit(loss)(params, others))}
    best, size = params, 0
    for done in range(1, max_epochs + 1):
        state, log_prob = epoch(state, jax.random.fold_in(key_order, done))
        held_out[done] = float(log_prob)
        progress("RealNVP", done, max_epochs)
        if held_out[done] > held_out[size]:
            best, size = state[0], done
        elif done - size >= _PATIENCE or not np.isfinite(held_out[done]):
            break
    progress("RealNVP", max_epochs, max_epochs)
    return FittedPrior(prior, best, size, held_out, len(fitted))


def split_draws(codes: Float[np.ndarray, "examples draws latent"], seed: int = 0, share: float = 0.1) -> AggregateDraws:
    """Splits draws of several codes of each example by examples, because draws of one example are alike.

    Raises:
      UserError: there are too few examples, or a draw is not finite.
    """
    count = len(codes)
    if count < 20:
        raise UserError(f"a prior cannot be fitted to the codes of {count} training examples.", fix="Use at least 20.")
    if not np.isfinite(codes).all():
        raise UserError("codes of the training set are not finite, so no prior can be fitted to them.")
    order = np.random.default_rng(seed).permutation(count)
    num_held_out = max(1, round(share * count))
    fitted, held_out = (codes[part].reshape(-1, codes.shape[2]) for part in (order[num_held_out:], order[:num_held_out]))
    return AggregateDraws(fitted, held_out, codes.shape[1])
