"""What is left of the numbers of many images: enough for mean and deviation over them."""

from typing import Any, NamedTuple

import numpy as np


class Sums(NamedTuple):
    """What is left of [N, C] values of N images: enough for mean and deviation over them.

    Kept in place of the values, whose memory would grow with the data set.
    """

    images: int
    first: np.ndarray  # float64 [C]: sum
    second: np.ndarray  # float64 [C]: sum of squares

    @classmethod
    def of(cls, values: Any) -> "Sums":
        """The sums of values [N, C]."""
        exact = np.asarray(values, np.float64)
        return cls(len(exact), exact.sum(axis=0), np.square(exact).sum(axis=0))

    def plus(self, other: "Sums") -> "Sums":
        """The sums over the images of both."""
        return Sums(
            self.images + other.images, self.first + other.first, self.second + other.second
        )

    def mean(self) -> np.ndarray:
        """Mean over the images, [C]."""
        return self.first / self.images

    def mean_square(self) -> np.ndarray:
        """Mean of the squares over the images, [C]."""
        return self.second / self.images

    def std(self) -> np.ndarray:
        """Standard deviation over the images, [C]."""
        return np.sqrt(np.maximum(self.mean_square() - np.square(self.mean()), 0))
