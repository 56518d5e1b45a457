"""The log-likelihood of each entry of every example, such as of each column of a table."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, Shaped

from vae_jax._numerics.arrays import Params
from vae_jax.evaluation.dataset_means import ToInput, effective_batch_size, map_examples
from vae_jax.example import Example, event_of, mask_of
from vae_jax.likelihoods import DecoderOutput, check_factorizes, inside_support
from vae_jax.model import VAE, bind


def entry_log_likelihoods(
    key: Key[Array, ""],
    vae: VAE,
    params: Params,
    data: Shaped[Array, "examples ..."],
    *,
    to_input: ToInput = lambda x: x,
    batch_size: int = 1000,
) -> Float[Array, "examples ..."]:
    """Computes log p(x_d|z) of each entry d of every example, for one draw of z. Jit it at the call site.

    Args:
      key, vae, params, data, to_input, batch_size: as for `evaluate`. With the same key z is the same as there, so the sum over
        the entries of an example is its `log_likelihood`.

    Returns:
      (examples, *event), nats; 0 where an entry is missing.

    Raises:
      UserError: the likelihood does not factorize over the entries.
    """
    check_factorizes(vae.likelihood)
    per_entry = vae.likelihood.log_prob_per_entry
    assert per_entry is not None

    def one(index: Array, x: Array | Example) -> Array:
        model = bind(vae, params, x)
        q, event, mask = model.encode(model.x), event_of(x), mask_of(x)
        key_z = jax.random.fold_in(jax.random.fold_in(key, index), 0)

        def nats(output: DecoderOutput) -> Array:
            if mask is None:
                return per_entry(output, event)
            return jnp.where(mask, per_entry(output, inside_support(vae.likelihood, event, mask)), 0)

        return nats(model.decode(model.posterior.sample(key_z, q)))

    return map_examples(one, data, to_input, effective_batch_size(batch_size))
