"""Every use of a seed has a stream of its own, whatever JAX's default generator is."""

import ast
import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from key_recorder import Recorder
from paths import ROOT

from vae_jax import data, likelihoods, model, networks, training
from vae_jax._numerics.keys import Part, Stream, stream, threefry_key
from vae_jax.build import build
from vae_jax.config import Config
from vae_jax.evaluation import Annealing
from vae_jax.objectives import batch
from vae_jax.objectives.batch.base import forward
from vae_jax.report.run.content import pictures
from vae_jax.runs import Run
from vae_jax.runs.evaluate_run import EvaluationOptions, assess
from vae_jax.training.step import init_state


@pytest.fixture(scope="module")
def gray(tmp_path_factory):
    """Sixteen gray images of 3 x 4 in a file."""
    path = tmp_path_factory.mktemp("gray") / "gray.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (16, 3, 4), dtype=np.uint8))
    return str(path)


@pytest.fixture(scope="module")
def small(gray):
    """A FactorVAE with every seed at 0, on binarized images, with a validation set."""
    return build(
        Config(
            dataset=gray, test_fraction=0.25, validation_fraction=0.25, hidden=(5,), latent_dim=2, batch_size=4, epochs=2,
            objective="factor_vae",
        )
    )  # fmt: skip


def _trained(built):
    """A FactorVAE trained with data that are drawn again, so that their keys are seen too."""
    prepared = data.prepare(built.dataset, binarization="dynamic")
    data.prepare(built.dataset, binarization="fixed")
    built = built._replace(data=prepared._replace(validation=prepared.test))
    factor = batch.factor(networks.mlp_discriminator(2, hidden=(5,)), optax.sgd(0.1))
    return built, training.fit(built.vae, built.data, epochs=2, batch_size=4, seed=built.config.seed, objective=factor)


@pytest.mark.slow
def test_training_gives_no_key_two_uses(small):
    recorder = Recorder()
    with recorder.recording():
        _, fit = _trained(small)
    # The validation set is the test set here: what is left to differ are the draws of z.
    for epoch in fit.progress.history:
        assert epoch.test.kl == pytest.approx(epoch.validation.kl)
        assert epoch.test.log_likelihood != epoch.validation.log_likelihood
    assert len(recorder.draws) > 30
    assert len(recorder.children) > 30
    assert recorder.shared() == []


@pytest.mark.slow
def test_training_and_evaluation_give_no_key_two_uses(small):
    """Training, evaluation, every estimate of log p(x) and the report's samples, all with the same seed."""
    recorder = Recorder()
    with recorder.recording():
        built, fit = _trained(small)
        run = Run(Path(), built, 2, fit.params, None, [], [])
        annealing = Annealing(num_temperatures=3, num_chains=2, num_leapfrog=1)
        assess(run, EvaluationOptions(num_samples=6, elbo_samples=3, annealing=annealing, gap_steps=2, num_simulated=2))
        pictures(run)
    assert len(recorder.draws) > 200
    assert recorder.shared() == []


@pytest.mark.parametrize("wrong", ["discriminator", "order", "validation", "estimate"])
def test_the_recorder_notices_a_shared_key(wrong):
    """Two uses of one key are reported, such as the faults that the streams were made for."""
    root, recorder = jax.random.key(0, impl="threefry2x32"), Recorder()
    vae = model.mlp_vae((2, 1, 1), likelihoods.bernoulli(), latent_dim=1, hidden=())
    with recorder.recording():
        match wrong:
            case "discriminator":  # started from the key of the decoder
                vae.init(root)
                forward(root, lambda x: (x, x), lambda z: z, lambda o, x: x.sum(), jnp.zeros((2, 1)))
            case "order":  # an epoch's order and the test set of one key
                keys = training.RunKeys(root, root, root)
                training.epoch_order(keys, 0, 4, 2)
                rows = np.zeros((1, 4), np.uint8)
                data.DrawnRows(rows, lambda key, x: data.binarize(key, x, 255), root, np.uint8).in_memory("zeros")
            case "validation":  # drawn from and split
                data.binarize(root, jnp.zeros(4, jnp.uint8), 255)
                vae.init(root)
            case "estimate":  # two places draw from one key
                data.binarize(root, jnp.zeros(4, jnp.uint8), 255)
                model.sample_prior(vae, {}, root)
    assert recorder.shared()


def test_the_numbers_of_streams_differ_and_splits_do_not_reach_them():
    assert len(set(Stream)) == len(Stream.__members__)
    # What a split into parts could give: test sets and first parameters were published with 0, 1 and 2.
    assert sorted(int(use) for use in Stream if use < 0x0E7A) == [0, 1, 2]
    assert sorted(map(int, Part)) == [0, 1, 2, 3, 0x10000]


def test_published_test_sets_and_first_parameters_keep_their_keys():
    """The parts of jax.random.split(key(seed), 3) that results before the streams were drawn with."""
    for seed in (0, 7):
        init, step, test = jax.random.split(jax.random.key(seed, impl="threefry2x32"), 3)
        keys = training.run_keys(seed)
        assert keys.init == stream(seed, Stream.INIT) == init
        assert keys.step == step
        assert stream(seed, Stream.TEST_SET) == test
        assert training.evaluation_key(seed) == jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), 0x0E7A)


def test_no_two_layers_start_alike():
    """With one hidden layer of as many units the decoder's first layer has the shape of the discriminator's."""
    vae = model.mlp_vae((2, 2, 1), likelihoods.bernoulli(), latent_dim=3, hidden=(100,))
    objective = batch.factor(networks.mlp_discriminator(3, hidden=(100,)), optax.sgd(0.1))
    state = init_state(vae, optax.sgd, training.run_keys(0).init, objective)
    kernels = [leaf for leaf in jax.tree.leaves((state.params, state.objective_state.params)) if leaf.ndim == 2]
    assert sum(leaf.shape == (3, 100) for leaf in kernels) == 2
    for one, other in itertools.combinations(kernels, 2):
        assert one.shape != other.shape or not np.any(np.asarray(one) == np.asarray(other))


def test_keys_are_made_in_one_place():
    """A key that is made elsewhere has no stream, and no implementation of its own."""
    for path in [*ROOT.glob("vae_jax/**/*.py"), *ROOT.glob("experiments/**/*.py")]:
        # The second trains other people's software, and the third shows a user's own code.
        if path.name in ("keys.py", "peers_jax.py", "minimal.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in ("key", "PRNGKey"):
                assert ast.unparse(node) not in ("jax.random.key", "random.key", "jax.random.PRNGKey"), f"{path}: {node.lineno}"


@pytest.mark.parametrize("implementation", ["rbg", "unsafe_rbg"])
def test_another_default_generator_changes_nothing(gray, implementation):
    """Test and validation sets, the order, first parameters, draws of evaluations and of reports."""

    def drawn():
        dataset = data.load(gray, validation_fraction=0.25)
        prepared = data.prepare(dataset, binarization="dynamic")
        vae = model.mlp_vae(dataset.data_shape, likelihoods.bernoulli(), latent_dim=2, hidden=())
        keys = training.run_keys(0)
        streams = [jax.random.key_data(stream(0, use)) for use in Stream]
        order = training.epoch_order(keys, 1, 9, 3)
        return prepared.test, prepared.validation, order, vae.init(keys.init), streams

    here = drawn()
    with jax.default_prng_impl(implementation):
        assert str(jax.random.key_impl(jax.random.key(0))) == implementation
        jax.tree.map(np.testing.assert_array_equal, drawn(), here)


COUNT_BUNDLES = [likelihoods.poisson(), likelihoods.negative_binomial(2.0), likelihoods.multinomial(6000.0)]


@pytest.mark.parametrize("bundle", COUNT_BUNDLES, ids=lambda bundle: bundle.name)
def test_counts_are_sampled_with_any_key(bundle):
    """JAX draws Poisson numbers with Threefry keys only. With those the draws stay JAX's own."""
    raw = jnp.full(2000, 3.0)
    key = jax.random.key(3, impl="rbg")
    draws = np.asarray(bundle.sample(key, raw))
    mean = float(bundle.mean(raw)[0])
    # Five standard errors: a false failure in two million.
    assert abs(draws.mean() - mean) < 5 * draws.std() / 2000**0.5
    assert not np.array_equal(draws, bundle.sample(jax.random.key(4, impl="rbg"), raw))
    usual = jax.random.key(3, impl="threefry2x32")
    assert threefry_key(usual) is usual


@pytest.mark.parametrize("sprites", [False, True])
def test_validation_images_of_their_own_seed(sprites, gray):
    """Rendered validation images are not those of a run with the next seed, and other ones for another split seed."""
    if sprites:
        sets = [data.load("sprites", validation_fraction=1e-4, split_seed=seed).validation for seed in (0, 1)]
    else:
        dataset = data.load(gray, validation_fraction=0.25)
        same = dataset._replace(validation=dataset.test)  # equal images, binarized as validation and as test set
        sets = [data.prepare(same, binarization="dynamic").validation, data.prepare(same, binarization="dynamic").test]
    assert not np.array_equal(*sets)
