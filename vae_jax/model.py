"""`VAE`: a bundle of pure functions (init, encode, decode) for one example, with its likelihood."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from vae_jax import networks
from vae_jax._short_repr import short_repr
from vae_jax.errors import UserError
from vae_jax.likelihoods import Likelihood, from_log_prob
from vae_jax.networks import Network
from vae_jax.priors import Prior

Params = Any  # a pytree of arrays


@short_repr
class VAE(NamedTuple):
    """A variational autoencoder with a diagonal Gaussian posterior. No arrays inside, so it is hashable."""

    init: Callable[[Array], Params]  # key -> params
    encode: Callable[[Params, Array], tuple[Array, Array]]  # (params, x) -> (mean, log_scale), each (latent,)
    decode: Callable[[Params, Array], Any]  # (params, z) -> decoder_output for the likelihood
    likelihood: Likelihood
    data_shape: tuple[int, ...]
    latent_dim: int
    prior: Prior | None = None  # None: N(0, I)


def prior_log_prob(vae: VAE, params: Params) -> Callable[[Array], Array] | None:
    """Log p(z) of the learned prior at these parameters, for the objectives; None for N(0, I), whose KL has a closed form."""
    if vae.prior is None:
        return None
    log_prob = vae.prior.log_prob
    return lambda z: log_prob(params["prior"], lambda x: vae.encode(params, x), z)


def num_parameters(vae: VAE) -> int:
    """Number of trained numbers: the sizes of all arrays of `vae.init`. Nothing is computed."""
    params = jax.eval_shape(vae.init, _shape_key())
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def _shape_key() -> Array:
    """A key for tracing alone; its generator is named, so that JAX_DEFAULT_PRNG_IMPL changes nothing."""
    return jax.random.key(0, impl="threefry2x32")


def sample_prior(vae: VAE, params: Params, key: Array) -> Array:
    """One draw of z from the prior, shape (latent,)."""
    if vae.prior is None:
        return jax.random.normal(key, (vae.latent_dim,))
    return vae.prior.sample(params["prior"], lambda x: vae.encode(params, x), key)


def make_vae(
    encoder: Network,
    decoder: Network,
    likelihood: Likelihood | Callable[[Any, Array], Array],
    data_shape: tuple[int, ...],
    prior: Prior | None = None,
) -> VAE:
    """Puts an encoder, a decoder and a likelihood together, and checks that they fit.

    Args:
      encoder: x -> (mean, log_scale), each of shape (latent,), log_scale the log of the standard deviation.
      decoder: z -> an array for the likelihood, usually of `data_shape`.
      likelihood: a `Likelihood`, or any function (decoder_output, x) -> scalar nats.
      data_shape: shape of one example.
      prior: a learned prior, see `priors`; N(0, I) by default.

    Returns:
      A `VAE`, whose codes have `prior.num_auxiliary` more dimensions than the encoder gives. Its params are {"encoder": ...,
      "decoder": ...}, "prior": ... where that is learned, and "likelihood": ... where the likelihood has learned numbers of its
      own; `decode` then returns (decoder's array, those numbers).

    Raises:
      ValueError: where the parts do not fit, with what was expected and what came. Nothing is computed for this. Later, at
        trace time, where `encode`, `decode` or the likelihood gets a batch in place of one example, and where `encode` gets
        integers: data as stored, which the network was not trained on.
    """
    networks.check_network("encoder", encoder)
    networks.check_network("decoder", decoder)
    if not isinstance(likelihood, Likelihood):
        likelihood = from_log_prob(likelihood)
    data_shape = tuple(data_shape)
    likelihood = likelihood._replace(log_prob=_of_one_example(likelihood, data_shape))

    def init(key: Array) -> Params:
        key_encoder, key_decoder = jax.random.split(key)
        params = {"encoder": encoder.init(key_encoder), "decoder": decoder.init(key_decoder)}
        if likelihood.shared_start:
            params["likelihood"] = jnp.array(likelihood.shared_start, jnp.float32)
        if prior is not None:
            params["prior"] = prior.init(jax.random.fold_in(key, 2))
        return params

    num_auxiliary = 0 if prior is None else prior.num_auxiliary

    def encode(params: Params, x: Array) -> tuple[Array, Array]:
        x = _as_seen("encode", likelihood, data_shape, x)
        posterior = encoder.apply(params["encoder"], x)
        return jax.tree.map(lambda leaf: jnp.pad(leaf, (0, num_auxiliary)), posterior) if num_auxiliary else posterior

    x = jax.ShapeDtypeStruct(data_shape, jnp.float32)
    params = _parameters(init, encoder, decoder)
    inner_dim = _latent_dim(encoder, params["encoder"], x)
    latent_dim = inner_dim + num_auxiliary

    def decode(params: Params, z: Array) -> Any:
        if jnp.shape(z) != (latent_dim,):
            raise ValueError(_one("decode", "code", (latent_dim,), jnp.shape(z)))
        output = decoder.apply(params["decoder"], z[:-num_auxiliary] if num_auxiliary else z)
        return (output, params["likelihood"]) if likelihood.shared_start else output

    output = _output(decoder, decode, params, inner_dim, latent_dim)
    log_prob = jax.eval_shape(likelihood.log_prob, output, x)
    if getattr(log_prob, "shape", None) != ():
        raise ValueError(
            f"make_vae: expected the likelihood {likelihood.name!r} to return a scalar (nats summed over one example), "
            f"got {getattr(log_prob, 'shape', type(log_prob).__name__)}. Sum over the event inside it; do not average."
        )
    vae = VAE(init, encode, decode, likelihood, data_shape, latent_dim, prior)
    if prior is not None:
        z = jax.ShapeDtypeStruct((latent_dim,), jnp.float32)
        shape = jax.eval_shape(
            lambda params, z: prior.log_prob(params["prior"], lambda x: encode(params, x), z), params, z
        ).shape
        if shape != ():
            raise ValueError(f"make_vae: expected the prior {prior.name!r} to return a scalar for one code, got shape {shape}.")
    return vae


def _parameters(init: Callable[[Array], Params], encoder: Network, decoder: Network) -> Params:
    """Shapes of all parameters; `ValueError` where a network cannot make its own."""
    try:
        return jax.eval_shape(init, _shape_key())
    except Exception:
        for role, network in (("encoder", encoder), ("decoder", decoder)):
            _traced(
                network.init,
                _shape_key(),
                words=f"make_vae: the {role}'s parameters cannot be made.",
                advice=f" Expected a network of ONE {'example' if role == 'encoder' else 'code'}, without a batch axis.",
            )
        raise


def _latent_dim(encoder: Network, params: Params, x: jax.ShapeDtypeStruct) -> int:
    """Length of the encoder's mean; `ValueError` unless it returns (mean, log_scale) of one example."""
    posterior = _traced(
        encoder.apply,
        params,
        x,
        words=f"make_vae: the encoder fails on one example of shape {x.shape}.",
        advice=" It sees ONE example, without a batch axis: flatten by x.reshape(-1), for example.",
    )
    pair = list(posterior) if isinstance(posterior, tuple | list) else []
    shapes = [getattr(leaf, "shape", None) for leaf in pair]
    if len(shapes) != 2 or shapes[0] is None or shapes[0] != shapes[1] or len(shapes[0]) != 1:
        got = f"a tuple with shapes {shapes}" if pair else f"{_described(posterior)} in place of a pair"
        raise ValueError(
            "make_vae: expected the encoder to return (mean, log_scale), each of shape (latent,), for one example of shape "
            f"{x.shape}, got {got}. The network sees ONE example, without a batch axis: flatten by x.reshape(-1), for example."
        )
    if wrong := [str(leaf.dtype) for leaf in pair if not jnp.issubdtype(leaf.dtype, jnp.floating)]:
        raise ValueError(
            f"make_vae: expected the encoder to return floats, got {wrong[0]}. Return (mean, log_scale) in float32."
        )
    return shapes[0][0]


def _output(decoder: Network, decode: Callable[..., Any], params: Params, inner_dim: int, latent_dim: int) -> Any:
    """Shapes of `decode`'s output; `ValueError` where the decoder does not take the encoder's codes."""
    words = f"make_vae: the decoder fails on one code of shape ({inner_dim},), which is what the encoder gives."
    advice = f" Make it for {inner_dim} latent dimensions and ONE code, without a batch axis."
    output = _traced(decode, params, jax.ShapeDtypeStruct((latent_dim,), jnp.float32), words=words, advice=advice)
    for leaf in jax.tree.leaves(output):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(f"make_vae: expected the decoder to return floats for the likelihood, got {leaf.dtype}.")
    return output


def _traced(function: Callable[..., Any], *arguments: Any, words: str, advice: str = "") -> Any:
    """`jax.eval_shape`, where an error of the user's network becomes one sentence; its own error is the cause."""
    try:
        return jax.eval_shape(function, *arguments)
    except UserError as error:
        raise ValueError(f"{words} {error}") from None
    except Exception as error:
        raise ValueError(f"{words}{advice} The {type(error).__name__} above says where.") from error


def _described(value: Any) -> str:
    return f"an array of shape {value.shape}" if hasattr(value, "shape") else f"a {type(value).__name__}"


def _one(function: str, what: str, expected: tuple[int, ...], got: tuple[int, ...]) -> str:
    """The message for an array of the wrong shape, with `vmap` where it is a batch."""
    words = f"{function}: expected one {what} of shape {expected}, got shape {got}."
    if got[1:] != expected:
        return words
    if function == "log_prob":
        return f"{words} For a batch use jax.vmap(vae.likelihood.log_prob)(decoder_outputs, x_batch)."
    return f"{words} For a batch use jax.vmap(vae.{function}, in_axes=(None, 0))(params, batch)."


def _as_seen(function: str, likelihood: Likelihood, data_shape: tuple[int, ...], x: Any) -> Any:
    """One example as the model takes it; `ValueError` for integers, whose scale is not the model's, and for a batch."""
    x = x if hasattr(x, "dtype") else jnp.asarray(x)
    dtype = x.dtype
    # Counts are integers on their own scale, and a boolean cannot be anything but 0 or 1.
    exact = jnp.issubdtype(dtype, jnp.bool_) or (likelihood.support == "counts" and jnp.issubdtype(dtype, jnp.integer))
    if not exact and not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"{function}: expected the floats that the model is trained on, got {dtype}, as data are stored. For codes use "
            "evaluation.encode_dataset(vae, params, prepared); elsewhere pass to_input=prepared.eval_input, or "
            "convert a batch by prepared.eval_input(batch)."
        )
    shape = x.shape
    if shape != data_shape and (function == "encode" or shape[1:] == data_shape):
        raise ValueError(_one(function, "example", data_shape, shape))
    return jnp.asarray(x, jnp.float32) if exact else x


def _of_one_example(likelihood: Likelihood, data_shape: tuple[int, ...]) -> Callable[[Any, Array], Array]:
    """The likelihood's `log_prob`, which would add up a whole batch without a word."""
    log_prob = likelihood.log_prob

    def of_one(output: Any, x: Array) -> Array:
        return log_prob(output, _as_seen("log_prob", likelihood, data_shape, x))

    return of_one


def mlp_vae(
    data_shape: tuple[int, ...],
    likelihood: Likelihood | Callable[[Any, Array], Array],
    *,
    latent_dim: int = 10,
    hidden: tuple[int, ...] = (256, 256),
    activation: str | Callable[[Array], Array] = "relu",
    dtype: str = "float32",
    train_mean: ArrayLike | None = None,
    standardize: tuple[float, float] | None = None,
    prior: Prior | None = None,
) -> VAE:
    """The usual MLP VAE: encoder with widths `hidden`, decoder with the same in reverse.

    Args:
      data_shape, likelihood, prior: as in `make_vae`; latent_dim, hidden, activation, dtype: as in `networks.mlp_encoder`.
      train_mean: mean of the training data (shape `data_shape` or scalar); the output bias then starts where the likelihood
        predicts it. Zeros without.
      standardize: (mean, standard deviation) of data on a scale of their own. The encoder then sees (x - mean)/std; under a
        likelihood of real data the decoder's output (the first of them for each dimension) is mean + std h, so the likelihood
        stays that of x. Without it such data overflow the encoder.

    Example:
      >>> from vae_jax import likelihoods
      >>> vae = mlp_vae((8, 8, 1), likelihoods.bernoulli(), latent_dim=2, hidden=(16,))
      >>> params = vae.init(jax.random.key(0))
      >>> jax.vmap(vae.encode, in_axes=(None, 0))(params, jnp.zeros((5, 8, 8, 1)))[0].shape
      (5, 2)
    """
    own: dict[str, Any] = {"activation": activation, "dtype": dtype}
    return _around(
        networks.mlp_encoder(data_shape, latent_dim, hidden=hidden, **own),
        partial(networks.mlp_decoder, latent_dim, data_shape, hidden=tuple(reversed(hidden)), **own),
        data_shape,
        likelihood,
        train_mean,
        standardize,
        prior,
    )


def conv_vae(
    data_shape: tuple[int, ...],
    likelihood: Likelihood | Callable[[Any, Array], Array],
    *,
    latent_dim: int = 10,
    channels: tuple[int, ...] | None = None,
    dense: tuple[int, ...] = (256,),
    num_blocks: int = 0,
    norm: networks.Norm = "none",
    activation: str | Callable[[Array], Array] = "relu",
    dtype: str = "float32",
    train_mean: ArrayLike | None = None,
    standardize: tuple[float, float] | None = None,
    prior: Prior | None = None,
) -> VAE:
    """A convolutional VAE; for 64 x 64 images by default in disentanglement_lib's shape, with `num_blocks` residual.

    Args:
      channels, dense, num_blocks, norm: as in `networks.conv_encoder`; the decoder mirrors the encoder.
      others: as in `mlp_vae`.

    Example:
      >>> from vae_jax import likelihoods
      >>> vae = conv_vae((28, 28, 1), likelihoods.bernoulli(), latent_dim=2)
      >>> jax.eval_shape(vae.decode, jax.eval_shape(vae.init, jax.random.key(0)), jnp.zeros(2)).shape
      (28, 28, 1)
    """
    own: dict[str, Any] = {
        "channels": channels,
        "dense": dense,
        "num_blocks": num_blocks,
        "norm": norm,
        "activation": activation,
        "dtype": dtype,
    }
    return _around(
        networks.conv_encoder(data_shape, latent_dim, **own),
        partial(networks.conv_decoder, latent_dim, data_shape, **own),
        data_shape,
        likelihood,
        train_mean,
        standardize,
        prior,
    )


def _around(
    encoder: Network,
    make_decoder: Callable[..., Network],
    data_shape: tuple[int, ...],
    likelihood: Likelihood | Callable[[Any, Array], Array],
    train_mean: ArrayLike | None,
    standardize: tuple[float, float] | None,
    prior: Prior | None,
) -> VAE:
    """The two networks with the likelihood and the scale of the data; the decoder is made for what the likelihood takes."""
    if not isinstance(likelihood, Likelihood):
        likelihood = from_log_prob(likelihood)
    centre, spread = standardize or (0.0, 1.0)
    moves_location = standardize is not None and likelihood.support == "real"

    def located(output: Array, shift: float, factor: float) -> Array:
        if likelihood.outputs_per_dim == 1:
            return shift + factor * output
        return output.at[..., 0].set(shift + factor * output[..., 0])

    output_bias = None
    if train_mean is not None:
        if likelihood.output_for_mean is None:
            raise ValueError(f"train_mean: the likelihood {likelihood.name!r} has no output_for_mean; leave it out.")
        output_bias = likelihood.output_for_mean(jnp.broadcast_to(jnp.asarray(train_mean, jnp.float32), data_shape))
        if moves_location:
            output_bias = located(output_bias, -centre / spread, 1 / spread)
    decoder = make_decoder(outputs_per_dim=likelihood.outputs_per_dim, output_bias=output_bias)
    if standardize is not None:
        inner_encode = encoder.apply
        encoder = encoder._replace(apply=lambda params, x: inner_encode(params, (x - centre) / spread))
    if moves_location:
        inner_decode = decoder.apply
        decoder = decoder._replace(apply=lambda params, z: located(inner_decode(params, z), centre, spread))
    return make_vae(encoder, decoder, likelihood, data_shape, prior)
