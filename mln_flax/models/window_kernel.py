"""Attention within windows as one kernel for GPUs: logits and weights never reach main memory.

Plain attention writes and reads an array [windows, heads, tokens, tokens] several times, and the
queries, keys and values besides. Here one program takes one head of some windows: it multiplies
their tokens by that head's part of the kernel, adds bias and mask, takes the softmax and sums the
values, all within the processor. The backward pass is a second kernel, which computes the weights
again and hands out the gradient of queries, keys and values; what lies behind that are products of
large matrices, which the libraries have.

Left outside: the layer norm, for padding must be zero behind it and its moments are reported; and
the output projection, whose sum over heads would have to hold all channels of a window at once.

Triton wants sizes that are powers of two, 16 or more: tokens and channels of a head are filled up
inside the kernel by masked reads; padding in the bias keeps filled-up keys out of the softmax.
Sums are float32; of float32 factors Triton takes the first bits alone (TF32), as XLA does on GPUs
by itself. No accelerator has run this yet: it is compared with plain attention on CPUs, by Pallas's
interpreter. JAX 0.11 announces that it will drop Triton; then this has to be written for Mosaic.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from mln_flax.models import products

APART = -100.0  # added to the logits of tokens of different parts, as `swin.MASKED`
NEVER = -1e30  # in the place of the bias of keys that there are not
CHUNK = 32  # input channels that are read at a time
FORWARD_WINDOWS = 4  # of a program at most
BACKWARD_PROGRAMS = 256  # of a head, about: each keeps a gradient of the bias [tokens, tokens]


class _Sizes(NamedTuple):
    """What a program must know of its arrays; the filled-up sizes are powers of two."""

    windows: int  # of all images
    parts: int  # windows of one image
    tokens: int
    channels: int
    heads: int
    depth: int  # channels of a head
    filled_tokens: int
    filled_channels: int  # a multiple of CHUNK
    filled_depth: int


@partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def attend(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array,
    position_bias: jax.Array,
    parts: jax.Array,
    heads: int,
    interpret: bool = False,
) -> jax.Array:
    """`attention.attend` of x @ kernel + bias, in one kernel.

    Args:
      x: [B, windows, tokens, C], float32 or bfloat16.
      kernel: [C, 3 C] in the type of x: to queries, keys and values, each of `heads` times d.
      bias: [3 C] in the type of x.
      position_bias: float32 [heads, tokens, tokens].
      parts: int32 [windows, tokens]: tokens of different parts do not see each other.
      heads: their number.
      interpret: run by Pallas's interpreter, slowly, on any machine.

    Returns:
      [B, windows, tokens, C] in the type of x, before the output projection.
    """
    sizes = _sizes(x, heads)
    per_program = _divisor(sizes.windows, FORWARD_WINDOWS)
    shape = jax.ShapeDtypeStruct((sizes.windows, sizes.tokens, heads, sizes.depth), x.dtype)
    out = pl.pallas_call(
        partial(_forward_program, sizes=sizes),
        out_shape=shape,
        grid=(sizes.windows // per_program, heads),
        in_specs=_input_specs(sizes, per_program),
        out_specs=_head_spec(sizes, per_program),
        compiler_params=triton.CompilerParams(num_warps=4),
        interpret=interpret,
        name="window_attention",
    )(*_inputs(x, kernel, bias, position_bias, parts, sizes))
    return out.reshape(x.shape)


def _forward(x, kernel, bias, position_bias, parts, heads, interpret):
    arrays = (x, kernel, bias, position_bias, parts)
    return attend(*arrays, heads, interpret), arrays


def _backward(heads, interpret, saved, gradient):
    x, kernel, bias, position_bias, parts = saved
    sizes = _sizes(x, heads)
    per_program = _divisor(sizes.windows, max(1, sizes.windows // BACKWARD_PROGRAMS))
    programs, square = sizes.windows // per_program, (sizes.filled_tokens, sizes.filled_tokens)
    head = (sizes.windows, sizes.tokens, heads, sizes.depth)
    d_qkv, d_position = pl.pallas_call(
        partial(_backward_program, sizes=sizes),
        out_shape=(
            jax.ShapeDtypeStruct((*head[:2], 3, *head[2:]), x.dtype),
            jax.ShapeDtypeStruct((programs, heads, *square), jnp.float32),
        ),
        grid=(programs, heads),
        in_specs=[*_input_specs(sizes, per_program), _head_spec(sizes, per_program)],
        out_specs=(
            pl.BlockSpec(
                (per_program, sizes.filled_tokens, 3, None, sizes.filled_depth),
                lambda program, head: (program, 0, 0, head, 0),
            ),
            pl.BlockSpec((None, None, *square), lambda program, head: (program, head, 0, 0)),
        ),
        compiler_params=triton.CompilerParams(num_warps=4),
        interpret=interpret,
        name="window_attention_backward",
    )(*_inputs(x, kernel, bias, position_bias, parts, sizes), gradient.reshape(head))

    def project(x, kernel, bias):
        return products.dot(x.reshape(-1, sizes.channels), kernel) + bias[None]

    _, transposed = jax.vjp(project, x, kernel, bias)
    d_x, d_kernel, d_bias = transposed(d_qkv.reshape(-1, kernel.shape[1]))
    d_position = d_position.sum(axis=0)[:, : sizes.tokens, : sizes.tokens]
    return d_x, d_kernel, d_bias, d_position, None


attend.defvjp(_forward, _backward)


def _sizes(x, heads) -> _Sizes:
    b, n, tokens, channels = x.shape
    depth = channels // heads
    return _Sizes(
        windows=b * n,
        parts=n,
        tokens=tokens,
        channels=channels,
        heads=heads,
        depth=depth,
        filled_tokens=max(16, pl.next_power_of_2(tokens)),
        filled_channels=pl.cdiv(channels, CHUNK) * CHUNK,
        filled_depth=max(16, pl.next_power_of_2(depth)),
    )


def _divisor(number: int, limit: int) -> int:
    """The largest divisor of a number up to a limit."""
    return next(d for d in range(limit, 0, -1) if number % d == 0)


def _inputs(x, kernel, bias, position_bias, parts, sizes: _Sizes):
    """The arrays as the programs read them; all but the first are small, and filled up here."""
    channels = 0, sizes.filled_channels - sizes.channels
    depth = 0, sizes.filled_depth - sizes.depth
    tokens = 0, sizes.filled_tokens - sizes.tokens
    kernel = kernel.reshape(sizes.channels, 3, sizes.heads, sizes.depth).transpose(2, 1, 0, 3)
    bias = bias.astype(jnp.float32).reshape(3, sizes.heads, sizes.depth).transpose(1, 0, 2)
    position_bias = jnp.pad(position_bias, ((0, 0), tokens, (0, 0)))
    return (
        x.reshape(sizes.windows, sizes.tokens, sizes.channels),
        jnp.pad(kernel, ((0, 0), (0, 0), channels, depth)),
        jnp.pad(bias, ((0, 0), (0, 0), depth)),
        jnp.pad(position_bias, ((0, 0), (0, 0), tokens), constant_values=NEVER),
        jnp.pad(parts, ((0, 0), tokens)),
    )


def _input_specs(sizes: _Sizes, per_program: int) -> list[pl.BlockSpec]:
    """What a program (block of windows, head) sees of `_inputs`."""
    return [
        pl.BlockSpec(
            (per_program, sizes.filled_tokens, sizes.filled_channels),
            lambda program, head: (program, 0, 0),
        ),
        pl.BlockSpec(
            (None, 3, sizes.filled_channels, sizes.filled_depth),
            lambda program, head: (head, 0, 0, 0),
        ),
        pl.BlockSpec((None, 3, sizes.filled_depth), lambda program, head: (head, 0, 0)),
        pl.BlockSpec(
            (None, sizes.filled_tokens, sizes.filled_tokens), lambda program, head: (head, 0, 0)
        ),
        pl.BlockSpec((sizes.parts, sizes.filled_tokens), lambda program, head: (0, 0)),
    ]


def _head_spec(sizes: _Sizes, per_program: int) -> pl.BlockSpec:
    """A block of windows of one head, of [windows, tokens, heads, d]."""
    return pl.BlockSpec(
        (per_program, sizes.filled_tokens, None, sizes.filled_depth),
        lambda program, head: (program, 0, head, 0),
    )


def _forward_program(
    x_ref, kernel_ref, bias_ref, position_ref, parts_ref, out_ref, *, sizes: _Sizes
):
    per_program = x_ref.shape[0]
    first = pl.program_id(0) * per_program
    position, there = position_ref[...], _there(sizes)

    def window(i, carry):
        query, key, value = _project(x_ref, kernel_ref, bias_ref, i, sizes)
        part = parts_ref[lax.rem(first + i, sizes.parts)]
        weights, inverse = _softmax(query, key, position, part)
        out = _dot(weights.astype(value.dtype), value) * inverse
        triton.store(out_ref.at[i], out.astype(out_ref.dtype), mask=there)
        return carry

    lax.fori_loop(0, per_program, window, 0)


def _backward_program(*refs, sizes: _Sizes):
    """With p the weights: d_logits = p (d_p - sum(p d_p)), where d_p = d_out value^T."""
    x_ref, kernel_ref, bias_ref, position_ref, parts_ref, gradient_ref, d_qkv_ref, d_ref = refs
    per_program, dtype = x_ref.shape[0], x_ref.dtype
    first = pl.program_id(0) * per_program
    position, there = position_ref[...], _there(sizes)

    def window(i, d_position):
        query, key, value = _project(x_ref, kernel_ref, bias_ref, i, sizes)
        part = parts_ref[lax.rem(first + i, sizes.parts)]
        weights, inverse = _softmax(query, key, position, part)
        # Queries that there are not have a gradient of zero, and so add nothing to any sum.
        gradient = triton.load(gradient_ref.at[i], mask=there, other=0)
        weights *= inverse
        d_weights = _dot(gradient, value, transpose_y=True)
        delta = (weights * d_weights).sum(axis=1, keepdims=True)
        d_logits = weights * (d_weights - delta)
        narrow = d_logits.astype(dtype)
        scale = jnp.asarray(sizes.depth**-0.5, jnp.float32)
        gradients = (
            _dot(narrow, key) * scale,
            _dot(narrow, query, transpose_x=True),  # the query bears the scale already
            _dot(weights.astype(dtype), gradient, transpose_x=True),
        )
        for j, values in enumerate(gradients):
            triton.store(d_qkv_ref.at[i, :, jnp.int32(j)], values.astype(dtype), mask=there)
        return d_position + d_logits

    d_ref[...] = lax.fori_loop(0, per_program, window, jnp.zeros_like(position))


def _there(sizes: _Sizes):
    """Where [tokens, d] of a filled-up window is real."""
    shape = (sizes.filled_tokens, sizes.filled_depth)
    token, channel = (lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1))
    return (token < sizes.tokens) & (channel < sizes.depth)


def _project(x_ref, kernel_ref, bias_ref, i, sizes: _Sizes):
    """Queries, scaled, keys and values of window i: [tokens, d] each, in the type of x."""
    shape = (sizes.filled_tokens, CHUNK)
    token, channel = (lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1))

    def add_chunk(c, sums):
        start = c * CHUNK
        there = (token < sizes.tokens) & (channel + start < sizes.channels)
        x = triton.load(x_ref.at[i, :, pl.ds(start, CHUNK)], mask=there, other=0)
        kernels = [kernel_ref[j, pl.ds(start, CHUNK), :] for j in range(3)]
        return tuple(sum_ + _dot(x, k) for sum_, k in zip(sums, kernels, strict=True))

    zeros = jnp.zeros((sizes.filled_tokens, sizes.filled_depth), jnp.float32)
    sums = lax.fori_loop(0, sizes.filled_channels // CHUNK, add_chunk, (zeros,) * 3)
    query, key, value = (
        (sum_ + bias_ref[j][None, :]).astype(x_ref.dtype) for j, sum_ in enumerate(sums)
    )
    return query * jnp.asarray(sizes.depth**-0.5, query.dtype), key, value


def _softmax(query, key, position, part):
    """Weights [queries, keys] without their division, and one over their sums [queries, 1]."""
    logits = _dot(query, key, transpose_y=True) + position
    logits += jnp.where(part[:, None] == part[None, :], 0.0, APART)
    weights = jnp.exp(logits - logits.max(axis=1, keepdims=True))
    return weights, 1 / weights.sum(axis=1, keepdims=True)


def _dot(x, y, transpose_x: bool = False, transpose_y: bool = False):
    """X @ y in float32, either of them transposed."""
    contracted = ((0 if transpose_x else 1,), (1 if transpose_y else 0,))
    return lax.dot_general(x, y, (contracted, ((), ())), preferred_element_type=jnp.float32)
