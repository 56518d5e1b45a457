"""The options that `fit` and `fit_members` share."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import optax

from vae_jax._numerics.short_repr import short_repr
from vae_jax.objectives.batch import AnyObjective
from vae_jax.training.optimizers import Optimizer
from vae_jax.training.schedules import Schedule


@short_repr
class FitOptions(NamedTuple):
    """Options of a training run that are the same for all members of a sweep. `fit` takes them as keyword arguments.

    Attributes:
      epochs: length of the run, in passes over the training set.
      batch_size: examples in a step, at most as many as the training set has.
      optimizer: a function of the learning rate such as `optax.adam`, or a finished optax optimizer; see `make_train_step`. One
        that is made by `optimizers.with_params_ema` has the moving average of the parameters evaluated.
      objective: the quantity to minimize, `objectives.beta_elbo()` if None; see `make_train_step`.
      schedules: factors on the hyperparameters by their names; see `make_train_step`.
      early_stopping: number of epochs without a better validation ELBO after which the run stops, or 0 to never stop early.
        Needs `data.validation`. Patience and the choice of the best parameters begin with the first epoch at whose end every
        schedule has its final value. The learning rate counts from its largest value on, so its decay is not waited for. The
        multiplier of GECO has no final value and is not waited for either.
      eval_batch_size: examples evaluated at once; see `evaluation.evaluate`.
      test_seed: seed of the draws of z in evaluations.
      prng: generator of the noise in steps, "threefry2x32", "rbg" or "unsafe_rbg". The last two can be faster on accelerators,
        not on CPU. Their numbers depend on the backend, on the compiler and on the batching. A run with them does not repeat
        elsewhere, and a member of a sweep under vmap differs from the same run alone.
    """

    epochs: int
    batch_size: int
    optimizer: Optimizer = optax.adam
    objective: AnyObjective | None = None
    schedules: Mapping[str, Schedule] | None = None
    early_stopping: int = 0
    eval_batch_size: int = 1000
    test_seed: int = 0
    prng: str = "threefry2x32"

    @classmethod
    def from_keywords(cls, keywords: Mapping[str, Any]) -> "FitOptions":
        """Returns the options among the keyword arguments of `fit`, such as `Built.fit_arguments`. Ignores other keywords."""
        return cls(**{name: value for name, value in keywords.items() if name in cls._fields})
