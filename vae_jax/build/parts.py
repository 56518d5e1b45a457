"""`Parts`: networks, densities, objectives and optimizers of a user, in place of those that a `Config` names."""

import functools
import hashlib
import inspect
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeAlias, TypedDict

from jax import Array

from vae_jax._numerics.short_repr import short_repr
from vae_jax.config import CUSTOM, Config, TrainingData
from vae_jax.errors import UserError
from vae_jax.likelihoods import Likelihood
from vae_jax.networks import Ladder, Network
from vae_jax.objectives.batch import AnyObjective
from vae_jax.posteriors import Posterior
from vae_jax.priors import ConditionalGaussian, Prior
from vae_jax.storage.atomic import JsonObject
from vae_jax.training.optimizers import Optimizer

AnyPrior: TypeAlias = Prior | ConditionalGaussian
Networks: TypeAlias = tuple[Network, Network | Callable[..., Network]] | Ladder
NetworkFactory: TypeAlias = Callable[[Config, TrainingData], Networks]
PriorFactory: TypeAlias = Callable[[Config, TrainingData], AnyPrior]
PosteriorFactory: TypeAlias = Callable[[Config, TrainingData], Posterior]
LogProbFunction: TypeAlias = Callable[..., Array]  # (decoder output, x) -> nats


class PartSource(NamedTuple):
    """Origin of a part: the name and the file of its definition, and the file's SHA-256 when it was imported."""

    name: str
    file: str = ""  # its absolute path, for the reader alone; "": it was not defined in a file
    sha256: str = ""
    imported: bool = False  # whether the command line imported the file for this part

    def describe(self) -> str:
        """Returns the name with its file, such as "make_network of parts.py"; "of your own" without a name."""
        return f"{self.name} of {Path(self.file).name}" if self.file else self.name or "of your own"


class PartOptions(TypedDict, total=False):
    """Keyword arguments of `build`, `runs.train`, `load_run`, `load_model` and sweeps: the parts in place of named ones.

    Attributes:
      likelihood: a `Likelihood`, or a function (decoder_output, x) -> nats of one example.
      network: a function (config, data) -> (encoder, decoder), or the pair itself. Both are `networks.Network`s, such as
        `networks.from_linen` and `networks.from_nnx` make, or Linen modules. `data` is a `config.TrainingData`, whose
        `input_shape`, `output_shape`, `outputs_per_dim`, `condition_dim` and `num_extra` say what they take and return.
        For several stochastic layers, a `networks.Ladder`.
      prior: a `priors.Prior`, a `priors.ConditionalGaussian`, or a function (config, data) -> one of them.
      posterior: a `posteriors.Posterior`, or a function (config, data) -> one.
      objective: a function (key, encode, decode, log_prob, x, hyperparams) -> `Terms` of one example, or a `BatchObjective`.
      optimizer: a function of the learning rate, such as `optax.adam`, a finished optax optimizer, or a
        `training.optimizers.FromHyperparams`, whose numbers (`b1`, `weight_decay`, ...) a sweep varies.
      sources: origin of each part by name, for parts that do not know it themselves.
    """

    likelihood: Likelihood | LogProbFunction | None
    network: Networks | NetworkFactory | None
    prior: AnyPrior | PriorFactory | None
    posterior: Posterior | PosteriorFactory | None
    objective: AnyObjective | None
    optimizer: Optimizer | None
    sources: Mapping[str, PartSource]


@short_repr
class Parts(NamedTuple):
    """The parts of a user that `PartOptions` describes; None where the configuration names the part."""

    likelihood: Likelihood | LogProbFunction | None = None
    network: Networks | NetworkFactory | None = None
    prior: AnyPrior | PriorFactory | None = None
    posterior: Posterior | PosteriorFactory | None = None
    objective: AnyObjective | None = None
    optimizer: Optimizer | None = None
    sources: Mapping[str, PartSource] = {}

    def given(self) -> dict[str, object]:
        """Returns the parts that are not None, by name."""
        return {name: value for name in PART_NAMES if (value := getattr(self, name)) is not None}

    def records(self) -> JsonObject:
        """Returns the name, file and SHA-256 of each part, as config.json holds them."""
        return {name: (self.sources.get(name) or source_of(part))._asdict() for name, part in self.given().items()}


PART_NAMES = ("likelihood", "network", "prior", "posterior", "objective", "optimizer")


def file_sha256(path: str | Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def source_of(part: object) -> PartSource:
    """Returns the origin of a part, as far as Python knows it. That of a partial function is the function's."""
    if isinstance(part, functools.partial):
        source = source_of(part.func)
        return source._replace(name=f"partial({source.name})")
    if type(part) is tuple:
        return PartSource("(encoder, decoder)")
    kind = part if callable(part) and hasattr(part, "__qualname__") else type(part)
    label = getattr(part, "name", None)  # of a `Prior` or a `Likelihood`
    name = label if isinstance(label, str) else str(getattr(kind, "__qualname__", type(part).__qualname__))
    try:
        file = inspect.getsourcefile(inspect.unwrap(kind)) if callable(part) else None
        return PartSource(name, os.path.abspath(file), file_sha256(file)) if file else PartSource(name)
    except (TypeError, OSError):
        return PartSource(name)


def describe_change(path: Path, kind: str, recorded: PartSource, now: PartSource) -> str:
    """Returns a sentence about a part that is not the recorded one; "" where nothing shows a difference.

    Args:
      path: the directory that records the part.
      kind: name of the part, such as "network".
      recorded: its origin in the directory.
      now: origin of the part that is passed.
    """
    if recorded.sha256 and now.sha256 not in ("", recorded.sha256):
        return (
            f"{path}: was trained with the {kind} {recorded.name} of a file {Path(recorded.file).name} with the SHA-256 "
            f"{recorded.sha256}, and {now.file} has the SHA-256 {now.sha256}."
        )
    if recorded.name and now.name != recorded.name:
        return f"{path}: was trained with the {kind} {recorded.describe()}, and {now.describe()} is passed."
    return ""


def recorded_source(recorded: JsonObject, kind: str) -> PartSource:
    """Returns the origin of a part that a directory records; an empty one for directories of earlier versions.

    Raises:
      UserError: the record was altered.
    """
    fields = recorded.get(kind, {"name": ""}) if isinstance(recorded, dict) else None
    try:
        source = PartSource(**fields)  # pyright: ignore[reportCallIssue]
        if not (all(isinstance(text, str) for text in source[:3]) and isinstance(source.imported, bool)):
            raise TypeError
    except TypeError:
        expected = "name, file and sha256 in its record"
        raise UserError(field=kind, expected=expected, got=f"{fields!r:.80}", fix="The record was altered.") from None
    return source


def check_parts(path: Path, recorded: JsonObject, settings: Mapping[str, str], parts: Parts, function: str) -> list[str]:
    """Compares the parts that are passed with those that a directory records.

    Args:
      path: the directory, for messages.
      recorded: its `Parts.records`; {} for directories of earlier versions.
      settings: the name of each part in the configuration; "custom" for a part of the user.
      parts: the parts that are passed.
      function: the function that takes them, such as "load_run".

    Returns:
      Notes for the user: parts that differ from the recorded ones, or whose file has changed since.

    Raises:
      UserError: parts are missing, a part is passed that the directory names, or a part that the command line imported is a
        different one or from a file that has changed.
    """
    given, notes = parts.given(), []
    missing = {name: recorded_source(recorded, name) for name in PART_NAMES if settings[name] == CUSTOM and name not in given}
    if missing:
        hashes = {name: f" (SHA-256 {source.sha256[:12]})" if source.sha256 else "" for name, source in missing.items()}
        described = " and ".join(f"the {name} {source.describe()}{hashes[name]}" for name, source in missing.items())
        raise UserError(
            f"{path}: was trained with {described}, which {'is' if len(missing) == 1 else 'are'} not stored here.",
            field=next(iter(missing)) if len(missing) == 1 else None,
            fix=f"Pass {' and '.join(f'`{name}`' for name in missing)} to {function}.",
        )
    for name, part in given.items():
        if settings[name] != CUSTOM:
            raise UserError(f"{path}: was trained with the {name} {settings[name]!r}.", field=name, fix=f"Leave `{name}` out.")
        change = describe_change(path, name, recorded_source(recorded, name), parts.sources.get(name) or source_of(part))
        if change and name in parts.sources:  # the command line imported it
            raise UserError(change, field=name, fix="Pass the file with which it was trained.")
        if change:
            notes.append(change)
    return notes
