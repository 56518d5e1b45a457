"""Metrics of the mutual information between binned codes and factors: MIG, modularity, and what codes tell about each other."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vae_jax.disentanglement.settings import PUBLISHED, Labels, check_codes, check_pair

Matrix = NDArray[np.float64]


class MIG(NamedTuple):
    """The mutual information gap, and what it is made of."""

    score: float  # mean of the gaps
    gaps: Matrix  # (num_factors,), in [0, 1]
    mutual_information: Matrix  # (latent, num_factors), nats
    entropies: Matrix  # (num_factors,), nats


def bin_codes(codes: ArrayLike, num_bins: int = PUBLISHED.num_bins) -> Labels:
    """Each code's bin of equal width between the least and the largest value of its column.

        bin = np.digitize(x, edges[:-1]),   edges = num_bins + 1 points from min x to max x

    so a value on an edge belongs to the bin above, and the largest to the last bin.

    Args:
      codes: (examples, latent), finite.
      num_bins: for each column, >= 1.

    Returns:
      (examples, latent), 1 ... num_bins; a constant column is all in one bin. Edges are in float64 whatever the codes' dtype.

    Example:
      >>> print(bin_codes(np.array([[0.0, 5.0], [0.5, 5.0], [1.0, 5.0]]), num_bins=2)[:, 0])
      [1 2 2]
    """
    z = check_codes("bin_codes", codes)
    if num_bins < 1:
        raise ValueError(f"bin_codes: expected num_bins >= 1, got {num_bins}.")

    def one(column: Matrix) -> Labels:
        low, high = column.min(), column.max()
        if low == high:  # np.histogram's own rule for its range
            low, high = low - 0.5, high + 0.5
        # np.histogram_bin_edges has the same edges, but raises where a nearly constant column leaves no room for them.
        return np.digitize(column, np.linspace(low, high, num_bins + 1)[:-1])

    return np.stack([one(column) for column in z.T], axis=1)


def _ranked(labels: ArrayLike) -> list[tuple[Labels, int]]:
    """For each column its values as 0, 1, 2 ... without gaps, and how many there are."""
    columns = np.asarray(labels).T
    ranked = [np.unique(column, return_inverse=True) for column in columns]
    return [(inverse.astype(np.int64), len(values)) for values, inverse in ranked]


def mutual_information_matrix(labels_a: ArrayLike, labels_b: ArrayLike) -> Matrix:
    """Mutual information of each column of a with each column of b: the plug-in estimate from counts.

        I(a; b) = sum_{u, v} n_uv / n log(n n_uv / (n_u n_v))

    It is biased upwards, by about (U - 1)(V - 1) / (2 n) for U and V values.

    Args:
      labels_a, labels_b: (examples, columns of a) and (examples, columns of b), discrete values (`bin_codes`, factors).

    Returns:
      (columns of a, columns of b), in nats, >= 0; exactly 0 where a column is constant.

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

    def one(a: Labels, size_a: int, b: Labels, size_b: int) -> float:
        joint = np.bincount(a * size_b + b, minlength=size_a * size_b).reshape(size_a, size_b)
        product = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
        seen = joint > 0
        # Counts, not frequencies: their products are exact, so a constant column gives log(1) = 0 and not 1e-17.
        return float(np.sum(joint[seen] * np.log(num_rows * joint[seen] / product[seen]))) / num_rows

    columns_b = _ranked(labels_b)
    matrix = [[one(*a, *b) for b in columns_b] for a in _ranked(labels_a)]
    return np.maximum(np.array(matrix, np.float64), 0)


def entropies(labels: ArrayLike) -> Matrix:
    """Entropy of each column, the plug-in estimate from counts: -sum_v n_v / n log(n_v / n).

    Args:
      labels: (examples, columns), discrete values.

    Returns:
      (columns,), in nats.

    Example:
      >>> print(entropies(np.array([[0, 7], [1, 7], [2, 7]])).round(2))
      [1.1 0. ]
    """
    counts = [np.bincount(inverse) for inverse, _ in _ranked(labels)]
    return np.array([-np.sum(n / n.sum() * np.log(n / n.sum())) for n in counts]) + 0.0  # + 0.0: not -0


def mig(codes: ArrayLike, factors: ArrayLike, num_bins: int = PUBLISHED.num_bins) -> MIG:
    """Mutual information gap: how much more the most telling code says about a factor than the next one, over all rows given.

        gap_f = (I_(1)f - I_(2)f) / H(f),   I_(1)f >= I_(2)f the two largest of I(bin of code; f);   score = mean over f

    With num_bins bins of equal width a factor with more values than bins has a ceiling below 1: on the full dSprites grid
    perfect linear codes reach 1, 1, .8121, .8500, .8500 for shape, scale, orientation, x, y; mean .9024.

    Args:
      codes: (examples, latent >= 2), encoder means, finite. The published score takes 10,000 examples.
      factors: (examples, num_factors >= 2), integers >= 0, each with two values or more.
      num_bins: for each code.

    Returns:
      `MIG`. Constant codes have a gap of 0, and so has a factor that two codes tell equally well.

    Example: the first code is the first factor, the second code is nothing.
      >>> factors = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
      >>> print(mig(factors * np.array([2.5, 0.0]), factors).gaps)
      [1. 0.]

    Source:
      Chen et al. (2018); binning as in Locatello et al. (2019).
    """
    z, values = check_pair("mig", codes, factors)
    information, entropy = mutual_information_matrix(bin_codes(z, num_bins), values), entropies(values)
    largest = np.sort(information, axis=0)
    gaps = (largest[-1] - largest[-2]) / entropy
    return MIG(float(np.mean(gaps)), gaps, information, entropy)


def modularity(codes: ArrayLike, factors: ArrayLike, num_bins: int = PUBLISHED.num_bins) -> float:
    """Modularity: whether each code tells about one factor only, over all rows given.

        1 - (sum_f I_jf^2 - max_f I_jf^2) / (max_f I_jf^2 (num_factors - 1)) for code j; the mean over ALL codes

    A code without information (I_jf = 0 for all f, so every constant one) counts 0. A code that is only nearly dead does not:
    the estimate's bias gives it some information about each factor.

    Args:
      codes, factors, num_bins: as in `mig`.

    Returns:
      Score in [0, 1].

    Example: of two codes one is a factor and one is constant.
      >>> factors = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
      >>> print(modularity(factors * np.array([2.5, 0.0]), factors))
      0.5

    Source:
      Ridgeway and Mozer (2018), as computed by Locatello et al. (2019).
    """
    z, values = check_pair("modularity", codes, factors)
    squared = np.square(mutual_information_matrix(bin_codes(z, num_bins), values))
    largest = squared.max(axis=1)
    alive = largest > 0
    others = squared.sum(axis=1) - largest
    of_alive = 1 - others[alive] / (largest[alive] * (values.shape[1] - 1))
    return float(np.sum(of_alive)) / len(squared)


def average_mutual_information(codes: ArrayLike, num_bins: int = PUBLISHED.num_bins) -> float:
    """Mean mutual information between two different codes, binned; the lower, the more independent they are.

        sum_{i != j} I(bin of code i; bin of code j) / (latent (latent - 1))

    Args:
      codes, num_bins: as in `mig`.

    Returns:
      Nats, >= 0.

    Example: the same code twice.
      >>> print(average_mutual_information(np.array([[0.0, 0.0], [1.0, 1.0]])))
      0.69

    Source:
      Locatello et al. (2019).
    """
    bins = bin_codes(check_codes("average_mutual_information", codes), num_bins)
    information = mutual_information_matrix(bins, bins)
    latent = len(information)
    return float(np.sum(information) - np.trace(information)) / (latent * (latent - 1))
