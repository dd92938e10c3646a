"""Small collections for the tests of preparation: phantoms on a disk, and drawn to order."""

import functools
import hashlib
import pathlib
from typing import NamedTuple

import numpy as np

from mln_flax.config import DataConfig
from mln_flax.data import core
from mln_flax.data.core import Collection, Entry, Example, Index, LeftOut, Reading, Unusable
from mln_flax.data.phantoms.phantom import phantom
from mln_flax.data.prepare import staging

SIZE = 64  # of a tile
SHAPE = (256, 192)  # of a whole image


@functools.cache
def drawn(domain, index):
    return phantom(0, domain, index, height=SHAPE[0], width=SHAPE[1], spacing_mm=0.2)


def write_npz(root, images=8, domains=("film", "ffdm")):
    """DOMAIN/case_SLICE.npz of phantoms, two slices to a case, the same cases in each domain."""
    for domain in domains:
        (root / domain).mkdir(parents=True, exist_ok=True)
        for index in range(images):
            example = drawn(domain, index)
            path = root / domain / f"case{index // 2}_{index % 2}.npz"
            np.savez(path, image=example.image, label=example.mask)
    return root


def npz_settings(root, **changes):
    chosen = {"source": "film", "targets": ("ffdm",), "size": SIZE, "workers": 1} | changes
    return DataConfig(name="npz", dir=str(root), **chosen)


class Order(NamedTuple):
    """One image of the collection `made`; `why` leaves it out, for its mask if `mask` says so."""

    key: str
    patient: str
    domain: str = "film"
    part: str = ""
    spots: int = 1  # objects
    shape: tuple[int, int] = (81, 67)
    spacing_mm: tuple[float, float] | None = (0.2, 0.3)
    kind: str = "calcification"
    why: str = ""
    mask: str = ""
    repaired: tuple[str, ...] = ()


def breast(shape):
    """A smooth breast at the left edge of dark air, float32 in [0, 1]."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    depth = 1 - np.hypot((rows - shape[0] / 2) / (0.55 * shape[0]), columns / (0.75 * shape[1]))
    return np.where(depth > 0, 0.3 + 0.6 * depth, 0.02).astype(np.float32)


def discs(shape, count):
    """Objects as bits, uint16: discs in the breast, each overlapping the one before."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    objects = np.zeros(shape, np.uint16)
    for bit in range(count):
        row, column = shape[0] * (0.3 + 0.11 * bit), shape[1] * (0.2 + 0.09 * bit)
        radius = (0.09 + 0.005 * bit) * shape[0]
        objects[np.hypot(rows - row, columns - column) <= radius] |= np.uint16(1 << bit)
    return objects


def example_of(order):
    """The whole image of an order."""
    objects = discs(order.shape, order.spots)
    digest = hashlib.sha256(order.key.encode()).digest()[:4]  # images differ in their level
    level = int.from_bytes(digest, "big") / 2**32
    return Example(
        image=breast(order.shape) * np.float32(0.8 + 0.2 * level),
        mask=(objects > 0).astype(np.uint8),
        image_id="",
        patient_id="",
        domain=order.domain,
        laterality="L",
        view_position="MLO",
        spacing_mm=order.spacing_mm,
        label_kind=order.kind if order.spots else "none",
        objects=objects,
    )


def enter(monkeypatch, orders, left_out=(), secrets=()):
    """Enters the collection `made` of these orders; it is known to this process only."""

    def index(data):
        entries = [
            Entry(
                order.key,
                order.patient,
                order.domain,
                order.part,
                tuple(f"{data.dir}/{name}" for name in (f"{order.key}.dcm", order.mask) if name),
                repaired=order.repaired,
            )
            for order in orders
        ]
        others = [LeftOut(str(pathlib.Path(data.dir) / name), why) for name, why in left_out]
        return Index(tuple(entries), tuple(others), frozenset(secrets))

    def read(entry, data):
        (order,) = [order for order in orders if order.key == entry.key]
        if order.why:
            raise Unusable(order.why, f"{data.dir}/{order.mask}" if order.mask else "")
        return Reading(example_of(order))

    monkeypatch.setitem(core.collections._entries, "made", lambda: Collection(index, read))


def made_settings(root, **changes):
    root.mkdir(exist_ok=True)
    chosen = {"source": "film", "targets": (), "size": SIZE, "workers": 1} | changes
    return DataConfig(name="made", dir=str(root), **chosen)


def contents(folder):
    """The bytes of every file below a folder, by its path there."""
    files = (path for path in pathlib.Path(folder).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


class Interrupted(BaseException):
    pass


def interrupt(monkeypatch, after):
    """Staging that ends after so many images; returns the list of the staged ones."""
    real, staged = staging.stage, []

    def stage(task, data):
        if len(staged) == after:
            raise Interrupted
        facts = real(task, data)
        staged.append(task.path.name)
        return facts

    monkeypatch.setattr(staging, "stage", stage)
    return staged


def top(folder):
    """The names in a folder."""
    return {path.name for path in pathlib.Path(folder).iterdir()}
