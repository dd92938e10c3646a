"""Views beyond the paper: location and scale of the grays.

As in `views`, each exists in numpy and as TensorFlow operations, with the same arithmetic in the
same order.
"""

from typing import Any

import numpy as np

from mln_flax.types import UserError, View


def location_scale(scale: float, shift: float) -> View:
    """The image times `scale` plus `shift`, clipped to [0, 1] (as in Su et al. 2023).

    The published augmentation draws both anew for each image; here they are fixed, since a view
    is one and the same map for every image.

    Raises:
      UserError: `scale` is not above 0 (for below, `invert` is the view), or a number is not
        finite.
    """
    if not (0 < scale < np.inf and np.isfinite(shift)):
        raise UserError(
            f"location_scale({scale}, {shift}): the scale must be above 0, the shift finite"
        )
    scale, shift = float(scale), float(shift)

    def in_numpy(image: Any) -> np.ndarray:
        return np.clip(np.asarray(image) * scale + shift, 0, 1)

    def in_tf(image: Any) -> Any:
        import tensorflow as tf

        return tf.clip_by_value(image * scale + shift, 0.0, 1.0)

    return View(f"location_scale({scale}, {shift})", in_numpy, in_tf)
