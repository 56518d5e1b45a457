"""Parameters to evaluate: those that an optimizer recommends, and averages of the parameters over the steps."""

from collections.abc import Callable
from typing import NamedTuple, TypeGuard

import jax
import jax.numpy as jnp
import optax
from jax import Array

from vae_jax.config import Hyperparams
from vae_jax.model import Params
from vae_jax.training.transformations import (
    FromHyperparams,
    Optimizer,
    OptState,
    PyTree,
    WithSlowParams,
    is_masked,
    nodes,
    transformation,
)


class ParamsEma(NamedTuple):
    """Exponential moving average of the parameters."""

    decay: Array  # ()
    average: Params  # not yet corrected for its start at zero


class ParamsMean(NamedTuple):
    """Uniform average of the parameters over updates, of Polyak and Ruppert."""

    steps: Array  # (), int32: steps so far
    num_averaged: Array  # (), int32: updates in the average
    average: Params


Average = ParamsEma | ParamsMean


def with_params_ema(optimizer: Optimizer, decay: float) -> FromHyperparams:
    """Returns the optimizer with an exponential moving average of the parameters in its state, which is then evaluated.

    The updates are unchanged. Steps without an update (`optax.MultiSteps`, `optax.apply_if_finite`) leave the average as it is.
    """

    def init(params: Params) -> ParamsEma:
        return ParamsEma(jnp.asarray(decay, jnp.float32), jax.tree.map(jnp.zeros_like, params))

    def add(ema: ParamsEma, new: Params, is_update: Array | bool) -> ParamsEma:
        average = jax.tree.map(lambda a, p: ema.decay * a + (1 - ema.decay) * p, ema.average, new)
        return ParamsEma(ema.decay, average if is_update is True else _where(is_update, average, ema.average))

    return _with_average(optimizer, init, add)


def with_params_mean(optimizer: Optimizer, first_step: int) -> FromHyperparams:
    """Returns the optimizer with the uniform average of the parameters in its state, which is then evaluated.

        average = (p_1 + ... + p_n)/n,   p_i the parameters after the updates from step `first_step` on

    The updates are unchanged. Before `first_step` the optimizer's own parameters are evaluated. Steps without an update do not
    count.

    Args:
      optimizer: see `make_train_step`.
      first_step: counted from 0.

    Source: Polyak and Juditsky, Acceleration of Stochastic Approximation by Averaging, 1992.
    """

    def init(params: Params) -> ParamsMean:
        return ParamsMean(jnp.int32(0), jnp.int32(0), jax.tree.map(jnp.zeros_like, params))

    def add(mean: ParamsMean, new: Params, is_update: Array | bool) -> ParamsMean:
        is_added = (mean.steps >= first_step) & is_update
        count = mean.num_averaged + is_added
        weight = is_added / jnp.maximum(count, 1).astype(jnp.float32)
        return ParamsMean(mean.steps + 1, count, jax.tree.map(lambda a, p: a + weight * (p - a), mean.average, new))

    return _with_average(optimizer, init, add)


def _with_average(
    optimizer: Optimizer,
    init_average: Callable[[Params], Average],
    add: Callable[[PyTree, Params, Array | bool], Average],
) -> FromHyperparams:
    """Returns the optimizer with an average of the evaluated parameters after each update behind its state."""

    def make(hyperparams: Hyperparams) -> optax.GradientTransformationExtraArgs:
        inner = transformation(optimizer, hyperparams)

        def init(params: Params) -> tuple[OptState, Average]:
            return inner.init(params), init_average(params)

        def update(
            updates: Params, state: OptState, params: Params = None, **extra: object
        ) -> tuple[Params, tuple[OptState, Average]]:
            before, average = state
            updates, after = inner.update(updates, before, params, **extra)
            new_updates = _num_updates(after, 1) - _num_updates(before, 0)
            is_update = True if isinstance(new_updates, int) else new_updates > 0
            new = evaluation_params(optax.apply_updates(params, updates), after, jnp.int32(1))
            return updates, (after, add(average, new, is_update))

        return optax.GradientTransformationExtraArgs(init, update)

    return FromHyperparams(make)


def _num_updates(state: OptState, steps: Array | int) -> Array | int:
    """Returns the number of updates made in a number of steps, without those accumulated by the state's outer optimizers."""
    while True:
        if _is_with_average(state):
            state = state[0]
        elif isinstance(state, optax.ApplyIfFiniteState):
            state, steps = state.inner_state, steps - state.total_notfinite
        elif isinstance(state, optax.MultiStepsState):
            state, steps = state.inner_opt_state, jnp.asarray(state.gradient_step)
        else:
            return steps


def evaluation_params(params: Params, opt_state: OptState, step: Array) -> Params:
    """Returns the parameters that an optimizer evaluates, wherever its state says so.

    They are its moving or uniform average if it has one, and otherwise those that optax recommends: the average of
    `contrib.schedule_free`, the slow parameters of `lookahead`, and the parameters from which `contrib.sam` climbs. They are
    looked for in every wrapper: `chain`, `MultiSteps`, `apply_if_finite`, `masked`, `partition`, `inject_hyperparams`.

    Args:
      params: after a step.
      opt_state: after the same step.
      step: number of steps made.
    """
    kinds = (WithSlowParams, optax.contrib.ScheduleFreeState, optax.contrib.SAMState)
    for node in nodes(opt_state, kinds, also=_is_with_average):
        if _is_with_average(node):
            params = _average_params(params, node, step)
        elif isinstance(node, WithSlowParams):
            params = _where_present(node.slow, params, lambda slow, p: slow)
        elif isinstance(node, optax.contrib.SAMState):
            params = _sam_params(params, node, step)
        else:
            params = _schedule_free_params(params, node)
    return params


def _is_with_average(node: object) -> TypeGuard[tuple[OptState, Average]]:
    return type(node) is tuple and len(node) == 2 and isinstance(node[1], Average)


def _average_params(params: Params, state: tuple[OptState, Average], step: Array) -> Params:
    """Returns the average if there is one, and the parameters that the averaged optimizer evaluates before."""
    inner, average = state
    current = evaluation_params(params, inner, step)
    if isinstance(average, ParamsMean):
        return _where_present(average.average, current, lambda a, p: jnp.where(average.num_averaged > 0, a, p))
    count = _num_updates(inner, step)
    correction = -jnp.expm1(jnp.maximum(count, 1) * jnp.log(average.decay))  # 1 - decay^count
    return _where_present(average.average, current, lambda a, p: jnp.where(count > 0, a / correction, p))


def _sam_params(params: Params, state: optax.contrib.SAMState, step: Array) -> Params:
    """Returns the parameters from which SAM climbs."""
    if state.cache is not None:  # None in opaque mode, which never shows the parameters that it climbs to
        params = _where_present(state.cache, params, lambda outer, p: jnp.where(state.steps_since_sync == 0, p, outer))
    return evaluation_params(params, state.opt_state, step)


def _schedule_free_params(params: Params, state: optax.contrib.ScheduleFreeState) -> Params:
    """Returns the average of a schedule-free optimizer."""
    return _where_present(state.z, params, lambda z, p: optax.contrib.schedule_free_eval_params(state._replace(z=z), p))


def _where_present(tree: PyTree, params: Params, choose: Callable[[Array, Array], Array]) -> Params:
    """Returns `choose` of each leaf and its parameter, and the parameter itself where the leaf is masked."""
    return jax.tree.map(lambda leaf, p: p if is_masked(leaf) else choose(leaf, p), tree, params, is_leaf=is_masked)


def _where(condition: Array | bool, new: Params, old: Params) -> Params:
    return jax.tree.map(lambda n, o: jnp.where(condition, n, o), new, old)
