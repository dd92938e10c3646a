"""Pictures of one answered image: its view, what is marked in it, and its maps, as files' bytes."""

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from mln_flax.results import number_places

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont

LONGEST_PX = 1600  # side of a view: a larger image is shown smaller
_LEAST_PX = 800  # and a smaller one in squares of whole pixels, at least about so large
_THUMBNAIL_PX = 256
_GAP_PX = 12  # between the two panels
# Okabe and Ito's orange and sky blue, brightened for thin lines on gray: they differ in lightness
# and hue for the color-blind. The dark rim carries them over white.
CLUSTER, CALCIFICATION, RIM = (255, 178, 30), (110, 200, 255), (0, 0, 0)
NEGATIVE = (86, 180, 233)
_STRONGEST = 0.85  # opacity of a map's largest values
_ENDINGS = {"thumbnail": "_thumbnail.jpg"}

# What is drawn of a cluster: (row, column) corners, in pixels of the image.
_Outline = Sequence[tuple[float, float]]


def pictures(
    image: np.ndarray,
    clusters: Sequence[Any] = (),
    mask: np.ndarray | None = None,
    maps: Mapping[str, np.ndarray] | None = None,
) -> dict[str, bytes]:
    """The pictures of one image by name; `ending(name)` is what its file's name ends in.

    - `view`: 8-bit gray, longest side 1600 px; small images in squares of whole pixels;
    - `marks`: RGBA of the view's size: clusters outlined and numbered, calcifications ringed;
    - `overlay`: the untouched view, and the view with the marks, beside each other;
    - `thumbnail`: a JPEG of at most 256 px with the clusters' outlines;
    - every map by its own name: RGBA of the view's size, clear below 1% of its scale.

    Maps called `branch ...` are probabilities and have one scale, 0 to 1; they are shown small, so
    every value is spread to its surround (about 1/130 of the longest side) to stay seen. Of other
    maps the strongest color stands for the 99.9th percentile of what is not zero. One with negative
    values shows them in blue, the positive ones in orange.

    Args:
      image: float32 [H, W] in [0, 1].
      clusters: each with `number`, `outline` and `box`, as attributes (`clusters.Cluster`) or as
        keys (an entry of an image's JSON).
      mask: bool [H, W], the calcifications.
      maps: name -> float32 [H, W].

    Raises:
      ValueError: two maps whose files would have one name.
    """
    layers = map_layers(image.shape, maps or {})
    gray = _resized(image, shown_size(*image.shape))
    height, width = gray.shape
    scale = (height / image.shape[0], width / image.shape[1])
    outlines = [_outline(cluster) for cluster in clusters]
    marks = _marks(
        (height, width),
        [_scaled(outline, scale) for outline in outlines],
        [int(_field(cluster, "number")) for cluster in clusters],
        None if mask is None else _shown_mask(mask, (height, width)),
    )
    return {
        "view": _png(_picture(gray)),
        "marks": _png(marks),
        "overlay": _png(_panels(_picture(gray), marks)),
        "thumbnail": _thumbnail(gray, image.shape, outlines),
        **layers,
    }


def map_layers(shape: tuple[int, ...], maps: Mapping[str, np.ndarray]) -> dict[str, bytes]:
    """The maps of an image of this shape (H, W), as `pictures` draws them; it raises alike."""
    if len({ending(name) for name in maps}) < len(maps):
        raise ValueError(f"maps {', '.join(maps)}: two of them would have one file")
    size = shown_size(*shape)
    return {name: _png(_heat(each, size, name)) for name, each in maps.items()}


def ending(name: str) -> str:
    """What the name of a picture's file ends in: `_view.png`, `_branch-bezier-0.3.png`."""
    return _ENDINGS.get(name) or f"_{re.sub('[^A-Za-z0-9.]+', '-', name).strip('-.')}.png"


def shown_size(height: int, width: int) -> tuple[int, int]:
    """(height, width) of the view of an image."""
    longest = max(height, width)
    if longest > LONGEST_PX:
        factor = LONGEST_PX / longest
        return max(1, round(height * factor)), max(1, round(width * factor))
    whole = -(-_LEAST_PX // longest)
    return height * whole, width * whole


def _field(cluster: Any, name: str) -> Any:
    return cluster[name] if isinstance(cluster, Mapping) else getattr(cluster, name)


def _outline(cluster: Any) -> _Outline:
    corners = [tuple(corner) for corner in _field(cluster, "outline")]
    if len(corners) > 2:
        return corners
    top, left, bottom, right = _field(cluster, "box")
    rows, columns = (top - 0.5, bottom - 0.5), (left - 0.5, right - 0.5)
    return [(rows[i], columns[j]) for i, j in ((0, 0), (0, 1), (1, 1), (1, 0))]


def _scaled(outline: _Outline, scale: tuple[float, float]) -> _Outline:
    """Corners in a picture that is so much larger; pixel centers are at integers in both."""
    down, across = scale
    return [((row + 0.5) * down - 0.5, (column + 0.5) * across - 0.5) for row, column in outline]


def _resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [h, w] of an image float [H, W] in [0, 1]."""
    values = _sampled(image, size, smooth=True)
    return (np.clip(values, 0, 1) * 255 + 0.5).astype(np.uint8)


def _sampled(values: np.ndarray, size: tuple[int, int], smooth: bool) -> np.ndarray:
    """float32 [h, w]; what is enlarged keeps its pixels as squares."""
    from PIL import Image

    if values.shape == size:
        return values.astype(np.float32)
    filters = Image.Resampling
    reducing = filters.LANCZOS if smooth else filters.BOX
    by = filters.NEAREST if size[0] >= values.shape[0] else reducing
    return np.asarray(_picture(values.astype(np.float32)).resize(size[::-1], by))


def _shown_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Where (bool [h, w]) a pixel of the view holds anything of the mask."""
    return _sampled(mask.astype(np.float32), size, smooth=False) > 1e-3


def _marks(
    size: tuple[int, int], outlines: Sequence[_Outline], numbers: Sequence[int], mask: Any
) -> "Image":
    """RGBA: rings around calcifications, outlines of clusters, and their numbers beside them."""
    from PIL import Image

    width, letters = _line_width(size), _font(size)
    marks = Image.new("RGBA", size[::-1], (0, 0, 0, 0))
    if mask is not None and mask.any():
        _paint(marks, _rings(mask, max(1, width // 2)), CALCIFICATION)
    sides = [_text_size(letters, str(number), width) for number in numbers]
    places = number_places.places(size, outlines, sides, gap=2 * width)
    leaders = number_places.leaders(places, sides, outlines, farthest=letters.size)
    lines = [_closed(outline) for outline in outlines] + leaders
    rim, line = (_lines(size, lines, each) for each in (2 * width + 1, width))
    for number, (top, left) in zip(numbers, places, strict=True):
        for layer, stroke in ((rim, width), (line, 0)):
            at = (left + width, top + width)  # the letters' own corner, within their rim
            _write(layer, at, str(number), letters, stroke)
    _paint(marks, rim, RIM)
    _paint(marks, line, CLUSTER)
    return marks


def _line_width(size: tuple[int, int]) -> int:
    return max(3, round(max(size) / 500))


def _font(size: tuple[int, int]) -> "FreeTypeFont":
    from PIL import ImageFont

    return ImageFont.load_default(max(22, round(max(size) / 40)))  # type: ignore[return-value]


def _text_size(font: "FreeTypeFont", text: str, rim: int) -> tuple[int, int]:
    """(height, width) of letters with their rim."""
    left, top, right, bottom = font.getbbox(text)
    return int(bottom - top) + 2 * rim, int(right - left) + 2 * rim


def _write(
    layer: "Image", at: tuple[int, int], text: str, font: "FreeTypeFont", stroke: int
) -> None:
    from PIL import ImageDraw

    left, top, _, _ = font.getbbox(text)
    corner = (at[0] - left, at[1] - top)
    ImageDraw.Draw(layer).text(corner, text, 255, font, stroke_width=stroke, stroke_fill=255)


def _closed(outline: _Outline) -> _Outline:
    return [*outline, *outline[:2]]  # the second corner again: its joint is round like the others


def _lines(size: tuple[int, int], lines: Sequence[_Outline], width: int) -> "Image":
    """Opacity, mode L, of lines through (row, column) corners; drawn twice as large for edges."""
    from PIL import Image, ImageDraw

    large = Image.new("L", (2 * size[1], 2 * size[0]))
    pen = ImageDraw.Draw(large)
    for corners in lines:
        points = [(2 * column + 0.5, 2 * row + 0.5) for row, column in corners]
        pen.line(points, fill=255, width=2 * width, joint="curve")
    return large.reduce(2)


def _rings(mask: np.ndarray, width: int) -> "Image":
    """Opacity of lines one pixel away from the mask: what is marked stays seen."""
    square = np.ones((3, 3), bool)
    inner = ndimage.binary_dilation(mask, square)
    return _picture((ndimage.binary_dilation(inner, square, width) & ~inner) * np.uint8(255))


def _paint(picture: "Image", opacity: "Image", color: tuple[int, int, int]) -> None:
    from PIL import Image

    layer = Image.new("RGBA", picture.size, (*color, 0))
    layer.putalpha(opacity)
    picture.alpha_composite(layer)


def _panels(view: "Image", marks: "Image") -> "Image":
    from PIL import Image

    width, height = view.size
    both = Image.new("RGB", (2 * width + _GAP_PX, height), (255, 255, 255))
    plain = view.convert("RGBA")
    for left, panel in ((0, plain), (width + _GAP_PX, Image.alpha_composite(plain, marks))):
        both.paste(panel.convert("RGB"), (left, 0))
    return both


def _thumbnail(gray: np.ndarray, shape: tuple[int, ...], outlines: Sequence[_Outline]) -> bytes:
    from PIL import Image

    factor = min(1.0, _THUMBNAIL_PX / max(gray.shape))
    size = (max(1, round(gray.shape[0] * factor)), max(1, round(gray.shape[1] * factor)))
    small = _picture(gray).resize(size[::-1], Image.Resampling.BOX).convert("RGBA")
    scale = (size[0] / shape[0], size[1] / shape[1])
    lines = [_closed(_scaled(outline, scale)) for outline in outlines]
    _paint(small, _lines(size, lines, 4), RIM)
    _paint(small, _lines(size, lines, 2), CLUSTER)
    buffer = io.BytesIO()
    small.convert("RGB").save(buffer, format="JPEG", quality=85)
    return buffer.getvalue()


def _heat(values: np.ndarray, size: tuple[int, int], name: str) -> "Image":
    """RGBA of a map: color and opacity grow with its values."""
    import matplotlib

    shown = _sampled(np.nan_to_num(values), size, smooth=False)
    strength = np.abs(shown)
    some, largest = strength[strength > 0], 1.0
    if name.startswith("branch "):
        strength = ndimage.maximum_filter(strength, max(1, max(size) // 130))
    elif some.size:
        largest = float(np.percentile(some, 99.9))
    strength = np.clip(strength / largest, 0, 1)
    if (shown < 0).any():
        color = np.where((shown < 0)[..., None], NEGATIVE, CLUSTER).astype(np.uint8)
    else:  # from 0.3: the darkest colors are not seen on dark tissue
        color = matplotlib.colormaps["plasma"](0.3 + 0.7 * strength, bytes=True)[..., :3]
    opacity = np.where(strength > 0.01, np.sqrt(strength) * _STRONGEST, 0) * 255
    color[opacity == 0] = 0  # a file of clear pixels of one color is small
    return _picture(np.dstack([color, opacity.astype(np.uint8)]))


def _picture(array: np.ndarray) -> "Image":
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(array))


def _png(picture: "Image") -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", compress_level=5)
    return buffer.getvalue()
