"""The arithmetic of the reproductions of sigma-VAE and of the disentanglement protocol, and the paper's network."""

import importlib
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scripts import EXPERIMENTS

FOLDER = EXPERIMENTS / "reproductions"


@pytest.fixture(scope="module")
def load():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        patch.syspath_prepend(str(FOLDER / "sigma_network"))
        summary = importlib.import_module("summary")
        yield lambda name: summary.load(FOLDER / name / "run.py")


@pytest.mark.parametrize("scale", [0.07, 1.0, None])
def test_implied_error_reproduces_the_number(load, scale):
    run = load("sigma_network")
    error, kl, pixels = 4.3, 40.0, 784
    sigma = (error / pixels) ** 0.5 if scale is None else scale
    residuals = np.full(pixels, (error / pixels) ** 0.5)
    nll = kl - stats.norm.logpdf(residuals, scale=sigma).sum()
    assert run.gaussian_nll(error, sigma**2, pixels) == pytest.approx(nll - kl, rel=1e-12)
    implied = run.implied_squared_error(nll, kl, None if scale is None else scale**2, pixels)
    assert implied == pytest.approx(error, rel=1e-10)


def test_dequantization_costs_a_tenth_of_a_nat(load):
    run = load("sigma_network")
    error, levels, pixels = 4.3, 256, 784
    noisy = error + pixels * stats.uniform(scale=1 / levels).var()
    best = [kept + run.gaussian_nll(kept, kept / pixels, pixels) - kept for kept in (error, noisy)]
    assert run.price_of_dequantization(error, levels, pixels) == pytest.approx(best[1] - best[0], rel=1e-6)
    assert run.price_of_dequantization(error, levels, pixels) < 0.1


def test_published_numbers_agree_with_one_another(load):
    run = load("sigma_network")
    # No Gaussian with sigma^2 = beta has such densities on SVHN, and one with sigma^2 = beta / 2 has.
    assert min(run.svhn_constants(1.0).values()) < -500
    assert min(run.svhn_constants(0.5).values()) > 0
    # On MNIST all three numbers are possible for one network: the errors differ as the scales do.
    learned, tuned = (
        run.implied_squared_error(nll, 40.0, v, 784) for nll, v in (run.PUBLISHED[k] for k in ("σ learned", "β tuned"))
    )
    assert 0.8 < learned / tuned < 1
    assert 0 < run.PUBLISHED["σ = 1"][0] - run.gaussian_nll(0.0, 1.0, 784) < 52.7 / 2  # half of the variance of the test images


def test_network_of_the_paper_has_the_layers_of_its_code(load):
    load("sigma_network")
    paper = importlib.import_module("paper_network")
    encoder, decoder, key = paper.Encoder(20), paper.Decoder((28, 28, 1)), jax.random.key(0)
    shapes = [jax.eval_shape(part.init, key, jnp.zeros(shape)) for part, shape in ((encoder, (28, 28, 1)), (decoder, (20,)))]
    number = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    kernels = 9 * 32 + 16 * 32 * 64 + 25 * 64 * 128 + 36 * 128 * 64 + 36 * 64 * 32 + 25 * 32
    assert number == kernels + (32 + 64 + 128 + 64 + 32 + 1) + 3 * 20 * 6272 + 2 * 20 + 6272


@pytest.mark.parametrize(("size", "stride", "transpose"), [(4, 2, False), (6, 2, True)])
def test_layers_pad_as_in_pytorch(load, size, stride, transpose):
    load("sigma_network")
    paper = importlib.import_module("paper_network")
    layer, key = paper.Conv(3, size, stride, transpose), jax.random.key(1)
    image = jax.random.normal(key, (8, 8, 2))
    params = layer.init(key, image)
    kernel, bias = params["params"]["kernel"], params["params"]["bias"]
    # torch.nn.Conv2d(stride=2, padding=1) and ConvTranspose2d(stride=2, padding=2), one entry of the kernel after another.
    padding, rows = (2, 16) if transpose else (1, 4)
    expected = np.zeros((rows + 2 * size, rows + 2 * size, 3))
    around = np.pad(np.asarray(image), ((size, size), (size, size), (0, 0)))
    for k, m in np.ndindex(size, size):
        if transpose:  # each pixel is spread over the output, with the kernel turned by 180 degrees
            low = size - padding
            place = (slice(low + k, low + k + 16, 2), slice(low + m, low + m + 16, 2))
            expected[place] += np.asarray(image) @ kernel[size - 1 - k, size - 1 - m]
        else:
            low = size - padding
            expected[size:-size, size:-size] += around[low + k : low + k + 8 : 2, low + m : low + m + 8 : 2] @ kernel[k, m]
    expected = expected[size:-size, size:-size] + np.asarray(bias)
    np.testing.assert_allclose(layer.apply(params, image), expected, atol=1e-5)


def test_points_and_spread_of_the_protocol(load):
    run = load("disentanglement")
    rng, betas, seeds = np.random.default_rng(0), (1.0, 4.0, 16.0), range(5)
    scored = [
        {"objective": objective, "beta": beta, "seed": seed, "scores": {"mig": rng.uniform(0, 0.3), "sap": 0.99 + seed / 500}}
        for objective in ("beta_tcvae", "elbo")
        for beta in betas
        for seed in seeds
    ]
    points = run.points_of(scored)
    assert [(point["objective"], point["beta"]) for point in points] == [(o, b) for o in ("elbo", "beta_tcvae") for b in betas]
    values = np.array([[s["scores"]["mig"] for s in scored if s["objective"] == "elbo" and s["beta"] == b] for b in betas])
    mean, error = values.mean(axis=1), values.std(axis=1, ddof=1) / 5**0.5
    low, high = stats.t(4, loc=mean, scale=error).interval(0.95)
    for i, point in enumerate(points[:3]):
        expected = (mean[i], error[i], max(low[i], 0), high[i], 5)
        assert tuple(point["mig"].values()) == pytest.approx(expected)
        assert point["sap"]["high"] <= 1  # the score cannot be greater
    spread = run.spread_of(scored, points)["mig"]
    assert spread["seeds"] == pytest.approx(np.mean(values.var(axis=1, ddof=1)) ** 0.5)
    assert spread["strengths"] == pytest.approx(mean.std(ddof=1))
    assert run.spread_of(scored, run.points_of(scored[::5])) == {}  # a single seed
    assert run.interval_text(run.points_of(scored[:1])[0]["mig"]) == f"{scored[0]['scores']['mig']:.3f}"


def test_cost_is_extrapolated_from_cpu_seconds(load, tmp_path):
    run = load("disentanglement")
    arguments = run.Arguments(runs=tmp_path, seeds=(0, 1))
    (tmp_path / "seed-0000-cost.json").write_text('{"cpu_seconds": 120.0, "models": 12}')  # seed 1 was interrupted
    scored = [{"cpu_seconds": 30.0}, {"cpu_seconds": 50.0}]
    cost = run.cost_of(arguments, (0, 1), scored, 1000)
    assert (cost["train_cpu_seconds_per_model"], cost["metric_cpu_seconds_per_model"]) == (10, 40)
    assert "Extrapolated" not in run.cost_text(cost)
    (tmp_path / "rate-cost.json").write_text('{"cpu_seconds": 2.0, "models": 1, "images": 1000}')
    cost = run.cost_of(arguments, (0, 1), scored, 1000)
    hours = 1800 * 300_000 * 64 * 2e-3 / 3600
    assert cost["full_study_years"] == pytest.approx(hours / 2 / 24 / 365.25)
    assert "Extrapolated, not measured" in run.cost_text(cost)


def test_no_row_of_sigma_has_a_number_that_cannot_be_compared(load):
    run = load("sigma_network")
    assert set(run.ROWS) <= set(run.VARIANTS)
    for name in run.ROWS:
        assert "dequantize" not in run.VARIANTS[name].settings
        assert run.VARIANTS[name].network == "paper"
