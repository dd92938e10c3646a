"""3x3 convolutions: one call for a network, and the forms in which XLA for CPUs computes them fast.

What XLA for CPUs does with a convolution is a product of matrices over patches, whose speed falls
with the number of output channels, and for which the gradient of the kernel is a convolution by
an "image" as large as the input. So here, on CPUs alone:

- few output channels: neighboring columns are made at once, as further channels, by a kernel that
  holds the same numbers once for each of them, and zeros (`columns_at_once`): up to twice the
  multiplications, and still half the time;
- the gradient of the input is such a convolution again;
- the gradient of the kernel has the wider of both arrays as its channels, and where two or four
  strips of each image make eight, strips count as images (`_kernel_gradient`).

docs/performance.md has the times, and what was tried beside this: products of matrices written out
lost everywhere. On CPUs only gradients backward exist, not jax.jvp.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

LAYOUT = ("NHWC", "HWIO", "NHWC")
WIDE = 32  # output channels with which the product over patches is fast
COLUMNS = "columns_at_once"  # the name by which a count of operations knows it, and its zeros
SAMPLES = 8  # images or strips with which the gradient of a kernel is fast


class Convolution(nn.Module):
    """A 3x3 convolution with zeros around: `nn.Conv` once the bias that it returns is added.

    Attributes:
      width: output channels.
      use_bias: whether there is a bias.
      dtype: in which is computed.
    """

    width: int
    use_bias: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        """[B, H, W, C] -> [B, H, W, width] without the bias, and the bias [width] or None.

        The bias comes apart, for whatever passes over the result next can add it on the way.
        """
        shape = (3, 3, x.shape[-1], self.width)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, shape[-1:]) if self.use_bias else None
        return convolve(x.astype(self.dtype), kernel.astype(self.dtype)), bias


def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The 3x3 convolution [B, H, W, D] of x [B, H, W, C], zeros around, by kernel [3, 3, C, D]."""
    if jax.default_backend() == "cpu":
        return _convolve(x, kernel)
    return _plain(x, kernel, ((1, 1), (1, 1)))


@jax.custom_vjp
def _convolve(x, kernel):
    return _columns(x, kernel)


def _convolve_forward(x, kernel):
    return _columns(x, kernel), (x, kernel)


def _convolve_backward(saved, gradient):
    x, kernel = saved
    # Each pixel of the input went to its neighbors, through the kernel seen from the other side.
    d_x = _columns(gradient, jnp.flip(kernel, (0, 1)).swapaxes(2, 3))
    return d_x, _kernel_gradient(x, gradient)


_convolve.defvjp(_convolve_forward, _convolve_backward)


def _plain(x, kernel, padding, strides=(1, 1)):
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=LAYOUT)


def _columns(x, kernel):
    """The convolution, several columns at once where input and output have few channels."""
    channels, width = kernel.shape[2:]
    n = next((n for n in (4, 2) if x.shape[2] % n == 0 and n * width <= WIDE), 1)
    if n == 1 or channels > WIDE // 2:
        return _plain(x, kernel, ((1, 1), (1, 1)))
    return columns_at_once(x, kernel, n)


@partial(jax.jit, static_argnums=2)
def columns_at_once(x: jax.Array, kernel: jax.Array, n: int) -> jax.Array:
    """`convolve` of x, whose width n divides, n columns at a time.

    A window of n + 2 columns makes n columns of the result, as n * D channels that lie in memory
    as the columns do. The kernel is zero where a column does not see a column.
    """
    channels, width = kernel.shape[2:]
    shifted = [jnp.pad(kernel, ((0, 0), (i, n - 1 - i), (0, 0), (0, 0))) for i in range(n)]
    several = jnp.stack(shifted, axis=3).reshape(3, n + 2, channels, n * width)
    return _plain(x, several, ((1, 1), (1, 1)), (1, n)).reshape(*x.shape[:3], width)


def _kernel_gradient(x, gradient):
    """Sums over images and pixels of x [B, H, W, C] times gradient [B, H, W, D]: [3, 3, C, D].

    It is a convolution too, in which the channels of x stand where images do, and images where
    channels do; the gradient is the kernel. With the roles of both exchanged it is the same but
    for the direction in which the neighbors lie.
    """
    batch, height, width, channels = x.shape
    if channels > gradient.shape[-1]:
        return jnp.flip(_kernel_gradient(gradient, x), (0, 1)).swapaxes(2, 3)
    strips = 1
    if batch < SAMPLES and gradient.shape[-1] >= WIDE:
        enough = (n for n in (2, 4) if height % n == 0 and n * batch >= SAMPLES)
        strips = next(enough, 1)
    if strips == 1:
        images, kernel = x.transpose(3, 1, 2, 0), gradient.transpose(1, 2, 0, 3)
        return _plain(images, kernel, ((1, 1), (1, 1))).transpose(1, 2, 0, 3)
    rows = height // strips
    x = jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0)))
    images = jnp.stack([x[:, i * rows : (i + 1) * rows + 2] for i in range(strips)])
    images = images.transpose(4, 2, 3, 0, 1).reshape(channels, rows + 2, width, strips * batch)
    kernel = gradient.reshape(batch, strips, rows, width, -1).transpose(2, 3, 1, 0, 4)
    kernel = kernel.reshape(rows, width, strips * batch, -1)
    return _plain(images, kernel, ((0, 0), (1, 1))).transpose(1, 2, 0, 3)
