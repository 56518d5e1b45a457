"""The RealNVP prior: an invertible network of affine couplings from z to N(0, I), with exact density and samples."""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vae_jax._numerics.arrays import Params
from vae_jax.posteriors import Encode, posterior_log_prob
from vae_jax.priors.bundles import Prior


def realnvp_forward(params: Params, z: Float[Array, "latent"]) -> tuple[Float[Array, "latent"], Float[Array, ""]]:
    """Maps one code to the noise that it stands for under a RealNVP prior.

    Each coupling leaves the first half a of its input unchanged and transforms the rest b, elementwise:

        b -> b exp(s(a)) + t(a),    s(a) = scale tanh(raw(a)),    log |det| = sum s(a)

    (raw, t) is one multilayer perceptron of a, and scale is learned. The halves are then exchanged, and after every second
    coupling the dimensions are dealt to the two halves in turn, so that each pair of couplings splits them differently.

    Args:
      params: those of `realnvp`.
      z: the code, shape (latent,).

    Returns:
      (e, log |det de/dz|): the noise, shape (latent,), and nats.

    Example: at the start it only permutes, so p(z) = N(0, I).
      >>> params = realnvp(3, num_layers=2, hidden=(4,)).init(jax.random.key(0))
      >>> e, log_det = realnvp_forward(params, jnp.array([1.0, 2.0, 3.0]))
      >>> print(sorted(e.tolist()), log_det)
      [1.0, 2.0, 3.0] 0.0

    Source:
      Dinh, Sohl-Dickstein & Bengio (2017), section 3.
    """
    log_det = jnp.zeros((), z.dtype)
    for index in range(len(params)):
        kept, changed = jnp.split(z, [z.shape[0] // 2])
        log_scale, shift = _conditioner(params[_name(index)], kept)
        z = jnp.concatenate([changed * jnp.exp(log_scale) + shift, kept])
        log_det = log_det + jnp.sum(log_scale)
        z = jnp.concatenate([z[::2], z[1::2]]) if index % 2 else z
    return z, log_det


def realnvp_inverse(params: Params, noise: Float[Array, "latent"]) -> Float[Array, "latent"]:
    """Maps noise to the code that stands for it, the inverse of `realnvp_forward`. Noise from N(0, I) gives draws of p(z).

    Args:
      params: those of `realnvp`.
      noise: shape (latent,).

    Returns:
      z, shape (latent,).
    """
    z, size = noise, noise.shape[0]
    for index in reversed(range(len(params))):
        if index % 2:
            dealt, count = z, (size + 1) // 2
            z = jnp.zeros_like(z).at[::2].set(dealt[:count]).at[1::2].set(dealt[count:])
        changed, kept = jnp.split(z, [size - size // 2])
        log_scale, shift = _conditioner(params[_name(index)], kept)
        z = jnp.concatenate([kept, (changed - shift) * jnp.exp(-log_scale)])
    return z


def _name(index: int) -> str:
    return f"coupling_{index}"


def _conditioner(params: Params, kept: Array) -> tuple[Array, Array]:
    """Returns (log_scale, shift) of one coupling. One product of the last layer gives both."""
    *hidden, last = (params[f"layer_{i}"] for i in range(len(params) - 1))
    h = kept
    for layer in hidden:
        h = jax.nn.relu(h @ layer["kernel"] + layer["bias"])
    raw, shift = jnp.split(h @ last["kernel"] + last["bias"], 2)
    return params["scale"] * jnp.tanh(raw), shift


def _init_conditioner(key: Array, num_kept: int, num_changed: int, hidden: Sequence[int]) -> Params:
    """Draws the weights of one coupling. The last layer is zero, so that the coupling starts as the identity."""
    widths, glorot = (num_kept, *hidden), jax.nn.initializers.glorot_uniform()
    params: dict[str, Params] = {"scale": jnp.ones(num_changed)}
    for i, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        params[f"layer_{i}"] = {"kernel": glorot(jax.random.fold_in(key, i), (inputs, outputs)), "bias": jnp.zeros(outputs)}
    outputs = 2 * num_changed
    params[f"layer_{len(hidden)}"] = {"kernel": jnp.zeros((widths[-1], outputs)), "bias": jnp.zeros(outputs)}
    return params


def realnvp(latent_dim: int, num_layers: int = 6, hidden: Sequence[int] = (100, 100)) -> Prior:
    """Makes the RealNVP prior: N(0, I) noise through the inverse of a learned invertible network f.

        log p(z) = log N(f(z); 0, I) + log |det df/dz|,    z = f^-1(e),  e ~ N(0, I)

    It starts at N(0, I). Its arithmetic is float32 whatever that of the other networks, because the sampler must invert the
    density.

    Args:
      latent_dim: number of latent dimensions, >= 2.
      num_layers: number of affine couplings, >= 1. Two transform every dimension once.
      hidden: widths of the hidden layers of each coupling's perceptron, which has ReLUs. Without any, it is affine.

    Returns:
      The `Prior`.

    Raises:
      ValueError: one latent dimension, of which there are no halves, or a number below 1.

    Source:
      Dinh, Sohl-Dickstein & Bengio (2017). Xu et al. (2019) take it as the prior of a VAE.
    """
    if latent_dim < 2:
        raise ValueError(f"realnvp: expected latent_dim >= 2, because a coupling splits the code in two, got {latent_dim}.")
    if num_layers < 1 or any(width < 1 for width in hidden):
        raise ValueError(f"realnvp: expected num_layers >= 1 and widths >= 1, got {num_layers} and {tuple(hidden)}.")
    num_kept = latent_dim // 2

    def init(key: Array) -> Params:
        keys = jax.random.split(key, num_layers)
        return {_name(i): _init_conditioner(keys[i], num_kept, latent_dim - num_kept, hidden) for i in range(num_layers)}

    def log_prob(params: Params, encode: Encode, z: Array) -> Array:
        noise, log_det = realnvp_forward(params, z)
        origin = jnp.zeros_like(noise)
        return posterior_log_prob(origin, origin, noise) + log_det

    def sample(params: Params, encode: Encode, key: Array) -> Array:
        return realnvp_inverse(params, jax.random.normal(key, (latent_dim,)))

    return Prior("realnvp", init, log_prob, sample)
