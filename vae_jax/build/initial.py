"""`Initial`: parameters of a trained model from which a new run starts, and the scale of the data that belongs to them."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax._numerics.keys import Stream, stream
from vae_jax._numerics.short_repr import short_repr
from vae_jax.build.description import DataDescription
from vae_jax.build.model import make_likelihood
from vae_jax.config import CUSTOM, Config, TrainingData
from vae_jax.errors import UserError
from vae_jax.likelihoods import Likelihood
from vae_jax.model import VAE, Params
from vae_jax.storage.atomic import JsonObject

INIT_PARTS = ("encoder", "decoder", "likelihood", "prior", "posterior")
_STANDARDIZED = ("real", "counts", "mixed")  # supports whose data are standardized by their moments, where there are any


@short_repr
class Initial(NamedTuple):
    """Parameters of a trained model from which `build` lets a new run start (from `runs.init_from`).

    Attributes:
      config: settings of the trained model.
      description: of its training data.
      arrays: its parameters by their paths, such as "encoder.dense_0.kernel".
      record: lineage for config.json: path, sha256, epoch, member, parts, and the lineage of the trained model itself. No parts
        are all that both models have.
    """

    config: Config
    description: DataDescription
    arrays: Mapping[str, np.ndarray]
    record: JsonObject

    @property
    def parts(self) -> tuple[str, ...]:
        """Parts that were asked for; () for all that both models have."""
        return tuple(self.record["parts"])

    def shared_parts(self, template: Params) -> tuple[str, ...]:
        """Returns the parts that a model with these parameters takes over.

        Raises:
          UserError: a part was asked for that one of the two models does not have.
        """
        there = {name.split(".")[0] for name in self.arrays}
        for part in self.parts:
            if part not in there or part not in template:
                who = self.record["path"] if part not in there else "the new model"
                raise UserError(f"{who} has no parameters of the {part}.", field="init_parts", fix=f"Leave {part!r} out.")
        return self.parts or tuple(part for part in INIT_PARTS if part in there and part in template)


def with_initial_scale(facts: TrainingData, config: Config, init: Initial) -> TrainingData:
    """Returns facts in which the scales of the data are those with which the trained networks were made.

    They are constants of likelihood and networks, such as the unit of counts, so they belong to the parameters. They are kept
    for the same likelihood, unless neither encoder nor decoder are taken over.
    """
    if not _takes_networks(init) or config.likelihood != init.config.likelihood:
        return facts
    old = init.description.facts
    if old.data_shape != facts.data_shape:
        return facts  # the networks do not fit, which `start_from` reports
    kinds = [[(column.name, column.likelihood, column.values) for column in one.columns] for one in (old, facts)]
    if kinds[0] != kinds[1]:
        names = sorted({one[0] for one in set(kinds[0]) ^ set(kinds[1])})
        raise UserError(
            f"the columns of {init.record['path']} differ from those of the data in {', '.join(names[:5]) or 'their order'}.",
            field="init_from",
            fix="Use data with the same columns, likelihoods and categories, or take no part of the networks.",
        )
    return facts._replace(std=old.std, mean_count=old.mean_count, mean_total=old.mean_total, columns=old.columns)


def with_initial_moments(
    description: DataDescription, likelihood: Likelihood, config: Config, init: Initial
) -> DataDescription:
    """Returns a description with the moments with which the trained networks saw their data.

    Networks that were trained on standardized data keep the mean and the standard deviation of those data, and networks that
    were not keep none. So the new run begins as the same function of the data that was trained.

    Raises:
      UserError: the likelihoods differ in whether and how the data are standardized.
    """
    old = init.description.moments
    if not _takes_networks(init) or init.description.facts.data_shape != description.facts.data_shape:
        return description
    support, trained_support = likelihood.support, _support(init, likelihood)
    was, now = (kind in _STANDARDIZED for kind in (trained_support, support))
    if support == trained_support:
        return description._replace(moments=old)
    if not (was and old is not None) and (support == "real" or not now):
        return description._replace(moments=None)
    how = ("as they are", "standardized")
    raise UserError(
        f"the networks of {init.record['path']} saw data {how[was]} ({init.config.likelihood}), and with {config.likelihood} "
        f"they would see them {how[now]} or in a different unit.",
        field="init_from",
        fix=f'Use `likelihood="{init.config.likelihood}"`, or take no part of the networks.',
    )


def _takes_networks(init: Initial) -> bool:
    return not init.parts or bool({"encoder", "decoder"} & set(init.parts))


def _support(init: Initial, likelihood: Likelihood) -> str:
    """Returns the support of the trained model's likelihood. Of a user's own one, which is not here, that of the new one."""
    if init.config.likelihood == CUSTOM:
        return likelihood.support
    return make_likelihood(init.config, init.description.facts, None).support


def start_from(vae: VAE, init: Initial) -> VAE:
    """Returns the model whose initial parameters are those of a trained model, as far as its parts are taken over.

    Raises:
      UserError: an array has a different shape, or there is nothing to take over.
    """
    template = jax.eval_shape(vae.init, stream(0, Stream.INIT))
    if not isinstance(template, dict) or not (parts := init.shared_parts(template)):
        raise UserError(f"{init.record['path']} and the new model have no part in common.", field="init_from")
    problems = {part: problem for part in parts if (problem := _difference(init, part, template))}
    if problems:
        fitting = [part for part in INIT_PARTS if part in parts and part not in problems]
        take = f", or take over what fits, `init_parts=({', '.join(fitting)})`" if fitting else ", or train from the start"
        raise UserError(
            f"{next(iter(problems.values()))}.",
            field="init_from",
            fix=f"Use the same network, likelihood and prior with the same settings{take}.",
        )
    taken = {part: _tree(init, part, template) for part in parts}
    return vae._replace(init=lambda key: {**vae.init(key), **jax.tree.map(jnp.array, taken)})


def paths_of(part: str, tree: Params) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of a part of the parameters by their paths."""
    leaves = jax.tree.leaves_with_path({part: tree[part]})
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _difference(init: Initial, part: str, template: Params) -> str:
    """Describes the first array of a part that differs between the two models; "" if all fit."""
    here = {name: leaf.shape for name, leaf in paths_of(part, template).items()}
    there = {name: array.shape for name, array in init.arrays.items() if name.split(".")[0] == part}
    for name in {**here, **there}:
        if here.get(name) != there.get(name):
            shapes = [f"of shape {shapes[name]}" if name in shapes else "missing" for shapes in (there, here)]
            return f"{name} is {shapes[0]} in {init.record['path']} and {shapes[1]} in the new model"
    return ""


def _tree(init: Initial, part: str, template: Params) -> Params:
    arrays = [np.asarray(init.arrays[name], leaf.dtype) for name, leaf in paths_of(part, template).items()]
    return jax.tree.unflatten(jax.tree.structure(template[part]), arrays)
