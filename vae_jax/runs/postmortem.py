"""Diagnoses divergence by replaying the failing step and finding the first term that is not finite."""

import itertools
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from vae_jax.build import Built
from vae_jax.config import Config, Hyperparams
from vae_jax.example import condition_of, event_of
from vae_jax.model import Params, decode_given, posterior_moments
from vae_jax.objectives import Terms
from vae_jax.storage.atomic import JsonObject
from vae_jax.training import evaluated_params, named_optimizers, transformations
from vae_jax.training.epoch import epoch_order, run_keys
from vae_jax.training.optimizers import make_step
from vae_jax.training.step import TrainState, make_terms, scheduled

# In the order in which a step computes them, so the first term that is not finite causes the others.
ADVICE = {
    "parameters": "the last good state itself has numbers that are not finite: start from an earlier checkpoint",
    "data": "look at these examples and at the scale of the data",
    "log_likelihood": "look at the data's range and the decoder's output; lower the learning rate, or raise it slowly at first",
    "kl": "the encoder's mean or log_scale is too large; lower the learning rate, or raise it slowly at first",
    "loss": "the terms are finite and their weighted sum is not: a weight of the objective is too large for float32",
    "gradient": "the loss is finite and its derivative is not: a scale near 0, or a custom function without a derivative",
    "update": "the gradient is finite and the parameters after the step are not: lower the learning rate",
}
NOTHING = "this step is finite here: a different device or version computes different numbers"
_INFERENCE = ("mean of q(z|x)", "log_scale of q(z|x)", "decoder's output at that mean")
_PARTS = ("parameters", "data", *_INFERENCE, "log_likelihood", "kl", "loss", "gradient", "update")
_UPDATE_FILES = (transformations.__file__, evaluated_params.__file__, named_optimizers.__file__)
_PER_EXAMPLE = ("data", "log_likelihood", "kl", "loss")


class _Step(NamedTuple):
    """Inputs of the step that follows a state."""

    epoch: int  # counted from 0
    indices: Array  # (batch,), of the training examples
    key: Array
    batch: Array
    hyperparams: Hyperparams  # with the schedules applied
    peak: Hyperparams  # without their schedules


def examine(built: Built, config: Config, state: TrainState) -> JsonObject:
    """Repeats the step that follows a state and reports which of its terms are not finite.

    Args:
      built: from `build`. For a sweep, that of any member of the same static group.
      config: of the run or member, which determines the seed and the hyperparameters.
      state: after the last good step.

    Returns:
      A record for a JSON file. `step`, `epoch`, `key_data` and `train_indices` identify the step and its batch. `term` is the
      first key of `ADVICE` whose value is not finite, or None. `bad_examples` are the training examples for which it is not
      finite, and `bad_leaves` the names of such parameters. `ranges` has the least and greatest number of every part, NaN
      left out. `hyperparams` are those of the step, schedules included.
    """
    step = _step_after(built, config, state)
    parts = jax.device_get(jax.jit(_make_parts(built, state, step))(state.params))
    term = next((name for name in ADVICE if not all(map(_is_finite, jax.tree.leaves(parts[name])))), None)
    bad_examples, bad_leaves = [], []
    if term in _PER_EXAMPLE:
        bad = ~np.isfinite(parts[term].reshape(len(step.batch), -1)).all(axis=1)
        bad_examples = np.asarray(step.indices)[bad].tolist()
    elif term is not None:
        leaves = jax.tree_util.tree_leaves_with_path(parts[term])
        bad_leaves = [jax.tree_util.keystr(path, simple=True, separator="/") for path, leaf in leaves if not _is_finite(leaf)]
    return {
        "step": int(state.step),
        "epoch": step.epoch + 1,
        "term": term,
        "bad_examples": bad_examples,
        "bad_leaves": bad_leaves,
        "ranges": {name: _range(parts[name]) for name in _PARTS},
        "hyperparams": {name: float(value) for name, value in step.hyperparams._asdict().items()},
        "train_indices": step.indices.tolist(),
        "key_data": jax.random.key_data(step.key).tolist(),
    }


def locate(built: Built, config: Config, state: TrainState, record: JsonObject) -> str | None:
    """Names the first operation of the failing step that gives infinity or NaN, and its source line.

    The step runs operation by operation, each compiled separately, which takes some seconds.

    Args:
      built: as for `examine`.
      config: of the run or member.
      state: after the last good step.
      record: result of `examine`. If its term is infinite, infinities are searched for first.

    Returns:
      A phrase such as "log gives NaN at model.py:12 (f): return jnp.log(x)", or None if every operation is finite.
    """
    parts = _make_parts(built, state, _step_after(built, config, state))
    checks = {"NaN": jax.debug_nans, "infinity": jax.debug_infs}
    first = "infinity" if np.isinf(record["ranges"].get(record["term"], [])).any() else "NaN"
    for name in sorted(checks, key=lambda name: name != first):
        try:
            with jax.disable_jit(), checks[name](True):
                parts(state.params)
        except FloatingPointError as error:
            frames = traceback.extract_tb(error.__traceback__)
            frame = [frame for frame in frames if not _is_library_file(frame.filename)][-1]
            operation = f"{str(error).split(' encountered in ')[-1].rstrip('.')} gives {name}"
            # A frame of this file calls the derivative of an operation, which has no line in the model. A frame of
            # the optimizers' files belongs to the update.
            if frame.filename in (__file__, *_UPDATE_FILES):
                return f"{operation}, in the gradient or the update"
            return f"{operation} at {Path(frame.filename).name}:{frame.lineno} ({frame.name}): {frame.line}"
    return None


def _is_library_file(filename: str) -> bool:
    # Only a folder within site-packages counts, because a user's project may lie below a folder that is called jax.
    parts = Path(filename).parts
    installed = {name for above, name in itertools.pairwise(parts) if above in ("site-packages", "dist-packages")}
    return parts[-1] == "contextlib.py" or bool(installed & {"jax", "flax", "optax"})


def _step_after(built: Built, config: Config, state: TrainState) -> _Step:
    """Returns the inputs of the step that follows a state, derived from the seed as in training."""
    step, keys, data = int(state.step), run_keys(config.seed, config.prng), built.data
    num_train = data.train.shape[0]
    epoch, position = divmod(step, num_train // config.batch_size)
    indices = epoch_order(keys, epoch, num_train, config.batch_size)[position]
    batch = jax.tree.map(jnp.asarray, data.train_rows(indices))
    hyperparams = jax.tree.map(jnp.float32, config.hyperparams)
    scheduled_values = scheduled(hyperparams, built.fit_arguments["schedules"], state.step)
    return _Step(epoch, indices, jax.random.fold_in(keys.step, step), batch, scheduled_values, hyperparams)


def _make_parts(built: Built, state: TrainState, step: _Step) -> Callable[[Params], dict[str, Params]]:
    """Returns a function of the parameters that computes every part of a step by name."""
    vae, to_input, key, batch = built.vae, built.data.train_input, step.key, step.batch
    batch_terms = make_terms(vae, built.objective, to_input)

    def loss(params: Params) -> tuple[Array, Terms]:
        terms, _ = batch_terms(params, state.objective_state, key, batch, step.hyperparams)
        return jnp.mean(terms.loss), terms

    def parts(params: Params) -> dict[str, Params]:
        gradient, terms = jax.grad(loss, has_aux=True)(params)
        mean_loss = jnp.mean(terms.loss)
        update = make_step(built.optimizer, step.peak, step.hyperparams, state.step, lambda params: loss(params)[0])
        x = to_input(jax.random.split(key, batch.shape[0] + 1)[0], batch)
        mean, log_scale = jax.vmap(lambda x: posterior_moments(vae, params, x))(x)
        decode = lambda z, x: decode_given(vae, params, z, condition_of(x))  # noqa: E731
        return {
            "parameters": params,
            "data": event_of(x),
            **dict(zip(_INFERENCE, (mean, log_scale, jax.vmap(decode)(mean, x)), strict=True)),
            "log_likelihood": terms.log_likelihood,
            "kl": terms.kl,
            "loss": terms.loss,
            "gradient": gradient,
            "update": update(gradient, state.opt_state, params, mean_loss)[0],
        }

    return parts


def _is_finite(leaf: ArrayLike) -> bool:
    return bool(np.isfinite(np.asarray(leaf)).all())


def _range(tree: Params) -> list[float]:
    """Returns the least and the greatest number of all arrays in a tree, NaN left out; [] if there is none."""
    values = np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(tree)])
    values = values[~np.isnan(values)]
    return [float(values.min()), float(values.max())] if values.size else []
