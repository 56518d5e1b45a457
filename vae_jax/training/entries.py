"""The registry's entries of the optimizers. Their factory imports jax and optax; this module does not."""

import math
from typing import TYPE_CHECKING

from vae_jax.config.registry import Entry, Setting, Settings, TrainingData, register
from vae_jax.errors import UserError

if TYPE_CHECKING:
    from vae_jax.training.transformations import FromHyperparams

_BELOW_ONE = math.nextafter(1.0, 0.0)
_ADAM = {"b1": 0.9, "b2": 0.999, "eps": 1e-8}
# The settings of each optimizer, with optax's default of those that are None.
DEFAULTS: dict[str, dict[str, float]] = {
    "adam": _ADAM,
    "adamw": {**_ADAM, "weight_decay": 1e-4},
    "adamax": _ADAM,
    "nadam": _ADAM,
    "nadamw": {**_ADAM, "weight_decay": 1e-4},
    "radam": _ADAM,
    "adabelief": {**_ADAM, "eps": 1e-16},
    "lamb": {**_ADAM, "eps": 1e-6, "weight_decay": 0.0},
    "lion": {"b1": 0.9, "b2": 0.99, "weight_decay": 1e-3},
    "rmsprop": {"b2": 0.9, "eps": 1e-8, "momentum": 0.0},
    "sgd": {"momentum": 0.0},
    "muon": {**_ADAM, "momentum": 0.95, "weight_decay": 0.0},
    "adopt": {"b1": 0.9, "b2": 0.9999, "eps": 1e-6},
    "ademamix": {**_ADAM, "weight_decay": 0.0},
    "schedule_free_adamw": {**_ADAM, "weight_decay": 0.0},
    "schedule_free_sgd": {"b1": 0.9, "weight_decay": 0.0},
    "prodigy": {**_ADAM, "weight_decay": 0.0},
    "dowg": {"eps": 1e-4, "weight_decay": 0.0},
    "lookahead": _ADAM,
}


def _traced(name: str, help: str, high: float = 1e30, bounds: str = "") -> Setting:
    """Returns a number of which None means optax's default, as a constant of the program, and anything else is traced."""

    def resolve(config: Settings) -> float:
        return DEFAULTS.get(config.optimizer, _ADAM).get(name, 0.0)

    help = f"{help} By default optax's."
    return Setting(
        name, float | None, None, help, low=0, high=high, bounds=bounds, traced=True, resolve=resolve, none_is_static=True
    )


_DECAY = "a number in [0, 1)"
_SETTINGS = {
    "b1": _traced("b1", "Decay of the moving average of the gradients.", _BELOW_ONE, _DECAY),
    "b2": _traced("b2", "Decay of the moving average of the squared gradients.", _BELOW_ONE, _DECAY),
    "eps": _traced("eps", "Number added to a denominator."),
    "momentum": _traced("momentum", "Decay of the sum of the gradients.", _BELOW_ONE, _DECAY),
    "weight_decay": _traced(
        "weight_decay",
        "Decay of the kernels of encoder and decoder, times the learning rate; not of biases, norms, embeddings, learned "
        "scales or priors. Kernels are named kernel, or have two or more axes and are not named bias, b, scale or embedding.",
    ),
}
_SYNC_PERIOD = Setting("sync_period", int, 5, "Steps between two steps of the slow parameters.", low=1, high=1e8)
_SLOW_STEP_SIZE = Setting(
    "slow_step_size", float, 0.5, "Share of the way that the slow parameters go to the fast ones.", low=0, high=1, traced=True
)


def _named(config: Settings, data: TrainingData) -> "FromHyperparams":
    from vae_jax.training.named_optimizers import named_optimizer

    name = config.optimizer
    traced = [setting for setting in DEFAULTS[name] if getattr(config, setting) is not None]
    if name == "lookahead":
        return named_optimizer(name, [*traced, "slow_step_size"], sync_period=config.sync_period)
    return named_optimizer(name, traced)


def _check_average(config: Settings) -> None:
    if config.objective == "optimal_sigma":
        raise UserError(
            field="optimizer",
            message=f"optimal_sigma has the scale of the current parameters, and {config.optimizer} evaluates an average.",
            fix='Use a different optimizer, such as `optimizer="adam"`.',
        )
    if config.optimizer != "lookahead" and config.b1 == 0:
        raise UserError(field="b1", expected=f"a number in (0, 1) with {config.optimizer}", got=0)


_HELP = {
    "adam": "the default",
    "adamw": "adam with weight decay",
    "adamax": "adam with the largest gradient",
    "nadam": "adam with Nesterov momentum",
    "nadamw": "adamw with Nesterov momentum",
    "radam": "adam with a rectified start",
    "adabelief": "adam with the spread of the gradients",
    "lamb": "adam for large batches",
    "lion": "signs of a momentum, for rates a tenth of adam's",
    "rmsprop": "scaled by squared gradients",
    "sgd": "gradient descent",
    "muon": "orthogonalized momentum of kernels and adam for the rest, for rates near 0.02",
    "adopt": "adam that converges with any b2",
    "ademamix": "adam with a second, slow momentum",
    "schedule_free_adamw": "adamw of which an average is evaluated, without a decay of the rate",
    "schedule_free_sgd": "sgd of which an average is evaluated, without a decay of the rate",
    "prodigy": "adam that estimates its rate; use `learning_rate` 1",
    "dowg": "sgd that estimates its rate; use `learning_rate` 1",
    "lookahead": "adam of which slow parameters are evaluated",
}
_AVERAGING = ("lookahead", "schedule_free_adamw", "schedule_free_sgd")
for _name, _help in _HELP.items():
    _settings = tuple(_SETTINGS[setting] for setting in DEFAULTS[_name])
    _settings += (_SYNC_PERIOD, _SLOW_STEP_SIZE) if _name == "lookahead" else ()
    register(
        Entry("optimizer", _name, _help, _named, _settings, _check_average if _name in _AVERAGING else lambda config: None)
    )
