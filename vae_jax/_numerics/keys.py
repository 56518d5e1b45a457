"""Streams of random keys: every use of a seed draws from a key that no other use shares.

The rule is that `jax.random.key(seed)` itself is never drawn from, split or folded into outside of this module. Each use
takes `stream(seed, Stream.X)` and derives from that key alone, in one way only: by drawing, by `split`, or by `fold_in` with an
index.

The rule is needed because JAX's default generator has split(key)[i] == fold_in(key, i). So a split and a fold_in of one key
give the same children, and so do two splits. The seeds of a run, of its test set and of its split are all 0 by default,
therefore their streams are numbered in one list. The numbers are part of every published result: add new ones, and never change
an existing one.
"""

import enum

import jax
from jaxtyping import Array, Int, Key

# Every key names its generator, because JAX_DEFAULT_PRNG_IMPL would otherwise change test sets and evaluations, and because JAX
# draws Poisson numbers with this generator only.
IMPLEMENTATION = "threefry2x32"


class Stream(enum.IntEnum):
    """The uses of a seed, with the number that is folded into its key. The comments name the seed that each belongs to."""

    INIT = 0  # seed of the run: initial parameters (see `Part`)
    STEP = 1  # seed of the run: the noise of step n is fold_in(stream, n)
    TEST_SET = 2  # test seed: binarized or dequantized test set, chunk i from fold_in(stream, i)
    EVALUATION = 0x0E7A  # test seed: draws of z for the ELBO, example i from fold_in(stream, i)
    ORDER = 0x10000  # seed of the run: the order of epoch e is fold_in(stream, e)
    VALIDATION_SET = 0x10001  # test seed: binarized or dequantized validation set, chunk i from fold_in(stream, i)
    FIXED_TRAIN_SET = 0x10002  # test seed: a training set that is binarized once
    RENDERED_VALIDATION = 0x10003  # split seed: validation images that are rendered rather than held out
    KL_DECOMPOSITION = 0x10004  # test seed: draws of z for the parts of the KL
    LOG_PX = 0x10005  # test seed: importance samples, example i from fold_in(stream, i)
    ANNEALING = 0x10006  # test seed: chains of annealed importance sampling
    GAPS = 0x10007  # test seed: posteriors fitted to single examples
    SIMULATED = 0x10008  # test seed: examples simulated from the model (BDMC) and their chains
    REPORT_SAMPLES = 0x10009  # test seed: samples from the prior in reports
    PRIOR_SHAPE = 0x1000A  # test seed: mean and standard deviation of a learned prior
    DISENTANGLEMENT = 0x1000B  # metric seed: selected examples and metrics
    REPRODUCTION = 0x1000C  # additional draws of a reproduction script
    CHECK = 0x1000D  # data that are only checked before training
    VALIDATION_EVALUATION = 0x1000E  # test seed: draws of z for the validation ELBO, example i from fold_in(stream, i)
    PROBES = 0x1000F  # test seed: inputs of the training examples whose codes predict labels
    REPORT_INTERVALS = 0x10010  # test seed: draws around the reconstructions of series in reports
    IMPUTATION = 0x10021  # seed of an imputation: draws for missing entries, example i from fold_in(stream, i)
    BASELINES = 0x10022  # test seed: the training examples that other methods of imputation are fitted to
    TRAINING_SCORES = 0x10030  # test seed: inputs, draws for the ELBO and importance samples of scored training examples
    CODES = 0x10041  # seed of an encoding: draws of z for new data, draw k of row i from fold_in(fold_in(stream, i), k)
    RECONSTRUCTIONS = 0x10042  # seed of a reconstruction: draws of p(x|z) for new data, row i from fold_in(stream, i)
    MOMENTS = 0x10050  # seed 0: draws for the mean and the standard deviation of a posterior without a closed form
    REFIT = 0x10060  # seed of the run: inputs and draws of z of the training examples to whose codes a prior is fitted
    REFIT_NETWORK = 0x10062  # seed of a refit: initial weights of a RealNVP, and the order of the draws that it is fitted to
    PRIOR_GAIN = 0x10061  # test seed: draws of z at which a refitted prior is compared, example i from fold_in(stream, i)
    SAMPLES = 0x10043  # seed of samples: z and x of example i from fold_in(stream, i)


class Part(enum.IntEnum):
    """The parts of a model that are initialized from the key of `Stream.INIT`, with the number that is folded into it.

    The encoder's and the decoder's numbers are also folded into the key that the networks of one example have in a step.
    """

    ENCODER = 0
    DECODER = 1
    PRIOR = 2
    POSTERIOR = 3
    OBJECTIVE = 0x10000  # state of a batch objective, such as FactorVAE's discriminator


class StepKey(enum.IntEnum):
    """Uses of the key of a step besides those of split(key, batch + 1): train_input, then the objective of each example.

    The numbers are far above the size of any batch, because split(key)[i] is fold_in(key, i).
    """

    NETWORKS = 0x7FFFFFFF  # dropout and other randomness of networks: the key of example i is split(stream, batch)[i]


def stream(seed: int | Int[Array, ""], use: Stream) -> Key[Array, ""]:
    """Returns the key of one use of a seed.

    Args:
      seed: a whole number >= 0; may be traced.
      use: the use.

    Example:
      >>> print(jax.random.key_impl(stream(0, Stream.TEST_SET)))
      threefry2x32
    """
    return jax.random.fold_in(jax.random.key(seed, impl=IMPLEMENTATION), int(use))


def threefry_key(key: Key[Array, ""]) -> Key[Array, ""]:
    """Returns a Threefry key made from a key of any generator, for samplers that JAX implements for Threefry only.

    A Threefry key is returned unchanged.
    """
    if str(jax.random.key_impl(key)) == IMPLEMENTATION:
        return key
    return jax.random.wrap_key_data(jax.random.key_data(key).reshape(-1)[:2], impl=IMPLEMENTATION)
