#!/usr/bin/env bash
# Orbax announces what it deprecates through absl's log, so python -W error, and a pytest that makes warnings errors, pass.
#
# Guess before the run: a deprecated argument raises under -W error, as in NumPy, JAX or Flax.
# Versions: orbax-checkpoint 0.12.8 with jax 0.10.2, Python 3.11. Source: orbax/checkpoint/checkpoint_manager.py, all_steps.
# Seen: CheckpointManager.all_steps(read=True) returns the steps; `warnings` records no deprecation. absl
# logs one line, "`read` option is deprecated. Use `reload` to read from disk." A program that lowers absl's verbosity, to
# keep its terminal clean, never sees it, and learns of the change when the argument is gone. The script fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
${PYTHON:-python3.11} -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 orbax-checkpoint==0.12.8
cat > "$folder/program.py" <<'PY'
import logging
import sys
import warnings

with warnings.catch_warnings():  # what other packages announce at import
    warnings.simplefilter("ignore")
    import jax.numpy as jnp
    import orbax.checkpoint as ocp

lines = []
handler = logging.Handler()
handler.emit = lambda record: lines.append(record.getMessage())
logging.getLogger("absl").addHandler(handler)
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    with ocp.CheckpointManager(sys.argv[1]) as manager:
        manager.save(3, args=ocp.args.StandardSave({"w": jnp.ones(2)}))
        manager.wait_until_finished()
        steps = manager.all_steps(read=True)
deprecations = [w for w in seen if issubclass(w.category, DeprecationWarning | FutureWarning) and "read" in str(w.message)]
logged = [line for line in lines if "deprecated" in line.lower() and "read" in line.lower()]
print(f"steps {list(steps)}; {len(deprecations)} warnings; {len(logged)} lines in absl's log: {logged[:1]}")
assert list(steps) == [3] and not deprecations and logged
PY
JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/program.py" "$folder/checkpoints"
echo "as described"
