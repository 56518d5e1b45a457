#!/usr/bin/env bash
# The negative binomial of scvi-tools is off by tenths of a nat for each gene when the dispersion is nearly that of a Poisson variable,
# and it puts a floor of 1e-8 under every mean.
#
# Guess before the run: log_prob is exact to float32's seven digits, as the data and the parameters are ordinary numbers.
# Versions: scvi-tools 1.5.1, torch 2.13.0, scipy 1.18.1, Python 3.12. Source: scvi/distributions/_negative_binomial.py, log_nb_positive. It computes
# lgamma(x + theta) - lgamma(theta) and theta * (log(theta) - log(theta + mu)) apart, and adds 1e-8 within the logarithms.
# Seen, as log_prob (exact value, SciPy in float64):
#   mean 1e4, theta 1e6, x = 1e4:   -4.93  (-5.53)      counts of a gene that is expressed strongly and varies little
#   mean 1e2, theta 1e4, x = 0:     -99.508  (-99.503)
#   mean 1e-9, theta 1, x = 1:      -18.33 (-20.72)     the probability of a count of 1 is 11 times too large
# In float64 the first two errors vanish, and the third stays. The script fails when any of this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
${PYTHON:-python3.12} -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check scvi-tools==1.5.1 torch==2.13.0 scipy==1.18.1 numpy==2.5.5 anndata==0.13.4
"$folder/venv/bin/python" -W ignore - 2>/dev/null <<'PY'
import torch
from scipy import stats
from scvi.distributions import NegativeBinomial

CASES = [(1e4, 1e6, 1e4), (1e2, 1e4, 0.0), (1e-9, 1.0, 1.0)]
rows = []
for mean, theta, x in CASES:
    computed = [
        float(NegativeBinomial(mu=torch.tensor(mean, dtype=t), theta=torch.tensor(theta, dtype=t)).log_prob(torch.tensor(x, dtype=t)))
        for t in (torch.float32, torch.float64)
    ]
    exact = float(stats.nbinom(theta, theta / (theta + mean)).logpmf(x))
    rows.append((*computed, exact))
    print(f"mean {mean:g}, theta {theta:g}, x {x:g}: float32 {computed[0]:.4f}, float64 {computed[1]:.4f}, exact {exact:.4f}")
assert abs(rows[0][0] - rows[0][2]) > 0.3 and abs(rows[0][1] - rows[0][2]) < 1e-5
assert abs(rows[1][0] - rows[1][2]) > 3e-3 and abs(rows[1][1] - rows[1][2]) < 1e-5
assert rows[2][0] - rows[2][2] > 2 and rows[2][1] - rows[2][2] > 2
PY
echo "as described"
