"""`Config`, everything static that a run is made of, and `Hyperparams`, what a step takes as traced arrays. Imports no jax."""

import dataclasses
import math
import numbers
import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from vae_jax.config import registry
from vae_jax.config.registry import CUSTOM, KINDS, Entry, Setting
from vae_jax.config.validation import check_combinations, check_name, check_types, listed
from vae_jax.errors import UserError

_OPEN_ZERO, _OPEN_ONE = math.nextafter(0.0, 1.0), math.nextafter(1.0, 0.0)
_LARGEST_INT32 = 2**31 - 1


def _setting(default: Any, help: str, **options: object) -> Any:
    """Returns the dataclass field of a setting that every run has; the arguments are those of `Setting`."""
    return dataclasses.field(default=default, metadata={"help": help, **options})


def _seed(help: str) -> Any:
    return _setting(0, help, low=0, high=_LARGEST_INT32, bounds=f"a whole number from 0 to {_LARGEST_INT32}")


def _steps(help: str) -> Any:
    return _seed(help)


def _count(default: int, help: str, high: float = 1e8) -> Any:
    return _setting(default, help, low=1, high=high)


@dataclasses.dataclass(frozen=True)
class Config:
    """All settings that are needed to repeat a run. Hashable; written to config.json.

    The fields below are those that every run has. The settings of a likelihood, a network, a prior, an objective or an
    optimizer stand beside its code, in the registry (`config.registry`), and follow the field that names it.
    `dataclasses.fields(Config)` has them all, each with its help in `metadata["help"]`.
    """

    dataset: str = _setting(
        "digits",
        "digits (embedded), sprites or sprites_grid (computed), a TFDS name (mnist, dsprites, ...), an .npy or .npz file, a "
        "folder of IDX files or of images.",
    )
    split: Literal["random", "last"] = _setting(
        "random",
        "How to take a test set (and a validation set) where the source has none: at random, or the last block (video frames).",
    )
    test_fraction: float = _setting(
        0.2,
        "Share of the examples in the test set, where the source has none.",
        low=_OPEN_ZERO,
        high=_OPEN_ONE,
        bounds="a number between 0 and 1",
    )
    validation_fraction: float = _setting(
        0.0,
        "Share of the training examples held out for the best checkpoint and for early stopping.",
        low=0,
        high=_OPEN_ONE,
        bounds="a number in [0, 1)",
    )
    split_seed: int = _seed("Seed of the random split; independent of `seed`.")
    max_level: int | None = _setting(
        None,
        "Highest level of integers; by default 1 for zeros and ones, else 255 for images with levels up to 255, and 65535 for "
        "larger ones of 16 bits. Other integers are counts.",
        low=1,
        high=65535,
        bounds="a level from 1 to 65535",
    )
    event: Literal["auto", "image", "series", "vector"] = _setting(
        "auto",
        "Kind of example: (examples, columns) are vectors, (examples, height, width[, channels]) images. series: (examples, "
        "time, channels). vector: flattened. image: (examples, side * side) as well.",
    )
    resize: tuple[int, ...] = _setting(
        (),
        "Side, or height and width, to which pictures are resized (stretched, unless `crop` cuts out a square).",
        low=1,
        high=65535,
    )
    crop: int | None = _setting(
        None, "Side of the central square that is cut out of each picture before it is resized.", low=1, high=65535
    )
    transpose: bool = _setting(False, "Exchange the height and the width of each image, for files such as those of EMNIST.")
    array: str = _setting("", "Name of the array to read from a file that has several, such as layers/counts of an .h5ad file.")
    label_column: str = _setting("", "Name of the column of a table that has the labels.")
    validation_dataset: str = _setting("", "Name or path of the validation set, where it has files of its own.")
    test_dataset: str = _setting("", "Name or path of the test set, where it has files of its own.")
    condition: str = _setting(
        "",
        "What the model is conditioned on, for log p(x|c): labels, factors, a file (.npy, .npz, .csv, .tsv, .parquet) with a "
        "row for each example, or names with commas between them: of columns of a table or of obs of an .h5ad file, or of "
        "factors. A name in double quotes is always a column. Whole numbers and words become categories, other numbers are "
        "standardized.",
    )
    missing: Literal["refuse", "nan"] = _setting(
        "refuse",
        "Whether NaN, or an empty field of a table, marks a missing entry (nan), which the log-likelihood leaves out, or is an "
        "error. A mask in a file, such as x_train_mask beside x_train in an .npz file, is used without this.",
    )
    mask_input: bool = _setting(False, "Give the encoder the mask of the observed entries as well.")
    layout: Literal["auto", "channels_last", "channels_first"] = _setting(
        "auto",
        "Axes of arrays in files: (examples, height, width, channels) or (examples, channels, height, width). auto: channels "
        "first where the second axis is 1, 3 or 4, the last two are larger, and the last is not 1, 3 or 4.",
    )
    stream: bool = _setting(
        False,
        "Read the training set from disk while training, for data larger than memory (.npy, raw IDX files, TFDS names). This "
        "changes results by rounding only. One reader feeds all members of a sweep. Test and validation sets stay in memory, "
        "so choose a small `test_fraction`.",
    )
    binarize: Literal["auto", "dynamic", "fixed", "threshold", "none"] = _setting(
        "auto",
        "How pixels become 0 or 1: drawn anew at every step, once, at 1/2, or not. auto: dynamic for bernoulli, else none.",
    )
    dequantize: bool = _setting(
        False,
        "Add uniform noise of one level to integer data; the log-likelihood then counts nats of the discrete data (a bound).",
    )
    test_seed: int = _seed(
        "Seed of everything drawn once for evaluation: binarized or dequantized test data and the draws of z."
    )
    likelihood: str = _setting("bernoulli", "Distribution of the data given z.")
    network: str = _setting("mlp", "Encoder and decoder.")
    activation: str = _setting("relu", "relu, tanh, gelu, silu, elu, leaky_relu, softplus, sigmoid or linear.")
    latent_dim: int = _count(10, "Number of latent dimensions.", high=1e6)
    prior: str = _setting("normal", "Prior p(z).")
    posterior: str = _setting("diagonal", "Approximate posterior q(z|x).")
    output_bias: Literal["zeros", "train_mean"] = _setting(
        "zeros",
        "Where the decoder's last bias starts: at zero, or where the likelihood predicts the training mean (its logit).",
    )
    dtype: Literal["float32", "bfloat16"] = _setting(
        "float32", "Arithmetic of the networks; parameters and losses stay float32."
    )
    objective: str = _setting("elbo", "Training objective.")
    optimizer: str = _setting("adam", "Optimizer from optax, with its defaults.")
    clip_norm: float | None = _setting(
        None,
        "Largest global norm of the gradient; a longer gradient is scaled down to it. None by default.",
        low=_OPEN_ZERO,
        high=1e30,
        bounds="a number > 0",
        traced=True,
        resolve=lambda config: 1e30,
        none_is_static=True,
    )
    accumulate_steps: int = _count(
        1,
        "Steps in one update, which takes the mean of their gradients. Warm-ups and schedules still count steps. An update "
        "has the learning rate of its last step.",
    )
    skip_not_finite: int = _steps(
        "Skip steps whose gradient is not finite, at most this many in a row, where the run would end as diverged; 0 for none."
    )
    # Beyond 1e30 float32 overflows somewhere in a loss or an update.
    learning_rate: float = _setting(1e-3, "Peak learning rate.", low=1e-30, high=1e30, bounds="a number > 0", traced=True)
    learning_rate_schedule: Literal["constant", "cosine", "linear", "burda"] = _setting(
        "constant",
        "Course of the learning rate after its warm-up. cosine and linear end at 0 with the run. burda has eight stages, each "
        "three times as long as the one before, down to a tenth (3,280 epochs are those of the IWAE paper).",
    )
    learning_rate_warmup_steps: int = _steps("Steps over which the learning rate rises linearly from 0.")
    ema_decay: float = _setting(
        0.0,
        "Decay of an exponential moving average of the parameters, which is then what is evaluated; 0 for none.",
        low=0,
        high=0.99999,
    )
    average_from_epoch: int = _steps(
        "First epoch, counted from 1, of the uniform (Polyak) average of the parameters over updates, which is then what is "
        "evaluated; 0 for none."
    )
    epochs: int = _count(50, "Passes over the training set.")
    batch_size: int = _count(128, "Examples in a step; what is left over at the end of an epoch waits for the next shuffle.")
    eval_batch_size: int = _count(
        1000,
        "Examples evaluated at once. On CPU always 128, so no bit depends on this; elsewhere results change by rounding alone.",
    )
    early_stopping: int = _steps(
        "Stop after this many epochs without a better validation ELBO and report the best; 0 for never. Epochs count once "
        "every warm-up (of the cyclical `beta_schedule`: the last rise) has ended. A decay of the learning rate and geco's "
        "multiplier are not waited for."
    )
    prng: Literal["threefry2x32", "rbg", "unsafe_rbg"] = _setting(
        "threefry2x32",
        "Generator of the noise in training steps. The other two may be faster on accelerators (not on CPU), but depend on "
        "backend and compiler: such a run repeats on the same machine only, and not as a member under vmap.",
    )
    seed: int = _seed("Seed of initialization, data order and noise.")

    if TYPE_CHECKING:  # the registered settings

        def __init__(self, **settings: Any) -> None: ...
        def __getattr__(self, name: str) -> Any: ...

    @property
    def hyperparams(self) -> "Hyperparams":
        """The traced part."""
        return hyperparams_class()(**{setting.name: _traced_value(self, setting) for setting in _traced()})

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

    def entry(self, kind: registry.Kind) -> Entry | None:
        """Returns the registry's entry that this configuration names; None for a user's own function."""
        return registry.entries(kind).get(getattr(self, kind))

    def unused(self) -> dict[str, tuple[registry.Kind, list[str]]]:
        """Returns the settings that this configuration does not use: (kind, the names of that kind that do) by setting."""
        unused = {}
        for name in registry.settings():
            kind, names = registry.users(name)
            if getattr(self, kind) not in (CUSTOM, *names):
                unused[name] = (kind, names)
        return unused

    def validate(self) -> None:
        """Raises `UserError` for every value that no data could make right."""
        check_types(self)
        for kind in KINDS:
            check_name(kind, getattr(self, kind), registry.entries(kind))
        for name, (kind, names) in sorted(self.unused().items()):
            if getattr(self, name) != getattr(type(self), name):
                raise UserError(
                    f"`{name}` belongs to `{kind}` {listed(names)}; {getattr(self, kind)} does not use it. Leave it out."
                )
        for setting in all_settings():
            setting.check(getattr(self, setting.name))
        for kind in KINDS:
            if entry := self.entry(kind):
                entry.check(self)
        check_combinations(self)


def all_settings() -> list[Setting]:
    """Returns every setting of a `Config`: the fields of the class and those of the registry, in the order of the fields."""
    registered, hints = registry.settings(), typing.get_type_hints(Config)
    return [
        registered.get(field.name) or Setting(field.name, hints[field.name], field.default, **field.metadata)
        for field in dataclasses.fields(Config)
    ]


def _traced() -> list[Setting]:
    traced = [setting for setting in all_settings() if setting.traced]
    return sorted(traced, key=lambda setting: ("beta", "learning_rate", setting.name).index(setting.name))


def _traced_value(config: Config, setting: Setting) -> float:
    value = getattr(config, setting.name)
    return setting.resolve(config) if setting.resolve is not None and value is None else value


def settings_of(kind: registry.Kind, name: str) -> tuple[str, ...]:
    """Returns the names of the settings of one entry, such as a likelihood; () for a user's own function."""
    entry = registry.entries(kind).get(name)
    return () if entry is None else tuple(setting.name for setting in entry.settings)


if TYPE_CHECKING:
    from jax.typing import ArrayLike

    class Hyperparams(tuple[ArrayLike, ...]):
        """Traced numbers of a step: what a sweep varies within one compiled program."""

        _fields: tuple[str, ...]

        def __new__(cls, *values: ArrayLike, **named: ArrayLike) -> "Hyperparams": ...
        def __getattr__(self, name: str) -> Any: ...
        def _replace(self, **values: ArrayLike) -> "Hyperparams": ...
        def _asdict(self) -> dict[str, Any]: ...


def hyperparams_class() -> "type[Hyperparams]":
    """Returns the NamedTuple of all traced settings; its defaults are those of `Config()`.

    It is `Hyperparams`, or, once a user has registered further traced numbers, a NamedTuple with those as well.
    """
    return _HYPERPARAMS[-1]


_HYPERPARAMS: list[Any] = []


def _make_hyperparams() -> None:
    traced = _traced()
    if not _HYPERPARAMS or _HYPERPARAMS[-1]._fields != tuple(setting.name for setting in traced):
        names: Any = [(setting.name, Any) for setting in traced]
        new: Any = typing.NamedTuple("Hyperparams", names)
        new.__doc__ = (
            "Traced numbers of a step, such as beta and the learning rate: what a sweep varies within one compiled program."
        )
        new.__module__ = __name__
        config = Config()
        new.__new__.__defaults__ = tuple(_traced_value(config, setting) for setting in traced)
        new._field_defaults = dict(zip(new._fields, new.__new__.__defaults__, strict=True))
        _HYPERPARAMS.append(new)


_GENERATED = ("__init__", "__repr__", "__eq__", "__hash__", "__setattr__", "__delattr__", "__match_args__", "__replace__")


def _extend_config() -> None:
    """Gives `Config` a field for each registered setting, behind the field that names its kind.

    `dataclass` is applied again to the class with its longer list of fields. The defaults are class attributes, so
    configurations that were made before have the new settings too.
    """
    hints = typing.get_type_hints(Config)
    core = [field for field in dataclasses.fields(Config) if field.name in _CORE]
    for name in {field.name for field in dataclasses.fields(Config)} - {*_CORE, *registry.settings()}:
        delattr(Config, name)  # of an entry that was removed
    fields: dict[str, tuple[Any, Any, Mapping[str, Any]]] = {}
    for field in core:
        metadata = dict(field.metadata)
        if field.name in KINDS:
            described = [f"{entry.name} ({entry.help})" for entry in registry.entries(field.name).values()]  # pyright: ignore[reportArgumentType]
            metadata["help"] = f"{metadata['help'].split(':')[0].rstrip('.')}: {listed(described)}."
        fields[field.name] = (hints[field.name], field.default, metadata)
        if field.name in KINDS:
            for setting in registry.settings(field.name).values():  # pyright: ignore[reportArgumentType]
                names = listed(registry.users(setting.name)[1])
                fields[setting.name] = (setting.type, setting.default, {"help": f"{setting.help} For {names}."})
    for name in _GENERATED:
        if name in vars(Config):
            delattr(Config, name)
    Config.__annotations__ = {name: hint for name, (hint, _, _) in fields.items()}
    for name, (_, default, metadata) in fields.items():
        setattr(Config, name, dataclasses.field(default=default, metadata=metadata))
    dataclasses.dataclass(frozen=True)(Config)
    _make_hyperparams()


def from_dict(values: dict[str, Any]) -> Config:
    """Returns a `Config` from what `dataclasses.asdict` gave, after a round trip through JSON.

    Settings that it does not use are those of this version: a different version may have had other defaults. A setting that is
    missing, because the version that wrote the file did not have it, gets the value with which that version worked.
    """
    known = {field.name for field in dataclasses.fields(Config)}
    if not isinstance(values, dict):
        raise UserError(f"expected settings by name, got {values!r:.40}.")
    if newer := set(values) - known:
        raise UserError(
            f"config.json has unknown settings {sorted(newer)}: written by a newer version? Update vae_jax. If they belong "
            "to an entry that you registered, call config.register first."
        )
    arguments: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    earlier = {name: setting.earlier for name, setting in registry.settings().items() if setting.earlier is not None}
    config = Config(**{**earlier, **arguments})
    return dataclasses.replace(config, **{setting: getattr(Config, setting) for setting in config.unused()})


_CORE = tuple(field.name for field in dataclasses.fields(Config))
registry.reserve(name for name in dir(Config) if name not in _CORE)  # methods and properties
registry.reserve(_CORE)
registry.load_entries()
registry.on_change(_extend_config)
if not TYPE_CHECKING:
    Hyperparams = hyperparams_class()
