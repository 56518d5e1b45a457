"""Runs scripts in forks of a process that has already imported JAX and other packages, which takes about two seconds each time.

Only packages of others are imported here. A script imports vae_jax by itself, as for a user, and starts its own JAX backend.
Not for scripts that are killed, interrupted or given another environment of JAX: `scripts.start` and subprocesses are.
"""

import gc
import json
import os
import runpy
import socket
import sys
import warnings

PACKAGES = ("jax", "flax.linen", "optax", "orbax.checkpoint", "matplotlib.pyplot", "scipy.stats", "tyro", "tqdm", "PIL.Image")
PREFIXES = ("JAX_", "XLA_", "TF_", "PYTHON", "MPL", "OMP_", "LD_")  # what is read at import


def serve(connection: socket.socket) -> list[str] | None:
    """Answers requests until the other side ends, and returns None; in a fork, returns the arguments of the script to run."""
    for name in PACKAGES:
        __import__(name)
    gc.collect()
    gc.freeze()
    while True:
        request, descriptors, _, _ = socket.recv_fds(connection, 1_000_000, 2)
        if not request:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # JAX warns of forks, since its backends, none of which is started here, have threads
            pid = os.fork()
        if not pid:
            connection.close()
            wanted = json.loads(request)
            for number, descriptor in enumerate(descriptors, start=1):
                os.dup2(descriptor, number)
                os.close(descriptor)
            os.environ.clear()
            os.environ.update(wanted["environment"])
            os.chdir(wanted["folder"])
            return wanted["arguments"]
        for descriptor in descriptors:
            os.close(descriptor)
        connection.send(str(pid).encode())
        _, status = os.waitpid(pid, 0)
        connection.send(str(os.waitstatus_to_exitcode(status)).encode())


if __name__ == "__main__":
    sys.path.pop(0)  # this folder
    arguments = serve(socket.socket(fileno=int(sys.argv[1])))
    if arguments is not None:
        sys.argv = arguments
        sys.path.insert(0, os.path.dirname(arguments[0]))
        gc.unfreeze()
        runpy.run_path(arguments[0], run_name="__main__")
