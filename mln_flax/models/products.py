"""The product of tokens and a kernel, whose gradient sums over many tokens."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

PROCESSORS = 128  # multiprocessors of a large GPU, about
TILE = 128  # rows and columns of a result that a multiprocessor computes, about
LEAST_TOKENS = 1024  # of a part: fewer are not worth a sum of their own


def dot(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """X [tokens, C] @ kernel [C, D], in their type; on accelerators with `split_dot`'s gradient."""
    return jnp.dot(x, kernel) if jax.default_backend() == "cpu" else split_dot(x, kernel)


def dot_general(x: jax.Array, kernel: jax.Array, dimension_numbers: Any, **options: Any) -> Any:
    """`dot` for a dense layer of two axes, in the place of jax.lax.dot_general."""
    is_plain = dimension_numbers == (((1,), (0,)), ((), ())) and x.ndim == kernel.ndim == 2
    asked = any(value is not None for value in options.values())  # such as a precision
    if jax.default_backend() == "cpu" or asked or not is_plain:
        return lax.dot_general(x, kernel, dimension_numbers, **options)
    return split_dot(x, kernel)


@jax.custom_vjp
def split_dot(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """X [tokens, C] @ kernel [C, D]; the kernel's gradient is summed in parts of the tokens.

    The gradient is a small matrix: with a sum over 131,072 tokens for each of its few tiles, most
    of a GPU would idle. Parts of the sum go on beside each other, and are added in float32.
    """
    return jnp.dot(x, kernel)


def _forward(x, kernel):
    return jnp.dot(x, kernel), (x, kernel)


def _backward(saved, gradient):
    x, kernel = saved
    parts = count_parts(x.shape[0], *kernel.shape)
    sums = jnp.einsum(
        "nkc,nkd->ncd",
        x.reshape(parts, -1, x.shape[1]),
        gradient.reshape(parts, -1, gradient.shape[1]),
        preferred_element_type=jnp.float32,
    )
    # Without a barrier a compiler may take the last sum back into the product.
    d_kernel = lax.optimization_barrier(sums).sum(axis=0)
    return jnp.dot(gradient, kernel.T), d_kernel.astype(kernel.dtype)


split_dot.defvjp(_forward, _backward)


def count_parts(tokens: int, channels: int, features: int) -> int:
    """In how many equal parts to sum over tokens, so that a GPU has a tile for each processor.

    Fewer where none of that number divides the tokens: those of images with even sides have many
    divisors, a prime number of tokens is summed at once.
    """
    tiles = -(-channels // TILE) * -(-features // TILE)
    most = max(1, min(PROCESSORS // tiles, tokens // LEAST_TOKENS))
    return next(n for n in range(most, 0, -1) if tokens % n == 0)
