"""The streams of randomness: every use of a seed draws from a key that no other use shares.

One rule: `jax.random.key(seed)` itself is never drawn from, split or folded into but here. A use takes
`stream(seed, Stream.X)`, and derives from that key alone, in one way only: by drawing, by `split`, or by `fold_in` with an
index.

The rule is needed because JAX's default generator has split(key)[i] == fold_in(key, i): a split and a fold_in of one key
meet, and so do two splits. The seeds of a run, of its test set and of its split are all 0 by default, so their streams are
numbered in one list. The numbers are part of every published result: add new ones, never change one.
"""

import enum

import jax
from jax import Array

# Named in every key, because JAX_DEFAULT_PRNG_IMPL would otherwise change test sets and evaluations, and because JAX has
# Poisson draws for this generator only.
IMPLEMENTATION = "threefry2x32"


class Stream(enum.IntEnum):
    """The uses of a seed, with the number that is folded into its key."""

    INIT = 0  # seed of a run: first parameters; see `Part`
    STEP = 1  # of a run: noise of step n is fold_in(stream, n)
    TEST_SET = 2  # test seed: binarized or dequantized test set, chunk i from fold_in(stream, i)
    EVALUATION = 0x0E7A  # test seed: draws of z of the ELBO, example i from fold_in(stream, i)
    ORDER = 0x10000  # of a run: order of epoch e is fold_in(stream, e)
    VALIDATION_SET = 0x10001  # test seed: as TEST_SET
    FIXED_TRAIN_SET = 0x10002  # test seed: training set that is binarized once
    RENDERED_VALIDATION = 0x10003  # split seed: validation images that are drawn rather than held out
    KL_DECOMPOSITION = 0x10004  # test seed, as the following: draws of z for the parts of the KL
    LOG_PX = 0x10005  # importance samples, example i from fold_in(stream, i)
    ANNEALING = 0x10006  # chains of annealed importance sampling
    GAPS = 0x10007  # local posteriors
    SIMULATED = 0x10008  # examples simulated from the model (BDMC) and their chains
    REPORT_SAMPLES = 0x10009  # samples from the prior in reports
    PRIOR_SHAPE = 0x1000A  # mean and standard deviation of a learned prior
    DISENTANGLEMENT = 0x1000B  # metric seed: rows and metrics
    REPRODUCTION = 0x1000C  # what a reproduction script draws beyond these
    CHECK = 0x1000D  # data that are only looked at before training
    VALIDATION_EVALUATION = 0x1000E  # test seed: as EVALUATION, of the validation set


class Part(enum.IntEnum):
    """The parts of a model that start from the key of `Stream.INIT`, with the number that is folded into it."""

    ENCODER = 0
    DECODER = 1
    PRIOR = 2
    OBJECTIVE = 0x10000  # state of a batch objective, such as FactorVAE's discriminator


def stream(seed: int | Array, use: Stream) -> Array:
    """Returns the key of one use of a seed.

    Args:
      seed: a whole number >= 0; may be traced.
      use: which use.

    Example:
      >>> print(jax.random.key_impl(stream(0, Stream.TEST_SET)))
      threefry2x32
    """
    return jax.random.fold_in(jax.random.key(seed, impl=IMPLEMENTATION), int(use))


def threefry_key(key: Array) -> Array:
    """Returns a Threefry key made of another generator's key, for samplers that JAX has for Threefry only.

    A Threefry key is returned as it is.
    """
    if str(jax.random.key_impl(key)) == IMPLEMENTATION:
        return key
    return jax.random.wrap_key_data(jax.random.key_data(key).reshape(-1)[:2], impl=IMPLEMENTATION)
