#!/usr/bin/env bash
# The same function gives different bits when its parameters are constants of the program rather than arguments, on CPU.
#
# Guess before the run: jit(lambda x: f(params, x))(x) and jit(f)(params, x) are equal bit for bit, since both compute the same
# operations on the same numbers. So an exported program with its weights inside repeats the model exactly.
# Versions: jax and jaxlib 0.10.2, flatbuffers 25.12.19, Python 3.11. XLA folds and rewrites operations of constants only, for
# example a division by a constant vector becomes a product with its reciprocals.
# Seen, for tanh((x w + b - m) / s) exp(b) in float32: between a tenth and a fifth of the outputs differ, by up to 5e-7, with jit
# and with jax.export alike. With jax.lax.optimization_barrier around the constants no output differs. The division alone shows it.
# Also seen: jax.export needs the package flatbuffers, which jax does not declare, so a fresh `pip install jax` cannot serialize.
# The script fails when any of this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
${PYTHON:-python3.11} -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2
export JAX_PLATFORMS=cpu
"$folder/venv/bin/python" - <<'PY'
import jax

try:
    jax.export.export(jax.jit(jax.numpy.sin))(1.0).serialize()
except ImportError as error:
    print(f"without flatbuffers: {error}")
else:
    raise SystemExit("serialized without flatbuffers")
PY
"$folder/venv/bin/pip" install -q --disable-pip-version-check flatbuffers==25.12.19
"$folder/venv/bin/python" - <<'PY'
import jax
import jax.numpy as jnp
import numpy as np

random = np.random.default_rng(0)
w, b, m = (jnp.asarray(random.normal(size=shape), jnp.float32) for shape in ((64, 128), 128, 128))
s = jnp.asarray(np.abs(random.normal(size=128)) + 0.1, jnp.float32)
x = jnp.asarray(random.normal(size=(32, 64)), jnp.float32)
params = w, b, m, s


def f(params, x):
    w, b, m, s = params
    return jnp.tanh((x @ w + b - m) / s) * jnp.exp(b)


def exported(function):
    blob = jax.export.export(jax.jit(function))(jax.ShapeDtypeStruct(x.shape, x.dtype)).serialize()
    return jax.jit(jax.export.deserialize(blob).call)(x)


arguments = np.asarray(jax.jit(f)(params, x))
results = {
    "constants, jit": jax.jit(lambda x: f(params, x))(x),
    "constants, export": exported(lambda x: f(params, x)),
    "barrier, jit": jax.jit(lambda x: f(jax.lax.optimization_barrier(params), x))(x),
    "barrier, export": exported(lambda x: f(jax.lax.optimization_barrier(params), x)),
    "division by a constant": jax.jit(lambda x: x / s[:64])(x),
}
for name, result in results.items():
    expected = np.asarray(x) / np.asarray(s[:64]) if name.startswith("division") else arguments
    share, largest = np.mean(np.asarray(result) != expected), np.max(np.abs(np.asarray(result) - expected))
    print(f"{name}: {share:.3f} of the outputs differ, by at most {largest:.1e}")
    assert share == 0 if name.startswith("barrier") else 0 < share and largest < 1e-5, name
PY
echo "as described"
