"""Checks that the prior and the posterior of a `VAE` fit its networks; each failure is one sentence."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from vae_jax._numerics.arrays import Params
from vae_jax._numerics.keys import Stream, stream
from vae_jax.example import Examples
from vae_jax.model.checks import evaluate_shapes
from vae_jax.networks import Network
from vae_jax.posteriors import DIAGONAL, Encode, Posterior, PosteriorParams
from vae_jax.priors import ConditionalGaussian, Prior


def check_prior_type(prior: object, condition_dim: int) -> None:
    """Raises `ValueError` unless this is a prior, and one of the condition only where there is one."""
    if not isinstance(prior, Prior | ConditionalGaussian | None):
        advice = " A network for p(z|c) becomes one by priors.ConditionalGaussian(*network)." * isinstance(prior, Network)
        raise ValueError(
            f"make_vae: expected the prior to be a priors.Prior, a priors.ConditionalGaussian or None, got a "
            f"{type(prior).__name__}.{advice}"
        )
    if isinstance(prior, ConditionalGaussian) and prior.is_stochastic:
        raise ValueError(
            "make_vae: the network of p(z|c) draws random numbers, such as dropout, but a prior is deterministic. Adapt it "
            "without rngs, with Dropout off (deterministic=True)."
        )
    if isinstance(prior, ConditionalGaussian) and not condition_dim:
        raise ValueError("make_vae: a prior p(z|c) needs a condition. Pass condition_dim=, or leave out the prior.")


def check_conditional_prior(
    prior: ConditionalGaussian, params: Params, condition: tuple[jax.ShapeDtypeStruct, ...], latent_dim: int
) -> None:
    """Raises `ValueError` unless p(z|c) has a mean and a log_scale for each latent dimension."""
    output = evaluate_shapes(
        prior.apply,
        params,
        *condition,
        problem=f"make_vae: the prior p(z|c) fails on one condition of shape {condition[0].shape}.",
        advice=f" Make it for conditions of length {condition[0].size}.",
    )
    shapes = [getattr(leaf, "shape", None) for leaf in (output if isinstance(output, tuple | list) else [output])]
    if shapes != [(latent_dim,)] * 2:
        got = ", ".join(map(str, shapes))
        raise ValueError(
            f"make_vae: expected the prior p(z|c) to return (mean, log_scale), each of shape ({latent_dim},) as the encoder's, "
            f"got {got}. Make it for {latent_dim} latent dimensions, as networks.mlp_encoder((condition_dim,), {latent_dim})."
        )


def check_prior(prior: Prior, encode: Callable[[Params], Encode], params: Params, latent_dim: int) -> None:
    """Raises `ValueError` unless `log_prob` returns a scalar for one code.

    Args:
      prior: the prior.
      encode: params -> the encoder at these parameters.
      params: parameters of the model, or their shapes.
      latent_dim: number of latent dimensions of a code.
    """
    z = jax.ShapeDtypeStruct((latent_dim,), jnp.float32)
    try:
        shape = jax.eval_shape(lambda params, z: prior.log_prob(params[prior.part], encode(params), z), params, z).shape
    except ValueError as error:
        if prior.name != "vamp":
            raise
        raise ValueError(
            f"make_vae: the pseudo-inputs of the VampPrior do not fit the encoder: {error} The pseudo-inputs of a conditional "
            "model are priors.vamp(Example(inputs, condition=conditions)), and plain arrays otherwise."
        ) from None
    if shape != ():
        raise ValueError(f"make_vae: expected the prior {prior.name!r} to return a scalar for one code, got shape {shape}.")


def check_posterior(posterior: Posterior | None, prior: object) -> Posterior | None:
    """Returns the posterior, None for the diagonal one. Raises `ValueError` unless it is a posterior and fits the prior."""
    if not isinstance(posterior, Posterior | None):
        raise ValueError(
            f"make_vae: expected the posterior to be a posteriors.Posterior or None, got a {type(posterior).__name__}."
        )
    if posterior is None or posterior is DIAGONAL:
        return None
    if posterior.latent_dim is not None and isinstance(prior, ConditionalGaussian):
        raise ValueError(
            "make_vae: a prior p(z|c) standardizes the mean and the log_scale of the encoder, and the encoder of the posterior "
            f"{posterior.name!r} returns something else. Leave the prior out, or use a posterior of the encoder's mean."
        )
    if not isinstance(prior, Prior) or not prior.needs_diagonal:
        return posterior
    raise ValueError(
        f"make_vae: the prior {prior.name!r} consists of posteriors and assumes diagonal Gaussians, and the posterior "
        f"{posterior.name!r} is a different one. Leave one of them out."
    )


def check_posterior_functions(
    posterior: Posterior,
    encode: Callable[[Params, Array], PosteriorParams],
    params: Params,
    x: Examples,
    latent_dim: int,
) -> None:
    """Raises `ValueError` unless the functions of a posterior return codes, nats and moments of the right shapes.

    Args:
      posterior: the posterior.
      encode: (params, x) -> parameters of q(z|x).
      params: parameters of the model, or their shapes.
      x: shape of one example.
      latent_dim: number of latent dimensions of a code.
    """
    key = jax.eval_shape(lambda: stream(0, Stream.CHECK))
    q = jax.eval_shape(encode, params, x)
    code, nats = (latent_dim,), ()
    z = jax.ShapeDtypeStruct(code, jnp.float32)
    calls: list[tuple[str, Callable[..., PyTree] | None, tuple[PyTree, ...], list[tuple[int, ...]]]] = [
        ("sample", posterior.sample, (key, q), [code]),
        ("sample_and_log_prob", posterior.sample_and_log_prob, (key, q), [code, nats]),
        ("log_prob", posterior.log_prob, (q, z), [nats]),
        ("kl_to_standard_normal", posterior.kl_to_standard_normal, (q,), [nats]),
        ("moments", posterior.moments, (key, q), [code, code]),
        ("sample_and_kl", posterior.sample_and_kl, (key, q), [code, (len(posterior.layers),)] if posterior.layers else []),
        ("factor", posterior.factor, (q,), [2 * code]),
    ]
    for name, function, arguments, expected in calls:
        if function is None:
            continue
        problem = f"make_vae: {name} of the posterior {posterior.name!r} fails on the parameters of one example."
        shapes = [leaf.shape for leaf in jax.tree.leaves(evaluate_shapes(function, *arguments, problem=problem))]
        if expected and shapes != expected:
            listed = " and ".join(map(str, expected))
            got = " and ".join(map(str, shapes))
            raise ValueError(f"make_vae: expected {name} of the posterior {posterior.name!r} to return {listed}, got {got}.")
