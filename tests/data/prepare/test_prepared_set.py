"""The data set of a run, read from prepared folders: its parts, its refusals, two hosts."""

import dataclasses

import numpy as np
import pytest
import trees

from mln_flax import files
from mln_flax.config import SplitConfig, TilesConfig, ViewsConfig
from mln_flax.data.core import PARTS
from mln_flax.data.images import images_of
from mln_flax.data.prepare import prepare, prepared_set
from mln_flax.data.prepare.prepare import REPORT, SETTINGS
from mln_flax.engine.input_pipeline import Plan, train_batches
from mln_flax.types import UserError
from mln_flax.views.intensity import make_view


def orders(domains=("film", "ffdm"), patients=10, kinds=(), name=""):
    """Two images of each patient in each domain; every third image has no label."""
    return [
        trees.Order(
            f"{name}{domain}{patient}_{view}",
            f"{name}P{patient}",
            domain,
            spots=(patient + view) % 3,
            kind=dict(kinds).get(domain, "calcification"),
        )
        for domain in domains
        for patient in range(patients)
        for view in range(2)
    ]


def make(folder, wanted, **changes):
    """The settings of a folder made and prepared with these orders, and where it is."""
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        trees.enter(patch, wanted)
        data = trees.made_settings(folder / "data", **changes)
        prepare.prepare(data, folder / "prepared")
    return data, folder / "prepared"


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Film and ffdm of the same ten patients in one folder: to be read only."""
    return make(tmp_path_factory.mktemp("both") / "both", orders(), targets=("ffdm",))


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A folder of another data set with the domain dbt: to be read only."""
    return make(
        tmp_path_factory.mktemp("other") / "other", orders(("dbt",), 6, name="x"), source="dbt"
    )


def said(folder):
    return files.read_json(folder / REPORT)["images"]


def of(images, domain, *parts):
    return [image for image in images if image["domain"] == domain and image["part"] in parts]


def test_source_and_target_get_their_parts(both):
    data, folder = both
    loaded = prepared_set.load(data, folder)
    assert [(part.domain, part.name) for part in loaded.parts] == [
        *(("film", name) for name in PARTS),
        ("ffdm", "test"),
    ]
    whole = TilesConfig(min_breast=0.0)
    loaded = prepared_set.load(dataclasses.replace(data, tiles=whole), folder)
    for part in loaded.parts:
        images = of(said(folder), part.domain, part.name)
        assert images and len(part.examples) == 4 * len(images)
        assert part.patient_ids == {image["patient"] for image in images}
        assert list(part.label_pixels) == sum((i["tile_label_pixels"] for i in images), [])
        examples = list(part.examples)
        assert tuple(int(tile.mask.sum()) for tile in examples) == part.label_pixels
        assert {tile.patient_id for tile in examples} == part.patient_ids
        assert {tile.domain for tile in examples} == {part.domain}
        names = [f"{i['image_id']}_r{r}c{c}" for i in images for r in (0, 1) for c in (0, 1)]
        assert [tile.image_id for tile in examples] == names


def test_tiles_without_breast_are_dropped_in_training_only(both):
    data, folder = both
    images = said(folder)
    shares = [share for image in images for share in image["tile_breast"]]
    least = float(np.median(shares))
    assert min(shares) < least < max(shares)
    tiles = TilesConfig(min_breast=least)
    loaded = prepared_set.load(dataclasses.replace(data, tiles=tiles), folder)
    for part in loaded.parts:
        chosen = of(images, part.domain, part.name)
        if part.name == "train":
            kept = [
                pixels
                for image in chosen
                for share, pixels in zip(
                    image["tile_breast"], image["tile_label_pixels"], strict=True
                )
                if share >= least
            ]
            assert 0 < len(kept) < 4 * len(chosen)
            assert list(part.label_pixels) == kept
            assert [int(tile.mask.sum()) for tile in part.examples] == kept
        else:
            assert len(part.examples) == 4 * len(chosen)


def test_every_patient_of_the_source_is_in_one_part(both):
    data, folder = both
    loaded = prepared_set.load(data, folder)
    ids = [part.patient_ids for part in loaded.parts]
    assert not ids[0] & ids[1] and not ids[0] & ids[2] and not ids[1] & ids[2]
    assert len(ids[0] | ids[1] | ids[2]) == 10
    assert ids[3] == ids[2]  # the target's patients are those that the source tests on


def test_targets_of_other_folders_count_whole(both, other):
    data, folder = both
    loaded = prepared_set.load(
        dataclasses.replace(data, targets=("dbt", "ffdm"), also=(str(other[1]),)), folder
    )
    images = of(said(other[1]), "dbt", *PARTS)
    part = loaded.part("dbt", "test")
    assert len(images) == 12 and len(part.examples) == 48 and len(part.patient_ids) == 6
    assert {image["part"] for image in images} == set(PARTS)
    names = [f"{i['image_id']}_r{r}c{c}" for i in images for r in (0, 1) for c in (0, 1)]
    assert [tile.image_id for tile in part.examples] == names
    assert [int(tile.mask.sum()) for tile in part.examples] == list(part.label_pixels)
    assert len(loaded.part("ffdm", "test").patient_ids) < 10
    with pytest.raises(KeyError):
        loaded.part("dbt", "train")


def test_notes_tell_the_parts(both):
    data, folder = both
    loaded = prepared_set.load(data, folder)
    assert loaded.notes[0].startswith(f"prepared in {folder}: 40 images, 0 left out")
    part = loaded.part("film", "test")
    labeled = sum(pixels > 0 for pixels in part.label_pixels)
    assert loaded.notes[3] == (
        f"film test: {len(part.patient_ids)} patients, {len(part.examples)} tiles, "
        f"{labeled} with a label"
    )
    assert len(loaded.notes) == 5


def test_domains_that_are_not_there_are_told_with_those_that_are(both):
    data, folder = both
    for change in ({"source": "fil"}, {"targets": ("fil",)}):
        with pytest.raises(UserError, match="no domain 'fil' .did you mean 'film'.. .*film, ffdm"):
            prepared_set.load(dataclasses.replace(data, **change), folder)


@pytest.mark.parametrize("targets", [("film",), ("ffdm", "ffdm"), ("ffdm", "film")])
def test_a_domain_is_named_once(both, targets):
    data, folder = both
    with pytest.raises(UserError, match="twice|also the source|is a domain that training never"):
        prepared_set.load(dataclasses.replace(data, targets=targets), folder)


def test_a_domain_in_two_folders_is_refused(both, tmp_path):
    data, folder = both
    _, second = make(tmp_path / "second", orders(("ffdm",), 3))
    with pytest.raises(UserError, match=f"also={second}: domain 'ffdm' is also in {folder}"):
        prepared_set.load(dataclasses.replace(data, also=(str(second),)), folder)
    with pytest.raises(UserError, match="'film' is also in"):
        prepared_set.load(dataclasses.replace(data, also=(str(folder),)), folder)


def test_tiles_of_another_size_are_refused(both, tmp_path):
    data, folder = both
    with pytest.raises(UserError, match=f"{folder}: .*64 pixels a side, .*data.size is 32"):
        prepared_set.load(dataclasses.replace(data, size=32), folder)
    _, small = make(tmp_path / "small", orders(("dbt",), 3), size=32)
    with pytest.raises(UserError, match=f"{small}: .*32 pixels a side, .*data.size is 64"):
        prepared_set.load(dataclasses.replace(data, also=(str(small),)), folder)


def test_only_what_is_prepared_to_the_end_counts(both, tmp_path):
    data, folder = both
    (tmp_path / "half").mkdir()
    files.write_json(tmp_path / "half" / SETTINGS, prepare.settings_of(data))
    for missing in (tmp_path / "half", tmp_path / "none"):
        for change, first in (({}, missing), ({"also": (str(missing),)}, folder)):
            with pytest.raises(UserError, match=f"{missing}: is not prepared .*--mode=prepare"):
                prepared_set.load(dataclasses.replace(data, **change), first)


def test_another_format_is_refused(both, other, tmp_path):
    (tmp_path / "old").mkdir()
    for name in (REPORT, SETTINGS):
        (tmp_path / "old" / name).write_bytes((other[1] / name).read_bytes())
    settings = files.read_json(other[1] / SETTINGS)
    files.write_json(tmp_path / "old" / SETTINGS, settings | {"format": prepare.FORMAT + 1})
    data = dataclasses.replace(both[0], also=(str(tmp_path / "old"),))
    with pytest.raises(UserError, match="another version|other settings|format"):
        prepared_set.load(data, both[1])


def test_masks_of_two_kinds_are_refused_in_the_source_and_told_of_in_a_target(tmp_path):
    few = orders(patients=4)
    wanted = orders(patients=4, kinds={"ffdm": "cluster"})
    data, folder = make(tmp_path / "a", wanted, targets=("ffdm",))
    notes = prepared_set.load(data, folder).notes
    (note,) = [note for note in notes if note.startswith("ATTENTION")]
    assert "masks of ffdm are of kind cluster" in note and "kind calcification" in note
    assert not any("ATTENTION" in n for n in prepared_set.load(_only(data), folder).notes)
    mixed = [o._replace(kind="cluster" if o.key.endswith("1") else o.kind) for o in few]
    data, folder = make(tmp_path / "b", mixed, targets=("ffdm",))
    with pytest.raises(UserError, match="'film' has masks of two kinds, calcification and cluster"):
        prepared_set.load(data, folder)
    normal = [o._replace(spots=0) if o.domain == "ffdm" else o for o in few]
    data, folder = make(tmp_path / "c", normal, targets=("ffdm",))
    assert not any("ATTENTION" in note for note in prepared_set.load(data, folder).notes)


def _only(data):
    return dataclasses.replace(data, targets=())


def test_damaged_tiles_are_told_before_training(tmp_path):
    data, folder = make(tmp_path / "a", orders(("film",), 5))
    path = next(folder.rglob("*film_train.array_record*"))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=f"remove {folder} and prepare again"):
        prepared_set.load(data, folder)


STILL = ViewsConfig(flip=False, scale=(1.0, 1.0))


@pytest.mark.parametrize("backend", ["tf", "numpy"])
@pytest.mark.parametrize("cache_gb", [0.0, 1.0])
def test_two_hosts_see_every_example_once_an_epoch(tmp_path, backend, cache_gb):
    split = SplitConfig(validation=0.2, test=0.2)
    data, folder = make(tmp_path / "a", orders(("film",), 5), split=split)
    part = prepared_set.load(data, folder).part("film", "train")
    count = len(part.examples)
    plan = Plan((make_view("identity"),), STILL, batch_size=4, seed=7)
    images = images_of(part, cache_gb)
    known = np.stack([tile.image for tile in part.examples])
    assert len(np.unique(known, axis=0)) == count == images.total  # each can be told by its pixels
    epochs = 4  # together the batches of four epochs end where an epoch ends
    seen = np.zeros((epochs * count // 4, 4), int)
    for host in range(2):
        batches = train_batches(images, plan, 0, epochs * count // 4, (host, 2), backend)
        for step, batch in enumerate(batches):
            equal = (np.asarray(batch.image)[:, None, ..., 0] == known).all(axis=(2, 3))
            assert equal.shape == (2, count) and (equal.sum(axis=1) == 1).all()
            found = equal.argmax(axis=1)
            seen[step, 2 * host : 2 * host + 2] = found
            for row, index in enumerate(found):
                assert (np.asarray(batch.mask)[row] == part.examples[index].mask).all()
    each = seen.reshape(epochs, count)
    assert (np.sort(each, axis=1) == np.arange(count)).all()
    assert len(np.unique(each, axis=0)) == epochs


def test_a_copy_of_the_source_is_no_target(both, tmp_path):
    """Its patients have other hashes there, drawn with another salt."""
    data, folder = both
    copied = [order._replace(domain="dbt") for order in orders(("film",))]
    _, copy = make(tmp_path / "copy", copied, source="dbt")
    assert not {i["patient"] for i in said(copy)} & {i["patient"] for i in said(folder)}
    settings = dataclasses.replace(data, targets=("dbt",), also=(str(copy),))
    with pytest.raises(UserError, match="20 images of target 'dbt' in .* are also in the source's"):
        prepared_set.load(settings, folder)


def test_other_folders_are_looked_at_before_anything_is_prepared(both, tmp_path):
    data, folder = both
    prepared_set.check_also(dataclasses.replace(data, also=(str(folder),)))
    with pytest.raises(UserError, match="nowhere: is not prepared to the end"):
        prepared_set.check_also(dataclasses.replace(data, also=(str(tmp_path / "nowhere"),)))
