#!/usr/bin/env bash
# np.asarray of an array that is spread over several CPU devices leaves a second copy of it in memory, for as long as it lives.
#
# Guess before the run: the NumPy array is a copy that is freed with its last reference, as for an array on one device, where it is a view.
# Versions: jax 0.10.2, numpy 2.4.6, Python 3.11, Linux. Source: jax/_src/array.py, ArrayImpl._value: the gathered copy is kept in _npy_value.
# Seen, with 256 MiB in two shards: resident anonymous memory grows by 256 MiB with np.asarray or jax.device_get, and stays so after the result
# is deleted, until the JAX array itself is deleted. On one device it does not grow. The data of the shards, x.addressable_shards[i].data, can be read
# one by one without a copy that stays. The script fails when any of this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
${PYTHON:-python3.11} -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
JAX_PLATFORMS=cpu XLA_FLAGS=--xla_force_host_platform_device_count=2 "$folder/venv/bin/python" - <<'PY'
import gc

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

SIZE = 256  # MiB


def resident():
    gc.collect()
    line = next(line for line in open("/proc/self/status") if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1024


def kept(sharding, read):
    x = jax.device_put(np.ones((2, SIZE * 2**17), np.float32), sharding).block_until_ready()
    before = resident()
    result = read(x)
    del result
    after = resident()
    x.delete()
    return after - before


both = NamedSharding(Mesh(np.array(jax.devices()), ("d",)), PartitionSpec("d"))
one = jax.devices()[0]
seen = {
    "one device, np.asarray": kept(one, np.asarray),
    "two devices, np.asarray": kept(both, np.asarray),
    "two devices, jax.device_get": kept(both, jax.device_get),
    "two devices, shard by shard": kept(both, lambda x: [np.asarray(shard.data) for shard in x.addressable_shards]),
}
for name, size in seen.items():
    print(f"{name}: {size:.0f} MiB kept")
assert seen["one device, np.asarray"] < 20 and seen["two devices, shard by shard"] < 20
assert seen["two devices, np.asarray"] > SIZE - 20 and seen["two devices, jax.device_get"] > SIZE - 20
PY
echo "as described"
