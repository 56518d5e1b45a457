"""Schedules as factors on traced values, and the step at which they end."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

Schedule = Callable[[Any], Any]  # step -> factor on a traced hyperparameter; any optax schedule
# A schedule has ended when what remains of its total change is below this share: the rounding of float32.
_ENDED = 1e-6
# Courses that depend on the length of the run, by the setting that names them. A run with another length has other values.
DEPENDS_ON_LENGTH = {"learning_rate_schedule": ("cosine", "linear", "burda"), "beta_schedule": ("cyclical",)}
_MAX_POINTS = 2**20  # steps at which a schedule is evaluated; in a longer run they are spread evenly


def constant(step: Array | int) -> Array:
    """Returns one at every step."""
    return jnp.ones(())


def warm_up(steps: int, then: Schedule = constant) -> Schedule:
    """Returns a factor that rises linearly from 0 over `steps`, followed by `then`, whose step 0 is the end of the rise."""
    return optax.join_schedules([optax.linear_schedule(0.0, 1.0, steps), then], [steps]) if steps else then


def learning_rate_schedule(name: str, warmup_steps: int, total_steps: int) -> Schedule:
    """Returns the schedule of the learning rate as a factor on its peak value.

    Args:
      name: the course after the warm-up. "constant" stays at 1, "cosine" and "linear" fall to 0 at the end of the run. "burda"
        has stages i = 0 ... 7 of 3^i / 3280 of the steps at 10^(-i/7) (Burda et al. 2016). In a short run the first stages may
        have no step.
      warmup_steps: length of the linear rise from 0.
      total_steps: length of the run, warm-up included.
    """
    decay_steps = max(total_steps - warmup_steps, 1)
    # In a short run several stages end at the same step: the next one then starts lower by all of them.
    ends = [round(decay_steps * (3**i - 1) / 2 / 3280) for i in range(1, 8)]
    stages = {end: 10 ** (-ends.count(end) / 7) for end in ends}
    course = {
        "constant": constant,
        "cosine": optax.cosine_decay_schedule(1.0, decay_steps),
        "linear": optax.linear_schedule(1.0, 0.0, decay_steps),
        "burda": optax.piecewise_constant_schedule(1.0, stages),
    }[name]
    return warm_up(warmup_steps, course)


def rise(name: str, warmup_steps: int, total_steps: int, cycles: int) -> Schedule:
    """Returns the rise of a weight from 0 to its full value as a factor.

    "linear": t;   "cosine": (1 - cos(pi t))/2,   t = min(step/warmup_steps, 1)
    "cyclical": min(1, 2 tau),   tau the position in the cycle of total_steps/cycles steps (Fu et al. 2019, ramp fraction 1/2)

    Args:
      name: "linear", "cosine" or "cyclical".
      warmup_steps: length of a linear or cosine rise; not used by "cyclical".
      total_steps: length of the run.
      cycles: number of cycles in the run, for "cyclical" alone.
    """
    if name == "cyclical":
        return lambda step: jnp.minimum(1.0, 2 * jnp.mod(step * (cycles / total_steps), 1.0))
    if name == "cosine" and warmup_steps:
        return lambda step: 0.5 * (1 - jnp.cos(jnp.pi * jnp.minimum(step / warmup_steps, 1.0)))
    return warm_up(warmup_steps)


def first_step_at_full_values(schedules: Mapping[str, Schedule] | None, total_steps: int) -> int:
    """Returns the first step of a run from which no schedule raises or changes a weight of the loss any more.

    Before this step a validation ELBO shows how far the schedules have come rather than how good the model is. The schedule of
    a weight has ended when it keeps its last value of the run. The warm-up of the learning rate has ended at its largest value.
    A decay after it may last to the end of the run.

    Args:
      schedules: see `make_train_step`; any functions of the step.
      total_steps: of the whole run.

    Example:
      >>> first_step_at_full_values({"beta": warm_up(20), "learning_rate": learning_rate_schedule("cosine", 5, 100)}, 100)
      20
      >>> first_step_at_full_values({"beta": rise("cyclical", 0, 100, 4)}, 100)
      88
    """
    moving = {name: schedule for name, schedule in (schedules or {}).items() if schedule is not constant}
    if not moving or total_steps < 1:
        return 0
    steps = np.linspace(0, total_steps - 1, min(total_steps, _MAX_POINTS)).round().astype(np.int32)
    evaluate = jax.jit(jax.vmap(lambda step: {name: jnp.float32(schedule(step)) for name, schedule in moving.items()}))
    ends = [0]
    for name, course in jax.device_get(evaluate(steps)).items():
        rounding = _ENDED * (course.max() - course.min())
        final = course >= course.max() - rounding if name == "learning_rate" else abs(course - course[-1]) <= rounding
        first = np.argmax(final) if name == "learning_rate" else len(final) - np.argmin(final[::-1]) if not final.all() else 0
        ends.append(int(steps[first]))
    return max(ends)


def first_epoch_at_full_values(schedules: Mapping[str, Schedule] | None, epochs: int, steps: int) -> int:
    """Returns the first epoch, counted from 1, at whose end every schedule of a run of `epochs` times `steps` has ended."""
    return max(1, -(-first_step_at_full_values(schedules, epochs * steps) // max(steps, 1)))
