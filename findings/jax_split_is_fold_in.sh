#!/usr/bin/env bash
# In JAX split(key)[i] and fold_in(key, i) are the same key, so a split and a fold_in of one key collide silently.
#
# Guess before the run: two functions of a key give unrelated keys, as "never use a key twice" is read as a rule about draws.
# Versions: jax 0.10.2, Python 3.11. Source: jax/_src/prng.py, threefry_split and threefry_fold_in, with jax_threefry_partitionable
# (the default since 0.5).
# Seen: equal for every i, for any number of splits, and split(key, 3) begins with split(key, 2). With jax_threefry_partitionable off
# none of them are. For the generator rbg they are equal as well. A layer that is initialized from fold_in(key, 1) and
# another from split(key)[1] start with the same weights. The experimental check of key reuse does not see it:
# jax_debug_key_reuse raises nothing. The script fails when any of this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
${PYTHON:-python3.11} -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import jax


def shared(implementation):
    key = jax.random.key(7, impl=implementation)
    children = jax.random.split(key, 5)
    folded = [bool(jax.random.key_data(children[i]).tolist() == jax.random.key_data(jax.random.fold_in(key, i)).tolist()) for i in range(5)]
    nested = jax.random.key_data(jax.random.split(key, 2)).tolist() == jax.random.key_data(children[:2]).tolist()
    return folded, nested


print("threefry2x32:", *shared("threefry2x32"))
print("rbg:", *shared("rbg"))
assert shared("threefry2x32") == ([True] * 5, True)
rbg = shared("rbg")
jax.config.update("jax_threefry_partitionable", False)
print("threefry2x32, not partitionable:", *shared("threefry2x32"))
assert shared("threefry2x32") == ([False] * 5, False)
jax.config.update("jax_threefry_partitionable", True)
jax.config.update("jax_debug_key_reuse", True)
try:
    key = jax.random.key(7)
    split = jax.random.split(key)
    jax.random.normal(split[1])
    jax.random.normal(jax.random.fold_in(key, 1))
    checked = "no error"
except Exception as error:
    checked = type(error).__name__
print("jax_debug_key_reuse:", checked)
assert checked == "no error" and rbg == ([True] * 5, True)
PY
echo "as described"
