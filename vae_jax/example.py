"""`Example`: an event together with its condition and the mask of its observed entries."""

import dataclasses
from collections.abc import Callable
from typing import Any, Self, TypeAlias

import jax
from jax import Array
from jax.typing import DTypeLike

# An array or an object that stands in for one, such as rows on disk; or an `Example` of them.
Examples: TypeAlias = Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Example:
    """An event x with a condition c, a mask m, or both. A plain array stands for an event without either.

    With a leading axis on each array it is a batch, or a whole split of a data set: `shape`, `dtype` and `len` are those of the
    events, and indexing selects examples. It is a pytree, so `jax.vmap` maps over batches of it.

    Attributes:
      event: x, an array of any shape.
      condition: c, (condition_dim,), floats as the networks take them; None: the model has no condition. In the splits of a
        data set it is stored more compactly (see `data.Condition`).
      mask: m, of the shape of x, True where an entry of x is observed; None: all entries are observed. The entries of x that
        are not observed are finite and arbitrary.

    Example:
      >>> import jax.numpy as jnp
      >>> batch = Example(jnp.zeros((5, 3)), condition=jnp.ones((5, 2)))
      >>> batch.shape, batch[1:3].shape, batch[0].condition.shape
      ((5, 3), (2, 3), (2,))
    """

    event: Examples
    condition: Examples = None
    mask: Examples = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the event, or of the array of events."""
        return self.event.shape

    @property
    def dtype(self) -> DTypeLike:
        """Type of the numbers of the event."""
        return self.event.dtype

    @property
    def ndim(self) -> int:
        """Number of axes of the event, or of the array of events."""
        return len(self.event.shape)

    def __len__(self) -> int:
        return self.event.shape[0]

    __iter__ = None  # otherwise NumPy would collect all rows, one by one

    def __getitem__(self, index: Examples) -> Self:
        return self.map(lambda array: array[index])

    def map(self, function: Callable[[Examples], Examples]) -> Self:
        """Returns the same record with a function applied to each array that it has."""
        arrays = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return type(self)(**{name: None if array is None else function(array) for name, array in arrays.items()})


def event_of(x: Examples) -> Examples:
    """Returns the event of an `Example`, or a plain array itself."""
    return x.event if isinstance(x, Example) else x


def condition_of(x: Examples) -> Array | None:
    """Returns the condition of an `Example`; None where there is none."""
    return x.condition if isinstance(x, Example) else None


def mask_of(x: Examples) -> Array | None:
    """Returns the mask of an `Example`; None where all entries are observed."""
    return x.mask if isinstance(x, Example) else None


def with_event(x: Examples, event: Examples) -> Examples:
    """Returns the same example with a different event."""
    return dataclasses.replace(x, event=event) if isinstance(x, Example) else event
