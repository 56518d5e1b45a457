#!/usr/bin/env bash
# optax's Prodigy makes all parameters NaN where its learning rate begins at 0, as in a linear warm-up.
#
# Guess before the run: a first step at learning rate 0 changes nothing, as with every other optimizer, since updates are
# proportional to the rate.
# Versions: optax 0.2.8, jax 0.10.2, Python 3.11. Source: optax/contrib/_prodigy.py. The estimate of the distance is the quotient
# of two sums that are both weighted by the learning rate, so at the first step with rate 0 it is 0/0. The parameters are then NaN
# forever. Only with safeguard_warmup=True, which is off by default, the weights do not contain the rate.
# Seen after three steps with the rate 0.1 * step and gradients of one: prodigy (nan, nan). With safeguard_warmup=True, or with
# 1e-12 in place of 0: finite. adamw, lion, dowg and mechanize(adam) with the same schedule: finite.
# The script fails when any of this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
${PYTHON:-python3.11} -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check optax==0.2.8 jax==0.10.2 jaxlib==0.10.2
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import jax.numpy as jnp
import optax


def train(make, first=0.0):
    optimizer = make(lambda step: jnp.maximum(0.1 * step, first))
    params = jnp.ones(2)
    state = optimizer.init(params)
    for _ in range(3):
        updates, state = optimizer.update(jnp.ones(2), state, params)
        params = optax.apply_updates(params, updates)
    return params


contrib = optax.contrib
seen = {
    "prodigy": train(contrib.prodigy),
    "prodigy, safeguard_warmup": train(lambda rate: contrib.prodigy(rate, safeguard_warmup=True)),
    "prodigy from 1e-12": train(contrib.prodigy, 1e-12),
    "adamw": train(optax.adamw),
    "lion": train(optax.lion),
    "dowg": train(contrib.dowg),
    "mechanize(adam)": train(lambda rate: contrib.mechanize(optax.adam(rate))),
}
for name, params in seen.items():
    print(f"{name}: {params}")
    assert bool(jnp.all(jnp.isnan(params) if name == "prodigy" else jnp.isfinite(params))), name
PY
echo "as described"
