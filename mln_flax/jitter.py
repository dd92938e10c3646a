"""Intensity augmentation: one random gray curve, sharpness and noise, as if of another machine.

Nine uniform numbers become a `Draw`, and a draw is applied by TensorFlow (tf.data) or by scipy.
As in `geometry`, what decides is the same code for both: arithmetic operators only, on numpy or
TensorFlow float32 alike. Ranges grow with one number, the strength; they are chosen to look like
mammograms, none is measured.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from mln_flax.types import UserError

# Each at strength 1.
CURVE = 0.35  # how far the a of the curve may be from 0.5
BEND = 1 / 6  # likewise of the bend: its slope at black lies between 1/2 and 2
GAIN = 0.3  # change of the contrast
SHIFT = 0.3  # change of the brightness, of [0, 1]
FOG = 0.1  # largest gray of the air; half of the images have none
SIGMA_PX = 1.2  # largest blur
HALO = 1.0  # largest share of the detail that is added again
NOISE = (0.002, 0.04)  # standard deviation, drawn evenly in its logarithm

RADIUS_PX = 4  # of the blur's window
TAPS = np.arange(-RADIUS_PX, RADIUS_PX + 1, dtype=np.float32)


class Draw(NamedTuple):
    """What is random in one image; float32 scalars."""

    curve: Any  # slope at both ends of a curve that turns around its middle; 1 is straight
    bend: Any  # slope at black of a curve that bends one way; 1 is straight
    gain: Any
    shift: Any
    fog: Any  # the gray that black becomes
    detail: Any  # share of the detail that is added; -1 leaves the blurred image
    down_px: Any  # standard deviation of the Gaussian along y
    across_px: Any  # likewise along x: the same, or 0
    noise: Any  # standard deviation


def _odds(share: Any) -> Any:
    """Above 1 below a half: the slope at both ends of `bezier(share)`."""
    return (1 - share) / share


def draw(uniform: Sequence[Any], strength: float) -> Draw:
    """The draw that nine uniform numbers in [0, 1) stand for.

    Half of the images are blurred, the others get halos. Half of either happen along y only: a
    tomosynthesis sweeps along the chest wall, which stands upright in an image.

    Raises:
      UserError: `strength` lies outside [0, 1].
    """
    if not 0 <= strength <= 1:
        raise UserError(f"views.jitter={strength}: must lie between 0 and 1")
    curve, bend, gain, shift, fog, kind, sigma, both, noise = uniform
    is_lifted, has_halos, is_round = ((2 * number) // 1 for number in (fog, kind, both))
    down_px = strength * SIGMA_PX * sigma
    low, high = NOISE
    return Draw(
        curve=_odds(0.5 + strength * CURVE * (2 * curve - 1)),
        bend=_odds(0.5 + strength * BEND * (2 * bend - 1)),
        gain=1 + strength * GAIN * (2 * gain - 1),
        shift=strength * SHIFT * (2 * shift - 1),
        fog=strength * FOG * is_lifted * (2 * fog - 1),
        detail=has_halos * (1 + strength * HALO * (2 * kind - 1)) - 1,
        down_px=down_px,
        across_px=down_px * is_round,
        noise=strength * low * (high / low) ** noise,
    )


UNIFORMS = len(Draw._fields)


def curved(image: Any, drawn: Draw) -> Any:
    """Grays in [0, 1] through both curves, which are strictly monotone and leave 0 and 1 alone.

    Two hyperbolas that meet in the middle have the slopes of a Bezier curve there and at its
    ends, and a third one bends as a gamma does, with no infinite slope at black. The curve of
    slope 1/s undoes that of s.
    """
    turned = 0.5 + (image - 0.5) / (drawn.curve + (1 - drawn.curve) * abs(2 * image - 1))
    return drawn.bend * turned / (1 + (drawn.bend - 1) * turned)


def brightened(image: Any, drawn: Draw) -> Any:
    """Grays with another contrast and brightness, before they are clipped; black stays black.

    The shift fades toward black: the air stays dark, and dark tissue is not cut off. At any
    strength the whole still rises everywhere.
    """
    return drawn.gain * image + drawn.shift * image * (2 - image)


def _window(exp: Callable[[Any], Any], sigma_px: Any) -> Any:
    """The weights of a Gaussian, not yet of sum 1; for 0 px the middle alone."""
    return exp(-TAPS * TAPS / (2 * sigma_px * sigma_px + 1e-6))


def apply_numpy(image: Any, drawn: Draw, noise: Any) -> np.ndarray:
    """The image [H, W] under a draw, in [0, 1]; `noise` [H, W] has standard deviation 1.

    Sharpness comes first, as in a detector, then the grays, and noise last, so that a steep
    curve does not raise it.
    """
    image = np.asarray(image, np.float32)
    blurred = image
    for axis, sigma_px in enumerate((drawn.down_px, drawn.across_px)):
        weights = _window(np.exp, sigma_px)
        blurred = ndimage.correlate1d(blurred, weights / weights.sum(), axis, mode="reflect")
    sharp = np.clip(image + drawn.detail * (image - blurred), 0, 1)
    gray = np.clip(brightened(curved(sharp, drawn), drawn), 0, 1)
    return np.clip(drawn.fog + (1 - drawn.fog) * gray + drawn.noise * noise, 0, 1)


def apply_tf(image: Any, drawn: Draw, noise: Any) -> Any:
    """The image float32 [H, W] under a draw, in [0, 1], as `apply_numpy` with TensorFlow."""
    import tensorflow as tf

    def clip(grays: Any) -> Any:
        return tf.clip_by_value(grays, 0.0, 1.0)

    height, width = tf.unstack(tf.shape(image))
    padded = tf.pad(image, [[RADIUS_PX] * 2] * 2, "SYMMETRIC")
    # Sums of shifted images take a tenth of the time of a convolution with one channel.
    down, across = (_window(tf.exp, sigma_px) for sigma_px in (drawn.down_px, drawn.across_px))
    rows = [weight * padded[k : k + height] for k, weight in enumerate(tf.unstack(down))]
    even = tf.add_n(rows) / tf.reduce_sum(down)
    columns = [weight * even[:, k : k + width] for k, weight in enumerate(tf.unstack(across))]
    blurred = tf.add_n(columns) / tf.reduce_sum(across)
    sharp = clip(image + drawn.detail * (image - blurred))
    gray = clip(brightened(curved(sharp, drawn), drawn))
    return clip(drawn.fog + (1 - drawn.fog) * gray + drawn.noise * noise)


def jitter_numpy(image: Any, rng: np.random.Generator, strength: float) -> np.ndarray:
    """The image float32 [H, W] as another machine might show it, in [0, 1]; 0 changes nothing.

    `rng` alone decides. Raises UserError where `strength` lies outside [0, 1].
    """
    drawn = draw(list(rng.random(UNIFORMS, np.float32)), strength)
    if not strength:
        return np.asarray(image)
    return apply_numpy(image, drawn, rng.standard_normal(np.shape(image), np.float32))


def jitter_tf(image: Any, seed: Any, strength: float) -> Any:
    """The image float32 [H, W] as another machine might show it, in [0, 1]; 0 changes nothing.

    `seed` (int32 or int64 [2]) alone decides, and what `geometry.augment_tf` draws from the same
    seed tells nothing of it. Numbers differ from numpy's generator; for equal draws and noise the
    results agree. Raises UserError where `strength` lies outside [0, 1].
    """
    import tensorflow as tf

    first, second = tf.unstack(tf.random.split(seed, 2))
    drawn = draw(tf.unstack(tf.random.stateless_uniform([UNIFORMS], first)), strength)
    if not strength:
        return image
    return apply_tf(image, drawn, tf.random.stateless_normal(tf.shape(image), second))
