"""`Parts`: networks, priors, likelihoods, objectives and optimizers of a user, in place of those that a `Config` names."""

import hashlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeAlias, TypedDict

from jax import Array

from vae_jax._numerics.short_repr import short_repr
from vae_jax.config import CUSTOM, Config, TrainingData
from vae_jax.errors import UserError
from vae_jax.likelihoods import Likelihood
from vae_jax.networks import Network
from vae_jax.objectives.batch import AnyObjective
from vae_jax.priors import ConditionalGaussian, Prior
from vae_jax.storage.atomic import JsonObject
from vae_jax.training.optimizers import Optimizer

AnyPrior: TypeAlias = Prior | ConditionalGaussian
Networks: TypeAlias = tuple[Network, Network | Callable[..., Network]]
NetworkFactory: TypeAlias = Callable[[Config, TrainingData], Networks]
PriorFactory: TypeAlias = Callable[[Config, TrainingData], AnyPrior]
LogProbFunction: TypeAlias = Callable[..., Array]  # (decoder output, x) -> nats


class PartSource(NamedTuple):
    """Origin of a part: the name and the file of its definition, and the file's SHA-256 when it was imported."""

    name: str
    file: str = ""  # "": it was not defined in a file
    sha256: str = ""


class PartOptions(TypedDict, total=False):
    """Keyword arguments of `build`, `runs.train`, `load_run`, `load_model` and sweeps: the parts in place of named ones.

    Attributes:
      likelihood: a `Likelihood`, or a function (decoder_output, x) -> nats of one example.
      network: a function (config, data) -> (encoder, decoder), or the pair itself. Both are `networks.Network`s, such as
        `networks.from_linen` and `networks.from_nnx` make. `data` is a `config.TrainingData`, whose `input_shape`,
        `output_shape`, `outputs_per_dim` and `condition_dim` say what they take and return.
      prior: a `priors.Prior`, a `priors.ConditionalGaussian`, or a function (config, data) -> one of them.
      objective: a function (key, encode, decode, log_prob, x, hyperparams) -> `Terms` of one example, or a `BatchObjective`.
      optimizer: a function of the learning rate, such as `optax.adam`, a finished optax optimizer, or a
        `training.optimizers.FromHyperparams`, whose numbers (`b1`, `weight_decay`, ...) a sweep varies.
      sources: origin of each part by name, for parts that do not know it themselves.
    """

    likelihood: Likelihood | LogProbFunction | None
    network: Networks | NetworkFactory | None
    prior: AnyPrior | PriorFactory | None
    objective: AnyObjective | None
    optimizer: Optimizer | None
    sources: Mapping[str, PartSource]


@short_repr
class Parts(NamedTuple):
    """The parts of a user that `PartOptions` describes; None where the configuration names the part."""

    likelihood: Likelihood | LogProbFunction | None = None
    network: Networks | NetworkFactory | None = None
    prior: AnyPrior | PriorFactory | None = None
    objective: AnyObjective | None = None
    optimizer: Optimizer | None = None
    sources: Mapping[str, PartSource] = {}

    def given(self) -> dict[str, object]:
        """Returns the parts that are not None, by name."""
        return {name: value for name in PART_NAMES if (value := getattr(self, name)) is not None}

    def records(self) -> JsonObject:
        """Returns the name, file and SHA-256 of each part, as config.json holds them."""
        return {name: (self.sources.get(name) or source_of(part))._asdict() for name, part in self.given().items()}


PART_NAMES = ("likelihood", "network", "prior", "objective", "optimizer")


def file_sha256(path: str | Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def source_of(part: object) -> PartSource:
    """Returns the origin of a part, as far as Python knows it."""
    name = getattr(part, "__qualname__", type(part).__qualname__)
    try:
        file = inspect.getsourcefile(inspect.unwrap(part)) if callable(part) else None
        return PartSource(name, str(file), file_sha256(file)) if file else PartSource(name)
    except (TypeError, OSError):
        return PartSource(name)


def check_parts(path: Path, recorded: JsonObject, settings: Mapping[str, str], parts: Parts, function: str) -> list[str]:
    """Compares the parts that are passed with those that a directory records.

    Args:
      path: the directory, for messages.
      recorded: its `Parts.records`; {} for directories of earlier versions.
      settings: the name of each part in the configuration; "custom" for a part of the user.
      parts: the parts that are passed.
      function: the function that takes them, such as "load_run".

    Returns:
      Notes for the user: parts from files that have changed since.

    Raises:
      UserError: a part is missing, a part is passed that the directory names, or the file of a part that the command line
        loaded has changed.
    """
    given, now, notes = parts.given(), parts.records(), []
    for name in PART_NAMES:
        is_custom, source = settings[name] == CUSTOM, PartSource(**recorded.get(name, {"name": ""}))
        if is_custom and name not in given:
            described = f" {source.name}" if source.name else " of your own"
            described += f" of {Path(source.file).name} (SHA-256 {source.sha256[:12]})" if source.file else ""
            raise UserError(
                f"{path}: was trained with the {name}{described}, which is not stored here.",
                field=name,
                fix=f"Pass `{name}` to {function}.",
            )
        if name in given and not is_custom:
            raise UserError(f"{path}: was trained with the {name} {settings[name]!r}.", field=name, fix=f"Leave `{name}` out.")
        if name in given and source.sha256 and now[name]["sha256"] not in ("", source.sha256):
            changed = (
                f"{path}: was trained with the {name} {source.name} of a file with the SHA-256 {source.sha256}, and "
                f"{now[name]['file']} has {now[name]['sha256']}."
            )
            if name in parts.sources:  # the command line loaded it
                raise UserError(changed, field=name, fix="Pass the file with which it was trained.")
            notes.append(changed)
    return notes
