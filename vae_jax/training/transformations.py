"""Turns optax's optimizers into updates of a train step: traced numbers, extra arguments, states of arrays."""

import contextlib
import dataclasses
import logging
import re
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, NamedTuple, TypeGuard

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from vae_jax.config import Config, Hyperparams
from vae_jax.errors import UserError
from vae_jax.model import Params

# learning rate -> optimizer, such as optax.adam; a `FromHyperparams`; or a finished optimizer, which has its learning rate
Optimizer = Callable[[Any], optax.GradientTransformation] | optax.GradientTransformation
Numbers = Hyperparams | ArrayLike  # the hyperparameters of a step, or its learning rate alone
Loss = Callable[[Params], Array]  # params -> the loss of this step
OptState = Any  # a pytree of arrays whose structure each optimizer chooses
PyTree = Any

_INJECTED = (optax.InjectHyperparamsState, optax.InjectStatefulHyperparamsState)


class FromHyperparams(NamedTuple):
    """An optimizer that is a function of all hyperparameters of a step, so that a sweep varies each of them.

    Example: Adam with a traced b1, for `build(Config(b1=0.8), optimizer=...)` and for sweeps over b1.
      >>> optimizer = FromHyperparams(lambda hyperparams: optax.adam(hyperparams.learning_rate, b1=hyperparams.b1))
    """

    make: Callable[[Hyperparams], optax.GradientTransformation]  # of hyperparameters, with schedules applied -> optax optimizer

    def __call__(self, learning_rate: ArrayLike) -> optax.GradientTransformation:
        """Returns the optimizer at this learning rate and the default values of the other hyperparameters."""
        return self.make(_as_hyperparams(learning_rate))


def rate_of(numbers: Numbers) -> ArrayLike:
    """Returns the learning rate."""
    return getattr(numbers, "learning_rate", numbers)  # pyright: ignore[reportReturnType]


def _as_hyperparams(numbers: Numbers) -> Hyperparams:
    return numbers if hasattr(numbers, "learning_rate") else Config().hyperparams._replace(learning_rate=numbers)  # pyright: ignore


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


def transformation(optimizer: Optimizer, numbers: Numbers) -> optax.GradientTransformationExtraArgs:
    """Returns the optimizer at these (traced) hyperparameters or this learning rate, ready for a step on plain parameters.

    Its state holds arrays only. Its update takes all extra arguments and passes on those that the optimizer accepts.

    Raises:
      UserError: for an object that is not an optimizer, and for one that needs the gradient of every example. `update` raises
        it for an optimizer that fails with the arguments that a train step has.
    """
    made = _make(optimizer, numbers)

    def init(params: Params) -> OptState:
        with _without_advice():
            state = made.init(params)
        if nodes(state, optax.contrib.DifferentiallyPrivateAggregateState):
            raise UserError(
                "dpsgd (differentially_private_aggregate) needs the gradient of every example, but a train step has only their "
                "mean.",
                field="optimizer",
                fix="Use a different optimizer, such as optax.adam.",
            )
        if nodes(state, optax.LookaheadState, WithSlowParams):
            pair = optax.LookaheadParams.init_synced(params)
            state = WithSlowParams(made.init(pair), jax.tree.map(jnp.copy, params))
        return _store_keys(state)

    def update(updates: Params, state: OptState, params: Params = None, **extra: Any) -> tuple[Params, OptState]:
        inner, slow = _restore_keys(state), None
        if isinstance(inner, WithSlowParams):
            inner, slow = inner
        try:
            pair = params if slow is None else optax.LookaheadParams(params, slow)
            new_updates, inner = _update(made, updates, inner, pair, extra)
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
    optimizer: Optimizer, peak: Numbers, now: Numbers, step: Array, loss: Loss
) -> Callable[[Params, OptState, Params, Array], tuple[Params, OptState]]:
    """Returns (gradient, state, params, value of the loss) -> (params, state), one update of the optimizer.

    Args:
      optimizer: see `make_train_step`.
      peak: hyperparameters without their schedules, or the learning rate alone.
      now: those of this step.
      step: updates made before this one.
      loss: for line searches and second derivatives. It is traced only if the optimizer calls it.
    """
    made = transformation(optimizer, now)

    def update(gradient: Params, state: OptState, params: Params, value: Array) -> tuple[Params, OptState]:
        state = _with_numbers(optimizer, peak, now, step, state, params)
        extra = {
            "value": value,
            "grad": gradient,
            # The line searches refuse extra arguments that they do not need and that value_fn does not name.
            "value_fn": lambda params, obj_fn=None, grad_fn=None: loss(params),
            "obj_fn": loss,
            "grad_fn": lambda params, i=0: jax.grad(loss)(params),
        }
        updates, state = made.update(gradient, state, params, **extra)
        return optax.apply_updates(params, updates), state

    return update


def may_skip(opt_state: OptState) -> bool:
    """Returns whether an optimizer with this state skips gradients that are not finite, or may do so."""
    if nodes(opt_state, optax.ApplyIfFiniteState):
        return True
    return any(jax.tree.leaves(node.skip_state) for node in nodes(opt_state, optax.MultiStepsState))


@contextlib.contextmanager
def _without_advice() -> Iterator[None]:
    """Drops the line that lookahead logs when it is initialized with plain parameters, which is how it is recognized."""
    logger, drop = logging.getLogger("absl"), lambda record: "no attribute `fast`" not in record.getMessage()
    logger.addFilter(drop)
    try:
        yield
    finally:
        logger.removeFilter(drop)


def is_masked(node: object) -> TypeGuard[optax.MaskedNode]:
    return isinstance(node, optax.MaskedNode)


def nodes(
    tree: PyTree,
    kinds: type | tuple[type, ...],
    outside: type | tuple[type, ...] = (),
    also: Callable[[object], bool] = lambda node: False,
) -> list[PyTree]:
    """Returns the outermost nodes of these types, or for which `also` holds, that are not inside nodes of types `outside`."""
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    stop = (*kinds, *(outside if isinstance(outside, tuple) else (outside,)))
    leaves = jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, stop) or also(node))
    return [node for node in leaves if isinstance(node, kinds) or also(node)]


def _make(optimizer: Optimizer, numbers: Numbers) -> Any:
    """Returns the optax transformation, or an object with the same methods. A finished optimizer is returned as it is."""
    expected = "a function of the learning rate such as optax.adam, or a finished optimizer"
    if _is_transformation(optimizer):
        return optimizer
    if not callable(optimizer):
        raise UserError(field="optimizer", expected=expected, got=f"{optimizer!r:.80}")
    try:
        made = (
            optimizer.make(_as_hyperparams(numbers)) if isinstance(optimizer, FromHyperparams) else optimizer(rate_of(numbers))
        )
    except AttributeError as error:
        if not isinstance(optimizer, FromHyperparams):
            raise
        raise UserError(f"it needs a hyperparameter that is missing ({error}).", field="optimizer") from error
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


def _update(
    made: optax.GradientTransformationExtraArgs, updates: Params, state: OptState, params: Params, extra: Mapping[str, object]
) -> tuple[PyTree, OptState]:
    """Updates with those extra arguments that are accepted. `contrib.sam` refuses others, also within a chain."""
    while True:
        try:
            return made.update(updates, state, params, **extra)
        except TypeError as error:
            refused = re.search(r"unexpected keyword argument '(\w+)'", str(error))
            if refused is None or refused[1] not in extra:
                raise
            extra = {name: value for name, value in extra.items() if name != refused[1]}


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


def _with_numbers(optimizer: Optimizer, peak: Numbers, now: Numbers, step: Array, state: OptState, params: Params) -> OptState:
    """Puts the hyperparameters wherever the state holds them, because `init_state` does not know them.

    The numbers of `inject_hyperparams` are set to those of this step. Everything else that an initial state computes from the
    hyperparameters, such as the step sizes of `rprop` or b1 in the state of `schedule_free`, is computed from their peak values
    at the first step, and is then left to the optimizer.
    """
    depends = _depends_on_numbers(optimizer, peak, params)
    if not any(jax.tree.leaves(depends)):
        return state
    current, first = (transformation(optimizer, _as_arrays(optimizer, numbers)).init(params) for numbers in (now, peak))

    def replace(depends: PyTree, old: PyTree, current: PyTree, first: PyTree) -> PyTree:
        if isinstance(old, _INJECTED):
            injected = {k: current.hyperparams[k] if depends.hyperparams[k] else v for k, v in old.hyperparams.items()}
            inner = replace_all(depends.inner_state, old.inner_state, current.inner_state, first.inner_state)
            return old._replace(hyperparams=injected, inner_state=inner)
        return jnp.where(step == 0, first, old) if depends else old

    def replace_all(*trees: PyTree) -> PyTree:
        return jax.tree.map(replace, *trees, is_leaf=lambda node: isinstance(node, _INJECTED))

    return replace_all(depends, state, current, first)


def _as_arrays(optimizer: Optimizer, numbers: Numbers) -> Numbers:
    """Returns what the optimizer takes, all hyperparameters or the learning rate alone, as float32 arrays."""
    used = _as_hyperparams(numbers) if isinstance(optimizer, FromHyperparams) else rate_of(numbers)
    return jax.tree.map(lambda value: jnp.asarray(value, jnp.float32), used)


def _depends_on_numbers(optimizer: Optimizer, numbers: Numbers, params: Params) -> PyTree:
    """Returns the tree of the initial state with True for leaves that depend on the hyperparameters. Computes nothing."""
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)), params)
    scalars = jax.eval_shape(lambda: jax.tree.map(lambda _: jnp.float32(0), _as_arrays(optimizer, numbers)))
    closed, state = jax.make_jaxpr(lambda values, params: transformation(optimizer, values).init(params), return_shape=True)(
        scalars, shapes
    )
    reached = set(closed.jaxpr.invars[: len(jax.tree.leaves(scalars))])
    for equation in closed.jaxpr.eqns:
        if any(_is_in(variable, reached) for variable in equation.invars):
            reached.update(equation.outvars)
    return jax.tree.unflatten(jax.tree.structure(state), [_is_in(variable, reached) for variable in closed.jaxpr.outvars])


def _is_in(variable: object, reached: set[Any]) -> bool:
    return not hasattr(variable, "val") and variable in reached  # literals have a value and cannot be hashed
