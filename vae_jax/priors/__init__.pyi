from .bundles import ConditionalGaussian as ConditionalGaussian
from .bundles import Prior as Prior
from .bundles import gaussian_mixture as gaussian_mixture
from .bundles import gaussian_mixture_log_prob as gaussian_mixture_log_prob
from .bundles import hierarchical as hierarchical
from .bundles import kl_to_prior as kl_to_prior
from .bundles import vamp as vamp
from .bundles import vamp_log_prob as vamp_log_prob
