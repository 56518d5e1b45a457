"""Trained models encode, score, reconstruct and sample new data, with the numbers of evaluation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conditional_data import arrays as conditional_arrays

from vae_jax import data, runs
from vae_jax.build import build
from vae_jax.config import Config
from vae_jax.errors import UserError
from vae_jax.example import event_of
from vae_jax.runs import trained
from vae_jax.runs.evaluate_run import EvaluationOptions, assess
from vae_jax.runs.trained import decoding, encoding, scoring
from vae_jax.runs.trained.chunks import encoded_together

SMALL = dict(hidden=(16,), latent_dim=3, epochs=1, batch_size=64)
ROWS = 300  # more than two batches of 128 on CPU


def trained_on(folder, config, dataset=None):
    runs.train(build(config, dataset=dataset), folder)
    return runs.load_model(folder)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return trained_on(tmp_path_factory.mktemp("digits") / "run", Config(dataset="digits", binarize="threshold", **SMALL))


@pytest.fixture(scope="module")
def levels(tmp_path_factory):
    """A model of images of 256 levels, which are not binarized."""
    images = np.random.default_rng(0).integers(0, 256, (200, 4, 3, 1), np.uint8)
    config = Config(likelihood="gaussian", **SMALL)
    return trained_on(tmp_path_factory.mktemp("levels") / "run", config, data.from_arrays(images)), images


@pytest.fixture(scope="module")
def conditional(tmp_path_factory):
    x, options = conditional_arrays("conditional")
    config = Config(prior="conditional", **{**SMALL, "batch_size": 32})
    folder = tmp_path_factory.mktemp("conditional") / "run"
    return trained_on(folder, config, data.from_arrays(x, split="last", **options)), x, options["condition"]


def test_scores_of_the_test_set_are_those_of_evaluate(digits):
    expected = assess(runs.load_run(digits.path), EvaluationOptions(num_samples=30, elbo_samples=2, probe_codes=0)).examples
    new = trained.read_new_data(digits, "digits", part="test")
    scores = trained.score(digits, new, num_samples=30, elbo_samples=2)
    for name in ("log_likelihood", "kl"):
        np.testing.assert_array_equal(getattr(scores, name), expected[name])
    np.testing.assert_array_equal(scores.elbo, expected["log_likelihood"].astype(float) - expected["kl"].astype(float))
    np.testing.assert_allclose(scores.log_px, expected["log_px"], rtol=20 * np.finfo(np.float32).eps)
    for name in ("standard_error", "effective_sample_size", "pareto_k"):
        np.testing.assert_allclose(getattr(scores, name), expected[name], rtol=1e-3, atol=1e-4)
    for quantiles in (scores.elbo_quantile, scores.log_px_quantile):  # test examples are like training examples
        assert abs(quantiles.mean() - 0.5) < 5 / np.sqrt(12 * len(quantiles)) + 0.03
    noise = np.random.default_rng(0).integers(0, 17, (20, 8, 8, 1)).astype(np.uint8)
    assert trained.score(digits, noise, num_samples=30, elbo_samples=2).log_px_quantile.max() < 0.5


def test_results_depend_neither_on_batches_nor_on_other_rows(digits):
    images = data.load("digits").train[:ROWS]
    first = trained.encode(digits, images, num_draws=2, seed=5)
    for batch_size in (100, 1000):
        other = trained.encode(digits, images, num_draws=2, seed=5, batch_size=batch_size)
        jax.tree.map(np.testing.assert_array_equal, first, other)
    part = trained.encode(digits, images[:200], num_draws=2, seed=5)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[:200], b), first, part)
    assert not np.array_equal(first.draws[:, 0], first.draws[:, 1])
    assert not np.array_equal(first.draws, trained.encode(digits, images, num_draws=2, seed=6).draws)
    scores = [trained.score(digits, images, num_samples=3, elbo_samples=1, batch_size=size) for size in (None, 256)]
    jax.tree.map(np.testing.assert_array_equal, *scores)


def test_codes_and_reconstructions_are_those_of_a_plain_loop(levels):
    model, images = levels
    encoded = trained.encode(model, images, num_draws=500)
    x = images.astype(np.float32) / 255
    mean, log_scale = jax.vmap(lambda x: model.vae.encode(model.params, x))(x)
    np.testing.assert_allclose(encoded.means, mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(encoded.log_scales, log_scale, rtol=1e-4, atol=1e-5)
    z = (encoded.draws - encoded.means[:, None]) / np.exp(encoded.log_scales[:, None])
    assert abs(z.mean()) < 5 / np.sqrt(z.size)
    assert abs(z.var() - 1) < 5 * np.sqrt(2 / z.size)
    pixels = jax.vmap(lambda z: model.vae.likelihood.mean(model.vae.decode(model.params, z)))(mean) * 255
    made = trained.reconstruct(model, images)
    assert made.dtype == np.uint8
    np.testing.assert_allclose(made, np.clip(pixels, 0, 255), atol=0.51)
    np.testing.assert_array_equal(trained.decode(model, encoded.means), made)
    draws = trained.reconstruct(model, images, draw=True)
    assert draws.dtype == np.uint8
    assert np.std(draws.astype(float) - made) > 10  # the pixels are noise, and so is the model's scale


def test_binary_images_have_expectations_and_pixels(digits):
    images = data.load("digits").test[:5]
    means, draws = (trained.reconstruct(digits, images, draw=draw) for draw in (False, True))
    assert means.dtype == np.uint8
    assert 0 < means.max() <= 16
    assert set(np.unique(draws)) <= {0, 16}  # zeros and ones in the unit of the data
    options = decoding.SampleOptions(4, output=decoding.Output(as_pixels=True))
    [pixels] = decoding.sample_chunks(digits, options)
    floats = trained.sample(digits, 4)
    assert pixels.dtype == np.uint8
    np.testing.assert_allclose(pixels / 255, floats / 16, atol=0.5 / 16 + 0.5 / 255)


def test_samples_follow_prior_and_decoder(levels):
    model, _ = levels
    samples = trained.sample(model, 3000, seed=1, draw=True).astype(float)
    np.testing.assert_array_equal(samples[:10], trained.sample(model, 10, seed=1, draw=True))
    keys = jax.random.split(jax.random.key(9), 3000)

    def one(key):
        z = jax.random.normal(key, (model.vae.latent_dim,))
        return model.vae.likelihood.sample(jax.random.fold_in(key, 1), model.vae.decode(model.params, z))

    expected = np.clip(np.asarray(jax.jit(jax.vmap(one))(keys)) * 255, 0, 255)
    error = np.sqrt((samples.var(axis=0) + expected.var(axis=0)) / 3000)
    assert (np.abs(samples.mean(axis=0) - expected.mean(axis=0)) < 5 * error + 0.5).all()
    np.testing.assert_allclose(samples.std(axis=0), expected.std(axis=0), rtol=0.1)
    cold = trained.sample(model, 50, temperature=1e-6, draw=False)
    np.testing.assert_array_equal(cold, np.repeat(cold[:1], 50, axis=0))


def test_a_conditional_model_takes_conditions_from_arrays_texts_and_files(conditional, tmp_path):
    model, x, condition = conditional
    new = trained.read_new_data(model, x, condition=condition)
    codes = trained.encode(model, new)
    inputs = new.to_input(jax.tree.map(jnp.asarray, new.examples))
    mean, _ = jax.vmap(lambda x: model.vae.encode(model.params, x))(inputs)
    np.testing.assert_allclose(codes.means, mean, rtol=1e-4, atol=1e-5)
    np.savez(tmp_path / "one.npz", category=np.array([2, 0]), number=np.array([3.5, 1.0]))
    given = [
        trained.sample(model, 40, condition=source, draw=False)
        for source in (str(tmp_path / "one.npz"), {"category": [2, 0], "number": [3.5, 1.0]}, np.array([[2, 3.5], [0, 1.0]]))
    ]
    np.testing.assert_array_equal(given[0], given[1])
    np.testing.assert_array_equal(given[0], given[2])
    same = trained.sample(model, 40, condition="category=2, number=3.5", draw=False)
    np.testing.assert_array_equal(same[::2], given[0][::2])
    assert not np.array_equal(same[1::2], given[0][1::2])
    stored = event_of(new.examples)[:1], new.examples.condition[:1]
    path = trained.interpolate(model, new, 0, 5, steps=3)
    np.testing.assert_allclose(path[0], trained.reconstruct(model, new)[0], atol=1e-6)
    np.testing.assert_allclose(path[0], trained.decode(model, codes.means[:1], condition=stored[1])[0], atol=1e-6)


@pytest.mark.parametrize("spherical", [False, True])
def test_codes_between_two_rows(levels, spherical):
    model, images = levels
    new = trained.read_new_data(model, images)
    codes = decoding.interpolation_codes(model, new, 3, 8, 5, spherical)
    ends = trained.encode(model, images).means[[3, 8]].astype(float)
    np.testing.assert_allclose(codes[[0, -1]], ends, atol=1e-5)
    lengths = np.linalg.norm(codes, axis=1)
    angles = np.arccos(np.clip((codes[:-1] * codes[1:]).sum(axis=1) / lengths[:-1] / lengths[1:], -1, 1))
    steps = np.linalg.norm(np.diff(codes, axis=0), axis=1)
    if spherical:
        np.testing.assert_allclose(np.diff(lengths), np.diff(lengths).mean(), rtol=1e-3)
    np.testing.assert_allclose(angles if spherical else steps, (angles if spherical else steps).mean(), rtol=1e-3)


def test_quantiles_rank_a_row_among_training_scores(digits):
    training = np.sort(np.random.default_rng(0).normal(-40, 3, 1000))
    quantiles = np.quantile(training, np.linspace(0, 1, 201))
    model = digits._replace(scores={"elbo": {"quantiles": quantiles.tolist()}})
    values = np.array([-100.0, *training[[10, 500, 900]], 0.0])
    np.testing.assert_allclose(scoring._quantiles(model, "elbo", values), [0, 0.01, 0.5, 0.9, 1], atol=0.005)


def test_one_program_serves_files_of_any_length(digits, tmp_path):
    images = data.load("digits").train
    for count in (40, 150, 700):
        np.save(tmp_path / f"{count}.npy", images[:count])
    programs = [encoding._program, scoring._program, decoding._reconstruction]
    for program in programs:
        program.cache_clear()
    counts = []
    for count in (40, 150, 700):
        file = tmp_path / f"{count}.npy"
        trained.encode(digits, file)
        trained.score(digits, file, num_samples=3, elbo_samples=1)
        trained.reconstruct(digits, file)
        counts.append([program.cache_info().misses for program in programs])
    assert counts == [[1, 1, 1]] * 3
    compiled = encoding._program(digits.vae, trained.read_new_data(digits, file).to_input, 0, encoded_together((8, 8, 1)))
    assert compiled._cache_size() == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model, x: trained.encode(model, x[:, :2]), "shape"),
        (lambda model, x: trained.encode(model, x, batch_size=0), "batch_size"),
        (lambda model, x: trained.encode(model, x, num_draws=-1), "num_draws"),
        (lambda model, x: trained.score(model, x, num_samples=0), "num_samples"),
        (lambda model, x: trained.decode(model, np.zeros((2, 99))), "codes"),
        (lambda model, x: trained.sample(model, 0), "num"),
        (lambda model, x: trained.sample(model, 5, temperature=-1), "temperature"),
        (lambda model, x: trained.sample(model, 5, condition="label=3"), "no condition"),
        (lambda model, x: trained.interpolate(model, x, 0, 10**6), "last"),
        (lambda model, x: trained.interpolate(model, x, 0, 1, steps=1), "steps"),
    ],
)
def test_wrong_arguments_are_refused(levels, call, message):
    with pytest.raises(UserError, match=message):
        call(*levels)


def test_wrong_conditions_are_refused(conditional):
    model, _, _ = conditional
    for condition, message in (
        (None, "conditioned on"),
        ("category=2", "lacks 'number'"),
        ("category=9, number=1", "no training example"),
        ("category=2, number=much", "expected a number"),
        (np.zeros((2, 3)), "shape"),
    ):
        with pytest.raises(UserError, match=message):
            trained.sample(model, 5, condition=condition)
