"""Optax's optimizers as the train step takes them: traced rates, extra arguments, and the iterate that is to be evaluated.

Every optimizer of `optax` and `optax.contrib` trains as in a loop written with optax alone:

- Those that need more than the gradient get it by name. `polyak_sgd`, `lbfgs`, the line searches, `contrib.momo`,
  `contrib.momo_adam` and `contrib.reduce_on_plateau` get `value`, `grad` and `value_fn`. `contrib.sophia` gets `obj_fn`, and
  `contrib.sam` in opaque mode `grad_fn`. All are about the loss of this step, on its batch and with its draws of z.
- What is evaluated is what optax says: the average of `contrib.schedule_free`, the slow parameters of `lookahead`, and the
  parameters from which `contrib.sam` climbs.
- The rate of a step is the scheduled one, also in the state that `inject_hyperparams` keeps. A state that starts from the rate
  (`rprop`) starts from the peak rate, and schedules do not act on it.
- `MultiSteps` serves as it is, or as its `gradient_transformation()`.

Refused is `contrib.dpsgd`, which needs the gradient of every example. `polyak_sgd` and `contrib.momo` assume a loss that is not
below `f_min` or `lower_bound`, which is 0 by default; that of a density can be.
"""

import contextlib
import dataclasses
import inspect
import logging
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from vae_jax.errors import UserError

# learning rate -> optimizer, such as optax.adam; or a finished optimizer, which brings its own learning rate
Optimizer = Callable[[Any], optax.GradientTransformation] | optax.GradientTransformation
Loss = Callable[[Any], Array]  # params -> the loss of this step

_INJECTED = (optax.InjectHyperparamsState, optax.InjectStatefulHyperparamsState)


class WithSlowParams(NamedTuple):
    """State of an optimizer with `optax.lookahead` in it, whose slow parameters travel here and not with the parameters."""

    state: Any
    slow: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StoredKey:
    """A random key in an optimizer's state, which `optax.noisy_sgd` has, as numbers that a checkpoint can hold."""

    data: Array
    impl: Any = dataclasses.field(metadata={"static": True})


def transformation(optimizer: Optimizer, learning_rate: Any) -> optax.GradientTransformationExtraArgs:
    """Returns the optimizer at this (traced) learning rate, ready for a step on plain parameters.

    Its state holds arrays alone. Its update takes all extra arguments and passes on those that the optimizer knows.

    Raises:
      UserError: for something that is not an optimizer, for one that needs the gradient of every example, and from `update` for
        one that cannot run with what a train step has.
    """
    made = _made(optimizer, learning_rate)

    def init(params: Any) -> Any:
        with _without_advice():
            state = made.init(params)
        if _nodes(state, optax.contrib.DifferentiallyPrivateAggregateState):
            raise UserError(
                "optimizer: dpsgd (differentially_private_aggregate) needs the gradient of every example, and a train step has "
                "only their mean. Use another optimizer, such as optax.adam."
            )
        if _nodes(state, optax.LookaheadState, WithSlowParams):
            pair = optax.LookaheadParams.init_synced(params)
            state = WithSlowParams(made.init(pair), jax.tree.map(jnp.copy, params))
        return _store_keys(state)

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        inner, slow = _restore_keys(state), None
        if isinstance(inner, WithSlowParams):
            inner, slow = inner
        try:
            taken = params if slow is None else optax.LookaheadParams(params, slow)
            new_updates, inner = made.update(updates, inner, taken, **_known_to(made.update, extra))
        except UserError:
            raise
        except (TypeError, ValueError, AttributeError, KeyError) as error:
            raise UserError(
                f"optimizer: its update failed ({' '.join(str(error).split())[:200]}). A train step gives it the gradient, the "
                f"state and the parameters, and by name {', '.join(sorted(extra)) or 'nothing'}."
            ) from error
        if slow is not None:
            inner = WithSlowParams(inner, optax.apply_updates(slow, new_updates.slow))
            new_updates = new_updates.fast
        new_state = _store_keys(inner)
        _expect_alike("updates", _shapes(params), _shapes(new_updates))
        _expect_alike("state", _shapes(state, with_dtypes=True), _shapes(new_state, with_dtypes=True))
        return new_updates, new_state

    return optax.GradientTransformationExtraArgs(init, update)


def make_step(
    optimizer: Optimizer, peak_rate: Any, rate: Any, step: Array, loss: Loss
) -> Callable[[Any, Any, Any, Array], tuple[Any, Any]]:
    """Returns (gradient, state, params, value of the loss) -> (params, state) after one update of the optimizer.

    Args:
      optimizer: see `make_train_step`.
      peak_rate: learning rate without its schedule.
      rate: learning rate of this step.
      step: updates made before this one.
      loss: for line searches and second derivatives. It is traced only where the optimizer calls it.
    """
    chosen = transformation(optimizer, rate)

    def update(gradient: Any, state: Any, params: Any, value: Array) -> tuple[Any, Any]:
        state = _with_rate(optimizer, peak_rate, rate, step, state, params)
        extra = {
            "value": value,
            "grad": gradient,
            # The line searches refuse extra arguments that they have no use for and that value_fn does not name.
            "value_fn": lambda params, obj_fn=None, grad_fn=None: loss(params),
            "obj_fn": loss,
            "grad_fn": lambda params, i=0: jax.grad(loss)(params),
        }
        updates, state = chosen.update(gradient, state, params, **extra)
        return optax.apply_updates(params, updates), state

    return update


def named_optimizer(name: str) -> Optimizer:
    """Returns optax's optimizer of this name. Where it decays weights by default, only the networks' kernels decay."""
    optimizer = getattr(optax, name)
    decay = inspect.signature(optimizer).parameters.get("weight_decay")
    return (lambda learning_rate: optimizer(learning_rate, mask=kernels)) if decay is not None and decay.default else optimizer


def kernels(params: Any) -> Any:
    """Returns the parameters' tree with True for the kernels of the encoder and the decoder and False for everything else.

    It is the mask of the named optimizers' weight decay, so that biases, norms, learned scales, priors and pseudo-inputs stay
    where the data put them, and serves an optimizer of your own:

      >>> optimizer = lambda rate: optax.adamw(rate, weight_decay=0.01, mask=kernels)
    """

    def is_kernel(path: Any, leaf: Any) -> bool:
        names = [getattr(entry, "key", None) for entry in path]
        return names[0] in ("encoder", "decoder") and names[-1] == "kernel"

    return jax.tree_util.tree_map_with_path(is_kernel, params)


class ParamsEma(NamedTuple):
    """A moving average of the parameters that are to be evaluated."""

    decay: Array  # ()
    average: Any  # not yet corrected for its start at zero


def with_params_ema(optimizer: Optimizer, decay: float) -> Optimizer:
    """The optimizer, keeping an exponential moving average of the parameters to evaluate as well; updates are unchanged."""

    def at_rate(learning_rate: Any) -> optax.GradientTransformationExtraArgs:
        inner = transformation(optimizer, learning_rate)

        def init(params: Any) -> tuple[Any, ParamsEma]:
            return inner.init(params), ParamsEma(jnp.asarray(decay, jnp.float32), jax.tree.map(jnp.zeros_like, params))

        def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, tuple[Any, ParamsEma]]:
            before, ema = state
            updates, after = inner.update(updates, before, params, **extra)
            new = _of_optax(optax.apply_updates(params, updates), after)
            average = jax.tree.map(lambda a, p: ema.decay * a + (1 - ema.decay) * p, ema.average, new)
            return updates, (after, ParamsEma(ema.decay, average))

        return optax.GradientTransformationExtraArgs(init, update)

    return at_rate


def evaluation_params(params: Any, opt_state: Any, step: Array) -> Any:
    """The parameters to evaluate: the moving average where one is kept, else those that optax says."""
    last = opt_state[-1] if isinstance(opt_state, tuple) and opt_state else None
    if not isinstance(last, ParamsEma):
        return _of_optax(params, opt_state)
    correction = -jnp.expm1(jnp.maximum(step, 1) * jnp.log(last.decay))  # 1 - decay^step
    return jax.tree.map(lambda a, p: jnp.where(step > 0, a / correction, p), last.average, params)


def _of_optax(params: Any, opt_state: Any) -> Any:
    """The iterate that optax evaluates, of optimizers whose gradients are taken elsewhere."""
    for node in _nodes(opt_state, (WithSlowParams, optax.contrib.ScheduleFreeState, optax.contrib.SAMState)):
        if isinstance(node, WithSlowParams):
            return node.slow
        params = (_outer_of_sam if isinstance(node, optax.contrib.SAMState) else _average_of_schedule_free)(params, node)
    return params


def _outer_of_sam(params: Any, state: Any) -> Any:
    if state.cache is not None:  # None in opaque mode, which never shows the parameters that it climbs to
        params = jax.tree.map(lambda outer, p: jnp.where(state.steps_since_sync == 0, p, outer), state.cache, params)
    return _of_optax(params, state.opt_state)


def _average_of_schedule_free(params: Any, state: Any) -> Any:
    def average(z: Any, params: Any) -> Any:
        # Under a mask a part of the parameters has none.
        return params if _is_masked(z) else optax.contrib.schedule_free_eval_params(state._replace(z=z), params)

    return jax.tree.map(average, state.z, params, is_leaf=_is_masked)


@contextlib.contextmanager
def _without_advice() -> Iterator[None]:
    """Drops the line that lookahead logs where it is initialized with plain parameters, which is how it is recognized."""
    logger, drop = logging.getLogger("absl"), lambda record: "no attribute `fast`" not in record.getMessage()
    logger.addFilter(drop)
    try:
        yield
    finally:
        logger.removeFilter(drop)


def _is_masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)


def _nodes(tree: Any, kinds: Any, except_in: Any = ()) -> list[Any]:
    """The outermost nodes of these types that are not inside one of the others."""
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    stop = (*kinds, *(except_in if isinstance(except_in, tuple) else (except_in,)))
    return [node for node in jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, stop)) if isinstance(node, kinds)]


def _made(optimizer: Any, learning_rate: Any) -> Any:
    """The optax transformation, made with the rate unless it is finished."""
    expected = "optimizer: expected a function of the learning rate such as optax.adam, or a finished optimizer"
    if _is_transformation(optimizer):
        return optimizer
    if not callable(optimizer):
        raise UserError(f"{expected}, got {optimizer!r:.80}.")
    try:
        made = optimizer(learning_rate)
    except TypeError as error:
        raise UserError(
            f"{expected}. Called with a learning rate alone it failed: {' '.join(str(error).split())[:200]}. Write "
            "optimizer=lambda rate: ... with all that it needs."
        ) from error
    if not _is_transformation(made):
        raise UserError(f"{expected}. Called with a learning rate it returned {made!r:.80}.")
    return made


def _is_transformation(value: Any) -> bool:
    # By what it has: optax.MultiSteps is not a GradientTransformation.
    return not isinstance(value, type) and callable(getattr(value, "init", None)) and callable(getattr(value, "update", None))


def _known_to(update: Callable[..., Any], extra: dict[str, Any]) -> dict[str, Any]:
    """Those of the extra arguments that an update takes. `contrib.sam` names its own and refuses others."""
    parameters = inspect.signature(update).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return extra
    return {name: value for name, value in extra.items() if name in parameters}


def _shapes(tree: Any, with_dtypes: bool = False) -> dict[str, str]:
    """The shape of every leaf by its path, and its dtype."""

    def words(leaf: Any) -> str:
        return f"{jnp.result_type(leaf)}{jnp.shape(leaf)}" if with_dtypes else str(jnp.shape(leaf))

    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): words(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _expect_alike(name: str, old: dict[str, str], new: dict[str, str]) -> None:
    """Raises where an update changes what a loop over steps needs unchanged, before `apply_updates` broadcasts it."""
    if differing := [path for path in old | new if old.get(path) != new.get(path)]:
        path = differing[0]
        raise UserError(
            f"optimizer: expected {name} of the same shapes and types after a step, got {new.get(path)} at {path} in place of "
            f"{old.get(path)}."
        )


def _store_keys(tree: Any) -> Any:
    def store(leaf: Any) -> Any:
        if jnp.issubdtype(getattr(leaf, "dtype", jnp.float32), jax.dtypes.prng_key):
            return StoredKey(jax.random.key_data(leaf), jax.random.key_impl(leaf))
        return leaf

    return jax.tree.map(store, tree)


def _restore_keys(tree: Any) -> Any:
    def restore(leaf: Any) -> Any:
        return jax.random.wrap_key_data(leaf.data, impl=leaf.impl) if isinstance(leaf, StoredKey) else leaf

    return jax.tree.map(restore, tree, is_leaf=lambda leaf: isinstance(leaf, StoredKey))


def _with_rate(optimizer: Optimizer, peak_rate: Any, rate: Any, step: Array, state: Any, params: Any) -> Any:
    """The state with the rate wherever it holds one: `init_state` does not know it.

    What `inject_hyperparams` keeps is set to the rate of this step. Anything else that an initial state takes from the rate,
    such as the step sizes of `rprop`, is made with the peak rate at the first step, and then belongs to the optimizer.
    """
    depends = _depends_on_rate(optimizer, params)
    if not any(jax.tree.leaves(depends)):
        return state
    now, first = (transformation(optimizer, jnp.asarray(value, jnp.float32)).init(params) for value in (rate, peak_rate))

    def replaced(depends: Any, old: Any, now: Any, first: Any) -> Any:
        if isinstance(old, _INJECTED):
            injected = {k: now.hyperparams[k] if depends.hyperparams[k] else v for k, v in old.hyperparams.items()}
            inner = everywhere(depends.inner_state, old.inner_state, now.inner_state, first.inner_state)
            return old._replace(hyperparams=injected, inner_state=inner)
        return jnp.where(step == 0, first, old) if depends else old

    def everywhere(*trees: Any) -> Any:
        return jax.tree.map(replaced, *trees, is_leaf=lambda node: isinstance(node, _INJECTED))

    return everywhere(depends, state, now, first)


def _depends_on_rate(optimizer: Optimizer, params: Any) -> Any:
    """For every leaf of the initial state, whether it is computed from the learning rate. Nothing is computed for this."""
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)), params)
    closed, state = jax.make_jaxpr(lambda rate, params: transformation(optimizer, rate).init(params), return_shape=True)(
        jax.ShapeDtypeStruct((), jnp.float32), shapes
    )
    reached = {closed.jaxpr.invars[0]}
    for equation in closed.jaxpr.eqns:
        if any(_is_in(variable, reached) for variable in equation.invars):
            reached.update(equation.outvars)
    return jax.tree.unflatten(jax.tree.structure(state), [_is_in(variable, reached) for variable in closed.jaxpr.outvars])


def _is_in(variable: Any, reached: set[Any]) -> bool:
    return not hasattr(variable, "val") and variable in reached  # literals have a value and cannot be hashed
