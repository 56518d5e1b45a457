"""One budget of false failures for the whole suite: the probability that any statistical test fails on correct code.

Every p-value goes through `accept`, which requires more than BUDGET / P_VALUES (Bonferroni) and counts: spending more
p-values than were planned is an error. Seeds are 0, 1, 2 ... and never searched.
"""

import math

import numpy as np
from scipy import stats

BUDGET = 1e-6
P_VALUES = 1100
LEAST = BUDGET / P_VALUES  # 6.1 standard errors, two-sided
_spent = 0


def accept(*p_values):
    """Fails where chance is no longer an explanation."""
    global _spent
    _spent += np.size(p_values)
    assert _spent <= P_VALUES, f"{_spent} p-values spent of {P_VALUES} planned: raise P_VALUES"
    assert np.min(p_values) > LEAST, f"p-value {np.min(p_values):.2g}, below {LEAST:.2g}"


def accept_mean(values, expected, deviation=None, slack=0.0):
    """The mean of independent values is as expected, with their standard deviation known or measured; one p-value.

    Measured about the expected mean: for symmetric values the ratio is then sub-Gaussian, however heavy their tails (Efron).
    `slack` is what rounding may add.
    """
    values = np.asarray(values, np.float64).ravel()
    if deviation is None:
        deviation = np.sqrt(np.mean((values - expected) ** 2))
    error = max(abs(values.mean() - expected) - slack, 0.0)
    accept(2 * stats.norm.sf(error / max(deviation / math.sqrt(len(values)), 1e-300)))


def accept_frequencies(counts, probabilities, least=50):
    """Pearson's chi-square of counts of all outcomes, neighbors merged until `least` are expected; one p-value."""
    assert 0.999 < np.sum(probabilities) < 1.001, "these are not all of the outcomes"
    counts, expected = np.asarray(counts, np.float64), np.asarray(probabilities, np.float64) * np.sum(counts)
    starts, filled = [0], 0.0
    for i, more in enumerate(expected):
        if filled >= least:
            starts, filled = [*starts, i], 0.0
        filled += more
    if filled < least:  # what is left over joins the group before
        starts.pop()
    merged, of = np.add.reduceat(counts, starts), np.add.reduceat(expected, starts)
    accept(stats.chi2.sf(np.sum((merged - of) ** 2 / of), len(of) - 1))
