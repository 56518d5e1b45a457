"""Metrics of the mutual information between binned codes and factors: MIG, modularity, average mutual information."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from vae_jax.disentanglement.settings import PUBLISHED, check_codes, check_pair


class MIG(NamedTuple):
    """The mutual information gap, with the quantities from which it is computed."""

    score: float  # mean of the gaps
    gaps: Float[np.ndarray, "num_factors"]  # in [0, 1]
    mutual_information: Float[np.ndarray, "latent num_factors"]  # nats
    entropies: Float[np.ndarray, "num_factors"]  # nats


def bin_codes(
    codes: Shaped[np.ndarray | Array, "examples latent"], num_bins: int = PUBLISHED.num_bins
) -> Int[np.ndarray, "examples latent"]:
    """Assigns each code to one of num_bins bins of equal width between the smallest and the largest value of its column.

        bin = np.digitize(x, edges[:-1]),   edges = num_bins + 1 points from min x to max x

    A value on an edge belongs to the bin above, and the largest value to the last bin.

    Args:
      codes: (examples, latent), finite.
      num_bins: number of bins of each column, >= 1.

    Returns:
      (examples, latent), from 1 to num_bins. A constant column is in a single bin. Edges are computed in float64.

    Example:
      >>> print(bin_codes(np.array([[0.0, 5.0], [0.5, 5.0], [1.0, 5.0]]), num_bins=2)[:, 0])
      [1 2 2]
    """
    z = check_codes("bin_codes", codes)
    if num_bins < 1:
        raise ValueError(f"bin_codes: expected num_bins >= 1, got {num_bins}.")

    def one(column: Float[np.ndarray, "examples"]) -> Int[np.ndarray, "examples"]:
        low, high = column.min(), column.max()
        if low == high:  # the rule of np.histogram
            low, high = low - 0.5, high + 0.5
        # np.histogram_bin_edges has the same edges, but raises if a column is so nearly constant that edges coincide.
        return np.digitize(column, np.linspace(low, high, num_bins + 1)[:-1])

    return np.stack([one(column) for column in z.T], axis=1)


def _ranked(labels: Shaped[np.ndarray | Array, "examples columns"]) -> list[tuple[Int[np.ndarray, "examples"], int]]:
    """Returns the values of each column as 0, 1, 2, ... without gaps, and the number of different values."""
    columns = np.asarray(labels).T
    ranked = [np.unique(column, return_inverse=True) for column in columns]
    return [(inverse.astype(np.int64), len(values)) for values, inverse in ranked]


def mutual_information_matrix(
    labels_a: Shaped[np.ndarray | Array, "examples columns_a"], labels_b: Shaped[np.ndarray | Array, "examples columns_b"]
) -> Float[np.ndarray, "columns_a columns_b"]:
    """Computes the mutual information of each column of a with each column of b, by the plug-in estimate from counts.

        I(a; b) = sum_{u, v} n_uv / n log(n n_uv / (n_u n_v))

    The estimate is biased upwards by about (U - 1)(V - 1) / (2 n) for columns with U and V different values.

    Args:
      labels_a, labels_b: discrete values, such as factors or the result of `bin_codes`, with one row for each example.

    Returns:
      Matrix in nats, >= 0. It is exactly 0 for a constant column.

    Example:
      >>> labels = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
      >>> print(mutual_information_matrix(labels, labels).round(2))
      [[0.69 0. ]
       [0. 0.69]]
    """
    shapes = np.shape(labels_a), np.shape(labels_b)
    if len(shapes[0]) != 2 or len(shapes[1]) != 2 or shapes[0][0] != shapes[1][0] or shapes[0][0] < 1:
        raise ValueError(
            f"mutual_information_matrix: expected two tables (examples, columns) of the same examples, got shapes {shapes}."
        )
    num_rows = shapes[0][0]

    def one(a: np.ndarray, size_a: int, b: np.ndarray, size_b: int) -> float:
        joint = np.bincount(a * size_b + b, minlength=size_a * size_b).reshape(size_a, size_b)
        product = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
        seen = joint > 0
        # Products of counts are exact, unlike those of frequencies, so a constant column gives log(1) = 0 rather than 1e-17.
        return float(np.sum(joint[seen] * np.log(num_rows * joint[seen] / product[seen]))) / num_rows

    columns_b = _ranked(labels_b)
    matrix = [[one(*a, *b) for b in columns_b] for a in _ranked(labels_a)]
    return np.maximum(np.array(matrix, np.float64), 0)


def entropies(labels: Shaped[np.ndarray | Array, "examples columns"]) -> Float[np.ndarray, "columns"]:
    """Computes the entropy of each column by the plug-in estimate from counts: -sum_v n_v / n log(n_v / n).

    Args:
      labels: (examples, columns), discrete values.

    Returns:
      (columns,), in nats, >= 0.

    Example:
      >>> print(entropies(np.array([[0, 7], [1, 7], [2, 7]])).round(2))
      [1.1 0. ]
    """
    counts = [np.bincount(inverse) for inverse, _ in _ranked(labels)]
    return np.array([-np.sum(n / n.sum() * np.log(n / n.sum())) for n in counts]) + 0.0  # turns -0 into 0


def mig(
    codes: Float[np.ndarray | Array, "examples latent"],
    factors: Int[np.ndarray | Array, "examples num_factors"],
    num_bins: int = PUBLISHED.num_bins,
) -> MIG:
    """Computes the mutual information gap between the two most informative codes of each factor, over all given rows.

        gap_f = (I_(1)f - I_(2)f) / H(f),   I_(1)f >= I_(2)f the two largest of I(bin of code, f)
        score = mean over f of gap_f

    A factor with more values than bins cannot reach a gap of 1. On the full dSprites grid, perfect linear codes reach 1, 1,
    .8121, .8500 and .8500 for shape, scale, orientation, x and y. The mean is .9024.

    Args:
      codes: (examples, latent >= 2), encoder means, finite. The published score uses 10,000 examples.
      factors: (examples, num_factors >= 2), integers >= 0, each with at least two values.
      num_bins: number of bins of each code, >= 1.

    Returns:
      `MIG`, higher is better. The gap is 0 for constant codes, and for a factor about which two codes are equally informative.

    Example: the first code equals the first factor up to scale, the second code is constant.
      >>> factors = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
      >>> print(mig(factors * np.array([2.5, 0.0]), factors).gaps)
      [1. 0.]

    Source:
      Chen et al. (2018), with the binning of Locatello et al. (2019).
    """
    z, values = check_pair("mig", codes, factors)
    information, entropy = mutual_information_matrix(bin_codes(z, num_bins), values), entropies(values)
    largest = np.sort(information, axis=0)
    gaps = (largest[-1] - largest[-2]) / entropy
    return MIG(float(np.mean(gaps)), gaps, information, entropy)


def modularity(
    codes: Float[np.ndarray | Array, "examples latent"],
    factors: Int[np.ndarray | Array, "examples num_factors"],
    num_bins: int = PUBLISHED.num_bins,
) -> float:
    """Computes the modularity, the degree to which each code depends on a single factor, over all given rows.

        mean over ALL codes j of 1 - (sum_f I_jf^2 - max_f I_jf^2) / (max_f I_jf^2 (num_factors - 1))

    A code without information (I_jf = 0 for all f), such as a constant one, counts 0. A code that is nearly constant does not:
    the bias of the estimate gives it some information about each factor.

    Args:
      codes, factors, num_bins: see `mig`.

    Returns:
      Score in [0, 1], higher is better.

    Example: one code equals a factor up to scale, the other one is constant.
      >>> factors = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
      >>> print(modularity(factors * np.array([2.5, 0.0]), factors))
      0.5

    Source:
      Ridgeway and Mozer (2018), as computed by Locatello et al. (2019).
    """
    z, values = check_pair("modularity", codes, factors)
    squared = np.square(mutual_information_matrix(bin_codes(z, num_bins), values))
    largest = squared.max(axis=1)
    informative = largest > 0
    others = squared.sum(axis=1) - largest
    scores = 1 - others[informative] / (largest[informative] * (values.shape[1] - 1))
    return float(np.sum(scores)) / len(squared)


def average_mutual_information(
    codes: Float[np.ndarray | Array, "examples latent"], num_bins: int = PUBLISHED.num_bins
) -> float:
    """Computes the mean mutual information between two different binned codes. Independent codes have a low value.

        sum_{i != j} I(bin of code i; bin of code j) / (latent (latent - 1))

    Args:
      codes, num_bins: see `mig`.

    Returns:
      Nats, >= 0.

    Example: two copies of one code.
      >>> print(average_mutual_information(np.array([[0.0, 0.0], [1.0, 1.0]])))
      0.69

    Source:
      Locatello et al. (2019).
    """
    bins = bin_codes(check_codes("average_mutual_information", codes), num_bins)
    information = mutual_information_matrix(bins, bins)
    latent = len(information)
    return float(np.sum(information) - np.trace(information)) / (latent * (latent - 1))
