"""Equal noise at every gray: a generalized Anscombe transform with parameters from the image."""

import jax
import jax.numpy as jnp

CELL_PX = 4  # side of the squares whose mean and noise are compared
GROUPS = 16  # of squares, by gray: the quietest of each show noise and no structure
QUIET = 0.25  # the quantile of the noise in a group
FLOOR = 1e-4  # gray levels; the least deviation of noise that is believed


def equalized(image: jax.Array) -> jax.Array:
    """Images whose noise has about the same deviation at every gray: [B, H, W, 1] likewise.

    The variance of the noise is taken for a line over the gray, a g + b, as photons and electronics
    make it; the transform is then the integral of 1 / sqrt(a g + b) (Anscombe, 1948; Murtagh et
    al., 1995, with the noise's mean at 0), stretched so that 0 stays 0 and 1 stays 1. It grows
    strictly, and an image of one gray keeps it. Each image is estimated by itself.
    """
    x = image.astype(jnp.float32)
    slope, offset = noise_line(x[..., 0])
    slope, offset = (value[:, None, None, None] for value in (slope, offset))

    def integral(gray):  # 2 (sqrt(a g + b) - sqrt(b)) / a, in a form that a = 0 may have
        return 2 * gray / (jnp.sqrt(slope * gray + offset) + jnp.sqrt(offset))

    return (integral(x) / integral(1.0)).astype(image.dtype)


def noise_line(image: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Slope and offset [B] of the variance of images' noise over their gray in [0, 1].

    Of squares of CELL_PX the variance of the noise is that of second differences, in which slopes
    cancel. The squares are sorted by gray into GROUPS; a line through the lower quantiles of their
    variances is fitted by least squares, and kept above FLOOR^2 at both ends. An image of fewer
    squares than groups gets a constant.
    """
    b, height, width = image.shape
    rows, columns = height // CELL_PX, width // CELL_PX
    if rows * columns < 2 * GROUPS:
        return jnp.zeros(b), jnp.ones(b)
    image = image[:, : rows * CELL_PX, : columns * CELL_PX]
    cells = image.reshape(b, rows, CELL_PX, columns, CELL_PX).transpose(0, 1, 3, 2, 4)
    cells = cells.reshape(b, rows * columns, CELL_PX, CELL_PX)
    mean = cells.mean(axis=(2, 3))
    # 1, -2, 1 in both directions: of white noise of variance 1 it has the variance 36.
    difference = jnp.diff(jnp.diff(cells, n=2, axis=2), n=2, axis=3)
    variance = jnp.square(difference).mean(axis=(2, 3)) / 36
    order = jnp.argsort(mean, axis=1)
    each = rows * columns // GROUPS

    def grouped(values):
        ordered = jnp.take_along_axis(values, order, axis=1)
        return ordered[:, : each * GROUPS].reshape(b, GROUPS, each)

    gray = grouped(mean).mean(axis=2)
    quiet = jnp.quantile(grouped(variance), QUIET, axis=2)
    centered = gray - gray.mean(axis=1, keepdims=True)
    spread = jnp.square(centered).mean(axis=1)
    slope = (centered * quiet).mean(axis=1) / jnp.maximum(spread, FLOOR**2)
    offset = quiet.mean(axis=1) - slope * gray.mean(axis=1)
    at_black, at_white = jnp.maximum(offset, FLOOR**2), jnp.maximum(slope + offset, FLOOR**2)
    return at_white - at_black, at_black
