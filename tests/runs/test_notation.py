"""Texts about conditional models and about data with missing entries name the densities that were computed."""

import numpy as np
import pytest

from vae_jax import data
from vae_jax.build import build
from vae_jax.config import Config
from vae_jax.runs.notation import Notation, facts

CONDITIONAL = Notation("label (10 categories)")
MASKED = Notation(has_missing=True)
WHITENED = Notation("age", has_missing=True, has_conditional_prior=True)


@pytest.mark.parametrize(
    ("text", "conditional", "masked", "whitened"),
    [
        ("log p(x)", "log p(x|c)", "log p(x_observed)", "log p(x_observed|c)"),
        ("E log p(x|z)", "E log p(x|z,c)", "E log p(x_observed|z)", "E log p(x_observed|u,c)"),
        ("draws from p(x|z)", "draws from p(x|z,c)", "draws from p(x|z)", "draws from p(x|u,c)"),
        ("KL(q(z|x) ‖ p(z))", "KL(q(z|x,c) ‖ p(z))", "KL(q(z|x_observed) ‖ p(z))", "KL(q(u|x_observed,c) ‖ p(u))"),
        ("q(z_j) = Σ q(z_j|x_n)", "q(z_j) = Σ q(z_j|x_n,c_n)", "q(z_j) = Σ q(z_j|x_n)", "q(u_j) = Σ q(u_j|x_n,c_n)"),
        ("E[x|z] and z[3]", "E[x|z,c] and z[3]", "E[x|z] and z[3]", "E[x|u,c] and u[3]"),
        ("Var_x(E[z|x])", "Var_x(E[z|x,c])", "Var_x(E[z|x])", "Var_x(E[u|x,c])"),
        ("zebras, size and x.z", "zebras, size and x.z", "zebras, size and x.z", "zebras, size and x.z"),
    ],
)
def test_densities_are_named(text, conditional, masked, whitened):
    assert Notation().translate(text) == text
    assert CONDITIONAL.translate(text) == conditional
    assert MASKED.translate(text) == masked
    assert WHITENED.translate(text) == whitened


def test_facts_are_those_of_the_data_and_of_the_prior_and_are_read_back():
    rng = np.random.default_rng(0)
    x, kind = rng.normal(size=(40, 3)).astype(np.float32), np.arange(40) % 3
    config = Config(likelihood="gaussian", hidden=(4,), latent_dim=2, batch_size=8, epochs=1)
    plain = build(config, dataset=data.from_arrays(x))
    assert facts(plain) == {}
    assert Notation.of(plain) == Notation.read({}) == Notation()
    x[1::2, 0], x[::2, 1] = np.nan, np.nan
    dataset = data.from_arrays(x, missing="nan", condition={"kind": kind})
    for prior in ("normal", "conditional"):
        config = Config(likelihood="gaussian", prior=prior, hidden=(4,), latent_dim=2, batch_size=8, epochs=1)
        built = build(config, dataset=dataset)
        record = facts(built)
        assert record["conditioned_on"] == "kind (3 categories)"
        assert record["missing_share_of_test"] == record["missing_share_of_train"] == pytest.approx(1 / 3)
        assert ("codes" in record) == (prior == "conditional")
        assert Notation.read(record) == Notation.of(built) == Notation("kind (3 categories)", True, prior == "conditional")
        assert len(Notation.of(built).explain()) == 2 + (prior == "conditional")
