"""What made a run diverge: the step after its last good state once more, in the order of its parts, example by example."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from vae_jax._threefry import split
from vae_jax.build import Built
from vae_jax.config import Config
from vae_jax.epochs import epoch_order, run_keys
from vae_jax.optimization import transformation
from vae_jax.train_step import TrainState, make_terms, scheduled

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
_OF_EXAMPLES = ("data", "log_likelihood", "kl", "loss")


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
    step, keys, data = int(state.step), run_keys(config.seed, config.prng), built.data
    num_train = data.train.shape[0]
    epoch, position = divmod(step, num_train // config.batch_size)
    indices = epoch_order(keys, epoch, num_train, config.batch_size)[position]
    key = jax.random.fold_in(keys.step, step)
    batch = jnp.asarray(data.train_rows(indices))
    now = scheduled(jax.tree.map(jnp.float32, config.hyperparams), built.fit_arguments["schedules"], state.step)
    parts = jax.device_get(_parts(built, state, key, batch, now))
    term = next((name for name in ADVICE if not all(map(_is_finite, jax.tree.leaves(parts[name])))), None)
    bad_examples, bad_leaves = [], []
    if term in _OF_EXAMPLES:
        bad = ~np.isfinite(parts[term].reshape(len(batch), -1)).all(axis=1)
        bad_examples = np.asarray(indices)[bad].tolist()
    elif term is not None:
        leaves = jax.tree_util.tree_leaves_with_path(parts[term])
        bad_leaves = [jax.tree_util.keystr(path, simple=True, separator="/") for path, leaf in leaves if not _is_finite(leaf)]
    return {
        "step": step,
        "epoch": epoch + 1,
        "term": term,
        "bad_examples": bad_examples,
        "bad_leaves": bad_leaves,
        "ranges": {name: _range(part) for name, part in parts.items()},
        "hyperparams": {name: float(value) for name, value in now._asdict().items()},
        "train_indices": indices.tolist(),
        "key_data": jax.random.key_data(key).tolist(),
    }


def _parts(built: Built, state: TrainState, key: Array, batch: Array, now: Any) -> dict[str, Any]:
    """Everything that a step computes, by name."""
    vae, to_input = built.vae, built.data.train_input
    terms_of = make_terms(vae, built.objective, to_input)

    def loss(params: Any) -> tuple[Array, Any]:
        terms, _ = terms_of(params, state.objective_state, key, batch, now)
        return jnp.mean(terms.loss), terms

    def parts(params: Any) -> dict[str, Any]:
        gradient, terms = jax.grad(loss, has_aux=True)(params)
        updates, _ = transformation(built.optimizer, now.learning_rate).update(gradient, state.opt_state, params)
        x = to_input(split(key, batch.shape[0] + 1)[0], batch)
        mean, log_scale = jax.vmap(lambda x: vae.encode(params, x))(x)
        return {
            "parameters": params,
            "data": x,
            "mean of q(z|x)": mean,
            "log_scale of q(z|x)": log_scale,
            "decoder's output at that mean": jax.vmap(lambda z: vae.decode(params, z))(mean),
            "log_likelihood": terms.log_likelihood,
            "kl": terms.kl,
            "loss": terms.loss,
            "gradient": gradient,
            "update": optax.apply_updates(params, updates),
        }

    return jax.jit(parts)(state.params)


def _is_finite(leaf: Any) -> bool:
    return bool(np.isfinite(leaf).all())


def _range(tree: Any) -> list[float]:
    values = np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(tree)])
    values = values[~np.isnan(values)]
    return [float(values.min()), float(values.max())] if values.size else []
