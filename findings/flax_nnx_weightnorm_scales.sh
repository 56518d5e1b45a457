#!/usr/bin/env bash
# The learned scales of NNX's WeightNorm are not nnx.Param, so an optimizer of parameters never trains them.
#
# Guess before the run: weight normalization is g v / |v| with trained g and v (Salimans & Kingma 2016), so both are nnx.Param.
# Versions: flax 0.12.8, jax 0.10.2, optax 0.2.8, Python 3.11. Source: flax/nnx/nn/normalization.py, class WeightNorm.
# Seen: `nnx.state(module, nnx.Param)` has kernel and bias of the wrapped layer alone. The scales are plain arrays. After 100 steps
# of nnx.Optimizer(..., wrt=nnx.Param) they are still exactly 1, and outputs cannot grow beyond those of unit columns.
# The script fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
${PYTHON:-python3.11} -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2 flax==0.12.8 optax==0.2.8 numpy==2.4.6
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import jax
import jax.numpy as jnp
import optax
from flax import nnx

layer = nnx.WeightNorm(nnx.Linear(3, 1, use_bias=False, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(0))
x = jnp.eye(3)
target = jnp.array([[3.0], [4.0], [0.0]])  # a column of length 5
optimizer = nnx.Optimizer(layer, optax.adam(0.1), wrt=nnx.Param)
for _ in range(100):
    optimizer.update(layer, nnx.grad(lambda layer: jnp.mean((layer(x) - target) ** 2))(layer))
trained = [path for path, _ in nnx.to_flat_state(nnx.state(layer, nnx.Param))]
scales = [float(leaf) for leaf in jax.tree.leaves(nnx.state(layer)["scales"])[0].ravel()]
length = float(jnp.linalg.norm(layer(x)))
print(f"trained: {trained}; scales after 100 steps: {scales}; length of the column: {length:.4f} where 5 was asked for")
assert all("scales" not in map(str, path) for path in trained)
assert scales == [1.0]
assert abs(length - 1) < 1e-4
PY
echo "as described"
