"""Takes Linen modules where a user's factory returns them in place of `Network`s."""

import inspect

from flax import linen, nnx

from vae_jax import networks


def adapt_module(role: str, network: object, input_shape: tuple[int, ...], condition_dim: int = 0) -> object:
    """Returns a Linen module as a `Network`, and anything that is not a module as it is.

    Args:
      role: name of the parameter, "encoder" or "decoder", for messages.
      network: what the user's factory returned.
      input_shape: shape of one example or code.
      condition_dim: length of the condition; 0 without one.

    Raises:
      UserError: the class of a module in place of an instance, or an NNX module. An NNX module has its parameters already, so
        all seeds would start alike; `networks.from_nnx` takes the function that makes it.
    """
    if isinstance(network, linen.Module):
        return networks.from_linen(network, input_shape, condition_dim=condition_dim)
    if isinstance(network, nnx.Module) or (inspect.isclass(network) and issubclass(network, linen.Module | nnx.Module)):
        networks.check_network(role, network)
    return network
