"""What optax does not have ready for a traced learning rate: optimisers by name, schedules as factors, averaged parameters."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

Schedule = Callable[[Any], Any]  # step -> factor on a traced hyperparameter; any optax schedule
# learning rate -> optimiser, such as optax.adam; or a finished optimiser, which brings its own learning rate
Optimizer = Callable[[Any], optax.GradientTransformation] | optax.GradientTransformation


def transformation(optimizer: Optimizer, learning_rate: Any) -> optax.GradientTransformation:
    """The optimiser at this (traced) learning rate."""
    return optimizer if isinstance(optimizer, optax.GradientTransformation) else optimizer(learning_rate)


def constant(step: Any) -> Array:
    """The schedule that changes nothing."""
    return jnp.ones(())


def warm_up(steps: int, then: Schedule = constant) -> Schedule:
    """A factor that rises linearly from 0 over `steps` and goes on as `then`, whose step 0 is where the rise ends."""
    return optax.join_schedules([optax.linear_schedule(0.0, 1.0, steps), then], [steps]) if steps else then


def learning_rate_schedule(name: str, warmup_steps: int, total_steps: int) -> Schedule:
    """The course of the learning rate as a factor: warm-up, then "constant", or "cosine" or "linear" down to 0 at the end.

    "burda": stages i = 0 ... 7 of 3^i / 3280 of the steps at 10^(-i/7) (Burda et al. 2016).
    """
    decay_steps = max(total_steps - warmup_steps, 1)
    stages = {round(decay_steps * (3**i - 1) / 2 / 3280): 10 ** (-1 / 7) for i in range(1, 8)}
    course = {
        "constant": constant,
        "cosine": optax.cosine_decay_schedule(1.0, decay_steps),
        "linear": optax.linear_schedule(1.0, 0.0, decay_steps),
        "burda": optax.piecewise_constant_schedule(1.0, stages),
    }[name]
    return warm_up(warmup_steps, course)


def rise(name: str, warmup_steps: int, total_steps: int, cycles: int) -> Schedule:
    """How a weight rises from 0 to its full value, as a factor: over `warmup_steps`, or in cycles over the run.

    "linear": t;   "cosine": (1 - cos(pi t))/2,   t = step/warmup_steps, 1 after it
    "cyclical": min(1, 2 tau),   tau the position in the cycle of total_steps/cycles steps (Fu et al. 2019, ramp fraction 1/2)
    """
    if name == "cyclical":
        return lambda step: jnp.minimum(1.0, 2 * jnp.mod(step * (cycles / total_steps), 1.0))
    if name == "cosine" and warmup_steps:
        return lambda step: 0.5 * (1 - jnp.cos(jnp.pi * jnp.minimum(step / warmup_steps, 1.0)))
    return warm_up(warmup_steps)


class ParamsEma(NamedTuple):
    """State of `track_params_ema`."""

    decay: Array  # ()
    average: Any  # not yet corrected for its start at zero


def track_params_ema(decay: float) -> optax.GradientTransformation:
    """Last link of an optax chain: keeps an exponential moving average of the parameters; updates pass unchanged."""

    def init(params: Any) -> ParamsEma:
        return ParamsEma(jnp.asarray(decay, jnp.float32), jax.tree.map(jnp.zeros_like, params))

    def update(updates: Any, state: Any, params: Any = None, **_: Any) -> tuple[Any, ParamsEma]:
        new = optax.apply_updates(params, updates)
        average = jax.tree.map(lambda a, p: state.decay * a + (1 - state.decay) * p, state.average, new)
        return updates, ParamsEma(state.decay, average)

    return optax.GradientTransformation(init, update)


def with_params_ema(optimizer: Optimizer, decay: float) -> Optimizer:
    """The optimiser, tracking a moving average of the parameters as well."""
    return lambda learning_rate: optax.chain(transformation(optimizer, learning_rate), track_params_ema(decay))


def evaluation_params(params: Any, opt_state: Any, step: Array) -> Any:
    """The parameters to evaluate: the moving average where one is tracked, else the current ones."""
    last = opt_state[-1] if isinstance(opt_state, tuple) and opt_state else None
    if not isinstance(last, ParamsEma):
        return params
    correction = -jnp.expm1(jnp.maximum(step, 1) * jnp.log(last.decay))  # 1 - decay^step
    return jax.tree.map(lambda a, p: jnp.where(step > 0, a / correction, p), last.average, params)
