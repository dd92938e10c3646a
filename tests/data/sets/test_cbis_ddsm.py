import csv
import dataclasses
import pathlib
import pickle
import re

import cbis_trees as trees
import numpy as np
import pytest
from PIL import Image

from mln_flax import settings as config_files
from mln_flax.config import DataConfig
from mln_flax.data.core import Unusable, collections
from mln_flax.data.sets import cbis_ddsm, cbis_files, cbis_names
from mln_flax.types import UserError

CONFIGS = pathlib.Path(__file__).parents[3] / "configs"
CASE = re.compile(r"(?:Calc|Mass)-\w+?_P_\d+_(?:LEFT|RIGHT)_(?:CC|MLO)")
SINGLE = "Calc-Test_P_00038_LEFT_CC"
DOUBLE = "Calc-Test_P_00038_RIGHT_CC"

# Why what is left out, by case or table, in every layout.
LEFT_OUT = {
    "Calc-Test_P_00038_RIGHT_MLO": ["abnormality 2: mask with no pixel"],
    "Calc-Test_P_00041_LEFT_MLO": [
        "lines 20 and 22 of calc_case_description_test_set.csv: two different rows of the table"
    ],
    "Calc-Test_P_00127_RIGHT_CC": ["abnormality 2 is in the folder, but in no table"],
    "Calc-Test_P_00127_RIGHT_MLO": ["the mammogram is in the folder, but in no table"],
    "Calc-Training_P_00007_LEFT_CC": ["abnormality 1: mask whose aspect is not that of its image"],
    "Calc-Training_P_00007_LEFT_MLO": ["the mammogram's file is missing"],
    "Calc-Training_P_00010_LEFT_CC": ["abnormality 1: the mask is missing, its files show no mask"],
    "Calc-Training_P_00010_LEFT_MLO": ["abnormality 1: the mask's file is missing"],
    "Calc-Training_P_00011_LEFT_MLO": ["several files with different pixels for one mammogram"],
    "Calc-Training_P_00012_LEFT_MLO": ["abnormality 1: several different masks for one"],
    "Calc-Training_P_00014_LEFT_CC": ["abnormality 1: mask with no pixel"],
    "Calc-Training_P_00014_LEFT_MLO": ["abnormality 1: mask with values other than two"],
    "calc_case_description_test_set.csv": [
        "a mass in the table of calcifications: row not used",
        "its columns contradict each other",
    ],
}
REPAIRED = {
    "Calc-Test_P_00038_RIGHT_CC": ["2 abnormalities united into one mask, kept apart for object"],
    "Calc-Test_P_00041_LEFT_CC": ["abnormality 2: duplicate row of the table not used"],
    "Calc-Training_P_00005_RIGHT_CC": ["abnormality 1: mask and crop were swapped"],
    "Calc-Training_P_00005_RIGHT_MLO": ["abnormality 1: mask of another size"],
    "Calc-Training_P_00008_LEFT_CC": ["3 abnormalities united into one mask, kept apart"],
    "Calc-Training_P_00011_LEFT_CC": ["duplicate file of the mammogram with the same pixels"],
    "Calc-Training_P_00012_LEFT_CC": ["abnormality 1: duplicate file of the mask with the same"],
}


def settings(folder, **fields):
    fields = {"name": "cbis_ddsm", "source": "cbis_ddsm", "targets": (), **fields}
    return DataConfig(dir=str(folder), **fields)


def index(folder, **fields):
    return collections["cbis_ddsm"]().index(settings(folder, **fields))


def collect(folder, written):
    """All readings and all reasons by case, as preparation gathers them."""
    found = index(folder)
    readings, reasons = {}, {}
    for item, reason in found.left_out:
        reasons.setdefault(who(item, written), []).append(reason)
    for entry in found.entries:
        try:
            reading = cbis_ddsm.read(entry, settings(folder))
            readings[entry.key] = (entry, reading)
        except Unusable as unusable:
            assert not unusable.file or written[unusable.file].case == entry.key
            reasons.setdefault(entry.key, []).append(str(unusable))
    return found, readings, {name: sorted(lines) for name, lines in reasons.items()}


def who(item, written):
    """The case of a file, or the name of a table."""
    if item in written:
        return written[item].case
    name = CASE.search(item)
    return name[0] if name else pathlib.Path(item).name


@pytest.fixture(scope="module")
def layouts(tmp_path_factory):
    """Every layout of the same cases with the same faults, as read."""
    found = {}
    for layout in trees.LAYOUTS:
        folder = tmp_path_factory.mktemp(layout)
        found[layout] = collect(folder, trees.write(folder, layout))
    return found


def one(folder, layout="tables", fault="", case=SINGLE):
    """What reading one case of a tree gives."""
    folder.mkdir(exist_ok=True)
    trees.write(folder, layout, {case: fault})
    (entry,) = [entry for entry in index(folder).entries if entry.key == case]
    return entry, cbis_ddsm.read(entry, settings(folder))


def starts(lines, expected):
    return len(lines) == len(expected) and all(map(str.startswith, sorted(lines), sorted(expected)))


@pytest.mark.parametrize("layout", trees.LAYOUTS)
def test_every_layout_gives_the_cases_as_they_were_drawn(layouts, layout):
    found, readings, _ = layouts[layout]
    assert sorted(readings) == [case for case in trees.cases() if case not in LEFT_OUT]
    assert [entry.key for entry in found.entries] == sorted(entry.key for entry in found.entries)
    for case, (entry, reading) in readings.items():
        truth, example = trees.truth(case), reading.example
        assert example.image.dtype == np.float32 and example.mask.dtype == np.uint8
        assert np.abs(example.image - truth.image / 255).max() < 1e-6
        masks = [truth.masks[number] for number in sorted(truth.masks)]
        if trees.FAULTS.get(case) == "half size":
            masks = [np.kron(mask[::2, ::2], np.ones((2, 2), bool)) for mask in masks]
        assert (example.mask == np.any(masks, axis=0)).all()
        assert example.objects.dtype == np.uint16
        assert (example.objects == sum(mask * 2**bit for bit, mask in enumerate(masks))).all()
        _, part, patient, side, view = re.split("[-_]", case.replace("P_", "P:"))
        assert (entry.patient, entry.part) == (
            patient.replace(":", "_"),
            {"Test": "test", "Training": "train"}[part],
        )
        assert (example.laterality, example.view_position) == (side[0], view)
        assert entry.domain == example.domain == "cbis_ddsm" and example.label_kind == "cluster"
        assert (example.spacing_mm, example.image_id, example.patient_id) == (None, "", "")


@pytest.mark.parametrize("layout", trees.LAYOUTS)
def test_every_fault_is_reported_by_name_and_in_every_layout_alike(layouts, layout):
    found, readings, reasons = layouts[layout]
    assert reasons.keys() == LEFT_OUT.keys()
    for name, lines in LEFT_OUT.items():
        if name.endswith(".csv"):  # each row takes two lines, for its last cell has a line end
            places = (6, 30)
            lines = [f"line {at}: {why}" for at, why in zip(places, lines, strict=True)]
        assert starts(reasons[name], lines), name
    repaired = {case: (*e.repaired, *r.repaired) for case, (e, r) in readings.items()}
    for case, lines in repaired.items():
        assert starts(lines, REPAIRED.get(case, [])), (case, lines)
    _, expected, same = layouts["archive"]
    assert repaired == {case: (*e.repaired, *r.repaired) for case, (e, r) in expected.items()}
    assert reasons == same


@pytest.mark.parametrize("layout", trees.LAYOUTS)
def test_what_is_said_names_nobody(layouts, layout):
    found, readings, reasons = layouts[layout]
    said = [line for lines in reasons.values() for line in lines]
    said += [line for entry, reading in readings.values() for line in reading.repaired]
    said += [line for entry in found.entries for line in entry.repaired]
    assert not any("P_0" in line or "Planted" in line for line in said)
    patients = {row["patient_id"] for row in trees.rows()}
    assert patients <= found.secrets and not any(CASE.search(word) for word in found.secrets)
    assert pickle.loads(pickle.dumps(found)) == found
    assert index_of(found) == index_of(layouts["png"][0])


def index_of(found):
    return [(e.key, e.patient, e.domain, e.part, e.repaired) for e in found.entries]


def test_pixels_are_not_decoded_and_headers_not_read_where_names_suffice(tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("was opened")

    for layout in trees.LAYOUTS:
        trees.write(tmp_path / layout, layout)
        for name in ("read", "read_gray", "read_mask"):
            monkeypatch.setattr(cbis_ddsm.reader, name, refuse)
        if layout != "series":  # the tables' series suffice, but not for copies
            monkeypatch.setattr(cbis_ddsm.reader, "header", refuse)
        assert index(tmp_path / layout).entries
        monkeypatch.undo()


def test_jpegs_are_known_by_their_series_alone(tmp_path):
    written = trees.write(tmp_path, "jpeg", {})
    (tmp_path / "csv" / "dicom_info.csv").unlink()
    _, readings, reasons = collect(tmp_path, written)
    assert sorted(readings) == trees.cases() and not reasons


def test_other_names_of_flat_files(tmp_path):
    trees.write(tmp_path, "flat", {})
    pictures = tmp_path / "pictures"
    (pictures / f"{SINGLE}.png").rename(pictures / f"{SINGLE}_FULL.png")
    (pictures / f"{SINGLE}_1_mask.png").rename(pictures / f"{SINGLE}_ROI.png")
    (pictures / f"{SINGLE}_1_crop.png").rename(pictures / f"{SINGLE}_overlay.png")
    (pictures / f"{DOUBLE}_2_mask.png").rename(pictures / f"{DOUBLE}_MASK_2.png")
    found = index(tmp_path)
    for case in (SINGLE, DOUBLE):
        (entry,) = [entry for entry in found.entries if entry.key == case]
        example = cbis_ddsm.read(entry, settings(tmp_path)).example
        assert (example.mask == np.any([*trees.truth(case).masks.values()], axis=0)).all()
    (pictures / f"{DOUBLE}_MASK_2.png").rename(pictures / f"{DOUBLE}_mask.png")
    ((item, reason),) = index(tmp_path).left_out
    assert item.endswith(f"{DOUBLE}_mask.png") and "without the number of its abnormality" in reason


def test_a_crop_that_is_named_mask_beside_a_nameless_mask(tmp_path):
    trees.write(tmp_path, "flat", {SINGLE: "swapped"})
    pictures = tmp_path / "pictures"
    (pictures / f"{SINGLE}_1_crop.png").rename(pictures / f"{SINGLE}_1.png")  # in truth the mask
    (pictures / f"._{SINGLE}.png").write_bytes(b"what another system leaves behind")
    (pictures / f"{SINGLE}_1_mask.jpeg").write_text("")  # damaged, and not needed
    entry = next(entry for entry in index(tmp_path).entries if entry.key == SINGLE)
    example, repaired = cbis_ddsm.read(entry, settings(tmp_path))
    assert (example.mask == trees.truth(SINGLE).masks[1]).all()
    assert starts(repaired, [f"abnormality 1: {why}" for why in ("a file that", "mask and crop")])
    (tmp_path / "__MACOSX" / SINGLE).mkdir(parents=True)
    (tmp_path / "__MACOSX" / SINGLE / "1-1.png").write_text("")
    assert index(tmp_path).entries[0].details.wholes == 1


def test_a_mask_of_another_aspect_is_used_up_to_two_percent(tmp_path):
    entry, _ = one(tmp_path)
    mask = next(path for path in entry.files if path.endswith("000000.dcm") and "_CC_1" in path)
    (piece,) = [p for p in trees.pieces(SINGLE) if p.role == "mask"]
    for height, used in ((163, True), (157, True), (164, False), (156, False)):
        pixels = np.zeros((height, trees.WIDTH), np.uint8)
        pixels[40:80, 30:50] = 255
        trees.write_dicom(mask, piece._replace(pixels=pixels))
        if used:
            example, repaired = cbis_ddsm.read(entry, settings(tmp_path))
            assert "mask of another size" in repaired[0]
            area = 40 * 20 * trees.HEIGHT / height
            assert example.mask.shape == example.image.shape
            assert abs(int(example.mask.sum()) - area) <= 20
        else:
            with pytest.raises(Unusable, match="abnormality 1: mask whose aspect is not"):
                cbis_ddsm.read(entry, settings(tmp_path))


def test_a_header_that_names_another_case_is_not_trusted(tmp_path):
    entry, _ = one(tmp_path)
    pieces = {piece.role: piece for piece in trees.pieces(SINGLE)}
    for file, role in ((entry.files[0], "whole"), (entry.files[1], "mask")):
        kept = pathlib.Path(file).read_bytes()
        trees.write_dicom(file, pieces[role], PatientID="Calc-Test_P_00100_RIGHT_CC_1")
        with pytest.raises(Unusable, match="names another case") as caught:
            cbis_ddsm.read(entry, settings(tmp_path))
        assert caught.value.file == file and "P_0" not in str(caught.value)
        pathlib.Path(file).write_bytes(kept)


def test_a_damaged_file_matters_where_it_may_be_the_mask(tmp_path):
    entry, reading = one(tmp_path, "png")
    mask, crop = entry.files[1:]
    pathlib.Path(crop).write_bytes(b"\x89PNG\r\n\x1a\n")
    example, repaired = cbis_ddsm.read(entry, settings(tmp_path))
    assert (example.mask == reading.example.mask).all()
    assert repaired == (
        "abnormality 1: a file that cannot be read is not needed, the mask is another one",
    )
    pathlib.Path(mask).write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(Unusable, match="abnormality 1: .*read") as caught:
        cbis_ddsm.read(entry, settings(tmp_path))
    assert caught.value.file == mask


def test_a_mask_of_several_pages_is_not_read_in_part(tmp_path):
    entry, _ = one(tmp_path, "png")
    mask = entry.files[1]
    with Image.open(mask) as image:
        image.save(mask, "TIFF", save_all=True, append_images=[image])
    with pytest.raises(Unusable, match="abnormality 1: has 2 frames where one image is expected"):
        cbis_ddsm.read(entry, settings(tmp_path))


def edit(path, change):
    with open(path, newline="") as file:
        rows = list(csv.reader(file))
    change(rows)
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(rows)


def test_a_missing_column_is_named_with_its_table(tmp_path):
    trees.write(tmp_path, "jpeg", {})
    table = tmp_path / "csv" / "calc_case_description_train_set.csv"
    for column in ("ROI mask file path", "patient_id", "abnormality type"):
        kept = table.read_bytes()
        edit(table, lambda rows, column=column: rows[0].__setitem__(rows[0].index(column), "x"))
        with pytest.raises(UserError, match=f"train_set.csv: no column '{column}'.*needed are"):
            index(tmp_path)
        table.write_bytes(kept)
    # What is near may be a misspelled column, but not one that is needed itself.
    name = "image file path"
    for head, hint in (("x", ";"), ("image file", " .did you mean 'image file'")):
        edit(table, lambda rows, head=head: rows[0].__setitem__(rows[0].index(name), head))
        with pytest.raises(UserError, match=f"no column '{name}'{hint}"):
            index(tmp_path)
        table.write_bytes(kept)
    files = tmp_path / "csv" / "dicom_info.csv"
    edit(files, lambda rows: rows[0].__setitem__(rows[0].index("PatientID"), "Patient"))
    with pytest.raises(UserError, match="dicom_info.csv: no column 'PatientID'"):
        index(tmp_path)


def test_a_patient_in_both_parts_is_refused(tmp_path):
    trees.write(tmp_path, "png", {})
    table = tmp_path / "calc_case_description_train_set.csv"
    text = table.read_text()
    table.write_text(text.replace("P_00005", "P_00038"))
    with pytest.raises(UserError, match="line 2: the patient is in the other official part") as no:
        index(tmp_path)
    assert "P_0" not in str(no.value) and "test_set.csv, line 2" in str(no.value)


def test_folders_that_are_none_are_named(tmp_path):
    with pytest.raises(UserError, match="data.dir is empty.*--config.data.dir="):
        index("")
    with pytest.raises(UserError, match="nowhere' does not exist"):
        index(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no table of calcification cases; put calc_case_"):
        index(tmp_path)
    trees.write(tmp_path, "flat", {})
    with pytest.raises(UserError, match="label=calcification: CBIS-DDSM outlines clusters"):
        index(tmp_path, label="calcification")
    assert index(tmp_path, label="cluster") == index(tmp_path)
    (tmp_path / "pictures").rename(tmp_path.parent / f"{tmp_path.name}_away")
    with pytest.raises(UserError, match="no mammogram of the 25 in its tables found"):
        index(tmp_path)


def test_tables_of_masses_and_other_tables_count_for_nothing(tmp_path):
    trees.write(tmp_path, "png", {})
    (tmp_path / "mass_case_description_test_set.csv").write_text("patient_id,mass shape\nP_1,x\n")
    (tmp_path / "meta.csv").write_text("SeriesInstanceUID\n1.2.3\n")
    (tmp_path / "notes.csv").write_text("")
    assert index(tmp_path).left_out == ()
    name = cbis_names.parse("mass-training_p_00016_left_cc_1")
    assert name.is_mass and name.case == "Mass-Training_P_00016_LEFT_CC" and name.part == "train"
    assert cbis_names.parse("1-1") is None


def test_only_data_and_steps_differ_from_the_phantoms():
    cbis = config_files.load_file(str(CONFIGS / "cbis.py"))
    phantoms = config_files.load_file(str(CONFIGS / "phantom.py"))
    assert cbis.data != phantoms.data and cbis.data.tiles.rows == cbis.data.tiles.columns == 2
    assert dataclasses.replace(cbis, data=phantoms.data, train=phantoms.train) == phantoms


def test_locks_hidden_tables_and_folders_count_for_nothing(tmp_path):
    trees.write(tmp_path, "png", {})
    table = "calc_case_description_train_set.csv"
    for name in (f"~$m_{table}", f"._{table}", "._dicom_info.csv", ".git/dicom_info.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"\x05Zed\xff")
    (tmp_path / f"old_{table}").mkdir()
    (tmp_path / "notes.csv").mkdir()
    found = index(tmp_path)
    assert found.left_out == () and len(found.entries) == len(trees.cases())


def test_links_to_files_that_are_not_here_are_named_but_for_masses(tmp_path):
    written = trees.write(tmp_path, "png", {})
    for path, piece in written.items():
        if piece.case == SINGLE and piece.role == "mask" or piece.case.startswith("Mass"):
            pathlib.Path(path).unlink()
            pathlib.Path(path).symlink_to("nowhere")
    for name in ("other.csv", "mass_case_description_test_set.csv", "new/1-1.dcm", "new/1-1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to("nowhere")
    unknown = tmp_path / "Calc-Test_P_99999_LEFT_CC/000000.dcm"
    unknown.parent.mkdir()
    unknown.symlink_to("nowhere")
    found = index(tmp_path)
    (mask,) = (p for p, piece in written.items() if piece.case == SINGLE and piece.role == "mask")
    (entry,) = [entry for entry in found.entries if entry.key == SINGLE]
    with pytest.raises(Unusable, match="abnormality 1: the mask is missing"):
        cbis_ddsm.read(entry, settings(tmp_path))
    assert all(why.startswith("a link whose file is not here") for _, why in found.left_out)
    others = {str(tmp_path / name) for name in ("other.csv", "new/1-1.dcm")}
    assert {item for item, _ in found.left_out} == {mask, str(unknown), *others}
    assert "P_99999" in found.secrets
    for name in ("dicom_info.csv", "calc_case_description_train_set.csv"):  # the first one met
        (tmp_path / name).unlink(missing_ok=True)
        (tmp_path / name).symlink_to("nowhere")
        with pytest.raises(UserError, match=f"{name}: a link whose file is not here; fetch its"):
            index(tmp_path)


def test_an_inverted_mask_is_refused(tmp_path):
    entry, _ = one(tmp_path, "png")
    mask = entry.files[1]
    (piece,) = [piece for piece in trees.pieces(SINGLE) if piece.role == "mask"]
    Image.fromarray(255 - piece.pixels).save(mask)
    with pytest.raises(Unusable, match="abnormality 1: .*black on white; invert it") as caught:
        cbis_ddsm.read(entry, settings(tmp_path))
    assert caught.value.file == mask


def test_files_named_by_uids_are_known_by_their_headers_and_keep_their_order(tmp_path):
    trees.write(tmp_path, "tables", {})
    moved = tmp_path / "downloads"
    moved.mkdir()
    paths = [path for path in sorted(tmp_path.rglob("*.dcm")) if SINGLE in path.as_posix()]
    for number, path in enumerate(paths):
        path.rename(moved / f"1.2.840.113.{number}")
    (entry,) = [entry for entry in index(tmp_path).entries if entry.key == SINGLE]
    assert {pathlib.Path(file).parent for file in entry.files} == {moved}
    assert cbis_ddsm.read(entry, settings(tmp_path)).example.mask.any()
    order = [pathlib.Path(f"1.2.{number}") for number in (9, 10, 100)]
    assert sorted(order[::-1], key=cbis_files._numbers) == order


def test_numbers_of_a_spreadsheet_are_abnormalities_again(tmp_path):
    trees.write(tmp_path, "png", {})
    expected = index(tmp_path)
    for path in tmp_path.glob("*.csv"):

        def change(rows):
            for row in rows[1:]:
                row[rows[0].index("abnormality id")] += ".0"

        edit(path, change)
    assert index(tmp_path) == expected and expected.left_out == ()
