"""Phantoms as a TFDS data set, drawn when it is prepared; nothing is fetched.

    import tensorflow_datasets as tfds
    from mln_flax.data.phantom_files.tfds_builder import MlnFlaxPhantoms

    images = tfds.load("mln_flax_phantoms/ffdm", split="test")
    config = MlnFlaxPhantoms.config("film", count=1000, size=256)
    builder = tfds.builder("mln_flax_phantoms", config=config)

TFDS is imported, and told of the builder, when the class is first asked for.
"""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mln_flax.config import DataConfig, PhantomConfig, PhantomsConfig
from mln_flax.data.core import PARTS
from mln_flax.data.phantom_files import plan
from mln_flax.data.phantoms import phantom
from mln_flax.data.phantoms.store import SOURCES
from mln_flax.data.prepare.prepared import to_bits
from mln_flax.types import UserError

NAME = "mln_flax_phantoms"
VERSION = "1.0.0"
VALIDATION, TEST = 0.1, 0.3  # shares of the patients


def __getattr__(name: str) -> Any:
    if name == "MlnFlaxPhantoms":
        return _builder_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@functools.cache  # TFDS takes each name once
def _builder_class() -> Any:
    import tensorflow_datasets as tfds

    config_class = _config_class()

    class MlnFlaxPhantoms(tfds.core.GeneratorBasedBuilder):
        """Drawn mammograms with pixel-exact masks of their calcifications."""

        VERSION = tfds.core.Version(VERSION)
        BUILDER_CONFIGS = [config_class(name=name, domain=name) for name in phantom.DOMAINS]
        name = NAME
        pkg_dir_path = Path(__file__).parent
        config = staticmethod(_config)

        def __init__(self, **kwargs: Any):
            super().__init__(**kwargs)
            drawn_by = (self.info.metadata or {}).get("drawing_code")
            if drawn_by != SOURCES:  # TFDS has read it from the folder, where there is one
                raise UserError(
                    f"{self.data_dir}: holds phantoms that other code has drawn; remove it, or "
                    "give another data_dir"
                )

        def _info(self) -> Any:
            return tfds.core.DatasetInfo(
                builder=self,
                description=self.__doc__,
                features=_features(),
                metadata=tfds.core.MetadataDict(drawing_code=SOURCES),
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            tasks = _tasks(self.builder_config)
            parts = {part: [task for task in tasks if task.part == part] for part in PARTS}
            return {part: _examples(chosen) for part, chosen in parts.items() if chosen}

        def _generate_examples(self, *args: Any) -> Any:
            raise NotImplementedError  # each split has its own

    return MlnFlaxPhantoms


@functools.cache
def _config_class() -> Any:
    import dataclasses

    import tensorflow_datasets as tfds

    @dataclasses.dataclass(eq=False)
    class Phantoms(tfds.core.BuilderConfig):
        """Which phantoms: as the settings `phantoms` and `data` say it."""

        domain: str = "ffdm"
        count: int = PhantomsConfig.count
        whole: bool = False
        normal: float = PhantomsConfig.normal
        validation: float = VALIDATION
        test: float = TEST
        size: int = DataConfig.size
        seed: int = PhantomConfig.seed
        spacing_mm: float = PhantomConfig.spacing_mm

    return Phantoms


def _config(domain: str, **changes: Any) -> Any:
    """The builder config of a domain with some values changed, which its name tells.

    Args:
      domain: the machine.
      **changes: count, whole, normal, validation, test, size, seed, spacing_mm.

    Raises:
      UserError: an unknown domain or name.
    """
    phantom.check_domain(domain)
    words = [
        f"{name}{int(value) if isinstance(value, bool) else value}"
        for name, value in sorted(changes.items())
    ]
    try:
        return _config_class()(name="-".join((domain, *words)), domain=domain, **changes)
    except TypeError as error:
        raise UserError(f"MlnFlaxPhantoms.config: {error}") from None


def _tasks(config: Any) -> list[plan.Task]:
    shares = plan.Shares(config.normal, config.validation, config.test)
    size = 0 if config.whole else config.size
    return plan.of_domain(config.domain, config.seed, config.count, shares, size, config.spacing_mm)


def _features() -> Any:
    """What an example holds."""
    import tensorflow_datasets as tfds

    text, number = tfds.features.Text, np.float32
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(
                shape=(None, None, 1), dtype=np.uint16, encoding_format="png"
            ),
            "mask": tfds.features.Image(  # 0, and 1 in calcifications
                shape=(None, None, 1), dtype=np.uint8, encoding_format="png"
            ),
            "image_id": text(),
            "patient_id": text(),
            "domain": text(),
            "laterality": text(),
            "view": text(),
            "spacing_mm": tfds.features.Tensor(shape=(2,), dtype=number),  # row, column
            "objects": tfds.features.Sequence(
                {
                    "row": number,
                    "column": number,
                    "area_mm2": number,
                    "length_mm": number,
                    "cluster": np.int32,
                }
            ),
        }
    )


def _examples(tasks: list[plan.Task]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each phantom, drawn when it is asked for, under its name."""
    for task in tasks:
        example = plan.draw(task)
        spots = plan.object_rows(example.image_id, plan.marks_of(example).calcifications)
        names = ("row", "column", "area_mm2", "length_mm", "cluster")
        yield (
            example.image_id,
            {
                "image": to_bits(example.image)[..., None],
                "mask": example.mask[..., None],
                "image_id": example.image_id,
                "patient_id": example.patient_id,
                "domain": example.domain,
                "laterality": example.laterality,
                "view": example.view_position,
                "spacing_mm": np.array(example.spacing_mm, np.float32),
                "objects": [{name: spot[name] for name in names} for spot in spots],
            },
        )
