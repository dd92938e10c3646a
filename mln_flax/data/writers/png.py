"""Gray images as PNG, 8 or 16 bits, that say how many of them they use."""

import io

import numpy as np

# PNG 11.3.2.7: how many bits of a sample matter. Without it a dark image of 16 bits cannot be told
# from one of 12 bits that nobody has scaled.
SIGNIFICANT = b"sBIT"


def content(pixels: np.ndarray) -> bytes:
    """The bytes of a PNG file.

    Args:
      pixels: uint8 or uint16 [H, W].
    """
    from PIL import Image, PngImagePlugin

    info = PngImagePlugin.PngInfo()
    info.add(SIGNIFICANT, bytes([8 * pixels.itemsize]))
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()
