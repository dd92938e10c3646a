"""What surrounds the breast: the level of the air, burnt-in frames and burnt-in text."""

import numpy as np


def without_frame(image: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """x."""
    return image, ()
