#!/usr/bin/env bash
# Pyro's masks leave NaN out of the log-density and let it into the gradient. NumPyro's mask keeps it out of both.
#
# Guess before the run: in both libraries the density of all entries is computed and then selected by the mask, so in both the
# gradient is 0 * NaN = NaN although the value is finite.
# Versions: pyro-ppl 1.9.2 with torch 2.13.0, numpyro 0.20.0 with jax 0.9.0, Python 3.11. Source: pyro/distributions/util.py,
# scale_and_mask, which selects after the density; numpyro/distributions/distribution.py, MaskedDistribution.log_prob, which puts a
# number of the support into masked entries first.
# Seen, for x = (1, NaN, 3) with the second entry masked, and loc = 0.3: log-density -5.7279 with both. Gradient in loc 3.4 with
# NumPyro, and NaN with Pyro, for `Distribution.mask`, `poutine.mask` and `obs_mask=` alike. With a finite number in place of NaN
# Pyro's gradient is 3.4 too. So a model trains on such data until the first step, after which all parameters are NaN. `obs_mask`
# also samples the masked entry, whose density is then part of the sum.
# The script fails when any of this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
${PYTHON:-python3.11} -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check pyro-ppl==1.9.2 torch==2.13.0 numpyro==0.20.0 jax==0.9.0 jaxlib==0.9.0
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import math

import jax
import jax.numpy as jnp
import numpyro.distributions as jax_dist
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine


def sample(how, loc, x, mask):
    normal = dist.Normal(loc, 1.0, validate_args=False)
    if how == "Distribution.mask":
        pyro.sample("x", normal.expand([3]).mask(mask).to_event(1), obs=x)
    elif how == "poutine.mask":
        with pyro.plate("entries", 3), poutine.mask(mask=mask):
            pyro.sample("x", normal, obs=x)
    else:
        with pyro.plate("entries", 3):
            pyro.sample("x", normal, obs=x, obs_mask=mask)


def value_and_gradient(how, number):
    loc = torch.tensor(0.3, requires_grad=True)
    x, mask = torch.tensor([1.0, number, 3.0]), torch.tensor([True, False, True])
    value = poutine.trace(sample).get_trace(how, loc, x, mask).log_prob_sum()
    value.backward()
    return value.item(), loc.grad.item()


pyro.set_rng_seed(0)
seen = {how: value_and_gradient(how, math.nan) for how in ("Distribution.mask", "poutine.mask", "obs_mask")}
filled = value_and_gradient("poutine.mask", 0.0)
x, mask = jnp.array([1.0, jnp.nan, 3.0]), jnp.array([True, False, True])
numpyro = jax.value_and_grad(lambda loc: jax_dist.Normal(loc, 1.0).mask(mask).log_prob(x).sum())(0.3)
for how, (value, gradient) in seen.items():
    print(f"pyro, {how}: value {value:.4f}, gradient {gradient}")
print(f"pyro, 0 in place of NaN: value {filled[0]:.4f}, gradient {filled[1]:.4f}")
print(f"numpyro: value {numpyro[0]:.4f}, gradient {numpyro[1]:.4f}")

exact = sum(-0.5 * (value - 0.3) ** 2 - 0.5 * math.log(2 * math.pi) for value in (1.0, 3.0))
assert all(math.isfinite(value) and math.isnan(gradient) for value, gradient in seen.values())
assert all(abs(seen[how][0] - exact) < 1e-5 for how in ("Distribution.mask", "poutine.mask"))
assert abs(filled[0] - exact) < 1e-5 and abs(filled[1] - 3.4) < 1e-5
assert abs(numpyro[0] - exact) < 1e-5 and abs(numpyro[1] - 3.4) < 1e-5
PY
echo "as described"
