"""What a scanner sees, and the linear filters through which it sees it: blur, noise, halos.

Lengths are in mm, so a filter is the same at every pixel size.
"""

import functools
from typing import NamedTuple

import numpy as np
from scipy import ndimage, sparse

_BINS = 256  # of the frequency axis on which short kernels are designed


class Scene(NamedTuple):
    """What a scanner sees; arrays are float32 [H, W], with the chest wall as in the image."""

    attenuation: np.ndarray  # tissue, a projection or a slice
    spots: np.ndarray  # attenuation of calcifications and distractors
    depth_mm: np.ndarray  # under the skin, negative in the air
    rim: np.ndarray  # attenuation that the rounded rim lacks
    fat: float  # attenuation of fat alone, at full thickness
    spacing_mm: float
    whole: bool  # the whole breast, so the label and the border of a film can be seen
    chest_left: bool

    @property
    def area_cm2(self) -> float:
        """Of the field of view."""
        return self.spots.size * self.spacing_mm**2 / 100

    def mm(self) -> tuple[np.ndarray, np.ndarray]:
        """The pixels' centers x [W] and y [H] in mm from the image's upper left corner."""
        x, y = (np.arange(n) + 0.5 for n in self.spots.shape[::-1])
        return x * self.spacing_mm, y * self.spacing_mm


class Blur(NamedTuple):
    """A point spread: a core and a tail, both Gaussian, beside a square aperture."""

    core_mm: float  # standard deviations
    tail_mm: float = 0.0
    tail: float = 0.0  # the tail's share
    aperture_mm: float = 0.0  # of the detector; the grid's own pixels count towards it

    def mtf(self, frequency: np.ndarray) -> np.ndarray:
        """The presampled modulation transfer along an axis at frequencies in 1 / mm."""
        core, tail = (_spectrum(frequency * sigma) for sigma in (self.core_mm, self.tail_mm))
        both = (1 - self.tail) * core + self.tail * tail
        return both * np.sinc(self.aperture_mm * frequency)


def log_uniform(rng: np.random.Generator, ends: tuple[float, float]) -> float:
    """A number between two, all logarithms as likely."""
    return float(np.exp(rng.uniform(*np.log(ends))))


def white(rng: np.random.Generator, scene: Scene) -> np.ndarray:
    """Noise float32 [H, W] of variance 1 in a pixel of 0.1 mm, so of one power in all pixels."""
    noise = rng.standard_normal(scene.spots.shape, np.float32)
    noise *= 0.1 / scene.spacing_mm
    return noise


def blurred(image: np.ndarray, blur: Blur, spacing_mm: float) -> np.ndarray:
    """The image through a blur; what a pixel's own area does to it is taken as done."""
    aperture = max(blur.aperture_mm / spacing_mm, 1.0)
    image = gaussian(image, blur.core_mm / spacing_mm, aperture) * np.float32(1 - blur.tail) + (
        gaussian(image, blur.tail_mm / spacing_mm, aperture) * np.float32(blur.tail)
        if blur.tail
        else 0
    )
    return image


def gaussian(image: np.ndarray, sigma: float, aperture: float = 1.0) -> np.ndarray:
    """A Gaussian blur of `sigma` pixels and a square one of `aperture` beyond a pixel's own."""
    if (sigma < 0.05 and aperture == 1.0) or not image.any():
        return image.copy()
    weights = kernel(sigma, aperture)
    rows = ndimage.correlate1d(image, weights, axis=0, mode="nearest")
    return ndimage.correlate1d(rows, weights, axis=1, mode="nearest")


@functools.lru_cache(maxsize=256)
def kernel(sigma: float, aperture: float = 1.0) -> np.ndarray:
    """The weights [2 n + 1] whose transfer up to the Nyquist frequency is the blur's.

    Samples of a Gaussian narrower than a pixel would blur far less than it does: at 0.33 pixels
    they keep 0.96 of the Nyquist frequency, the Gaussian 0.58. So the weights are the inverse
    Fourier transform of what the blur does; from 0.8 pixels on both are the same.
    """
    reach = max(4 if sigma < 0.8 else 0, int(3.0 * sigma + 0.5 * (aperture - 1) + 0.5))
    count = max(_BINS, 1 << (4 * reach).bit_length())
    frequency = np.fft.rfftfreq(count)
    wanted = _spectrum(frequency * sigma)
    if aperture > 1:
        wanted = wanted * np.sinc(aperture * frequency) / np.sinc(frequency)
    weights = np.fft.irfft(wanted)
    weights = np.concatenate([weights[-reach:], weights[: reach + 1]]) if reach else weights[:1]
    return weights / weights.sum()


def _spectrum(cycles: np.ndarray) -> np.ndarray:
    """The transfer of a Gaussian at frequencies in cycles for each standard deviation."""
    return np.exp(-2 * np.pi**2 * cycles**2)


def blurred_rows(image: np.ndarray, sigma_mm: float, spacing_mm: float) -> np.ndarray:
    """A Gaussian blur along y only."""
    if not image.any():
        return image.copy()
    return _row_blur(sigma_mm / spacing_mm, len(image)) @ image


@functools.lru_cache(maxsize=32)
def _row_blur(sigma: float, rows: int) -> sparse.csr_array:
    """A Gaussian blur of columns of so many pixels as a matrix; the last pixel goes on outside."""
    weights = kernel(sigma).astype(np.float32)
    reach = len(weights) // 2
    source = np.arange(rows)[:, None] + np.arange(-reach, reach + 1)
    points = source.clip(0, rows - 1).astype(np.int32).ravel()
    starts = np.arange(rows + 1, dtype=np.int32) * len(weights)
    blur = sparse.csr_array((np.tile(weights, rows), points, starts), shape=(rows, rows))
    blur.sum_duplicates()
    return blur


def shifted_rows(image: np.ndarray, pixels: int) -> np.ndarray:
    """The image moved down by whole pixels, with nothing where it came from."""
    moved = np.zeros_like(image)
    if abs(pixels) < len(image):
        target = slice(max(pixels, 0), len(image) + min(pixels, 0))
        source = slice(max(-pixels, 0), len(image) - max(pixels, 0))
        moved[target] = image[source]
    return moved


def smoothed(image: np.ndarray, width_mm: float, spacing_mm: float) -> np.ndarray:
    """The mean over a square twice in turn: a wide blur at the price of a narrow one."""
    side = 2 * int(0.5 * width_mm / spacing_mm) + 1
    for _ in range(2):
        for axis in (0, 1):
            image = ndimage.uniform_filter1d(image, side, axis, mode="nearest")
    return image
