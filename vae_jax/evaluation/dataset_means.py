"""Exact dataset means: every example once, whatever the batch size."""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from vae_jax._numerics.short_repr import short_repr
from vae_jax.data import Prepared
from vae_jax.errors import UserError, unknown
from vae_jax.model import VAE, Params, prior_log_prob
from vae_jax.objectives import Terms, elbo

ToInput = Callable[[Array], Array]  # a batch as stored -> the floats that the likelihood and the encoder take

# XLA's matrix products on CPU add up in an order that depends on how many rows there are. So there it is always as many.
_AT_ONCE_ON_CPU = 128


@short_repr
class Evaluation(NamedTuple):
    """The two terms of the ELBO (beta = 1) of every example, in nats."""

    log_likelihood: Array  # (examples,)
    kl: Array  # (examples,)


class Means(NamedTuple):
    """Means over the examples of a split, in nats per example, beta = 1; standard errors over the examples."""

    elbo: float
    log_likelihood: float
    kl: float
    elbo_standard_error: float  # NaN for one example
    num_examples: int


def standard_error(values: Any) -> float:
    """Standard error s/sqrt(n) of the mean of these values, in float64; NaN for a single one, whose spread is not defined.

    Example:
      >>> standard_error([1.0, 2.0, 3.0, 4.0]).__round__(4), standard_error([1.0])
      (0.6455, nan)
    """
    values = np.asarray(values, np.float64)
    with np.errstate(invalid="ignore"):  # infinities have no spread: NaN
        return float(np.std(values, ddof=1)) / len(values) ** 0.5 if len(values) > 1 else math.nan


def means(evaluation: Evaluation) -> Means:
    """Dataset means in float64 from per-example values, so that elbo = log_likelihood - kl holds to float64."""
    log_likelihood, kl = (np.asarray(values, np.float64) for values in evaluation)
    with np.errstate(invalid="ignore"):
        mean_log_likelihood, mean_kl = float(np.mean(log_likelihood)), float(np.mean(kl))
        error = standard_error(log_likelihood - kl)
    return Means(mean_log_likelihood - mean_kl, mean_log_likelihood, mean_kl, error, len(kl))


def bits_per_dim(log_prob: float, num_dims: int) -> float:
    """Nats of an example as bits per dimension, -log_prob / (num_dims log 2).

    Defined for discrete data alone: probabilities (`likelihoods.DISCRETE`), or the density of dequantised data with the
    Jacobian of its scale included (`data.Prepared.log_jacobian`), which then is a bound.

    Example: a uniform distribution over 256 levels.
      >>> print(bits_per_dim(-784 * np.log(256), 784))
      8.0
    """
    return -log_prob / (num_dims * float(np.log(2)))


def map_examples(
    function: Callable[[Array, Array], Any], data: Array, to_input: ToInput, batch_size: int, first: ArrayLike = 0
) -> Any:
    """`function(index, x)` for every example, in batches inside one program; results have a leading axis of examples.

    Indices count from `first`: of a part of a data set, the index of its first example in the whole.

    The last batch is filled up with copies of the first example, whose results are cut off: so every example counts once.
    """
    if not hasattr(data, "shape"):
        raise UserError(f"expected an array of examples such as prepared.test, got a {type(data).__name__}.")
    num_examples = data.shape[0]
    batch_size = min(batch_size, num_examples)
    num_batches = -(-num_examples // batch_size)
    index = jnp.arange(num_batches * batch_size)
    index = jnp.where(index < num_examples, index, 0).reshape(num_batches, batch_size)
    results = jax.lax.map(lambda batch: jax.vmap(function)(first + batch, to_input(data[batch])), index)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:num_examples], results)


def _at_once(batch_size: int) -> int:
    """How many examples `evaluate` and `encode_dataset` take at once where a user asks for so many."""
    return _AT_ONCE_ON_CPU if jax.default_backend() == "cpu" else batch_size


def evaluate(
    key: Array,
    vae: VAE,
    params: Params,
    data: Array,
    *,
    to_input: ToInput = lambda x: x,
    batch_size: int = 1000,
    num_samples: int = 1,
    log_jacobian: float = 0.0,
) -> Evaluation:
    """The ELBO's terms for every example of a data set. Jit it at the edge.

    Args:
      key: a new-style PRNG key. Draw k for example i uses fold_in(fold_in(key, i), k), so results do not depend on batch_size.
      vae, params: the model.
      data: (examples, ...) as stored; to_input turns a batch of it into floats.
      batch_size: examples at once, for memory and speed. On CPU it is 128 whatever is asked, so that the results are the same
        bit for bit; elsewhere another number may add up float32 in another order.
      num_samples: draws of z for each example.
      log_jacobian: nats added to each log-likelihood, `data.Prepared.log_jacobian`.

    Returns:
      `Evaluation` of per-example values; take their mean, and their standard error, on the host in float64.
    """
    log_prior = prior_log_prob(vae, params)

    def one(index: Array, x: Array) -> Evaluation:
        key_x = jax.random.fold_in(key, index)
        posterior = vae.encode(params, x)

        def draw(k: Array) -> Terms:
            key_k = jax.random.fold_in(key_x, k)
            decode = lambda z: vae.decode(params, z)  # noqa: E731
            return elbo(key_k, lambda x: posterior, decode, vae.likelihood.log_prob, x, prior_log_prob=log_prior)

        # One draw after another: memory does not grow with num_samples.
        terms = jax.lax.map(draw, jnp.arange(num_samples))
        return Evaluation(
            jnp.mean(terms.log_likelihood) + log_jacobian, terms.kl[0] if log_prior is None else jnp.mean(terms.kl)
        )

    return map_examples(one, data, to_input, _at_once(batch_size))


def encode_dataset(
    vae: VAE,
    params: Params,
    data: Prepared | Array,
    *,
    split: Literal["test", "validation", "train"] = "test",
    key: Array | None = None,
    to_input: ToInput | None = None,
    batch_size: int = 1000,
) -> tuple[Array, Array]:
    """Codes of a whole split: (mean, log_scale) of q(z|x) of every example, each (examples, latent). Jit it at the edge.

    Args:
      vae, params: the model.
      data: what `data.prepare` returned; the images then reach the encoder as the training made them. Or an array of examples
        as stored, with `to_input`, for a part of a split.
      split: "test", "validation" or "train", of a `Prepared`.
      key: for the training split, whose images may be drawn anew (binarized, dequantized): example i is drawn with
        fold_in(key, i).
      to_input: of an array, such as `prepared.eval_input`; floats that the encoder takes as they are need none.
      batch_size: as of `evaluate`.

    Raises:
      ValueError: for a split that there is not, a missing key, or integers without `to_input`.

    Example:
      >>> from vae_jax import data, likelihoods, model
      >>> prepared = data.prepare(data.load("digits"), binarization="dynamic")
      >>> vae = model.mlp_vae((8, 8, 1), likelihoods.bernoulli(), latent_dim=2, hidden=(16,))
      >>> means, log_scales = encode_dataset(vae, vae.init(jax.random.key(0)), prepared)
      >>> means.shape, log_scales.shape
      ((359, 2), (359, 2))
    """
    if isinstance(data, Prepared):
        if to_input is not None:
            raise ValueError("encode_dataset: to_input comes from the prepared data. Leave it out.")
        data, to_input = _examples_of(data, split, key)
    elif split != "test" or key is not None:
        raise ValueError("encode_dataset: split and key choose within prepared data. Pass what data.prepare returned.")
    return map_examples(lambda index, x: vae.encode(params, x), data, to_input or (lambda x: x), _at_once(batch_size))


def _examples_of(prepared: Prepared, split: str, key: Array | None) -> tuple[Array, ToInput]:
    """What `map_examples` goes through for a split, and how it becomes the encoder's input."""
    if split not in ("test", "validation", "train"):
        raise unknown("split", split, ("test", "validation", "train"))
    if split != "train":
        if (found := getattr(prepared, split)) is None:
            raise ValueError("encode_dataset: there is no validation split. Load the data with validation_fraction=0.1.")
        return found, prepared.eval_input
    if key is None:
        raise ValueError(
            'encode_dataset: expected a key for split="train", whose images may be drawn anew. Pass key=jax.random.key(0).'
        )

    def one(number: Array, row: Array) -> Array:
        return prepared.train_input(jax.random.fold_in(key, number), row[None])[0]

    # Rows that stay on disk are read batch by batch.
    return jnp.arange(len(prepared.train)), lambda index: jax.vmap(one)(index, prepared.train_rows(index))
