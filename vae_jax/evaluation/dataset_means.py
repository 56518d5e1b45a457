"""Exact means over a data set: every example counts once, whatever the batch size."""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key, Shaped

from vae_jax._numerics.short_repr import short_repr
from vae_jax.data import Prepared
from vae_jax.errors import UserError, unknown
from vae_jax.example import Example, Examples
from vae_jax.model import VAE, Params, bind, posterior_moments
from vae_jax.objectives import Terms, elbo
from vae_jax.objectives.base import closed_kl
from vae_jax.posteriors import PosteriorParams

ToInput = Callable[[Examples], Examples]  # a batch as stored -> the floats that the likelihood and the encoder take
Result = TypeVar("Result")

# XLA's matrix products on CPU add in an order that depends on the number of rows. A fixed number keeps results identical.
_CPU_BATCH_SIZE = 128


@short_repr
class Evaluation(NamedTuple):
    """The two terms of the ELBO (beta = 1) of every example, in nats."""

    log_likelihood: Float[Array, "examples"]
    kl: Float[Array, "examples"]


class Means(NamedTuple):
    """Means over the examples of a split, in nats per example at beta = 1, with a standard error over the examples."""

    elbo: float
    log_likelihood: float
    kl: float
    elbo_standard_error: float  # NaN for a single example
    num_examples: int


class DataSlice(NamedTuple):
    """Consecutive examples of a data set, with the index of the first one in the whole.

    The estimators fold the index of an example into their key, so slices give the same numbers as the whole.
    """

    examples: Examples  # as stored: an array, a `SparseArray`, or an `Example` of arrays, with a leading axis of examples
    first: ArrayLike = 0  # may be traced


def as_slice(data: Examples | DataSlice) -> DataSlice:
    """Returns `data` itself if it is a slice, otherwise the slice that holds all of it."""
    return data if isinstance(data, DataSlice) else DataSlice(data)


def standard_error(values: Float[np.ndarray | Array, "examples"] | Sequence[float]) -> float:
    """Returns the standard error s/sqrt(n) of the mean, in float64. It is NaN for a single value, whose spread is undefined.

    Example:
      >>> standard_error([1.0, 2.0, 3.0, 4.0]).__round__(4), standard_error([1.0])
      (0.6455, nan)
    """
    values = np.asarray(values, np.float64)
    with np.errstate(invalid="ignore"):  # the spread of infinities is NaN
        return float(np.std(values, ddof=1)) / len(values) ** 0.5 if len(values) > 1 else math.nan


def means(evaluation: Evaluation) -> Means:
    """Computes dataset means in float64 from per-example values, so that elbo = log_likelihood - kl holds in float64."""
    log_likelihood, kl = (np.asarray(values, np.float64) for values in evaluation)
    with np.errstate(invalid="ignore"):
        mean_log_likelihood, mean_kl = float(np.mean(log_likelihood)), float(np.mean(kl))
        error = standard_error(log_likelihood - kl)
    return Means(mean_log_likelihood - mean_kl, mean_log_likelihood, mean_kl, error, len(kl))


def bits_per_dim(log_prob: float, num_dims: float) -> float:
    """Converts nats per example to bits per dimension: -log_prob / (num_dims log 2).

    The result is meaningful for discrete data only: for probabilities (`likelihoods.DISCRETE`), or as a bound for the density
    of dequantized data if it includes the Jacobian of the scale (`data.Prepared.log_jacobian`).

    Args:
      log_prob: log-probability of one example, in nats, summed over its dimensions.
      num_dims: number of data dimensions, > 0. With missing entries, the mean number of observed ones.

    Returns:
      Bits per dimension, lower is better.

    Example: a uniform distribution over 256 levels.
      >>> print(bits_per_dim(-784 * np.log(256), 784))
      8.0
    """
    return -log_prob / (num_dims * float(np.log(2)))


def map_examples(
    function: Callable[[Array, Examples], Result], data: Array | Example | DataSlice, to_input: ToInput, batch_size: int
) -> Result:
    """Computes `function(index, x)` for every example, in batches inside one program.

    The last batch is filled up with copies of the first example, whose results are cut off, so every example counts once.

    Args:
      function: (index, x) -> pytree of arrays, for one example.
      data: (examples, ...) as stored, or a `DataSlice` of a larger data set, whose `first` is added to the index.
      to_input: turns a batch of stored examples into what `function` gets.
      batch_size: examples computed together, >= 1 (static).

    Returns:
      The pytree of `function`, each leaf with a leading axis of examples.
    """
    examples, first = as_slice(data)
    if not hasattr(examples, "shape"):
        expected = "an array of examples such as prepared.test"
        raise UserError(field="data", expected=expected, got=f"a {type(examples).__name__}")
    num_examples = examples.shape[0]
    batch_size = min(batch_size, num_examples)
    num_batches = -(-num_examples // batch_size)
    index = jnp.arange(num_batches * batch_size)
    index = jnp.where(index < num_examples, index, 0).reshape(num_batches, batch_size)
    results = jax.lax.map(lambda batch: jax.vmap(function)(first + batch, to_input(examples[batch])), index)
    return jax.tree.map(lambda leaf: leaf.reshape(index.size, *leaf.shape[2:])[:num_examples], results)


def effective_batch_size(batch_size: int) -> int:
    """Returns the number of examples that `evaluate` and `encode_dataset` compute together for a requested batch size."""
    return _CPU_BATCH_SIZE if jax.default_backend() == "cpu" else batch_size


def evaluate(
    key: Key[Array, ""],
    vae: VAE,
    params: Params,
    data: Shaped[Array, "examples ..."] | DataSlice,
    *,
    to_input: ToInput = lambda x: x,
    batch_size: int = 1000,
    num_samples: int = 1,
    log_jacobian: float = 0.0,
) -> Evaluation:
    """Estimates the terms of the ELBO (beta = 1) for every example of a data set. Jit it at the call site.

    Args:
      key: a new-style PRNG key. Draw k for example i uses fold_in(fold_in(key, i), k), so results do not depend on batch_size.
      vae, params: the model.
      data: (examples, ...) as stored, or a `DataSlice` of a larger data set.
      to_input: turns a batch of `data` into floats.
      batch_size: examples computed together, which affects memory and speed. On CPU it is always 128, so that results are
        identical bit for bit. On other backends a different number may change the order of float32 additions.
      num_samples: draws of z for each example, >= 1 (static).
      log_jacobian: nats added to each log-likelihood, usually `data.Prepared.log_jacobian`.

    Returns:
      `Evaluation` of per-example values. Compute their mean and standard error on the host in float64, see `means`.
    """

    def one(index: Array, x: Array | Example) -> Evaluation:
        key_x, model = jax.random.fold_in(key, index), bind(vae, params, x)
        q, closed = model.encode(model.x), closed_kl(model.posterior, model.prior_log_prob)

        def draw(k: Array) -> Terms:
            key_k = jax.random.fold_in(key_x, k)
            return elbo(key_k, lambda x: q, model.decode, model.log_prob, model.x, **model.keywords)

        # One draw after another, so that memory does not grow with num_samples.
        terms = jax.lax.map(draw, jnp.arange(num_samples))
        return Evaluation(jnp.mean(terms.log_likelihood) + log_jacobian, jnp.mean(terms.kl) if closed is None else terms.kl[0])

    return map_examples(one, data, to_input, effective_batch_size(batch_size))


def encode_dataset(
    vae: VAE,
    params: Params,
    data: Prepared | Example | Shaped[Array, "examples ..."] | DataSlice,
    *,
    split: Literal["test", "validation", "train"] = "test",
    key: Key[Array, ""] | None = None,
    to_input: ToInput | None = None,
    batch_size: int = 1000,
) -> tuple[Float[Array, "examples latent"], Float[Array, "examples latent"]]:
    """Computes the posterior parameters of every example of a split. Jit it at the call site.

    Args:
      vae, params: the model.
      data: result of `data.prepare`. The images then reach the encoder as in training. Alternatively an array of examples as
        stored, for a part of a split.
      split: split of a `Prepared`: "test", "validation" or "train".
      key: a new-style PRNG key, needed for the training split, whose images may be drawn anew (binarized, dequantized).
        Example i is drawn with fold_in(key, i).
      to_input: turns a batch of an array into floats, such as `prepared.eval_input`. Arrays that already hold the floats that
        the encoder takes need none.
      batch_size: examples computed together. On CPU it is always 128, see `evaluate`.

    Returns:
      (mean, log_scale) of q(z|x), each (examples, latent). log_scale is the log of the standard deviation of each dimension.
      For a posterior other than the diagonal one they are its moments (`model.posterior_moments`).

    Raises:
      ValueError: for a split that does not exist, a missing key, or integers without `to_input`.

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
            raise ValueError("encode_dataset: `to_input` comes from the prepared data. Leave it out.")
        data, to_input = _split_examples(data, split, key)
    elif split != "test" or key is not None:
        raise ValueError("encode_dataset: `split` and `key` choose within prepared data. Pass what data.prepare returned.")
    encode = lambda index, x: posterior_moments(vae, params, x)  # noqa: E731
    return map_examples(encode, data, to_input or (lambda x: x), effective_batch_size(batch_size))


def encoder_outputs(
    vae: VAE, params: Params, data: Shaped[Array, "examples ..."] | Example, *, to_input: ToInput, batch_size: int = 1000
) -> PosteriorParams:
    """Returns what the encoder gives for every example as stored, each array with a leading axis. Jit it at the call site."""
    encode = lambda index, x: vae.encode(params, x)  # noqa: E731
    return map_examples(encode, data, to_input, effective_batch_size(batch_size))


def layer_kls(
    key: Key[Array, ""],
    vae: VAE,
    params: Params,
    data: Shaped[Array, "examples ..."] | Example,
    *,
    to_input: ToInput,
    batch_size: int = 1000,
) -> Float[Array, "examples layers"]:
    """Computes the KL of each layer of a code of several layers, given one draw of the layers above. Jit it at the call site.

    Args:
      key, vae, params, data, to_input, batch_size: as for `evaluate`, with the same draws.

    Returns:
      (examples, layers), nats. The posterior has `sample_and_kl`, and the prior is N(0, I).
    """
    assert vae.posterior is not None
    sample_and_kl = vae.posterior.sample_and_kl
    assert sample_and_kl is not None

    def one(index: Array, x: Array | Example) -> Array:
        model = bind(vae, params, x)
        return sample_and_kl(jax.random.fold_in(jax.random.fold_in(key, index), 0), model.encode(model.x))[1]

    return map_examples(one, data, to_input, effective_batch_size(batch_size))


def _split_examples(prepared: Prepared, split: str, key: Array | None) -> tuple[Array, ToInput]:
    """Returns the entries of a split that `map_examples` iterates over, and their `to_input`."""
    if split not in ("test", "validation", "train"):
        raise unknown("split", split, ("test", "validation", "train"))
    if split != "train":
        examples = getattr(prepared, split)
        if examples is None:
            raise ValueError("encode_dataset: the data have no validation split. Load them with `validation_fraction=0.1`.")
        return examples, prepared.eval_input
    if key is None:
        raise ValueError(
            'encode_dataset: expected a key for `split="train"`, whose images may be drawn anew. Pass key=jax.random.key(0).'
        )

    def one(number: Array, row: Array) -> Array:
        return prepared.train_input(jax.random.fold_in(key, number), row[None])[0]

    # The entries are indices, because rows that stay on disk are read batch by batch.
    return jnp.arange(len(prepared.train)), lambda index: jax.vmap(one)(index, prepared.train_rows(index))
