"""The registry's entries of the priors. Their factories import jax and flax; this module does not."""

from typing import TYPE_CHECKING, Any, Literal

from vae_jax.config.registry import Entry, Setting, Settings, TrainingData, register
from vae_jax.errors import UserError

if TYPE_CHECKING:
    from vae_jax.priors.bundles import ConditionalGaussian, Prior

COMPONENTS = Setting("prior_components", int, 50, "Components of the mixture; for refit the most to try.", low=1, high=1e8)
DEEPER_DIM = Setting("prior_latent_dim", int, 50, "Latent dimensions of the second layer, which is N(0, I).", low=1, high=1e8)
DEEPER_HIDDEN = Setting(
    "prior_hidden",
    tuple[int, ...],
    (100, 100),
    "Widths of the networks of the prior: the two between the layers or that of p(z|c), which have tanh, or those of realnvp's "
    "couplings, which have ReLUs.",
    low=1,
    high=1e6,
    bounds="widths >= 1 (and at most 10^6)",
)

COUPLINGS = Setting("prior_layers", int, 6, "Affine couplings of the flow.", low=1, high=1000)
DEGREES = Setting("prior_df", float, 5.0, "Degrees of freedom of Student's t at the start of training.", low=0.1, high=1e6)
REFIT_KIND = Setting(
    "refit_kind",
    Literal["mixture", "realnvp"],
    "mixture",
    "Family of the prior that is fitted after training: a mixture of Gaussians with full covariances, or a RealNVP.",
)


def _mixture(config: Settings, data: TrainingData) -> "Prior":
    from vae_jax import priors

    return priors.gaussian_mixture(config.latent_dim, config.prior_components)


def _vamp(config: Settings, data: TrainingData) -> "Prior":
    from vae_jax import priors

    draw_inputs, count = data.draw_inputs, config.prior_components
    assert draw_inputs is not None
    if count > data.num_train:
        raise UserError(
            field="prior_components",
            expected=f"at most the {data.num_train} training examples that the pseudo-inputs start at",
            got=count,
        )
    return priors.vamp(lambda key: draw_inputs(key, count))


def make_layers(config: Settings) -> "tuple[ConditionalGaussian, ConditionalGaussian]":
    """Makes the networks between two stochastic layers: q(z2|z1) and p(z1|z2), each to (mean, log_scale)."""
    from vae_jax import networks, priors

    top, bottom, hidden = config.prior_latent_dim, config.latent_dim, config.prior_hidden
    # tanh whatever the other networks have: codes are not bounded, and a log_scale linear in them overflows at the first steps.
    options: dict[str, Any] = {"activation": "tanh", "dtype": config.dtype}
    infer = networks.mlp_encoder((bottom,), top, hidden=hidden, **options)
    generate = networks.mlp_encoder((top,), bottom, hidden=tuple(reversed(hidden)), **options)
    return priors.ConditionalGaussian(*infer), priors.ConditionalGaussian(*generate)


def _conditional(config: Settings, data: TrainingData) -> "ConditionalGaussian":
    from vae_jax import networks, priors

    options: dict[str, Any] = {"activation": "tanh", "dtype": config.dtype}
    return priors.ConditionalGaussian(
        *networks.mlp_encoder((data.condition_dim,), config.latent_dim, hidden=config.prior_hidden, **options)
    )


def _check_conditional(config: Settings) -> None:
    if not config.condition:
        raise UserError(
            '`prior="conditional"` is p(z|c), and there is no condition.',
            fix='Pass `condition`, such as `condition="labels"`, or use `prior="normal"`.',
        )


def _hierarchical(config: Settings, data: TrainingData) -> "Prior":
    from vae_jax import priors

    return priors.hierarchical(config.latent_dim, config.prior_latent_dim, *make_layers(config))


def _realnvp(config: Settings, data: TrainingData) -> "Prior":
    from vae_jax import priors

    return priors.realnvp(config.latent_dim, config.prior_layers, config.prior_hidden)


def _student_t(config: Settings, data: TrainingData) -> "Prior":
    from vae_jax import priors

    return priors.student_t(config.latent_dim, config.prior_df)


def _check_realnvp(config: Settings) -> None:
    if config.latent_dim < 2:
        raise UserError(
            '`prior="realnvp"` transforms one half of the latent dimensions given the other, and `latent_dim` is 1.',
            fix='Use at least two latent dimensions, or `prior="mixture"`.',
        )


def _check_refit(config: Settings) -> None:
    if config.refit_kind == "realnvp" and config.latent_dim < 2:
        raise UserError(
            '`refit_kind="realnvp"` transforms one half of the latent dimensions given the other, and `latent_dim` is 1.',
            fix='Use at least two latent dimensions, or `refit_kind="mixture"`.',
        )


for _entry in (
    Entry("prior", "normal", "N(0, I)", lambda config, data: None),
    Entry("prior", "mixture", "a learned mixture of Gaussians", _mixture, (COMPONENTS,)),
    Entry("prior", "vamp", "the VampPrior, whose pseudo-inputs start at training examples", _vamp, (COMPONENTS,)),
    Entry(
        "prior",
        "conditional",
        "a Gaussian p(z|c) given the condition",
        _conditional,
        (DEEPER_HIDDEN,),
        _check_conditional,
        any_objective=True,
    ),
    Entry("prior", "hierarchical", "a second stochastic layer", _hierarchical, (DEEPER_DIM, DEEPER_HIDDEN)),
    Entry(
        "prior",
        "realnvp",
        "a RealNVP flow, which starts at N(0, I)",
        _realnvp,
        (COUPLINGS, DEEPER_HIDDEN),
        _check_realnvp,
    ),
    Entry("prior", "student_t", "Student's t with learned degrees of freedom", _student_t, (DEGREES,)),
    Entry(
        "prior",
        "refit",
        "N(0, I) while training, and then a mixture or a RealNVP fitted to the codes of the training set",
        lambda config, data: None,
        (REFIT_KIND, COMPONENTS, COUPLINGS, DEEPER_HIDDEN),
        _check_refit,
        any_objective=True,
    ),
):
    register(_entry)
