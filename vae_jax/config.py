"""`Config`: everything static that a run is made of; `Hyperparams`: what a step takes as traced arrays. Imports no jax."""

import dataclasses
import math
from typing import Any, Literal, NamedTuple

from vae_jax.errors import UserError, unknown

LIKELIHOODS = ("bernoulli", "continuous_bernoulli", "gaussian")
NETWORKS = ("mlp",)
OPTIMIZERS = ("adam", "adamw", "adamax", "nadam", "radam", "adabelief", "lamb", "lion", "rmsprop", "sgd")


class Hyperparams(NamedTuple):
    """What one would sweep: traced scalars, so that a new value needs no new compilation."""

    beta: Any = 1.0  # weight of the KL in the loss, >= 0
    learning_rate: Any = 1e-3  # peak value; the schedule multiplies it


@dataclasses.dataclass(frozen=True)
class Config:
    """All that is needed to repeat a run. Hashable; written to config.json."""

    dataset: str = "digits"
    """digits (embedded), a TFDS name (mnist, fashion_mnist, ...), an .npy or .npz file, a folder of IDX files or of images."""
    split: Literal["random", "last"] = "random"
    """How to take a test set (and a validation set) where the source has none: at random, or the last block (video frames)."""
    test_fraction: float = 0.2
    """Share of the examples in the test set, where the source has none."""
    validation_fraction: float = 0.0
    """Share of the training examples held out for the best checkpoint and for early stopping."""
    split_seed: int = 0
    """Seed of the random split; independent of --seed."""
    binarize: Literal["auto", "dynamic", "fixed", "threshold", "none"] = "auto"
    """How pixels become 0 or 1: drawn anew at every step, once, at 1/2, or not. auto: dynamic for bernoulli, else none."""
    dequantize: bool = False
    """Add uniform noise of one level to integer data; the log-likelihood then counts nats of the discrete data (a bound)."""
    test_seed: int = 0
    """Seed of everything drawn once for evaluation: binarised or dequantised test data and the draws of z."""
    likelihood: str = "bernoulli"
    """bernoulli, continuous_bernoulli or gaussian."""
    scale: str = "1.0"
    """Standard deviation of the gaussian likelihood: a number, or 'shared' for one that is learned, from the data's own on."""
    network: str = "mlp"
    """mlp."""
    hidden: tuple[int, ...] = (256, 256)
    """Widths of the encoder's hidden layers; the decoder has them in reverse."""
    activation: str = "relu"
    """relu, tanh, gelu, silu, elu, leaky_relu, softplus or sigmoid."""
    latent_dim: int = 10
    """Number of latent dimensions."""
    output_bias: Literal["zeros", "train_mean"] = "zeros"
    """Where the decoder's last bias starts: at zero, or where the likelihood predicts the training mean (its logit)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the networks; parameters and losses stay float32."""
    beta: float = 1.0
    """Weight of the KL in the training loss. What is reported is always the ELBO with beta = 1."""
    beta_warmup_steps: int = 0
    """Steps over which beta rises linearly from 0."""
    num_samples: int = 1
    """Draws of z for each example and step."""
    optimizer: str = "adam"
    """adam, adamw, adamax, nadam, radam, adabelief, lamb, lion, rmsprop or sgd, from optax."""
    learning_rate: float = 1e-3
    """Peak learning rate."""
    learning_rate_schedule: Literal["constant", "cosine", "linear"] = "constant"
    """Course of the learning rate after its warm-up; cosine and linear end at 0 with the run."""
    learning_rate_warmup_steps: int = 0
    """Steps over which the learning rate rises linearly from 0."""
    ema_decay: float = 0.0
    """Decay of an exponential moving average of the parameters, which is then what is evaluated; 0 for none."""
    epochs: int = 50
    """Passes over the training set."""
    batch_size: int = 128
    """Examples in a step; what is left over at the end of an epoch waits for the next shuffle."""
    eval_batch_size: int = 1000
    """Examples evaluated at once; changes no result beyond rounding (1e-4 nats in float32)."""
    early_stopping: int = 0
    """Stop after this many epochs without a better validation ELBO and report the best; 0 for never."""
    seed: int = 0
    """Seed of initialisation, data order and noise."""

    @property
    def hyperparams(self) -> Hyperparams:
        """The traced part."""
        return Hyperparams(beta=self.beta, learning_rate=self.learning_rate)

    @property
    def binarization(self) -> Literal["dynamic", "fixed", "threshold", "none"]:
        """`binarize`, with "auto" resolved."""
        if self.binarize != "auto":
            return self.binarize
        return "dynamic" if self.likelihood == "bernoulli" else "none"

    def validate(self) -> None:
        """Raises `UserError` for every value that no data could make right."""
        for field, options in (("likelihood", LIKELIHOODS), ("network", NETWORKS), ("optimizer", OPTIMIZERS)):
            if getattr(self, field) not in options:
                raise unknown(field, getattr(self, field), options)
        for field in ("latent_dim", "epochs", "batch_size", "eval_batch_size", "num_samples"):
            _expect(getattr(self, field) >= 1, field, "a whole number >= 1", getattr(self, field))
            _expect(getattr(self, field) <= 10**8, field, "at most 100,000,000", getattr(self, field))
        for field in ("beta_warmup_steps", "learning_rate_warmup_steps", "early_stopping", "seed", "split_seed", "test_seed"):
            _expect(0 <= getattr(self, field) < 2**31, field, "a whole number from 0 to 2147483647", getattr(self, field))
        _expect(all(1 <= width <= 10**6 for width in self.hidden), "hidden", "widths >= 1 (and at most 10^6)", self.hidden)
        _expect(self.latent_dim <= 10**6, "latent_dim", "at most 1,000,000", self.latent_dim)
        # Beyond 1e30 float32 overflows somewhere in a loss or an update.
        _expect(0 <= self.beta <= 1e30, "beta", "a number >= 0", self.beta)
        lr = self.learning_rate
        _expect(1e-30 <= lr <= 1e30, "learning_rate", "a number > 0", lr)
        _expect(0 < self.test_fraction < 1, "test_fraction", "a number between 0 and 1", self.test_fraction)
        _expect(0 <= self.validation_fraction < 1, "validation_fraction", "a number in [0, 1)", self.validation_fraction)
        _expect(0 <= self.ema_decay <= 0.99999, "ema_decay", "a number from 0 to 0.99999", self.ema_decay)
        if self.scale != "shared":
            try:
                scale = float(self.scale)
            except ValueError:
                scale = math.nan
            _expect(1e-9 <= scale <= 1e9, "scale", "a number > 0 or 'shared'", self.scale)
        if self.likelihood != "gaussian" and self.scale != type(self).scale:
            raise UserError(f"--scale belongs to --likelihood gaussian; {self.likelihood} has no scale. Leave it out.")
        if self.dequantize and self.binarization != "none":
            raise UserError("--dequantize and binarised data exclude each other. Leave one out, or add --binarize none.")


def _expect(condition: bool, field: str, expected: str, got: Any) -> None:
    if not condition:
        raise UserError(f"--{field.replace('_', '-')}: expected {expected}, got {got}.")


def from_dict(values: dict[str, Any]) -> Config:
    """A `Config` from what `dataclasses.asdict` gave, after a round trip through JSON."""
    known = {field.name for field in dataclasses.fields(Config)}
    if set(values) - known:
        raise UserError(f"config.json has unknown settings {sorted(set(values) - known)}: written by a newer version?")
    arguments: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    return Config(**arguments)
