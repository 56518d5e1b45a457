"""FactorVAE: the total correlation from a discriminator that is trained in the same step."""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from vae_jax.objectives import Decode, Encode, LogProb, Terms
from vae_jax.objectives.batch.base import BatchObjective, forward


class Discriminator(Protocol):
    """A network as `networks.Network`: init(key) -> params, apply(params, z) -> scalar logit of "z is from q(z)"."""

    @property
    def init(self) -> Any: ...

    @property
    def apply(self) -> Any: ...


class FactorState(NamedTuple):
    """The discriminator and its optimiser."""

    params: Any
    opt_state: Any


def permute_dimensions(key: Array, z: Array) -> Array:
    """Shuffles each latent dimension over the batch by itself: draws of the product of the marginals prod_j q(z_j).

    Example:
      >>> z = jnp.arange(6.0).reshape(3, 2)
      >>> print(jnp.sort(permute_dimensions(jax.random.key(0), z), axis=0).tolist() == z.tolist())
      True
    """
    return jax.random.permutation(key, z, axis=0, independent=True)


def discriminator_loss(logits_joint: Array, logits_product: Array) -> Array:
    """Binary cross-entropy of telling codes of q(z) (logit above 0) from codes of prod_j q(z_j): scalar, nats."""
    return 0.5 * (jnp.mean(jax.nn.softplus(-logits_joint)) + jnp.mean(jax.nn.softplus(logits_product)))


def factor(discriminator: Discriminator, optimizer: Any) -> BatchObjective:
    """FactorVAE: the ELBO plus gamma times the total correlation, estimated by a density ratio.

        loss = -log_likelihood + kl + gamma D(z),   D(z) ~ log q(z) - sum_j log q(z_j)

    D, the discriminator's logit, learns in the same train step to tell codes of the batch from codes whose dimensions are
    shuffled over it. The paper shuffles a second batch; here the first half of the batch plays the joint and the second half,
    shuffled, the product, so they share no example. (disentanglement_lib shuffles the codes that it compares with.)

    Args:
      discriminator: z -> scalar logit; the paper's has six layers of 1,000 leaky ReLUs: `networks.mlp_discriminator`.
      optimizer: an optax transformation for the discriminator: `optax.adam(1e-4, b1=0.5, b2=0.9)` in the paper.

    Returns:
      A `BatchObjective` whose state is the discriminator; `hyperparams.gamma` weighs the total correlation (10 to 100). Its
      `extra` has the estimated total correlation and the discriminator's loss (log 2 at chance).

    Source:
      Kim & Mnih (2018), algorithm 2.
    """
    if not (callable(getattr(optimizer, "init", None)) and callable(getattr(optimizer, "update", None))):
        raise ValueError(f"factor: expected a finished optimizer such as optax.adam(1e-4), got {optimizer!r:.80}.")

    def init(key: Array) -> FactorState:
        params = discriminator.init(key)
        return FactorState(params, optimizer.init(params))

    def terms(
        key: Array, encode: Encode, decode: Decode, log_prob: LogProb, x: Array, hyperparams: Any, state: FactorState
    ) -> tuple[Terms, FactorState]:
        if x.shape[0] < 4:
            raise ValueError(f"factor: expected a batch of at least 4 examples, two halves to shuffle, got {x.shape[0]}.")
        key_codes, key_shuffle = jax.random.split(key)
        codes = forward(key_codes, encode, decode, log_prob, x)
        logits = jax.vmap(discriminator.apply, in_axes=(None, 0))
        total_correlation = logits(state.params, codes.z)
        if total_correlation.shape != x.shape[:1]:
            raise ValueError(
                f"factor: expected the discriminator to return a scalar logit, got shape {total_correlation.shape[1:]}."
            )
        half = x.shape[0] // 2
        z = jax.lax.stop_gradient(codes.z)
        product = permute_dimensions(key_shuffle, z[half:])
        loss, gradient = jax.value_and_grad(
            lambda params: discriminator_loss(logits(params, z[:half]), logits(params, product))
        )(state.params)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        new = FactorState(jax.tree.map(lambda p, u: (p + u).astype(p.dtype), state.params, updates), opt_state)
        extra = {"total_correlation": total_correlation, "discriminator_loss": jnp.broadcast_to(loss, codes.kl.shape)}
        terms = Terms(
            -codes.log_likelihood + codes.kl + hyperparams.gamma * total_correlation, codes.log_likelihood, codes.kl, extra
        )
        return terms, new

    return BatchObjective(terms, init)
