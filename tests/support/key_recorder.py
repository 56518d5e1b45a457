"""Records what every key is used for while programs run, by callbacks from inside of them."""

import collections
import contextlib
import traceback
from pathlib import Path
from unittest import mock

import jax
import numpy as np

from vae_jax._numerics import threefry

PACKAGE = str(Path(threefry.__file__).parents[1])
DRAWS = ["bernoulli", "bits", "categorical", "choice", "gumbel", "laplace", "loggamma", "logistic", "normal"]
DRAWS += ["permutation", "poisson", "randint", "t", "truncated_normal", "uniform"]
REPEATED = ("evaluate", "stream")  # functions that are meant to give the same draws, or keys, wherever they are called


def _site():
    """The innermost five lines of the package: deep enough to tell two calls of a helper apart. None outside of it."""
    frames = [frame for frame in traceback.extract_stack() if frame.filename.startswith(PACKAGE)]
    frames = [frame for frame in frames if Path(frame.filename).name != "threefry.py"][:-6:-1]
    last = next((i for i, frame in enumerate(frames) if frame.name in REPEATED), len(frames))
    return " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames[: last + 1]) or None


class Recorder:
    """Uses of keys: draws by (key, place), and children by (key, number, place)."""

    def __init__(self):
        self.draws = collections.defaultdict(set)
        self.children = collections.defaultdict(set)
        self._inside = False

    def _wrap(self, function, note):
        def wrapped(key, *arguments, **options):
            if self._inside or (site := _site()) is None or not jax.numpy.issubdtype(key.dtype, jax.dtypes.prng_key):
                return function(key, *arguments, **options)
            note(site, key, *arguments, **options)
            self._inside = True  # one sampler calls another with the same key
            try:
                return function(key, *arguments, **options)
            finally:
                self._inside = False

        return wrapped

    def _draw(self, site, key, *_, **__):
        jax.debug.callback(lambda words: self.draws[np.asarray(words).tobytes()].add(site), jax.random.key_data(key))

    def _child(self, site, key, number):
        def note(words, number):
            self.children[np.asarray(words).tobytes(), int(number)].add(site)

        jax.debug.callback(note, jax.random.key_data(key), number)

    def _split(self, site, key, num=2):
        def note(words):
            for number in range(num):
                self.children[np.asarray(words).tobytes(), number].add(site)

        jax.debug.callback(note, jax.random.key_data(key))

    @contextlib.contextmanager
    def recording(self):
        """Runs its block with every draw, split and fold_in of the package recorded."""
        with contextlib.ExitStack() as stack:
            for name in DRAWS:
                stack.enter_context(mock.patch.object(jax.random, name, self._wrap(getattr(jax.random, name), self._draw)))
            for name, note in (("fold_in", self._child), ("split", self._split)):
                stack.enter_context(mock.patch.object(jax.random, name, self._wrap(getattr(jax.random, name), note)))
            halves = self._wrap(threefry._key_halves, self._draw)
            stack.enter_context(mock.patch.object(threefry, "_key_halves", halves))
            yield
            jax.effects_barrier()

    def shared(self):
        """Describes every key with two uses: draws at two places, a draw and a child, or one child made at two places."""
        found = [("drawn at", *sorted(sites)) for sites in self.draws.values() if len(sites) > 1]
        found += [("derived at", number, *sorted(sites)) for (_, number), sites in self.children.items() if len(sites) > 1]
        parents = collections.defaultdict(set)
        for (key, _), sites in self.children.items():
            parents[key] |= sites
        both = self.draws.keys() & parents.keys()
        found += [("drawn and derived at", *sorted(self.draws[key]), *sorted(parents[key])) for key in both]
        return sorted(set(map(str, found)))
