"""FactorVAE: the total correlation estimated by a discriminator that is trained in the same step."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from vae_jax._numerics.arrays import Params
from vae_jax.objectives.base import Decode, Encode, HyperparamsLike, LogProb, Terms
from vae_jax.objectives.batch.base import Batch, BatchObjective, forward
from vae_jax.posteriors import DIAGONAL, Posterior


class Discriminator(Protocol):
    """A network of one code, such as a `networks.Network`."""

    @property
    def init(self) -> Callable[..., Params]:
        """Key -> parameters."""
        ...

    @property
    def apply(self) -> Callable[..., Array]:
        """(parameters, z) -> scalar logit of "z is from q(z)"."""
        ...


class DiscriminatorOptimizer(Protocol):
    """An optax transformation with its learning rate, such as `optax.adam(1e-4)`."""

    @property
    def init(self) -> Callable[[Params], PyTree]:
        """Parameters -> state of the optimizer."""
        ...

    @property
    def update(self) -> Callable[..., tuple[Params, PyTree]]:
        """(gradient, state, parameters) -> (updates, state)."""
        ...


class FactorState(NamedTuple):
    """State of FactorVAE: the parameters of the discriminator and the state of its optimizer."""

    params: Params
    opt_state: PyTree


def permute_dimensions(key: Key[Array, ""], z: Float[Array, "batch latent"]) -> Float[Array, "batch latent"]:
    """Shuffles each latent dimension over the batch separately, which draws from the product of the marginals prod_j q(z_j).

    Example:
      >>> z = jnp.arange(6.0).reshape(3, 2)
      >>> print(jnp.sort(permute_dimensions(jax.random.key(0), z), axis=0).tolist() == z.tolist())
      True
    """
    return jax.random.permutation(key, z, axis=0, independent=True)


def discriminator_loss(logits_joint: Float[Array, "joint"], logits_product: Float[Array, "product"]) -> Float[Array, ""]:
    """Computes the binary cross-entropy of a discriminator between codes of q(z) and codes of prod_j q(z_j).

    Args:
      logits_joint: logits for codes of q(z). Above 0 is right.
      logits_product: logits for codes of prod_j q(z_j). Below 0 is right.

    Returns:
      Scalar, nats, to be minimized. It is log 2 at chance.
    """
    return 0.5 * (jnp.mean(jax.nn.softplus(-logits_joint)) + jnp.mean(jax.nn.softplus(logits_product)))


def factor(discriminator: Discriminator, optimizer: DiscriminatorOptimizer) -> BatchObjective:
    """Makes the FactorVAE objective: the ELBO and gamma times the total correlation, estimated by a density ratio.

        loss = -log_likelihood + kl + gamma D(z),   D(z) ~ log q(z) - sum_j log q(z_j)

    D is the logit of the discriminator. In the same train step, it learns to distinguish codes of the batch from codes whose
    dimensions are shuffled over the batch.

    The paper shuffles a second batch. Here the first half of the batch represents the joint distribution, and the second half,
    shuffled, the product of the marginals, so they do not share examples. disentanglement_lib shuffles the same codes that it
    compares with.

    Args:
      discriminator: z -> scalar logit. The paper's has six layers of 1,000 leaky ReLUs (`networks.mlp_discriminator`).
      optimizer: an optax transformation for the discriminator, `optax.adam(1e-4, b1=0.5, b2=0.9)` in the paper.

    Returns:
      The `BatchObjective`, whose state is the discriminator. `hyperparams.gamma` weighs the total correlation (10 to 100).
      `extra` has the estimated total correlation and the loss of the discriminator (log 2 at chance).

    Raises:
      ValueError: the optimizer is not finished. At trace time: the batch has fewer than four examples, or the discriminator
        does not return a scalar.

    Source:
      Kim & Mnih (2018), algorithm 2.
    """
    if not (callable(getattr(optimizer, "init", None)) and callable(getattr(optimizer, "update", None))):
        raise ValueError(f"factor: expected a finished optimizer such as optax.adam(1e-4), got {optimizer!r:.80}.")

    def init(key: Array) -> FactorState:
        params = discriminator.init(key)
        return FactorState(params, optimizer.init(params))

    def terms(
        key: Array,
        encode: Encode,
        decode: Decode,
        log_prob: LogProb,
        x: Batch,
        hyperparams: HyperparamsLike,
        state: FactorState,
        posterior: Posterior = DIAGONAL,
    ) -> tuple[Terms, FactorState]:
        if x.shape[0] < 4:
            raise ValueError(f"factor: expected a batch of at least 4 examples, two halves to shuffle, got {x.shape[0]}.")
        key_codes, key_shuffle = jax.random.split(key)
        codes = forward(key_codes, encode, decode, log_prob, x, posterior)
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
