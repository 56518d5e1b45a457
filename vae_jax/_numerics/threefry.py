"""Threefry random numbers in one fused kernel, because JAX's own are slow on CPU.

Why: on CPU, JAX 0.10 compiles the twenty rounds of Threefry as a loop of ten small kernels, and `jax.random.bits` spends a
whole 32-bit word on each 16-bit number. Binarization and the draws of z then take about a tenth of a training step of an MLP on
MNIST. The normals here are those of JAX, number for number, and the 16-bit integers are halves of JAX's words.

Measured: microseconds for one call within a compiled loop, on two CPU cores. Each number is the median over four processes of
the least of at least 15 repetitions.

    workload                                     jax 0.10.2          jax 0.12.0.1
                                                 JAX      here       JAX      here
    20 normals for each of 128 keys               34        21        19        24
    64 normals for each of 128 keys               42        38        33        38
    100,352 16-bit integers of one key           303        72       273        75
      (as halves of jax.random.bits in uint32)   167        72       123        75

When to delete it: JAX 0.12 compiles its own normals well. So `normal` can be replaced by `jax.random.normal`, which returns the
same numbers, as soon as the oldest supported version is 0.12. `random_bits16` is still 1.6 times as fast as the public API in
JAX 0.12. It can be replaced by the low and then the high halves of `jax.random.bits(key, (n,), jnp.uint32)`, which are the same
numbers, once that takes no longer. `threefry` goes with the last of them.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int32, Key, UInt32

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def threefry(
    key_halves: tuple[UInt32[Array, ""], UInt32[Array, ""]], high: UInt32[Array, "*shape"], low: UInt32[Array, "*shape"]
) -> tuple[UInt32[Array, "*shape"], UInt32[Array, "*shape"]]:
    """Encrypts 64-bit counters by Threefry-2x32 with 20 rounds.

    It is elementwise, so XLA fuses it with its consumers into one kernel. The numbers are those of JAX.

    The key must come from memory, as from `jax.random.split` or `fold_in`. A key computed in the same kernel doubles the
    rounds to forty, and LLVM, as of JAX 0.12, needs time exponential in their number.

    Args:
      key_halves: the two 32-bit halves of the key.
      high, low: the halves of the counters.

    Returns:
      The two halves of the random 64-bit words.

    Source:
      Salmon et al. (2011), Parallel random numbers: as easy as 1, 2, 3.
    """
    return _traced_once()(key_halves, high, low)


@functools.cache
def _traced_once() -> Callable[..., tuple[Array, Array]]:
    """Returns the rounds as a function whose 120 operations JAX traces once for each shape, rather than at every use."""
    return jax.jit(_rounds, inline=True)


def _rounds(key_halves: tuple[Array, Array], high: Array, low: Array) -> tuple[Array, Array]:
    first, second = key_halves
    schedule = (first, second, first ^ second ^ jnp.uint32(0x1BD11BDA))
    x, y = high + first, low + second
    for group in range(5):
        for distance in _ROTATIONS[group % 2]:
            x = x + y
            y = x ^ ((y << jnp.uint32(distance)) | (y >> jnp.uint32(32 - distance)))
        x = x + schedule[(group + 1) % 3]
        y = y + schedule[(group + 2) % 3] + jnp.uint32(group + 1)
    return x, y


def _key_halves(key: Key[Array, ""]) -> tuple[Array, Array] | None:
    """Returns the two halves of a Threefry key, or None for a key of another generator."""
    data = jax.random.key_data(key)
    return (data[0], data[1]) if data.shape == (2,) else None


def normal(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Float[Array, "*shape"]:
    """Draws from N(0, 1): the numbers of `jax.random.normal(key, shape, dtype)`.

    Under `vmap` over keys, in float32, it is faster than JAX 0.10 (see the figures above).
    """
    halves = _key_halves(key)
    if halves is None or dtype != jnp.float32:
        return jax.random.normal(key, shape, dtype)
    counters = lax.iota(jnp.uint32, math.prod(shape))
    x, y = threefry(halves, jnp.zeros_like(counters), counters)
    # 23 random bits as the mantissa of a number in [1, 2), then stretched to (-1, 1).
    unit = lax.bitcast_convert_type(((x ^ y) >> jnp.uint32(9)) | jnp.uint32(0x3F800000), jnp.float32) - 1
    low = jnp.float32(2**-24 - 1)  # the number after -1
    uniform = jnp.maximum(low, unit * 2 + low)
    return (jnp.float32(math.sqrt(2)) * lax.erf_inv(uniform)).reshape(shape)


def random_bits16(key: Key[Array, ""], shape: tuple[int, ...]) -> Int32[Array, "*shape"]:
    """Draws uniform 16-bit integers, as int32 from 0 to 65535.

    The first half of the numbers are the low halves of the 32-bit words that JAX would draw, the rest their high halves.
    """
    count = math.prod(shape)
    if (halves := _key_halves(key)) is None:
        return jax.random.bits(key, shape, jnp.uint16).astype(jnp.int32)
    part = -(-count // 4)

    def draw(i: Array, bits32: Array) -> Array:
        counters = lax.iota(jnp.uint32, part) + jnp.uint32(part) * jnp.uint32(i)
        x, y = threefry(halves, jnp.zeros_like(counters), counters)
        return lax.dynamic_update_slice(bits32, x ^ y, (i * part,))

    # A loop of two iterations, because otherwise XLA computes every word twice, once for each half that takes 16 bits of it.
    bits32 = lax.fori_loop(0, 2, draw, jnp.zeros(2 * part, jnp.uint32))
    bits16 = (bits32 >> jnp.array([[0], [16]], jnp.uint32)) & jnp.uint32(0xFFFF)
    return lax.bitcast_convert_type(bits16, jnp.int32).reshape(-1)[:count].reshape(shape)
