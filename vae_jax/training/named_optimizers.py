"""Named optimizers with traced numbers, and clipping, accumulation and skipping around any optimizer."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax import Array
from optax import contrib

from vae_jax.model import Params
from vae_jax.training.transformations import FromHyperparams, Optimizer, OptState, transformation

Number: TypeAlias = Array | float
AnyOptimizer: TypeAlias = Callable[..., optax.GradientTransformation]

_NOT_KERNELS = ("bias", "b", "scale", "embedding")


def kernels(params: Params) -> Params:
    """Returns the tree of the parameters with True for the kernels of the encoder and the decoder and False for the rest.

    A kernel is a parameter of the encoder or the decoder that is named "kernel", as in Flax, or that has at least two axes and
    is not named "bias", "b", "scale" or "embedding". The named optimizers use it as the mask of their weight decay, so that
    biases, norms, embeddings, learned scales, priors and pseudo-inputs do not decay. It can be the mask of any optimizer:

      >>> optimizer = lambda rate: optax.adamw(rate, weight_decay=0.01, mask=kernels)
    """

    def is_kernel(path: tuple[object, ...], leaf: Array) -> bool:
        names = [getattr(entry, "key", getattr(entry, "name", None)) for entry in path]
        is_matrix = jnp.ndim(leaf) >= 2 and names[-1] not in _NOT_KERNELS
        return names[0] in ("encoder", "decoder") and (names[-1] == "kernel" or is_matrix)

    return jax.tree_util.tree_map_with_path(is_kernel, params)


def named_optimizer(name: str, traced: Sequence[str] = (), **static: Number) -> FromHyperparams:
    """Returns the optimizer of this name in `optax` or `optax.contrib`, with optax's defaults.

    Weight decay acts on `kernels` alone.

    Args:
      name: of a registered optimizer.
      traced: settings whose values are those of the hyperparameters, such as "b1". Optax's default is used for the others.
      **static: further settings.
    """
    make = _MAKERS.get(name) or (lambda rate, **numbers: _with_mask(name, rate, numbers))
    return FromHyperparams(
        lambda hyperparams: make(hyperparams.learning_rate, **static, **{s: getattr(hyperparams, s) for s in traced})
    )


def _with_mask(name: str, rate: Number, numbers: dict[str, Number]) -> optax.GradientTransformation:
    # Of these, adamw, nadamw and lion decay weights by default. The state of the others has no mask unless they decay.
    masked = name in ("adamw", "nadamw", "lion") or "weight_decay" in numbers
    optimizer: AnyOptimizer = getattr(optax, name, None) or getattr(contrib, name)
    return optimizer(rate, **numbers, **({"mask": kernels} if masked else {}))


def _rmsprop(rate: Number, b2: Number = 0.9, **numbers: Number) -> optax.GradientTransformation:
    return optax.rmsprop(rate, decay=b2, **numbers)  # pyright: ignore[reportArgumentType]


def _muon(
    rate: Number, b1: Number = 0.9, b2: Number = 0.999, momentum: Number = 0.95, **numbers: Number
) -> optax.GradientTransformation:
    def axes(params: Params) -> Params:
        def axes_of(is_kernel: bool, leaf: Array) -> contrib.MuonDimensionNumbers | None:
            *inputs, output = range(jnp.ndim(leaf))
            return contrib.MuonDimensionNumbers(tuple(inputs), output) if is_kernel and inputs else None

        return jax.tree.map(lambda is_kernel, leaf: axes_of(is_kernel, leaf), kernels(params), params)

    return contrib.muon(
        rate,
        beta=momentum,
        adam_b1=b1,
        adam_b2=b2,
        muon_weight_dimension_numbers=axes,
        **numbers,  # pyright: ignore[reportArgumentType]  # weight decay acts on what Muon updates
    )


def _schedule_free_adamw(
    rate: Number, b1: Number = 0.9, b2: Number = 0.999, eps: Number = 1e-8, weight_decay: Number | None = None
) -> optax.GradientTransformation:
    # contrib.schedule_free_adamw takes no mask.
    base = optax.chain(
        optax.scale_by_rms(decay=b2, eps=eps, eps_in_sqrt=False, bias_correction=True),
        optax.identity() if weight_decay is None else optax.add_decayed_weights(weight_decay, kernels),
        optax.scale_by_learning_rate(rate),
    )
    return contrib.schedule_free(base, rate, b1)


def _schedule_free_sgd(rate: Number, b1: Number = 0.9, weight_decay: Number | None = None) -> optax.GradientTransformation:
    decay = optax.identity() if weight_decay is None else optax.add_decayed_weights(weight_decay, kernels)
    return contrib.schedule_free(optax.chain(decay, optax.sgd(rate)), rate, b1)


def _prodigy(
    rate: Number, b1: Number = 0.9, b2: Number = 0.999, eps: Number = 1e-8, weight_decay: Number | None = None
) -> optax.GradientTransformation:
    # It divides by the learning rate times sums of gradients (optax 0.2.8), and a warm-up starts at 0.
    rate = jnp.maximum(rate, 1e-12)
    without = contrib.prodigy(rate, (b1, b2), eps=eps)
    if weight_decay is None:
        return without
    decaying = contrib.prodigy(rate, (b1, b2), eps=eps, weight_decay=weight_decay)

    def update(updates: Params, state: OptState, params: Params = None, **extra: object) -> tuple[Params, OptState]:
        # contrib.prodigy takes no mask. Its state does not depend on the decay.
        plain, new_state = without.update(updates, state, params)
        decayed, _ = decaying.update(updates, state, params)
        return jax.tree.map(lambda mask, d, p: d if mask else p, kernels(params), decayed, plain), new_state

    return optax.GradientTransformationExtraArgs(without.init, update)


def _lookahead(rate: Number, sync_period: int, slow_step_size: float, **numbers: Number) -> optax.GradientTransformation:
    adam = optax.adam(rate, **numbers)  # pyright: ignore[reportArgumentType]
    return optax.lookahead(adam, sync_period, slow_step_size)


_MAKERS: dict[str, AnyOptimizer] = {
    "rmsprop": _rmsprop,
    "muon": _muon,
    "schedule_free_adamw": _schedule_free_adamw,
    "schedule_free_sgd": _schedule_free_sgd,
    "prodigy": _prodigy,
    "lookahead": _lookahead,
}


def with_clipping(optimizer: Optimizer) -> FromHyperparams:
    """Returns the optimizer on gradients whose global norm is at most the hyperparameter `clip_norm`."""
    return FromHyperparams(
        lambda hyperparams: optax.chain(
            optax.clip_by_global_norm(hyperparams.clip_norm), transformation(optimizer, hyperparams)
        )
    )


def with_accumulation(optimizer: Optimizer, num_steps: int) -> FromHyperparams:
    """Returns the optimizer with one update for every `num_steps` steps, by the mean of their gradients (MultiSteps)."""
    return FromHyperparams(
        lambda hyperparams: optax.MultiSteps(transformation(optimizer, hyperparams), num_steps).gradient_transformation()
    )


def with_skipping(optimizer: Optimizer, max_in_a_row: int) -> FromHyperparams:
    """Returns the optimizer without the steps whose gradient is not finite, at most so many in a row (apply_if_finite)."""
    return FromHyperparams(lambda hyperparams: optax.apply_if_finite(transformation(optimizer, hyperparams), max_in_a_row))
