#!/usr/bin/env bash
# A JAX compilation cache that is copied to a different folder is empty: on CPU too, the folder's path is a part of every key.
#
# Guess before the run: the keys depend on the program, the versions and the flags, so a copied or mounted cache hits.
# Versions: jax 0.10.2, Python 3.11. Source: jax/_src/compilation_cache.py and compiler.py. The per-fusion autotuning cache
# of XLA's GPU backend is put below the compilation cache, and that path is among the debug options that are hashed.
# Seen: the second process, with the copied folder, compiles again and adds a second entry of a different name for each program.
# With jax_persistent_cache_enable_xla_caches set to "none" before the first run, the copy hits and nothing is added. A cache
# that a CI job restores below a different workspace therefore saves nothing, in silence. The script fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
${PYTHON:-python3.11} -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cat > "$folder/program.py" <<'PY'
import sys

import jax
import jax.numpy as jnp

jax.config.update("jax_compilation_cache_dir", sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
x = jnp.ones(3)
jax.jit(lambda x: jnp.sin(x) @ x)(x).block_until_ready()
PY
export JAX_PLATFORMS=cpu
count() { find "$1" -name '*-cache' | wc -l; }
try() { # setting, folder
  JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES="$1" "$folder/venv/bin/python" "$folder/program.py" "$folder/$2/first"
  mkdir -p "$folder/$2/elsewhere"
  cp -r "$folder/$2/first" "$folder/$2/elsewhere/copy"
  before=$(count "$folder/$2/elsewhere/copy")
  JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES="$1" "$folder/venv/bin/python" "$folder/program.py" "$folder/$2/elsewhere/copy"
  after=$(count "$folder/$2/elsewhere/copy")
  echo "$2: $before programs copied, $after afterwards"
}
try xla_gpu_per_fusion_autotune_cache_dir default
test "$before" -ge 1 && test "$after" -eq $((2 * before))
try none none
test "$before" -ge 1 && test "$after" -eq "$before"
echo "as described"
