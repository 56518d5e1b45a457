"""`Config`: everything static that a run is made of; `Hyperparams`: what a step takes as traced arrays. Imports no jax."""

import dataclasses
import math
import numbers
import typing
from typing import Any, Literal, NamedTuple

from vae_jax.errors import UserError, fits, unknown

# Names, each with the settings that belong to it; a setting that belongs to others only is refused, not ignored.
LIKELIHOODS: dict[str, tuple[str, ...]] = {
    "bernoulli": (),
    "continuous_bernoulli": (),
    "gaussian": ("scale",),
    "laplace": ("scale",),
    "student_t": ("scale", "degrees_of_freedom"),
    "discretized_logistic": ("scale",),
    "logistic_mixture": ("num_components",),
    "logistic_mixture_rgb": ("num_components",),
    "categorical": (),
    "poisson": (),
    "negative_binomial": ("dispersion",),
}
_BETA = ("beta", "beta_schedule", "beta_warmup_steps", "beta_cycles")
OBJECTIVES: dict[str, tuple[str, ...]] = {
    "elbo": (*_BETA, "num_samples", "estimator"),
    "capacity": ("capacity", "capacity_warmup_steps", "gamma", "num_samples"),
    "free_bits": (*_BETA, "free_bits", "free_bits_per", "num_groups", "num_samples"),
    "geco": ("target_distortion",),
    "iwae": ("num_samples", "estimator"),
    "miwae": ("num_samples", "num_groups", "estimator"),
    "ciwae": ("num_samples", "elbo_weight", "estimator"),
    "piwae": ("num_samples", "num_groups"),
    "beta_tcvae": (*_BETA, "tc_weights"),
    "dip_vae_i": (*_BETA, "lambda_od", "lambda_d"),
    "dip_vae_ii": (*_BETA, "lambda_od", "lambda_d"),
    "info_vae": (*_BETA, "mmd_weight", "mmd_kernel"),
    "factor_vae": ("gamma",),
    "optimal_sigma": _BETA,
}
_ANY_PRIOR = ("elbo", "iwae", "miwae", "ciwae", "piwae")  # objectives that do not need the KL to N(0, I) in closed form
FIXED_IN_MEMORY = (
    "--binarize fixed draws the whole training set once and holds it in memory. With --stream use dynamic or threshold."
)
CUSTOM = "custom"  # a likelihood or an objective that is a function of the user's, passed to `build`
NETWORKS: dict[str, tuple[str, ...]] = {
    "mlp": ("hidden",),
    "conv": ("channels", "dense"),
    "resnet": ("channels", "dense", "num_blocks", "norm"),
}
PRIORS: dict[str, tuple[str, ...]] = {
    "normal": (),
    "mixture": ("prior_components",),
    "vamp": ("prior_components",),
    "hierarchical": ("prior_latent_dim", "prior_hidden"),
}
OPTIMIZERS = ("adam", "adamw", "adamax", "nadam", "radam", "adabelief", "lamb", "lion", "rmsprop", "sgd")


class Hyperparams(NamedTuple):
    """What one would sweep: traced scalars, so that a new value needs no new compilation."""

    beta: Any = 1.0  # weight of the KL in the loss (beta-TCVAE: of the total correlation), >= 0
    learning_rate: Any = 1e-3  # peak value; the schedule multiplies it
    capacity: Any = 25.0  # nats at which the capacity objective holds the KL
    gamma: Any = 1000.0  # weight of |KL - capacity|; of the total correlation in FactorVAE
    free_bits: Any = 0.5  # nats of KL that cost nothing, for each dimension or group
    target_distortion: Any = 0.0  # nats per example that GECO holds -log p(x|z) at
    elbo_weight: Any = 0.5  # share of the ELBO in CIWAE
    lambda_od: Any = 10.0  # DIP-VAE: weight of the squared covariances
    lambda_d: Any = 10.0  # DIP-VAE: weight of (variance - 1)^2
    mmd_weight: Any = 1000.0  # InfoVAE: weight of the squared MMD


@dataclasses.dataclass(frozen=True)
class Config:
    """All that is needed to repeat a run. Hashable; written to config.json."""

    dataset: str = "digits"
    """digits (embedded), sprites or sprites_grid (computed), a TFDS name (mnist, dsprites, ...), an .npy or .npz file, a \
folder of IDX files or of images."""
    split: Literal["random", "last"] = "random"
    """How to take a test set (and a validation set) where the source has none: at random, or the last block (video frames)."""
    test_fraction: float = 0.2
    """Share of the examples in the test set, where the source has none."""
    validation_fraction: float = 0.0
    """Share of the training examples held out for the best checkpoint and for early stopping."""
    split_seed: int = 0
    """Seed of the random split; independent of --seed."""
    max_level: int | None = None
    """Highest level of integer images, 1 to 255; by default 1 for arrays of zeros and ones, else 255."""
    layout: Literal["auto", "channels_last", "channels_first"] = "auto"
    """Axes of arrays in files: (examples, height, width, channels) or (examples, channels, height, width). auto: channels \
first where the second axis is 1, 3 or 4, the last two are larger, and the last is not 1, 3 or 4."""
    stream: bool = False
    """Read the training set from disk while training, for data larger than memory (.npy, raw IDX files, TFDS names); changes \
results by rounding only. Test and validation sets stay in memory: choose a small --test-fraction."""
    binarize: Literal["auto", "dynamic", "fixed", "threshold", "none"] = "auto"
    """How pixels become 0 or 1: drawn anew at every step, once, at 1/2, or not. auto: dynamic for bernoulli, else none."""
    dequantize: bool = False
    """Add uniform noise of one level to integer data; the log-likelihood then counts nats of the discrete data (a bound)."""
    test_seed: int = 0
    """Seed of everything drawn once for evaluation: binarised or dequantised test data and the draws of z."""
    likelihood: str = "bernoulli"
    """bernoulli (0 or 1), continuous_bernoulli (grey in [0, 1]), gaussian, laplace, student_t (real), discretized_logistic, \
logistic_mixture, logistic_mixture_rgb, categorical (integer levels), poisson or negative_binomial (counts)."""
    scale: str = "auto"
    """Of gaussian, laplace, student_t: a number (auto: 1), 'shared' (learned, from the data's own on) or 'per_pixel'; of \
discretized_logistic: shared (auto) or per_pixel."""
    degrees_of_freedom: float = 4.0
    """Of student_t; few for heavy tails."""
    num_components: int = 10
    """Components of logistic_mixture and logistic_mixture_rgb."""
    dispersion: str = "shared"
    """Total count of negative_binomial (small: overdispersed): a number, 'shared' (learned) or 'per_pixel'."""
    network: str = "mlp"
    """mlp, conv (28 x 28, 32 x 32, 64 x 64 and other sides that halve) or resnet (conv with residual blocks)."""
    hidden: tuple[int, ...] = (256, 256)
    """Of mlp: widths of the encoder's hidden layers; the decoder has them in reverse."""
    channels: tuple[int, ...] = ()
    """Of conv and resnet: channels after each halving of the image; none given: 32 and then 64, down to a side below 8."""
    dense: tuple[int, ...] = (256,)
    """Of conv and resnet: widths of the dense layers between the convolutions and the latent dimensions."""
    num_blocks: int = 1
    """Of resnet: residual blocks at each size of the image."""
    norm: Literal["none", "group"] = "none"
    """Of resnet: nothing (each block starts as the identity), or GroupNorm before each activation. Batch statistics would mix \
the examples."""
    activation: str = "relu"
    """relu, tanh, gelu, silu, elu, leaky_relu, softplus or sigmoid."""
    latent_dim: int = 10
    """Number of latent dimensions."""
    prior: Literal["normal", "mixture", "vamp", "hierarchical"] = "normal"
    """p(z): N(0, I), a learned mixture of Gaussians, the VampPrior, whose pseudo-inputs start at training examples, or a \
second stochastic layer."""
    prior_components: int = 50
    """Components of mixture and vamp."""
    prior_latent_dim: int = 50
    """Of hierarchical: latent dimensions of the second layer, which is N(0, I)."""
    prior_hidden: tuple[int, ...] = (100, 100)
    """Of hierarchical: widths of the two networks between the layers, which have tanh."""
    output_bias: Literal["zeros", "train_mean"] = "zeros"
    """Where the decoder's last bias starts: at zero, or where the likelihood predicts the training mean (its logit)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the networks; parameters and losses stay float32."""
    objective: str = "elbo"
    """elbo, capacity, free_bits, geco, iwae, miwae, ciwae, piwae, beta_tcvae, dip_vae_i, dip_vae_ii, info_vae, factor_vae or \
optimal_sigma (gaussian, its scale set by each batch)."""
    beta: float = 1.0
    """Weight of the KL in the loss (beta_tcvae: of the total correlation). Reported is always the ELBO with beta = 1."""
    beta_schedule: Literal["linear", "cosine", "cyclical"] = "linear"
    """How beta rises from 0: over --beta-warmup-steps; or --beta-cycles times in the run, in the first half of each cycle."""
    beta_warmup_steps: int = 0
    """Steps over which beta rises from 0."""
    beta_cycles: int = 4
    """Cycles of the cyclical schedule."""
    num_samples: int = 1
    """Draws of z for each example and step (K of the importance-weighted objectives)."""
    num_groups: int = 1
    """M of miwae and piwae: groups of --num-samples draws. With --free-bits-per group: groups of latent dimensions."""
    estimator: Literal["reparam", "stl", "dreg"] = "reparam"
    """Gradient of the encoder in elbo, iwae, miwae and ciwae."""
    capacity: float = 25.0
    """Nats at which the capacity objective holds the KL."""
    capacity_warmup_steps: int = 0
    """Steps over which the capacity rises linearly from 0."""
    gamma: float | None = None
    """Weight of |KL - capacity| (1000 by default) or of the total correlation in factor_vae (10 by default)."""
    free_bits: float = 0.5
    """Nats of KL that cost nothing, for each dimension or group."""
    free_bits_per: Literal["dimension", "group", "batch_mean"] = "dimension"
    """Clip each dimension of each example, each group of them of each example, or each dimension's mean over the batch."""
    target_distortion: float | None = None
    """geco: the -log p(x|z) to reach, in nats per example (negative for densities above 1)."""
    elbo_weight: float = 0.5
    """ciwae: share of the ELBO, from 0 (iwae) to 1."""
    tc_weights: Literal["stratified", "weighted"] = "stratified"
    """beta_tcvae: how a batch stands for the aggregate posterior."""
    lambda_od: float = 10.0
    """dip_vae: weight of the squared covariances of the latent dimensions."""
    lambda_d: float | None = None
    """dip_vae: weight of (variance - 1)^2; by default 10 times (I) or once (II) --lambda-od."""
    mmd_weight: float = 1000.0
    """info_vae: weight of the squared MMD."""
    mmd_kernel: Literal["gaussian", "inverse_multiquadratic"] = "gaussian"
    """info_vae: kernel of the MMD."""
    optimizer: str = "adam"
    """adam, adamw, adamax, nadam, radam, adabelief, lamb, lion, rmsprop or sgd, from optax, with its defaults. The weight \
decay of adamw (1e-4) and lion (1e-3) acts on the kernels of encoder and decoder alone, not on biases, norms, learned scales \
or priors."""
    learning_rate: float = 1e-3
    """Peak learning rate."""
    learning_rate_schedule: Literal["constant", "cosine", "linear", "burda"] = "constant"
    """Course of the learning rate after its warm-up; cosine and linear end at 0 with the run. burda: eight stages, each three \
times as long as the one before, down to a tenth (3,280 epochs are those of the IWAE paper)."""
    learning_rate_warmup_steps: int = 0
    """Steps over which the learning rate rises linearly from 0."""
    ema_decay: float = 0.0
    """Decay of an exponential moving average of the parameters, which is then what is evaluated; 0 for none."""
    epochs: int = 50
    """Passes over the training set."""
    batch_size: int = 128
    """Examples in a step; what is left over at the end of an epoch waits for the next shuffle."""
    eval_batch_size: int = 1000
    """Examples evaluated at once. On CPU always 128, so no bit depends on this; elsewhere results change by rounding alone."""
    early_stopping: int = 0
    """Stop after this many epochs without a better validation ELBO and report the best; 0 for never. Epochs count once every \
warm-up (of --beta-schedule cyclical: the last rise) has ended. A decay of the learning rate and geco's multiplier are not \
waited for."""
    prng: Literal["threefry2x32", "rbg", "unsafe_rbg"] = "threefry2x32"
    """Generator of the noise in training steps. The other two may be faster on accelerators (not on CPU), but depend on \
backend and compiler: such a run repeats on the same machine only, and not as a member under vmap."""
    seed: int = 0
    """Seed of initialisation, data order and noise."""

    @property
    def hyperparams(self) -> Hyperparams:
        """The traced part."""
        gamma, lambda_d = self.gamma, self.lambda_d
        if gamma is None:
            gamma = 10.0 if self.objective == "factor_vae" else 1000.0
        if lambda_d is None:
            lambda_d = self.lambda_od * (10 if self.objective == "dip_vae_i" else 1)
        return Hyperparams(
            beta=self.beta,
            learning_rate=self.learning_rate,
            capacity=self.capacity,
            gamma=gamma,
            free_bits=self.free_bits,
            target_distortion=0.0 if self.target_distortion is None else self.target_distortion,
            elbo_weight=self.elbo_weight,
            lambda_od=self.lambda_od,
            lambda_d=lambda_d,
            mmd_weight=self.mmd_weight,
        )

    @property
    def binarization(self) -> Literal["dynamic", "fixed", "threshold", "none"]:
        """`binarize`, with "auto" resolved."""
        if self.binarize != "auto":
            return self.binarize
        return "dynamic" if self.likelihood == "bernoulli" else "none"

    def __post_init__(self) -> None:
        # NumPy's numbers, as np.arange gives them, become Python's: JSON and the table have only those.
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            to_python = getattr(value, "item", None)
            if isinstance(value, numbers.Number) and to_python is not None:
                object.__setattr__(self, field.name, to_python())

    def validate(self) -> None:
        """Raises `UserError` for every value that no data could make right."""
        for field, hint in typing.get_type_hints(type(self)).items():
            if not fits(value := getattr(self, field), hint):
                kind = getattr(hint, "__name__", "") if isinstance(hint, type) and not typing.get_args(hint) else hint
                expected = str(kind).replace("typing.", "").replace("NoneType", "None")
                raise UserError(f"--{field.replace('_', '-')}: expected {expected}, got {value!r}.")
        for field, options in (
            ("likelihood", (*LIKELIHOODS, CUSTOM)),
            ("objective", (*OBJECTIVES, CUSTOM)),
            ("network", NETWORKS),
            ("optimizer", OPTIMIZERS),
        ):
            if getattr(self, field) not in options:
                raise unknown(field, getattr(self, field), [option for option in options if option != CUSTOM])
        for setting, (kind, owners) in self.unused().items():
            if getattr(self, setting) != getattr(type(self), setting):
                flag, name = setting.replace("_", "-"), getattr(self, kind)
                words = f"{', '.join(owners[:-1])} or {owners[-1]}" if len(owners) > 1 else owners[0]
                raise UserError(f"--{flag} belongs to --{kind} {words}; {name} does not use it. Leave it out.")
        counts = ("latent_dim", "epochs", "batch_size", "eval_batch_size", "num_samples", "num_groups", "num_components")
        for field in (*counts, "beta_cycles", "prior_components", "prior_latent_dim", "num_blocks"):
            _expect(getattr(self, field) >= 1, field, "a whole number >= 1", getattr(self, field))
            _expect(getattr(self, field) <= 10**8, field, "at most 100,000,000", getattr(self, field))
        warmups = ("beta_warmup_steps", "capacity_warmup_steps", "learning_rate_warmup_steps")
        for field in (*warmups, "early_stopping", "seed", "split_seed", "test_seed"):
            _expect(0 <= getattr(self, field) < 2**31, field, "a whole number from 0 to 2147483647", getattr(self, field))
        for field in ("hidden", "channels", "dense", "prior_hidden"):
            widths = getattr(self, field)
            _expect(all(1 <= width <= 10**6 for width in widths), field, "widths >= 1 (and at most 10^6)", widths)
        _expect(self.latent_dim <= 10**6, "latent_dim", "at most 1,000,000", self.latent_dim)
        # Beyond 1e30 float32 overflows somewhere in a loss or an update.
        for field in ("beta", "capacity", "gamma", "free_bits", "lambda_od", "lambda_d", "mmd_weight"):
            value = getattr(self, field)
            _expect(value is None or 0 <= value <= 1e30, field, "a number >= 0", value)
        _expect(0 <= self.elbo_weight <= 1, "elbo_weight", "a number from 0 to 1", self.elbo_weight)
        target = self.target_distortion
        _expect(target is None or -1e30 <= target <= 1e30, "target_distortion", "a finite number", target)
        if self.objective == "geco" and target is None:
            raise UserError("--objective geco needs --target-distortion: the -log p(x|z) to reach, in nats per example.")
        if self.prior != "normal" and self.objective not in (*_ANY_PRIOR, CUSTOM):
            raise UserError(
                f"--prior {self.prior}: --objective {self.objective} assumes N(0, I). "
                f"Use {', '.join(_ANY_PRIOR[:-1])} or {_ANY_PRIOR[-1]}."
            )
        if self.beta_schedule == "cyclical" and self.beta_warmup_steps:
            raise UserError("--beta-warmup-steps: the cyclical schedule rises in every cycle. Leave it out.")
        if self.free_bits_per != "group" and self.objective == "free_bits" and self.num_groups != 1:
            raise UserError("--num-groups groups latent dimensions with --free-bits-per group only. Add that, or leave it out.")
        if self.free_bits_per == "batch_mean" and self.num_samples != 1:
            raise UserError("--num-samples: --free-bits-per batch_mean takes one draw of z. Leave it out.")
        if self.stream and self.binarization == "fixed":
            raise UserError(FIXED_IN_MEMORY)
        if self.dequantize and self.objective == "geco":
            raise UserError(
                "--dequantize: --objective geco holds the density itself at its target, not the nats of the discrete "
                "data. Leave it out, and use a likelihood of integer levels, such as discretized_logistic."
            )
        if self.ema_decay and self.objective == "optimal_sigma":
            raise UserError(
                "--ema-decay: optimal_sigma has the scale of the current parameters, not of their average. Leave it out."
            )
        if self.free_bits_per == "group" and self.latent_dim % self.num_groups:
            raise UserError(f"--num-groups: expected a divisor of --latent-dim {self.latent_dim}, got {self.num_groups}.")
        _expect(self.max_level is None or 1 <= self.max_level <= 255, "max_level", "a level from 1 to 255", self.max_level)
        lr = self.learning_rate
        _expect(1e-30 <= lr <= 1e30, "learning_rate", "a number > 0", lr)
        _expect(0 < self.test_fraction < 1, "test_fraction", "a number between 0 and 1", self.test_fraction)
        _expect(0 <= self.validation_fraction < 1, "validation_fraction", "a number in [0, 1)", self.validation_fraction)
        _expect(0 <= self.ema_decay <= 0.99999, "ema_decay", "a number from 0 to 0.99999", self.ema_decay)
        _expect(
            1e-3 <= self.degrees_of_freedom <= 1e9,
            "degrees_of_freedom",
            "a number > 0 (from 0.001 to 1e9)",
            self.degrees_of_freedom,
        )
        if self.objective == "optimal_sigma" and (self.likelihood != "gaussian" or self.scale != "auto"):
            raise UserError(
                "--objective optimal_sigma sets the scale by itself: use it with --likelihood gaussian and no --scale."
            )
        if self.scale == "optimal":
            raise UserError("--scale optimal is a number of the whole batch: use --objective optimal_sigma and no --scale.")
        numbers_allowed = self.likelihood != "discretized_logistic"
        _expect_scale("scale", self.scale, ("auto", "shared", "per_pixel"), numbers_allowed)
        _expect_scale("dispersion", self.dispersion, ("shared", "per_pixel"), True)
        if self.dequantize and self.binarization != "none":
            fix = "--dequantize, or use --likelihood gaussian" if self.likelihood == "bernoulli" else "one"
            raise UserError(f"--dequantize and binarized data exclude each other. Leave out {fix}.")

    def unused(self) -> dict[str, tuple[str, list[str]]]:
        """The settings that this configuration does not use: (kind, the names of that kind that do) by setting."""
        found = {}
        for kind, table in (("likelihood", LIKELIHOODS), ("objective", OBJECTIVES), ("network", NETWORKS), ("prior", PRIORS)):
            for setting in sorted({setting for settings in table.values() for setting in settings}):
                owners = [owner for owner, settings in table.items() if setting in settings]
                if getattr(self, kind) not in (CUSTOM, *owners):
                    found[setting] = (kind, owners)
        return found


def _expect_scale(field: str, value: str, words: tuple[str, ...], numbers_allowed: bool) -> None:
    if value in words:
        return
    try:
        number = float(value) if numbers_allowed else math.nan
    except ValueError:
        number = math.nan
    quoted = " or ".join(repr(word) for word in words if word != "auto")
    words_for_number = "a number > 0 (from 1e-9 to 1e9) or " if numbers_allowed else ""
    _expect(1e-9 <= number <= 1e9, field, f"{words_for_number}{quoted}", value)


def _expect(condition: bool, field: str, expected: str, got: Any) -> None:
    if not condition:
        raise UserError(f"--{field.replace('_', '-')}: expected {expected}, got {got}.")


def from_dict(values: dict[str, Any]) -> Config:
    """A `Config` from what `dataclasses.asdict` gave, after a round trip through JSON.

    Settings that it does not use are those of this version: another one may have had other defaults.
    """
    known = {field.name for field in dataclasses.fields(Config)}
    if not isinstance(values, dict):
        raise UserError(f"expected settings by name, got {values!r:.40}.")
    if newer := set(values) - known:
        raise UserError(f"config.json has unknown settings {sorted(newer)}: written by a newer version? Update vae_jax.")
    arguments: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    config = Config(**arguments)
    return dataclasses.replace(config, **{setting: getattr(Config, setting) for setting in config.unused()})
