"""One random gray curve, sharpness and noise, as if an image were of another machine.

The rule `polarity` of MLN-net learns from images changed so (`methods.mln.bank`). Nine uniform
numbers become a `Draw`, and a draw is applied to an image. Ranges grow with one number, the
strength; they are chosen to look like mammograms, none is measured.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from mln_flax.types import Augmentation, UserError

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
      ValueError: `strength` lies outside [0, 1].
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"jitter of strength {strength}: must lie between 0 and 1")
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


def _window(sigma_px: Any) -> np.ndarray:
    """The weights of a Gaussian; for 0 px the middle alone."""
    weights = np.exp(-TAPS * TAPS / (2 * sigma_px * sigma_px + 1e-6))
    return weights / weights.sum()


def applied(image: Any, drawn: Draw, noise: Any) -> np.ndarray:
    """The image [H, W] under a draw, in [0, 1]; `noise` [H, W] has standard deviation 1.

    Sharpness comes first, as in a detector, then the grays, and noise last, so that a steep
    curve does not raise it.
    """
    image = np.asarray(image, np.float32)
    blurred = image
    for axis, sigma_px in enumerate((drawn.down_px, drawn.across_px)):
        blurred = ndimage.correlate1d(blurred, _window(sigma_px), axis, mode="reflect")
    sharp = np.clip(image + drawn.detail * (image - blurred), 0, 1)
    gray = np.clip(brightened(curved(sharp, drawn), drawn), 0, 1)
    return np.clip(drawn.fog + (1 - drawn.fog) * gray + drawn.noise * noise, 0, 1)


def jittered(image: Any, rng: np.random.Generator, strength: float) -> np.ndarray:
    """The image float32 [H, W] as another machine might show it, in [0, 1]; 0 changes nothing.

    `rng` alone decides. Raises ValueError where `strength` lies outside [0, 1].
    """
    drawn = draw(list(rng.random(UNIFORMS, np.float32)), strength)
    if not strength:
        return np.asarray(image)
    return applied(image, drawn, rng.standard_normal(np.shape(image), np.float32))


def jitter(strength: float) -> Augmentation:
    """The same on the device: every row under a draw of its own, masks as they are.

    Raises:
      UserError: `strength` lies outside [0, 1].
    """
    if not 0 <= strength <= 1:
        raise UserError(f"jitter({strength}): the strength must lie between 0 and 1")

    def augment(key: Any, image: Any, mask: Any, view: Any) -> tuple[Any, Any]:
        del view  # another machine shows every view as it shows the image
        import jax

        if not strength:
            return image, mask
        keys = jax.random.split(key, len(image))
        return jax.vmap(partial(_on_device, strength))(keys, image), mask

    return augment


def _on_device(strength: float, key: Any, image: Any) -> Any:
    """One image [H, W] under a draw of its key, as `applied` does it in numpy."""
    import jax
    import jax.numpy as jnp

    of_draw, of_noise = jax.random.split(key)
    drawn = draw(list(jax.random.uniform(of_draw, (UNIFORMS,))), strength)
    blurred = image
    for axis, sigma_px in enumerate((drawn.down_px, drawn.across_px)):
        weights = jnp.exp(-TAPS * TAPS / (2 * sigma_px * sigma_px + 1e-6))
        weights = weights / weights.sum()
        reach = [(RADIUS_PX, RADIUS_PX) if axis == other else (0, 0) for other in (0, 1)]
        padded = jnp.pad(blurred, reach, mode="symmetric")
        shifted = (
            weights[tap] * jax.lax.slice_in_dim(padded, tap, tap + image.shape[axis], axis=axis)
            for tap in range(len(TAPS))
        )
        blurred = sum(shifted, jnp.zeros_like(image))
    sharp = jnp.clip(image + drawn.detail * (image - blurred), 0, 1)
    gray = jnp.clip(brightened(curved(sharp, drawn), drawn), 0, 1)
    noise = jax.random.normal(of_noise, image.shape)
    return jnp.clip(drawn.fog + (1 - drawn.fog) * gray + drawn.noise * noise, 0, 1)


KIND = jitter
