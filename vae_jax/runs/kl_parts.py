"""The parts of the mean KL over a test set, for every posterior that has them."""

from collections.abc import Callable

import jax
from jax import Array

from vae_jax.evaluation.dataset_means import encoder_outputs
from vae_jax.evaluation.kl_decomposition import KLDecomposition, decompose_kl, decompose_posterior_kl
from vae_jax.example import Examples
from vae_jax.model import VAE, Params, split_weights, with_weights
from vae_jax.runs.posterior_facts import has_kl_parts

# Draws behind the mutual information where a density takes as long as a decoder.
_FEW_DRAWS = 64


def kl_parts(
    key: Array,
    vae: VAE,
    params: Params,
    data: tuple[Array, Callable[[Examples], Examples]],
    moments: tuple[Array, Array],
    batch_size: int,
    log_prior: Callable[[Array], Array] | None,
) -> KLDecomposition | None:
    """Decomposes the KL of a test set (see `evaluation.decompose_kl`). Jit it at the call site.

    Args:
      key: a new-style PRNG key.
      vae, params: the model.
      data: the examples as stored, and the function that turns them into floats.
      moments: (mean, log_scale) of q(z|x) of each example, each (examples, latent).
      batch_size: examples encoded together.
      log_prior: z -> log p(z), nats, of a learned prior; None for N(0, I).

    Returns:
      The `KLDecomposition`; None for a single example, whose aggregate posterior is its posterior, and for posteriors without
      these parts (see `has_kl_parts`).
    """
    posterior, (test, to_input) = vae.posterior, data
    if len(moments[0]) == 1 or (posterior is not None and not has_kl_parts(posterior)):
        return None
    if posterior is None:
        return decompose_kl(key, *moments, prior_log_prob=log_prior)
    outputs = encoder_outputs(vae, params, test, to_input=to_input, batch_size=batch_size)
    _, weights = split_weights(vae, params, with_weights(vae, params, outputs))
    sizes = {} if posterior.factor is not None else {"num_draws": min(_FEW_DRAWS, len(jax.tree.leaves(outputs)[0]))}
    return decompose_posterior_kl(key, posterior, outputs, weights, prior_log_prob=log_prior, **sizes)
