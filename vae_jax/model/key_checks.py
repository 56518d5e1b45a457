"""Checks that stochastic networks work with a key, as in training."""

import jax
from jaxtyping import PyTree

from vae_jax import networks
from vae_jax._numerics.arrays import Params
from vae_jax._numerics.keys import Stream, stream
from vae_jax.model import checks
from vae_jax.networks import Network


def check_with_key(role: str, network: Network, params: Params, *inputs: jax.ShapeDtypeStruct) -> None:
    """Raises `ValueError` if a stochastic network fails with a key, or returns something else than without one."""
    if not networks.takes_key(network):
        return
    key = jax.eval_shape(lambda: stream(0, Stream.CHECK))
    output = checks.evaluate_shapes(
        lambda key, *arguments: network.apply(*arguments, key=key),
        key,
        params,
        *inputs,
        problem=f"make_vae: the {role} fails with a key, as in training.",
    )
    expected = jax.eval_shape(network.apply, params, *inputs)
    if jax.tree.structure(output) != jax.tree.structure(expected) or jax.tree.leaves(output) != jax.tree.leaves(expected):
        raise ValueError(
            f"make_vae: expected the {role} to return the same shapes with a key, as in training, as without one, got "
            f"{_shapes(output)} and {_shapes(expected)}."
        )


def check_with_keys(
    encoder: Network,
    decoder: Network,
    params: Params,
    inputs: tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct],
    condition: tuple[jax.ShapeDtypeStruct, ...],
) -> None:
    """Applies `check_with_key` to both networks; `inputs` are the shapes of an example and of a code."""
    check_with_key("encoder", encoder, params["encoder"], inputs[0], *condition)
    check_with_key("decoder", decoder, params["decoder"], inputs[1], *condition)


def _shapes(tree: PyTree) -> str:
    return ", ".join(f"{leaf.dtype}{list(leaf.shape)}" for leaf in jax.tree.leaves(tree))
