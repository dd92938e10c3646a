"""Layer norm of an array, and of a product that is never formed, with fast backward passes."""

from functools import partial

import jax
import jax.numpy as jnp

EXACT = jax.lax.Precision.HIGHEST  # of sums that are written as products
CHUNK = 2**24  # numbers of a wide product that live at a time: 64 MB of float32


def normalize(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    """Layer norm of x [B, ..., C] with scale and bias [B, C] per sample, in the type of x."""
    tokens = x.reshape(x.shape[0], -1, x.shape[-1])
    return _normalize(tokens, scale, bias, epsilon).reshape(x.shape)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _normalize(x, scale, bias, epsilon):
    """Of x [B, tokens, C]; the backward pass is written out, autodiff passes over x twice more."""
    return _normalize_forward(x, scale, bias, epsilon)[0]


def _normalize_forward(x, scale, bias, epsilon):
    standard, _ = _standardized(x, epsilon)
    y = standard * scale[:, None] + bias[:, None]
    return y.astype(x.dtype), (x, scale)


def _normalize_backward(epsilon, saved, gradient):
    x, scale = saved
    standard, inverse_std = _standardized(x, epsilon)
    gradient = gradient.astype(jnp.float32)
    scaled = gradient * scale[:, None]
    projection = _channel_mean(scaled * standard)
    d_x = inverse_std * (scaled - _channel_mean(scaled) - standard * projection)
    ones = jnp.ones(x.shape[:2])
    # Sums written as products, for CPUs; exact, since accelerators would round the factors.
    d_scale = jnp.einsum("bt,btc->bc", ones, gradient * standard, precision=EXACT)
    d_bias = jnp.einsum("bt,btc->bc", ones, gradient, precision=EXACT)
    return d_x.astype(x.dtype), d_scale, d_bias


def _standardized(x, epsilon):
    """Tokens [B, tokens, C] of zero mean and unit variance, and one over their deviation."""
    x = x.astype(jnp.float32)
    centered = x - _channel_mean(x)
    inverse_std = jax.lax.rsqrt(_channel_mean(jnp.square(centered)) + epsilon)
    return centered * inverse_std, inverse_std


def _channel_mean(x):
    """[B, tokens, C] -> [B, tokens, 1]; as a matrix, for with few samples XLA for CPUs is slow."""
    return x.reshape(-1, x.shape[-1]).mean(axis=-1).reshape(*x.shape[:-1], 1)


_normalize.defvjp(_normalize_forward, _normalize_backward)


def normalized_projection(
    x: jax.Array,
    expand: jax.Array,
    head: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    epsilon: float,
) -> jax.Array:
    """normalize(x @ expand) @ head, without normalizing the wide array in the middle.

    Centering, scale and head are linear and fold into one narrow kernel per sample; only the
    variance of each expanded token needs the wide product, and of that its squared length alone.

    Args:
      x: [B, H, W, C].
      expand: [C, pixels, D]: each token becomes so many pixels of D channels.
      head: [D, classes].
      scale: [B, D], per sample.
      bias: [B, D].
      epsilon: added to the variance.

    Returns:
      float32 [B, H, W, pixels, classes].
    """
    c, pixels, _ = expand.shape
    centered = expand - expand.mean(axis=-1, keepdims=True)
    variance = expanded_variance(x.reshape(-1, c), centered).reshape(*x.shape[:-1], pixels)
    kernel = jnp.einsum("cpd,bd,dk->bcpk", centered, scale, head)
    kernel = kernel.reshape(x.shape[0], c, -1).astype(x.dtype)
    tokens = x.reshape(x.shape[0], -1, c)
    narrow = jnp.einsum("btc,bcm->btm", tokens, kernel, preferred_element_type=jnp.float32)
    narrow = narrow.reshape(*variance.shape, -1)
    inverse_std = jax.lax.rsqrt(variance + epsilon)[..., None]
    return narrow * inverse_std + (bias @ head)[:, None, None, None]


@jax.custom_vjp
def expanded_variance(tokens: jax.Array, centered: jax.Array) -> jax.Array:
    """The mean square over d of tokens [T, C] @ centered [C, pixels, D]: float32 [T, pixels].

    The product, 16 times as wide as the tokens, lives for a chunk of tokens at a time, both ways.
    """
    c, pixels, d = centered.shape
    kernel = centered.reshape(c, pixels * d).astype(tokens.dtype)

    def chunk_variance(chunk):
        wide = jnp.dot(chunk, kernel, preferred_element_type=jnp.float32)
        return jnp.square(wide).reshape(-1, pixels, d).mean(axis=-1)

    return jax.lax.map(chunk_variance, _chunks(tokens, pixels * d)).reshape(-1, pixels)


def _variance_forward(tokens, centered):
    return expanded_variance(tokens, centered), (tokens, centered)


def _variance_backward(saved, gradient):
    tokens, centered = saved
    c, pixels, d = centered.shape
    kernel = centered.reshape(c, pixels * d).astype(tokens.dtype)

    def chunk_gradient(d_kernel, chunk_and_gradient):
        chunk, d_variance = chunk_and_gradient
        wide = jnp.dot(chunk, kernel, preferred_element_type=jnp.float32).reshape(-1, pixels, d)
        d_wide = (wide * (2 / d * d_variance[..., None])).astype(tokens.dtype)
        d_wide = d_wide.reshape(-1, pixels * d)
        d_kernel += jnp.dot(chunk.T, d_wide, preferred_element_type=jnp.float32)
        return d_kernel, jnp.dot(d_wide, kernel.T)

    chunks = _chunks(tokens, pixels * d)
    gradients = gradient.reshape(*chunks.shape[:2], pixels)
    start = jnp.zeros((c, pixels * d))
    d_kernel, d_tokens = jax.lax.scan(chunk_gradient, start, (chunks, gradients))
    return d_tokens.reshape(tokens.shape), d_kernel.reshape(centered.shape)


expanded_variance.defvjp(_variance_forward, _variance_backward)


def _chunks(tokens, width):
    """Tokens [T, C] in equal chunks [chunks, rows, C] of at most CHUNK numbers at this width."""
    total = tokens.shape[0]
    if not isinstance(total, int):  # exported for any number of images: chunks need a number
        return tokens[None]
    fewest = -(-total * width // CHUNK)
    count = next(n for n in range(fewest, total + 1) if total % n == 0)
    return tokens.reshape(count, total // count, -1)
