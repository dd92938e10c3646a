"""Self-attention within windows, its backward pass written out for speed.

Autodiff of the plain formula is correct and slow: it sums the bias gradient over all windows with
a strided reduction, pads and adds the thirds of the query-key-value gradient, and multiplies
matrices in layouts that no fast kernel takes. `docs/performance.md` has the measurements.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

EXACT = jax.lax.Precision.HIGHEST  # of sums that are written as products; CPUs know no other


def relative_position_bias(table: jax.Array, size: tuple[int, int], window_size: int) -> jax.Array:
    """What is added to the attention logits for the relative position of two tokens.

    The table is that of the full window; a smaller window uses the rows around its middle. Rows
    are picked by products with constant one-hot matrices: no gather, and no scatter backward.

    Args:
      table: [(2 * window_size - 1)^2, heads].
      size: height and width of the window, at most window_size.
      window_size: of the full window.

    Returns:
      [heads, tokens, tokens]: query tokens, then key tokens.
    """
    side, heads = 2 * window_size - 1, table.shape[-1]
    rows, columns = (_differences(length, window_size).astype(table.dtype) for length in size)
    bias = jnp.einsum(
        "abi,ijh,cdj->hacbd",  # query row a and column c, key row b and column d
        rows,
        table.reshape(side, side, heads),
        columns,
        precision=EXACT,
    )
    tokens = size[0] * size[1]
    return bias.reshape(heads, tokens, tokens)


def _differences(length: int, window_size: int) -> np.ndarray:
    """One-hot a - b + window_size - 1 of two positions: [length, length, 2 window_size - 1]."""
    position = np.arange(length)
    difference = position[:, None] - position[None, :] + window_size - 1
    return np.eye(2 * window_size - 1, dtype=np.float32)[difference]


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def attend(
    qkv: jax.Array, bias: jax.Array, mask: tuple[bytes, tuple[int, ...]] | None, heads: int
) -> jax.Array:
    """Softmax(query key^T / sqrt(d) + bias + mask) value, in every window and head.

    Args:
      qkv: [B, windows, tokens, 3 C]: queries, keys and values, each of `heads` times d channels.
      bias: float32 [heads, tokens, tokens].
      mask: `frozen` of what is added too, [windows, tokens, tokens], or None.
      heads: their number.

    Returns:
      [B, windows, tokens, C] in the type of qkv.
    """
    return _forward(qkv, bias, mask, heads)[0]


def frozen(mask: np.ndarray | None) -> tuple[bytes, tuple[int, ...]] | None:
    """A float32 mask in a form that can be compared, as static arguments must be."""
    return None if mask is None else (mask.astype(np.float32).tobytes(), mask.shape)


def _forward(qkv, bias, mask, heads):
    query, key, value = _by_head(qkv, heads)
    logits = _product("bnhqd,bnhkd->bnhqk", query * _scale(query), key) + bias[None, None]
    if mask is not None:
        logits = logits + np.frombuffer(mask[0], np.float32).reshape(mask[1])[None, :, None]
    # The division by the sum waits until the products with the values: fewer numbers to divide.
    weights = jnp.exp(logits - logits.max(axis=-1, keepdims=True))
    inverse = 1 / weights.sum(axis=-1, keepdims=True)
    weights = weights.astype(qkv.dtype)
    out = _product("bnhqk,bnhkd->bnhqd", weights, value) * inverse
    out = out.astype(qkv.dtype).swapaxes(2, 3).reshape(*qkv.shape[:-1], -1)
    return out, (qkv, weights, inverse, out)


def _backward(mask, heads, saved, gradient):
    """With p = weights / sum: d_logits = p (d_out value^T - sum(d_out out)); else products."""
    qkv, weights, inverse, out = saved
    dtype = qkv.dtype
    query, key, value = _by_head(qkv, heads)
    b, n, t, c = out.shape
    head_sums = np.kron(np.eye(heads), np.ones((c // heads, 1))).astype(np.float32)
    delta = jnp.dot((gradient.astype(jnp.float32) * out).reshape(-1, c), head_sums, precision=EXACT)
    delta = delta.reshape(b, n, t, heads).swapaxes(2, 3)[..., None]
    # Divided by the softmax's sum here, where a query has d numbers, not one for each key.
    gradient = gradient.reshape(b, n, t, heads, -1).swapaxes(2, 3) * inverse
    d_value = _sum_over_queries(gradient.astype(dtype), weights)
    d_weights = _product("bnhqd,bnhkd->bnhqk", gradient.astype(dtype), value)
    d_logits = weights * (d_weights - delta * inverse)
    # A product with ones: the plain sum over windows takes thirty times as long on CPUs.
    d_bias = jnp.dot(jnp.ones((1, b * n)), d_logits.reshape(b * n, -1), precision=EXACT)
    d_bias = d_bias.reshape(heads, t, t)
    d_logits = d_logits.astype(dtype)
    d_query = jnp.einsum("bnhqk,bnhkd->bnqhd", d_logits, key) * _scale(query)
    d_key = _sum_over_queries(query * _scale(query), d_logits)
    d_qkv = jnp.stack([d_query, d_key, d_value], axis=3)
    return d_qkv.reshape(qkv.shape), d_bias


def _sum_over_queries(x, pairs):
    """[.., heads, queries, d] and [.., heads, queries, keys] -> [.., keys, heads, d].

    The left matrix is turned first, so that the contraction lies innermost: XLA for CPUs would
    fold the turn into the product and then multiply three times slower.
    """
    turned = jax.lax.optimization_barrier(x.swapaxes(-1, -2))
    product = jnp.einsum("bnhdq,bnhqk->bnhdk", turned, pairs)
    return product.transpose(0, 1, 4, 2, 3)


attend.defvjp(_forward, _backward)


def _product(subscripts, x, y):
    """An einsum whose sums are float32, whatever the factors are."""
    return jnp.einsum(subscripts, x, y, preferred_element_type=jnp.float32)


def _by_head(qkv, heads):
    """[B, windows, tokens, 3 C] -> queries, keys, values [B, windows, heads, tokens, d]."""
    b, n, t, c = qkv.shape
    parts = qkv.reshape(b, n, t, 3, heads, c // (3 * heads)).transpose(3, 0, 1, 4, 2, 5)
    return parts[0], parts[1], parts[2]


def _scale(query) -> jax.Array:
    return jnp.asarray(query.shape[-1] ** -0.5, query.dtype)
