"""Training with dropout: each example has a mask of its own, evaluation has none, and runs repeat, resume and sweep alike."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

from vae_jax import data, likelihoods, model, networks, objectives, priors, training
from vae_jax.build import build
from vae_jax.config import Config, Hyperparams
from vae_jax.data import Rows, prefetch
from vae_jax.evaluation.dataset_means import evaluate
from vae_jax.objectives import Terms, batch
from vae_jax.objectives.batch.base import forward
from vae_jax.training.step import make_terms

SHAPE, WIDTH = (4, 4, 1), 16
HYPERPARAMS = Hyperparams(1.0, 3e-3)
FIT = {"epochs": 2, "batch_size": 16, "hyperparams": HYPERPARAMS}
BATCH = jnp.asarray(np.random.default_rng(1).integers(0, 2, (8, *SHAPE)), jnp.float32)


class Encoder(linen.Module):
    rate: float = 0.5
    deterministic: bool | None = None
    dtype: str = "float32"

    @linen.compact
    def __call__(self, x, *condition):
        h = jnp.concatenate([x.reshape(-1), *condition])
        h = linen.Dropout(self.rate, deterministic=self.deterministic)(linen.relu(linen.Dense(WIDTH, dtype=self.dtype)(h)))
        return linen.Dense(2)(h), linen.Dense(2)(h)


class Decoder(nnx.Module):
    def __init__(self, rate, *, rngs):
        self.hidden, self.out = nnx.Linear(2, WIDTH, rngs=rngs), nnx.Linear(WIDTH, 16, rngs=rngs)
        self.dropout = nnx.Dropout(rate, rngs=rngs)

    def __call__(self, z):
        return self.out(self.dropout(nnx.relu(self.hidden(z)))).reshape(SHAPE)


def dropped_vae(rate=0.5, prior=None, **options):
    encoder = networks.from_linen(Encoder(rate, **options), SHAPE, rngs=("dropout",))
    decoder = networks.from_nnx(lambda rngs: Decoder(rate, rngs=rngs))
    return model.make_vae(encoder, decoder, likelihoods.bernoulli(), SHAPE, prior)


def plain_vae():
    """The same networks with Dropout off by hand."""
    decoder = networks.from_nnx(lambda rngs: Decoder(0.0, rngs=rngs))
    return model.make_vae(networks.from_linen(Encoder(deterministic=True), SHAPE), decoder, likelihoods.bernoulli(), SHAPE)


VAE = dropped_vae()


@pytest.fixture(scope="module")
def prepared():
    rng = np.random.default_rng(0)
    images = (np.kron(rng.integers(0, 2, (100, 2, 2)), np.ones((2, 2), int))[..., None] * 255).astype(np.uint8)
    dataset = data.Dataset("squares", images[:60], images[60:80], images[80:], None, 255, "by hand")
    return data.prepare(dataset, binarization="dynamic")


@pytest.fixture(scope="module")
def whole(prepared):
    kept = []
    run = training.fit(VAE, prepared, seed=5, on_progress=lambda progress: kept.append(jax.device_get(progress)), **FIT)
    return run, kept


def same_state(one, other):
    chex.assert_trees_all_equal(jax.device_get((one.state, one.best)), jax.device_get((other.state, other.best)))


def test_a_step_repeats_bit_for_bit_with_its_key_and_compiles_once():
    step = jax.jit(chex.assert_max_traces(training.make_train_step(VAE), n=1))
    state = training.init_state(VAE, optax.adam, jax.random.key(0))
    first, again, other = (step(state, jax.random.key(seed), BATCH, HYPERPARAMS) for seed in (1, 1, 2))
    chex.assert_trees_all_equal(first, again)
    assert first[1].loss != other[1].loss
    chex.assert_tree_all_finite((first, other))


def masks(key, encode, decode, log_prob, x, hyperparams):
    """The posteriors of one example at three keys of the objective, and what the decoder makes of one code."""
    zero = jnp.zeros(())
    means = jax.vmap(lambda key: encode(x)[0])(jax.random.split(key, 3))
    return Terms(zero, zero, zero, {"means": means, "outputs": jax.vmap(decode)(jnp.ones((3, 2)))})


def masks_of_batch(key, encode, decode, log_prob, x, hyperparams, state):
    codes = forward(key, encode, decode, log_prob, x)
    zeros, codes_of_ones = jnp.zeros(len(x)), jax.vmap(lambda x: decode(jnp.ones(2), x))(x)
    return Terms(zeros, zeros, zeros, {"means": codes.mean[:, None], "outputs": codes_of_ones[:, None]}), state


@pytest.mark.parametrize("objective", [masks, batch.BatchObjective(masks_of_batch)], ids=["examples", "batch"])
def test_equal_examples_lose_different_units_and_the_draws_of_one_the_same(objective):
    alike = jnp.broadcast_to(BATCH[0], (6, *SHAPE))
    params = VAE.init(jax.random.key(0))
    terms, _ = make_terms(VAE, objective)(params, (), jax.random.key(3), alike, HYPERPARAMS)
    for each in map(np.asarray, terms.extra.values()):
        assert len(np.unique(each[:, 0].reshape(6, -1), axis=0)) == 6
        np.testing.assert_array_equal(each, np.broadcast_to(each[:, :1], each.shape))
    # Examples and batches have the same masks.
    both, _ = make_terms(VAE, masks)(params, (), jax.random.key(3), alike, HYPERPARAMS)
    np.testing.assert_allclose(terms.extra["means"][:, 0], both.extra["means"][:, 0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(terms.extra["outputs"][:, 0], both.extra["outputs"][:, 0], rtol=1e-5, atol=1e-6)


def test_a_batch_objective_that_leaves_out_the_element_is_told():
    def terms(key, encode, decode, log_prob, x, hyperparams, state):
        return Terms(*[jax.vmap(lambda x: decode(encode(x)[0]).sum())(x)] * 3), state

    with pytest.raises(ValueError, match=r"call encode\(x\) and decode\(z, x\) for an element x of the batch"):
        make_terms(VAE, batch.BatchObjective(terms))(VAE.init(jax.random.key(0)), (), jax.random.key(0), BATCH, HYPERPARAMS)


OBJECTIVES = {
    "IWAE": objectives.with_hyperparams(objectives.iwae, num_samples=3, estimator="dreg"),
    "beta-TCVAE": batch.stateless(batch.beta_tc_elbo, "beta", num_examples=60),
    "DIP-VAE": batch.stateless(batch.dip_elbo, "lambda_od", "lambda_d", variant="ii"),
    "InfoVAE": batch.stateless(batch.info_elbo, "mmd_weight"),
    "FactorVAE": batch.factor(networks.mlp_discriminator(2, hidden=(8,)), optax.adam(1e-4)),
    "free bits": batch.stateless(batch.free_bits_batch_mean_elbo, "free_bits"),
}


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_every_kind_of_objective_trains_with_dropout(objective):
    step = jax.jit(training.make_train_step(VAE, objective=objective))
    state = training.init_state(VAE, optax.adam, jax.random.key(0), objective)
    (new, metrics), (_, other) = (step(state, jax.random.key(key), BATCH, HYPERPARAMS) for key in (1, 2))
    chex.assert_tree_all_finite((new.params, metrics))
    assert metrics.loss != other.loss
    assert not np.array_equal(new.params["encoder"]["Dense_0"]["kernel"], state.params["encoder"]["Dense_0"]["kernel"])


def test_bfloat16_and_a_vamp_prior_train_with_finite_gradients():
    vae = dropped_vae(dtype="bfloat16", prior=priors.vamp(BATCH[:3]))
    step = jax.jit(training.make_train_step(vae))
    state = training.init_state(vae, optax.adam, jax.random.key(0))
    chex.assert_tree_all_finite(step(state, jax.random.key(1), BATCH, HYPERPARAMS))
    params, z = state.params, jnp.ones(2)
    drawn = model.bind(vae, params, BATCH[0], jax.random.key(1))
    assert drawn.prior_log_prob(z) == model.bind(vae, params, BATCH[0]).prior_log_prob(z)
    assert not np.array_equal(drawn.encode(drawn.x)[0], vae.encode(params, BATCH[0])[0])


def test_evaluation_is_that_of_the_network_without_dropout(prepared, whole):
    run, _ = whole

    @jax.jit
    def elbo_without(params):
        evaluation = evaluate(training.evaluation_key(0), plain_vae(), params, prepared.test, to_input=prepared.eval_input)
        return evaluation.log_likelihood - evaluation.kl

    assert run.test.elbo == pytest.approx(np.mean(np.asarray(elbo_without(run.params), np.float64)), rel=1e-6)


@pytest.mark.slow
def test_a_member_of_a_sweep_and_a_resumed_run_are_the_run_bit_for_bit(prepared, whole):
    run, kept = whole
    options = training.FitOptions(epochs=2, batch_size=16)
    members = training.fit_members(VAE, prepared, options, seeds=[5, 7], hyperparams=HYPERPARAMS)
    member = jax.tree.map(lambda leaf: np.asarray(leaf)[0], jax.device_get(members.progress.members))
    chex.assert_trees_all_equal((member.state, member.best), jax.device_get((run.progress.state, run.progress.best)))
    assert members.tests[0] == run.test
    assert members.tests[1] != run.test
    resumed = training.fit(VAE, prepared, seed=5, start=jax.tree.map(jnp.asarray, kept[0]), **FIT)
    same_state(resumed.progress, run.progress)


@pytest.mark.slow
def test_a_streamed_run_is_the_run_in_memory(tmp_path, monkeypatch):
    """With three steps to a chunk; the masks are those of the keys, whatever the rounding."""
    monkeypatch.setattr(prefetch, "CHUNK_BYTES", 3 * 16 * 16)
    np.save(tmp_path / "bytes.npy", np.random.default_rng(0).integers(0, 256, (150, 4, 4), dtype=np.uint8))
    config = Config(dataset=str(tmp_path / "bytes.npy"), epochs=2, batch_size=16, split="last", binarize="dynamic")
    runs = []
    for is_streamed in (False, True):
        built = build(dataclasses.replace(config, stream=is_streamed))
        runs.append(training.fit(VAE, built.data, seed=5, **FIT))
    assert isinstance(built.data.train, Rows)
    params = [jax.device_get(run.params) for run in runs]
    chex.assert_trees_all_close(*params, rtol=1e-4, atol=1e-5)
