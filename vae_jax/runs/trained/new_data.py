"""`NewData`: examples of a user in the unit and order of a trained model's data."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from vae_jax._numerics.short_repr import short_repr
from vae_jax.example import Example, Examples


@short_repr
class NewData(NamedTuple):
    """Examples that a trained model takes, in the order of their source.

    Attributes:
      name: of the file or data set, for messages.
      examples: as they are stored, with a leading axis: an array of NumPy, `data.Rows` where they stay on disk,
        `data.SparseRows`, or an `Example` of one of them with conditions and masks.
      to_input: (batch of `examples` on the device) -> floats for the model. It can be jitted.
      labels: a label for each example, where the source has labels; else None.
      label_names: the name of each label 0, 1, 2, ...
      notes: sentences for the user.
    """

    name: str
    examples: Examples
    to_input: Callable[[Examples], Examples]
    labels: np.ndarray | None = None
    label_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()

    @property
    def num_examples(self) -> int:
        """Number of examples."""
        event = self.examples.event if isinstance(self.examples, Example) else self.examples
        return event.shape[0]
