"""Adapts optax's optimizers to the train step: traced learning rates, extra arguments, and the parameters to evaluate.

Every optimizer of `optax` and `optax.contrib` trains as in a loop written with optax alone:

- Optimizers that need more than the gradient receive it by name. `polyak_sgd`, `lbfgs`, the line searches, `contrib.momo`,
  `contrib.momo_adam` and `contrib.reduce_on_plateau` receive `value`, `grad` and `value_fn`. `contrib.sophia` receives
  `obj_fn`, and `contrib.sam` in opaque mode `grad_fn`. All refer to the loss of this step, on its batch and with its draws of
  z.
- The evaluated parameters are those that optax recommends: the average of `contrib.schedule_free`, the slow parameters of
  `lookahead`, and the parameters from which `contrib.sam` climbs.
- The learning rate of a step is the scheduled one, also in the state that `inject_hyperparams` keeps. A state that is
  initialized from the learning rate (`rprop`) starts from the peak rate, and schedules do not act on it.
- `MultiSteps` works as it is, or as its `gradient_transformation()`.

`contrib.dpsgd` is refused, because it needs the gradient of every example. `polyak_sgd` and `contrib.momo` assume a loss that
is not below `f_min` or `lower_bound`, which is 0 by default. The loss of a density can be below 0.
"""

import contextlib
import dataclasses
import inspect
import logging
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, NamedTuple, TypeGuard, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from vae_jax.errors import UserError
from vae_jax.model import Params

T = TypeVar("T")

# learning rate -> optimizer, such as optax.adam; or a finished optimizer, whose learning rate is built in
Optimizer = Callable[[Any], optax.GradientTransformation] | optax.GradientTransformation
Loss = Callable[[Params], Array]  # params -> the loss of this step
OptState = Any  # a pytree of arrays whose structure each optimizer chooses
PyTree = Any

_INJECTED = (optax.InjectHyperparamsState, optax.InjectStatefulHyperparamsState)


class WithSlowParams(NamedTuple):
    """State of an optimizer that contains `optax.lookahead`. The slow parameters are kept here, not with the parameters."""

    state: OptState
    slow: Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StoredKey:
    """A random key in an optimizer's state, such as that of `optax.noisy_sgd`, as numbers that a checkpoint can store."""

    data: Array
    impl: Hashable = dataclasses.field(metadata={"static": True})


def transformation(optimizer: Optimizer, learning_rate: ArrayLike) -> optax.GradientTransformationExtraArgs:
    """Returns the optimizer at this (traced) learning rate, ready for a step on plain parameters.

    Its state holds arrays only. Its update takes all extra arguments and passes on those that the optimizer accepts.

    Raises:
      UserError: for an object that is not an optimizer, and for one that needs the gradient of every example. `update` raises
        it for an optimizer that fails with the arguments that a train step has.
    """
    made = _make(optimizer, learning_rate)

    def init(params: Params) -> OptState:
        with _without_advice():
            state = made.init(params)
        if _nodes(state, optax.contrib.DifferentiallyPrivateAggregateState):
            raise UserError(
                "dpsgd (differentially_private_aggregate) needs the gradient of every example, but a train step has only their "
                "mean.",
                field="optimizer",
                fix="Use a different optimizer, such as optax.adam.",
            )
        if _nodes(state, optax.LookaheadState, WithSlowParams):
            pair = optax.LookaheadParams.init_synced(params)
            state = WithSlowParams(made.init(pair), jax.tree.map(jnp.copy, params))
        return _store_keys(state)

    def update(updates: Params, state: OptState, params: Params = None, **extra: Any) -> tuple[Params, OptState]:
        inner, slow = _restore_keys(state), None
        if isinstance(inner, WithSlowParams):
            inner, slow = inner
        try:
            pair = params if slow is None else optax.LookaheadParams(params, slow)
            new_updates, inner = made.update(updates, inner, pair, **_accepted_by(made.update, extra))
        except UserError:
            raise
        except (TypeError, ValueError, AttributeError, KeyError) as error:
            raise UserError(
                f"its update failed ({' '.join(str(error).split())[:200]}). A train step passes the gradient, the state and "
                f"the parameters, and as keywords {', '.join(sorted(extra)) or 'nothing'}.",
                field="optimizer",
            ) from error
        if slow is not None:
            inner = WithSlowParams(inner, optax.apply_updates(slow, new_updates.slow))
            new_updates = new_updates.fast
        new_state = _store_keys(inner)
        _check_equal("updates", _shapes(params), _shapes(new_updates))
        _check_equal("state", _shapes(state, with_dtypes=True), _shapes(new_state, with_dtypes=True))
        return new_updates, new_state

    return optax.GradientTransformationExtraArgs(init, update)


def make_step(
    optimizer: Optimizer, peak_rate: ArrayLike, rate: ArrayLike, step: Array, loss: Loss
) -> Callable[[Params, OptState, Params, Array], tuple[Params, OptState]]:
    """Returns (gradient, state, params, value of the loss) -> (params, state), one update of the optimizer.

    Args:
      optimizer: see `make_train_step`.
      peak_rate: learning rate without its schedule.
      rate: learning rate of this step.
      step: updates made before this one.
      loss: for line searches and second derivatives. It is traced only if the optimizer calls it.
    """
    at_rate = transformation(optimizer, rate)

    def update(gradient: Params, state: OptState, params: Params, value: Array) -> tuple[Params, OptState]:
        state = _with_rate(optimizer, peak_rate, rate, step, state, params)
        extra = {
            "value": value,
            "grad": gradient,
            # The line searches refuse extra arguments that they do not need and that value_fn does not name.
            "value_fn": lambda params, obj_fn=None, grad_fn=None: loss(params),
            "obj_fn": loss,
            "grad_fn": lambda params, i=0: jax.grad(loss)(params),
        }
        updates, state = at_rate.update(gradient, state, params, **extra)
        return optax.apply_updates(params, updates), state

    return update


def named_optimizer(name: str) -> Optimizer:
    """Returns optax's optimizer of this name. If it decays weights by default, only the kernels of the networks decay."""
    optimizer = getattr(optax, name)
    decay = inspect.signature(optimizer).parameters.get("weight_decay")
    return (lambda learning_rate: optimizer(learning_rate, mask=kernels)) if decay is not None and decay.default else optimizer


def kernels(params: Params) -> Params:
    """Returns the tree of the parameters with True for the kernels of the encoder and the decoder and False for the rest.

    The named optimizers use it as the mask of their weight decay, so that biases, norms, learned scales, priors and
    pseudo-inputs do not decay. It can be the mask of any optimizer:

      >>> optimizer = lambda rate: optax.adamw(rate, weight_decay=0.01, mask=kernels)
    """

    def is_kernel(path: tuple[object, ...], leaf: Array) -> bool:
        names = [getattr(entry, "key", None) for entry in path]
        return names[0] in ("encoder", "decoder") and names[-1] == "kernel"

    return jax.tree_util.tree_map_with_path(is_kernel, params)


class ParamsEma(NamedTuple):
    """Exponential moving average of the parameters."""

    decay: Array  # ()
    average: Params  # not yet corrected for its start at zero


def with_params_ema(optimizer: Optimizer, decay: float) -> Optimizer:
    """Returns the optimizer with an exponential moving average of the parameters in its state, which is then evaluated.

    The updates are unchanged.
    """

    def at_rate(learning_rate: ArrayLike) -> optax.GradientTransformationExtraArgs:
        inner = transformation(optimizer, learning_rate)

        def init(params: Params) -> tuple[OptState, ParamsEma]:
            return inner.init(params), ParamsEma(jnp.asarray(decay, jnp.float32), jax.tree.map(jnp.zeros_like, params))

        def update(
            updates: Params, state: OptState, params: Params = None, **extra: Any
        ) -> tuple[Params, tuple[OptState, ParamsEma]]:
            before, ema = state
            updates, after = inner.update(updates, before, params, **extra)
            new = _optax_evaluation_params(optax.apply_updates(params, updates), after)
            average = jax.tree.map(lambda a, p: ema.decay * a + (1 - ema.decay) * p, ema.average, new)
            return updates, (after, ParamsEma(ema.decay, average))

        return optax.GradientTransformationExtraArgs(init, update)

    return at_rate


def evaluation_params(params: Params, opt_state: OptState, step: Array) -> Params:
    """Returns the parameters that an optimizer evaluates: its moving average if it has one, or those that optax recommends."""
    last = opt_state[-1] if isinstance(opt_state, tuple) and opt_state else None
    if not isinstance(last, ParamsEma):
        return _optax_evaluation_params(params, opt_state)
    correction = -jnp.expm1(jnp.maximum(step, 1) * jnp.log(last.decay))  # 1 - decay^step
    return jax.tree.map(lambda a, p: jnp.where(step > 0, a / correction, p), last.average, params)


def _optax_evaluation_params(params: Params, opt_state: OptState) -> Params:
    """Returns the parameters that optax evaluates for optimizers that take their gradients at different parameters."""
    for node in _nodes(opt_state, (WithSlowParams, optax.contrib.ScheduleFreeState, optax.contrib.SAMState)):
        if isinstance(node, WithSlowParams):
            return node.slow
        is_sam = isinstance(node, optax.contrib.SAMState)
        params = _sam_params(params, node) if is_sam else _schedule_free_params(params, node)
    return params


def _sam_params(params: Params, state: optax.contrib.SAMState) -> Params:
    """Returns the parameters from which SAM climbs."""
    if state.cache is not None:  # None in opaque mode, which never shows the parameters that it climbs to
        params = jax.tree.map(lambda outer, p: jnp.where(state.steps_since_sync == 0, p, outer), state.cache, params)
    return _optax_evaluation_params(params, state.opt_state)


def _schedule_free_params(params: Params, state: optax.contrib.ScheduleFreeState) -> Params:
    """Returns the average of a schedule-free optimizer."""

    def average(z: Array | optax.MaskedNode, params: Params) -> Params:
        # Masked parameters have no average.
        return params if _is_masked(z) else optax.contrib.schedule_free_eval_params(state._replace(z=z), params)

    return jax.tree.map(average, state.z, params, is_leaf=_is_masked)


@contextlib.contextmanager
def _without_advice() -> Iterator[None]:
    """Drops the line that lookahead logs when it is initialized with plain parameters, which is how it is recognized."""
    logger, drop = logging.getLogger("absl"), lambda record: "no attribute `fast`" not in record.getMessage()
    logger.addFilter(drop)
    try:
        yield
    finally:
        logger.removeFilter(drop)


def _is_masked(node: object) -> TypeGuard[optax.MaskedNode]:
    return isinstance(node, optax.MaskedNode)


def _nodes(tree: PyTree, kinds: type | tuple[type, ...], outside: type | tuple[type, ...] = ()) -> list[PyTree]:
    """Returns the outermost nodes of these types that are not inside a node of the types `outside`."""
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    stop = (*kinds, *(outside if isinstance(outside, tuple) else (outside,)))
    return [node for node in jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, stop)) if isinstance(node, kinds)]


def _make(optimizer: Optimizer, learning_rate: ArrayLike) -> Any:
    """Returns the optax transformation, or an object with the same methods. A finished optimizer is returned as it is."""
    expected = "a function of the learning rate such as optax.adam, or a finished optimizer"
    if _is_transformation(optimizer):
        return optimizer
    if not callable(optimizer):
        raise UserError(field="optimizer", expected=expected, got=f"{optimizer!r:.80}")
    try:
        made = optimizer(learning_rate)
    except TypeError as error:
        raise UserError(
            f"expected {expected}. Called with a learning rate alone it failed: {' '.join(str(error).split())[:200]}.",
            field="optimizer",
            fix="Pass a function of the learning rate that sets all other arguments: optimizer=lambda rate: ...",
        ) from error
    if not _is_transformation(made):
        raise UserError(f"expected {expected}. Called with a learning rate it returned {made!r:.80}.", field="optimizer")
    return made


def _is_transformation(value: object) -> TypeGuard[optax.GradientTransformation]:
    # By its attributes, because optax.MultiSteps is not a GradientTransformation.
    return not isinstance(value, type) and callable(getattr(value, "init", None)) and callable(getattr(value, "update", None))


def _accepted_by(update: Callable[..., object], extra: Mapping[str, T]) -> Mapping[str, T]:
    """Returns the extra arguments that an update accepts. `contrib.sam` names its arguments and refuses others."""
    parameters = inspect.signature(update).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return extra
    return {name: value for name, value in extra.items() if name in parameters}


def _shapes(tree: PyTree, with_dtypes: bool = False) -> dict[str, str]:
    """Returns the shape of every leaf, with its dtype if requested, by its path."""

    def describe(leaf: ArrayLike) -> str:
        return f"{jnp.result_type(leaf)}{jnp.shape(leaf)}" if with_dtypes else str(jnp.shape(leaf))

    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): describe(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _check_equal(name: str, old: dict[str, str], new: dict[str, str]) -> None:
    """Raises `UserError` if an update changes shapes or dtypes, before `apply_updates` broadcasts them."""
    if differing := [path for path in old | new if old.get(path) != new.get(path)]:
        path = differing[0]
        expected = f"{name} of the same shapes and types after a step"
        raise UserError(field="optimizer", expected=expected, got=f"{new.get(path)} at {path} instead of {old.get(path)}")


def _store_keys(tree: PyTree) -> PyTree:
    def store(leaf: Array) -> Array | StoredKey:
        if jnp.issubdtype(getattr(leaf, "dtype", jnp.float32), jax.dtypes.prng_key):
            return StoredKey(jax.random.key_data(leaf), jax.random.key_impl(leaf))
        return leaf

    return jax.tree.map(store, tree)


def _restore_keys(tree: PyTree) -> PyTree:
    def restore(leaf: Array | StoredKey) -> Array:
        return jax.random.wrap_key_data(leaf.data, impl=leaf.impl) if isinstance(leaf, StoredKey) else leaf

    return jax.tree.map(restore, tree, is_leaf=lambda leaf: isinstance(leaf, StoredKey))


def _with_rate(
    optimizer: Optimizer, peak_rate: ArrayLike, rate: ArrayLike, step: Array, state: OptState, params: Params
) -> OptState:
    """Puts the learning rate wherever the state holds it, because `init_state` does not know it.

    The rates of `inject_hyperparams` are set to the rate of this step. Everything else that an initial state computes from the
    learning rate, such as the step sizes of `rprop`, is computed from the peak rate at the first step, and is then left to the
    optimizer.
    """
    depends = _depends_on_rate(optimizer, params)
    if not any(jax.tree.leaves(depends)):
        return state
    now, first = (transformation(optimizer, jnp.asarray(value, jnp.float32)).init(params) for value in (rate, peak_rate))

    def replace(depends: PyTree, old: PyTree, now: PyTree, first: PyTree) -> PyTree:
        if isinstance(old, _INJECTED):
            injected = {k: now.hyperparams[k] if depends.hyperparams[k] else v for k, v in old.hyperparams.items()}
            inner = replace_all(depends.inner_state, old.inner_state, now.inner_state, first.inner_state)
            return old._replace(hyperparams=injected, inner_state=inner)
        return jnp.where(step == 0, first, old) if depends else old

    def replace_all(*trees: PyTree) -> PyTree:
        return jax.tree.map(replace, *trees, is_leaf=lambda node: isinstance(node, _INJECTED))

    return replace_all(depends, state, now, first)


def _depends_on_rate(optimizer: Optimizer, params: Params) -> PyTree:
    """Returns the tree of the initial state with True for the leaves that depend on the learning rate. Computes nothing."""
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)), params)
    closed, state = jax.make_jaxpr(lambda rate, params: transformation(optimizer, rate).init(params), return_shape=True)(
        jax.ShapeDtypeStruct((), jnp.float32), shapes
    )
    reached = {closed.jaxpr.invars[0]}
    for equation in closed.jaxpr.eqns:
        if any(_is_in(variable, reached) for variable in equation.invars):
            reached.update(equation.outvars)
    return jax.tree.unflatten(jax.tree.structure(state), [_is_in(variable, reached) for variable in closed.jaxpr.outvars])


def _is_in(variable: object, reached: set[Any]) -> bool:
    return not hasattr(variable, "val") and variable in reached  # literals have a value and cannot be hashed
