"""What made a run diverge: the step after its last good state once more, in the order of its parts, example by example."""

import itertools
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vae_jax.build import Built
from vae_jax.config import Config
from vae_jax.training import optimizers
from vae_jax.training.epoch import epoch_order, run_keys
from vae_jax.training.optimizers import make_step
from vae_jax.training.step import TrainState, make_terms, scheduled

# In the order in which a step computes them; the first that is not finite is the cause of the others.
ADVICE = {
    "parameters": "the last good state itself has numbers that are not finite: start from an earlier checkpoint",
    "data": "look at these examples and at the scale of the data",
    "log_likelihood": "look at the data's range and the decoder's output; lower the learning rate, or raise it slowly at first",
    "kl": "the encoder's mean or log_scale is too large; lower the learning rate, or raise it slowly at first",
    "loss": "the terms are finite and their weighted sum is not: a weight of the objective is too large for float32",
    "gradient": "the loss is finite and its derivative is not: a scale near 0, or a function of your own without derivative",
    "update": "the gradient is finite and the parameters after the step are not: lower the learning rate",
}
NOTHING = "this step is finite here: another device or version computes other numbers than the run's"
_INFERENCE = ("mean of q(z|x)", "log_scale of q(z|x)", "decoder's output at that mean")
_PARTS = ("parameters", "data", *_INFERENCE, "log_likelihood", "kl", "loss", "gradient", "update")
_OF_EXAMPLES = ("data", "log_likelihood", "kl", "loss")


class _Step(NamedTuple):
    """What the step after a state is made on."""

    epoch: int  # from 0
    indices: Array
    key: Array
    batch: Array
    now: Any  # hyperparameters, schedules included
    peak_rate: Array  # the learning rate without its schedule


def examine(built: Built, config: Config, state: TrainState) -> dict[str, Any]:
    """Repeats the step that follows a state, and says what in it is not finite.

    Args:
      built: from `build`; of a sweep, that of any member of the same static group.
      config: of the run or member, whose seed and hyperparameters count.
      state: after the last good step.

    Returns:
      For a JSON file: step, epoch, key_data and train_indices (which step it is, on what), term (the first of ADVICE that is
      not finite, or None), bad_examples (of train_indices, those where it is so), bad_leaves (of the parameters, likewise),
      ranges (least and greatest number of every part, NaN left out), and the step's hyperparams, schedules included.
    """
    epoch, indices, key, batch, now, _ = step = _step_after(built, config, state)
    parts = jax.device_get(jax.jit(_make_parts(built, state, step))(state.params))
    term = next((name for name in ADVICE if not all(map(_is_finite, jax.tree.leaves(parts[name])))), None)
    bad_examples, bad_leaves = [], []
    if term in _OF_EXAMPLES:
        bad = ~np.isfinite(parts[term].reshape(len(batch), -1)).all(axis=1)
        bad_examples = np.asarray(indices)[bad].tolist()
    elif term is not None:
        leaves = jax.tree_util.tree_leaves_with_path(parts[term])
        bad_leaves = [jax.tree_util.keystr(path, simple=True, separator="/") for path, leaf in leaves if not _is_finite(leaf)]
    return {
        "step": int(state.step),
        "epoch": epoch + 1,
        "term": term,
        "bad_examples": bad_examples,
        "bad_leaves": bad_leaves,
        "ranges": {name: _range(parts[name]) for name in _PARTS},
        "hyperparams": {name: float(value) for name, value in now._asdict().items()},
        "train_indices": indices.tolist(),
        "key_data": jax.random.key_data(key).tolist(),
    }


def locate(built: Built, config: Config, state: TrainState, found: dict[str, Any]) -> str | None:
    """The operation of that step that first gives infinity or NaN, and the line of it: "log gives NaN at model.py:12 (f): ...".

    The step runs operation by operation, each compiled alone, which takes some seconds.

    Args:
      built: as of `examine`, like config and state.
      config: of the run or member.
      state: after the last good step.
      found: what `examine` said; where its term is infinite, infinities are looked for first.

    Returns:
      None where no operation gives either, as of a step that is finite.
    """
    parts = _make_parts(built, state, _step_after(built, config, state))
    checks = {"NaN": jax.debug_nans, "infinity": jax.debug_infs}
    first = "infinity" if np.isinf(found["ranges"].get(found["term"], [])).any() else "NaN"
    for name in sorted(checks, key=lambda name: name != first):
        try:
            with jax.disable_jit(), checks[name](True):
                parts(state.params)
        except FloatingPointError as error:
            own = [frame for frame in traceback.extract_tb(error.__traceback__) if not _of_a_library(frame.filename)][-1]
            words = f"{str(error).split(' encountered in ')[-1].rstrip('.')} gives {name}"
            # Called from here is the derivative of an operation, which has no line of its own; from there, the update.
            if own.filename in (__file__, optimizers.__file__):
                return f"{words}, in the gradient or the update"
            return f"{words} at {Path(own.filename).name}:{own.lineno} ({own.name}): {own.line}"
    return None


def _of_a_library(filename: str) -> bool:
    # By the folder that holds the package: a project of the user's may lie below one that is called jax, too.
    parts = Path(filename).parts
    installed = {name for above, name in itertools.pairwise(parts) if above in ("site-packages", "dist-packages")}
    return parts[-1] == "contextlib.py" or bool(installed & {"jax", "flax", "optax"})


def _step_after(built: Built, config: Config, state: TrainState) -> _Step:
    step, keys, data = int(state.step), run_keys(config.seed, config.prng), built.data
    num_train = data.train.shape[0]
    epoch, position = divmod(step, num_train // config.batch_size)
    indices = epoch_order(keys, epoch, num_train, config.batch_size)[position]
    batch = jnp.asarray(data.train_rows(indices))
    hyperparams = jax.tree.map(jnp.float32, config.hyperparams)
    now = scheduled(hyperparams, built.fit_arguments["schedules"], state.step)
    return _Step(epoch, indices, jax.random.fold_in(keys.step, step), batch, now, hyperparams.learning_rate)


def _make_parts(built: Built, state: TrainState, step: _Step) -> Callable[[Any], dict[str, Any]]:
    """A function of the parameters that computes everything that a step does, by name."""
    vae, to_input = built.vae, built.data.train_input
    _, _, key, batch, now, peak_rate = step
    terms_of = make_terms(vae, built.objective, to_input)

    def loss(params: Any) -> tuple[Array, Any]:
        terms, _ = terms_of(params, state.objective_state, key, batch, now)
        return jnp.mean(terms.loss), terms

    def parts(params: Any) -> dict[str, Any]:
        gradient, terms = jax.grad(loss, has_aux=True)(params)
        mean_loss = jnp.mean(terms.loss)
        update = make_step(built.optimizer, peak_rate, now.learning_rate, state.step, lambda params: loss(params)[0])
        x = to_input(jax.random.split(key, batch.shape[0] + 1)[0], batch)
        mean, log_scale = jax.vmap(lambda x: vae.encode(params, x))(x)
        return {
            "parameters": params,
            "data": x,
            **dict(zip(_INFERENCE, (mean, log_scale, jax.vmap(lambda z: vae.decode(params, z))(mean)), strict=True)),
            "log_likelihood": terms.log_likelihood,
            "kl": terms.kl,
            "loss": terms.loss,
            "gradient": gradient,
            "update": update(gradient, state.opt_state, params, mean_loss)[0],
        }

    return parts


def _is_finite(leaf: Any) -> bool:
    return bool(np.isfinite(leaf).all())


def _range(tree: Any) -> list[float]:
    values = np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(tree)])
    values = values[~np.isnan(values)]
    return [float(values.min()), float(values.max())] if values.size else []
