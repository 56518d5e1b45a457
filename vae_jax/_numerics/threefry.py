"""Random bits at the speed of the machine on CPU, where JAX runs the rounds of Threefry as a loop of ten small kernels."""

import functools
import math

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


@functools.partial(jax.jit, inline=True)  # JAX traces its 120 operations only once for each shape
def threefry(key_words: tuple[Array, Array], high: Array, low: Array) -> tuple[Array, Array]:
    """Threefry-2x32, 20 rounds, of the 64-bit counters (high, low): elementwise, JAX's own numbers, fused into one kernel.

    Its keys must come from memory, as from `jax.random.split` or `fold_in`: keys that are drawn in the same kernel make forty
    rounds of it, and the LLVM of JAX 0.12 needs time exponential in their number.

    Source:
      Salmon et al. (2011), Parallel random numbers: as easy as 1, 2, 3.
    """
    first, second = key_words
    schedule = (first, second, first ^ second ^ jnp.uint32(0x1BD11BDA))
    x, y = high + first, low + second
    for group in range(5):
        for distance in _ROTATIONS[group % 2]:
            x = x + y
            y = x ^ ((y << jnp.uint32(distance)) | (y >> jnp.uint32(32 - distance)))
        x = x + schedule[(group + 1) % 3]
        y = y + schedule[(group + 2) % 3] + jnp.uint32(group + 1)
    return x, y


def _words(key: Array) -> tuple[Array, Array] | None:
    """The two words of a threefry key; None for a key of another generator."""
    data = jax.random.key_data(key)
    return (data[0], data[1]) if data.shape == (2,) else None


def normal(key: Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
    """`jax.random.normal(key, shape, dtype)`; under `vmap` over keys in float32 half of its time."""
    words = _words(key)
    if words is None or dtype != jnp.float32:
        return jax.random.normal(key, shape, dtype)
    counters = lax.iota(jnp.uint32, math.prod(shape))
    x, y = threefry(words, jnp.zeros_like(counters), counters)
    # 23 random bits as the mantissa of a number in [1, 2), then stretched to (-1, 1).
    unit = lax.bitcast_convert_type(((x ^ y) >> jnp.uint32(9)) | jnp.uint32(0x3F800000), jnp.float32) - 1
    low = jnp.float32(2**-24 - 1)  # the number after -1
    uniform = jnp.maximum(low, unit * 2 + low)
    return (jnp.float32(math.sqrt(2)) * lax.erf_inv(uniform)).reshape(shape)


def random_bits16(key: Array, shape: tuple[int, ...]) -> Array:
    """Random 16-bit integers, int32 from 0 to 65535: two from each word, where `jax.random.bits` would spend a word on each."""
    count = math.prod(shape)
    if (key_words := _words(key)) is None:
        return jax.random.bits(key, shape, jnp.uint16).astype(jnp.int32)
    part = -(-count // 4)

    def draw(i: Array, words: Array) -> Array:
        counters = lax.iota(jnp.uint32, part) + jnp.uint32(part) * jnp.uint32(i)
        x, y = threefry(key_words, jnp.zeros_like(counters), counters)
        return lax.dynamic_update_slice(words, x ^ y, (i * part,))

    # In a loop, although of two: otherwise XLA computes every word twice, once inside each half that takes 16 bits of it.
    words = lax.fori_loop(0, 2, draw, jnp.zeros(2 * part, jnp.uint32))
    halves = (words >> jnp.array([[0], [16]], jnp.uint32)) & jnp.uint32(0xFFFF)
    return lax.bitcast_convert_type(halves, jnp.int32).reshape(-1)[:count].reshape(shape)
