"""The registry of the parts of a run, from likelihoods to optimizers: names, settings, bounds, help and factories in one place.

An entry stands in a module `entries.py` beside the code that it names. `ENTRY_MODULES` lists the modules of this package that
register entries; a user calls `register` at run time. `Config`, the command line, its help, validation, sweeps and `build`
read the registry. Reading it imports neither jax nor flax: a factory imports what it needs when it is called.
"""

import importlib
import keyword
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple, Protocol

from vae_jax.errors import UserError

Kind = Literal["likelihood", "objective", "prior", "posterior", "network", "optimizer"]
KINDS: tuple[Kind, ...] = ("likelihood", "network", "prior", "posterior", "objective", "optimizer")
CUSTOM = "custom"  # name of a part that is an object of the user, passed to `build`

ENTRY_MODULES = (
    "vae_jax.likelihoods.entries",
    "vae_jax.networks.entries",
    "vae_jax.priors.entries",
    "vae_jax.posteriors.entries",
    "vae_jax.objectives.entries",
    "vae_jax.objectives.batch.entries",
    "vae_jax.training.entries",
)


class Settings(Protocol):
    """A `Config` as factories and checks see it: its attributes are the settings."""

    def __getattr__(self, name: str, /) -> Any: ...


class Setting(NamedTuple):
    """A setting of a run: a field of `Config`, and for a traced number a field of `Hyperparams` as well.

    Example:
      >>> Setting("capacity", float, 25.0, "Nats at which the KL is held.", low=0, high=1e30, traced=True).expected
      'a number >= 0'
    """

    name: str
    type: Any  # annotation of the field: float, int, str, bool, a Literal, tuple[int, ...], or one of them | None
    default: object
    help: str  # one or two sentences; other settings stand in backquotes
    low: float = -math.inf  # allowed numbers lie in [low, high]
    high: float = math.inf
    bounds: str = ""  # the allowed values in words; by default made of the type, of low and of high
    traced: bool = False  # a number that a step takes as an array, so that a sweep varies it within one compiled program
    resolve: Callable[[Settings], float] | None = None  # config -> the traced number of a default of None
    none_is_static: bool = False  # a traced number of which None compiles a different program, without this number
    warms_up: str = ""  # the traced setting that rises from 0 over this many steps
    earlier: Any = None  # value of the runs that were written before the setting existed; None: the default

    @property
    def expected(self) -> str:
        """The allowed values, as a noun phrase for error messages."""
        if self.bounds:
            return self.bounds
        noun = "a whole number" if self.type in (int, int | None) else "a number"
        if self.low == -math.inf and self.high == math.inf:
            return f"{noun} that is finite"
        if self.high >= 1e6:
            return f"{noun} >= {self.low:g}"
        return f"{noun} from {self.low:g} to {self.high:g}"

    def check(self, value: object) -> None:
        """Raises `UserError` where a number, or one of several, is out of bounds. Texts and None pass."""
        numbers: tuple[object, ...] = value if isinstance(value, tuple) else (value,)
        for number in numbers:
            if isinstance(number, int | float) and not isinstance(number, bool) and not self.low <= number <= self.high:
                largest = f"{self.high:,.0f}" if self.high < 1e10 else f"{self.high:g}"
                is_too_large = number > self.high >= 1e6 and not self.bounds
                raise UserError(field=self.name, expected=f"at most {largest}" if is_too_large else self.expected, got=value)


class TrainingData(NamedTuple):
    """Facts about the training data, from which a factory chooses where learned numbers start."""

    name: str
    data_shape: tuple[int, ...]  # of one example
    num_levels: int  # K of integer levels 0 ... K - 1 as the likelihood sees them; 2 for binarized and for real data
    std: Any  # standard deviation: one number for images, else one for each entry where each has its scale
    mean_count: Any  # mean of integer data, at least 1e-3: one number for images, else one for each entry
    num_train: int  # examples in the training set
    num_different: int  # different examples that training can draw, more than `num_train` where images are rendered
    draw_inputs: Callable[[Any, int], Any]  # (key, n) -> n different training examples as the encoder sees them
    mean_total: float = 1.0  # mean over the examples of the sum of integer data, > 0
    condition_dim: int = 0  # length of the condition as networks take it; 0 without one
    has_missing: bool = False  # whether entries are missing
    input_shape: tuple[int, ...] = ()  # of one example as the encoder sees it, with its mask; (): `data_shape`
    output_shape: tuple[int, ...] = ()  # of the decoder's array before `outputs_per_dim`; (): `data_shape`
    outputs_per_dim: int = 1  # numbers that the decoder returns for each data dimension, on a last axis where it is not 1
    num_extra: int = 0  # numbers that the encoder returns beyond mean and log_scale, for the posterior
    columns: tuple[Any, ...] = ()  # `data.column_proposals.ColumnFacts` of each column of a mixed table; (): no mixed table


class Entry(NamedTuple):
    """A likelihood, an objective, a prior, a posterior, a network or an optimizer that a `Config` can name.

    The factory gets the `Config`, whose attributes are the settings, and the `TrainingData`. It returns

    - for a likelihood a `likelihoods.Likelihood`,
    - for an objective an `objectives.Objective` or an `objectives.batch.BatchObjective`,
    - for a prior a `priors.Prior`, a `priors.ConditionalGaussian` of the condition for p(z|c), or None for N(0, I),
    - for a posterior a `posteriors.Posterior`, or None for the diagonal Gaussian,
    - for a network the encoder, a `networks.Network`, and a function that makes the decoder,
      (outputs_per_dim=, output_bias=) -> `networks.Network`; or a `networks.Ladder`, with several stochastic layers,
    - for an optimizer a function of the learning rate such as `optax.adam`, a finished optax optimizer, or a
      `training.optimizers.FromHyperparams`.

    Example: an objective with one traced number.

      >>> def squared_kl(key, encode, decode, log_prob, x, hyperparams):
      ...     from vae_jax.objectives import Terms, elbo
      ...     terms = elbo(key, encode, decode, log_prob, x)
      ...     return Terms(-terms.log_likelihood + hyperparams.kl_power * terms.kl**2, terms.log_likelihood, terms.kl)
      >>> power = Setting("kl_power", float, 0.1, "Weight of the squared KL.", low=0, high=1e30, traced=True)
      >>> entry = Entry("objective", "squared_kl", "Weighs the squared KL.", lambda config, data: squared_kl, (power,))
    """

    kind: Kind
    name: str
    help: str  # a phrase, such as "integer levels"
    factory: Callable[[Settings, TrainingData], object]
    settings: tuple[Setting, ...] = ()
    check: Callable[[Settings], None] = lambda config: None  # raises UserError for settings that do not fit each other
    any_prior: bool = False  # an objective that does not need the KL to N(0, I) in closed form
    any_posterior: bool = False  # an objective that does not need q(z|x) to be a diagonal Gaussian, with the exceptions of:
    # (config, `posteriors.Posterior` other than the diagonal one) raises UserError for posteriors that do not fit an objective
    check_posterior: Callable[..., None] = lambda config, posterior: None
    any_objective: bool = False  # a prior under which the codes are N(0, I), so that every objective takes it


_ENTRIES: dict[Kind, dict[str, Entry]] = {kind: {} for kind in KINDS}
_RESERVED: set[str] = set()  # settings that every run has
_LISTENERS: list[Callable[[], None]] = []


def register(entry: Entry) -> None:
    """Adds an entry. From then on `Config` has its settings, and the command line, sweeps and `build` know its name.

    A notebook that registers a changed entry calls `unregister` first.

    Raises:
      UserError: the name is taken by a different entry, or a setting is taken, by a different one or by a different kind of
        entry, or cannot be a field. Nothing is registered then.
    """
    known = _ENTRIES[entry.kind]
    if entry.name == CUSTOM or known.get(entry.name, entry) != entry:
        raise UserError(field=entry.kind, message=f"the name {entry.name!r} is taken.", fix="Choose a different name.")
    for setting in entry.settings:
        _check_setting(entry, setting)
    known[entry.name] = entry
    for listener in _LISTENERS:
        listener()


def _check_setting(entry: Entry, setting: Setting) -> None:
    """Raises `UserError` where a setting cannot become a field of `Config` beside those that are there."""
    if not setting.name.isidentifier() or keyword.iskeyword(setting.name):
        raise UserError(field=entry.name, expected="a setting whose name is a Python identifier", got=repr(setting.name))
    others = {name: kind for kind in KINDS if kind != entry.kind for name in settings(kind)}
    if setting.name in _RESERVED or setting.name in others or settings().get(setting.name, setting) != setting:
        raise UserError(
            field=setting.name, message=f"{entry.name} declares this setting differently.", fix="Choose a different name."
        )
    is_number = isinstance(setting.default, int | float) and not isinstance(setting.default, bool)
    if setting.traced and not is_number and setting.resolve is None:
        raise UserError(field=setting.name, expected="a traced setting whose default is a number", got=repr(setting.default))
    setting.check(setting.default)


def unregister(kind: Kind, name: str) -> None:
    """Removes an entry, with the settings that no other entry has; does nothing where there is none of that name."""
    if _ENTRIES[kind].pop(name, None) is not None:
        for listener in _LISTENERS:
            listener()


def reserve(names: Iterable[str]) -> None:
    """Keeps names of settings from being registered, because every run has them."""
    _RESERVED.update(names)


def on_change(listener: Callable[[], None]) -> None:
    """Has a function called after each registration, and once now."""
    _LISTENERS.append(listener)
    listener()


def load_entries() -> None:
    """Imports the modules of this package that register entries."""
    for module in ENTRY_MODULES:
        importlib.import_module(module)


def entries(kind: Kind) -> Mapping[str, Entry]:
    """Returns the entries of a kind by name, in the order of their registration."""
    return _ENTRIES[kind]


def all_entries() -> Iterator[Entry]:
    """Yields every entry, kind by kind."""
    for kind in KINDS:
        yield from _ENTRIES[kind].values()


def settings(kind: Kind | None = None) -> dict[str, Setting]:
    """Returns the settings that entries declare, of one kind or of all, by name."""
    return {setting.name: setting for entry in all_entries() if kind in (None, entry.kind) for setting in entry.settings}


def users(name: str) -> tuple[Kind, list[str]]:
    """Returns the kind and the names of the entries that use a setting."""
    for kind in KINDS:
        if names := [entry.name for entry in _ENTRIES[kind].values() if name in (s.name for s in entry.settings)]:
            return kind, names
    raise KeyError(name)
