#!/usr/bin/env bash
# Flax's GroupNorm takes the first axis of an image without a batch axis for the batch, and normalizes each row by itself.
#
# Guess before the run: statistics over the whole image, since Flax's layers such as Conv and Dense take inputs without a batch axis.
# Versions: flax 0.12.8, jax 0.10.2, Python 3.11. Source: the docstring of `reduction_axes`, "default value is all axes except batch".
# Seen: GroupNorm(image) differs from GroupNorm(image[None])[0] by more than 1, in Linen and in NNX, without an error or a warning.
# Linen's reduction_axes=(-3, -2, -1) repairs it. NNX's takes the same argument and fails: "axis 1 is out of bounds for array of
# dimension 1". In NNX the only workaround is norm(image[None])[0]. The script fails when any of this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
${PYTHON:-python3.11} -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2 flax==0.12.8 numpy==2.4.6
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import jax
import jax.numpy as jnp
from flax import linen, nnx

image = jax.random.normal(jax.random.key(0), (4, 4, 8)) * jnp.arange(1, 5)[:, None, None]  # rows of different contrast


def distance(norm):
    return float(jnp.abs(norm(image) - norm(image[None])[0]).max())


def bound(module):
    variables = module.init(jax.random.key(0), image)
    return lambda x: module.apply(variables, x)


plain = distance(bound(linen.GroupNorm(2)))
with_axes = distance(bound(linen.GroupNorm(2, reduction_axes=(-3, -2, -1))))
of_nnx = distance(nnx.GroupNorm(8, num_groups=2, rngs=nnx.Rngs(0)))
try:
    nnx.GroupNorm(8, num_groups=2, reduction_axes=(-3, -2, -1), rngs=nnx.Rngs(0))(image)
    nnx_with_axes = "no error"
except ValueError as error:
    nnx_with_axes = str(error)
print(f"Linen {plain:.3f}, with axes {with_axes:.3f}; NNX {of_nnx:.3f}, with axes: {nnx_with_axes}")
assert plain > 1 and of_nnx > 1 and with_axes < 1e-6
assert "axis 1 is out of bounds" in nnx_with_axes
PY
echo "as described"
