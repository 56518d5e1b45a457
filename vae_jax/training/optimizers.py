"""Adapts optax's optimizers to the train step: traced numbers, extra arguments, and the parameters to evaluate.

Every optimizer of `optax` and `optax.contrib` trains as in a loop written with optax alone:

- Optimizers that need more than the gradient receive it by name. `polyak_sgd`, `lbfgs`, the line searches, `contrib.momo`,
  `contrib.momo_adam` and `contrib.reduce_on_plateau` receive `value`, `grad` and `value_fn`. `contrib.sophia` receives
  `obj_fn`, and `contrib.sam` in opaque mode `grad_fn`. All refer to the loss of this step, on its batch and with its draws of
  z.
- The evaluated parameters are those that optax recommends: the average of `contrib.schedule_free`, the slow parameters of
  `lookahead`, and the parameters from which `contrib.sam` climbs.
- The learning rate of a step is the scheduled one, also in the state that `inject_hyperparams` keeps. A state that is
  initialized from the learning rate (`rprop`) starts from the peak rate, and schedules do not act on it.
- `MultiSteps` works as it is, or as its `gradient_transformation()`. A step that `apply_if_finite` skips does not end the run.
- A `FromHyperparams` is a function of all traced hyperparameters, so that a sweep varies b1 or the weight decay.

`contrib.dpsgd` is refused, because it needs the gradient of every example. `polyak_sgd` and `contrib.momo` assume a loss that
is not below `f_min` or `lower_bound`, which is 0 by default. The loss of a density can be below 0.
"""

from vae_jax.training.evaluated_params import ParamsEma as ParamsEma
from vae_jax.training.evaluated_params import ParamsMean as ParamsMean
from vae_jax.training.evaluated_params import evaluation_params as evaluation_params
from vae_jax.training.evaluated_params import with_params_ema as with_params_ema
from vae_jax.training.evaluated_params import with_params_mean as with_params_mean
from vae_jax.training.named_optimizers import kernels as kernels
from vae_jax.training.named_optimizers import named_optimizer as named_optimizer
from vae_jax.training.named_optimizers import with_accumulation as with_accumulation
from vae_jax.training.named_optimizers import with_clipping as with_clipping
from vae_jax.training.named_optimizers import with_skipping as with_skipping
from vae_jax.training.transformations import FromHyperparams as FromHyperparams
from vae_jax.training.transformations import Loss as Loss
from vae_jax.training.transformations import Optimizer as Optimizer
from vae_jax.training.transformations import OptState as OptState
from vae_jax.training.transformations import StoredKey as StoredKey
from vae_jax.training.transformations import WithSlowParams as WithSlowParams
from vae_jax.training.transformations import make_step as make_step
from vae_jax.training.transformations import may_skip as may_skip
from vae_jax.training.transformations import transformation as transformation
