#!/usr/bin/env bash
# jax.random.poisson draws from another distribution at rates of a million and more, without a warning.
#
# Guess before the run: float32 rounds the draws to whole numbers that it can hold, which is harmless, because their spacing at
# 1e8 is 8 and the standard deviation of a Poisson variable is 10,000 there.
# Versions: jax 0.10.2, Python 3.11; the same kind of errors with jax 0.12.0.1 on Python 3.12. Source: jax/_src/random.py,
# _poisson_rejection. It accepts a proposal k if log(v) <= k log(rate) - rate - lgamma(k + 1), computed in float32. These terms are of the
# order of rate * log(rate), so from 1e6 on their rounding is as large as the logarithm that decides.
# Seen, from 400,000 draws at each rate, as variance / rate and excess kurtosis (1 and 0 for a Poisson variable):
#   1e5: 1.00 and -0.03    1e6: 1.03 and 0.03    3e6: 0.91 and 0.26    1e7: 0.99 and 1.7    1e8: 1.46 and 3.2
# jax_enable_x64 does not help, because the rates are cast to float32. jax.random.binomial, whose test has the same form, has 1.39
# times its variance at n = 1e8, p = 0.3, but is right at n = 1e6. NumPy's generator is right at all of these rates.
# The script fails when any of this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
${PYTHON:-python3.11} -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import jax
import numpy as np


def moments(draws, mean, variance):
    centered = np.asarray(draws, np.float64) - mean
    kurtosis = np.mean(centered**4) / np.mean(centered**2) ** 2 - 3
    return float(np.mean(centered**2) / variance), float(kurtosis)


def poisson(rate):
    return np.concatenate([np.asarray(jax.random.poisson(jax.random.key(i), rate, (100_000,))) for i in range(4)])


seen = {rate: moments(poisson(rate), rate, rate) for rate in (1e5, 1e6, 3e6, 1e7, 1e8)}
for rate, (variance, kurtosis) in seen.items():
    print(f"jax poisson, rate {rate:.0e}: variance / rate {variance:.3f}, excess kurtosis {kurtosis:.2f}")
binomial = {n: moments(jax.random.binomial(jax.random.key(0), n, 0.3, (200_000,)), 0.3 * n, 0.21 * n) for n in (1e6, 1e8)}
for n, (variance, kurtosis) in binomial.items():
    print(f"jax binomial, n {n:.0e}, p 0.3: variance / (n p q) {variance:.3f}, excess kurtosis {kurtosis:.2f}")
rng = np.random.default_rng(0)
numpy = {rate: moments(rng.poisson(rate, 400_000), rate, rate) for rate in seen}
jax.config.update("jax_enable_x64", True)
x64 = moments(jax.random.poisson(jax.random.key(0), 1e8, (100_000,)), 1e8, 1e8)[0]
print(f"jax poisson with x64, rate 1e+08: variance / rate {x64:.3f}")

error = (2 / 400_000) ** 0.5  # standard error of the ratio of variances
assert all(abs(variance - 1) < 5 * error and abs(kurtosis) < 0.05 for variance, kurtosis in numpy.values())
assert abs(seen[1e5][0] - 1) < 5 * error and abs(seen[1e5][1]) < 0.06
assert seen[1e6][0] - 1 > 8 * error and 1 - seen[3e6][0] > 20 * error
assert seen[1e7][1] > 1 and seen[1e8][0] > 1.3 and seen[1e8][1] > 2 and x64 > 1.3
assert abs(binomial[1e6][0] - 1) < 0.02 and binomial[1e8][0] > 1.3
PY
echo "as described"
