"""The part of a report on whole images: what is printed, and what is shown of cases."""

import whole_records

from mln_flax.results import whole_section


def test_nothing_where_none_were_measured(tmp_path):
    lines = [{"kind": "image"}, {"kind": "view"}]
    assert whole_section.sections(lines, tmp_path) == []
    assert whole_section.headline(lines) == []


def test_the_printed_tables_are_of_whole_images_alone(tmp_path):
    lines = [
        whole_records.whole("ffdm", whole_records.record_of([1], [0])),
        whole_records.whole("ffdm", whole_records.record_of([0], [1], 0, normal=True)),
    ]
    sensitivity, point = whole_section.headline([{"kind": "image"}, *lines])
    assert "ffdm" in sensitivity.rows[0][0] and "1 of 2" in point.to_text()
    (section,) = whole_section.sections(lines, tmp_path)
    assert [table.title for table in section.tables[:2]] == [sensitivity.title, point.title]
    assert set(section.pictures) == {"froc", "calibration"}


def test_a_case_without_its_picture_is_left_out(tmp_path):
    """A workdir may be copied without its pictures: the tables are there all the same."""
    line = whole_records.whole("ffdm", whole_records.record_of([1], [0]))
    lines = [line | {"picture": "ffdm-worst"}]
    assert "whole-ffdm-worst" not in whole_section.sections(lines, tmp_path)[0].pictures
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "ffdm-worst.png").write_bytes(b"png")
    picture = whole_section.sections(lines, tmp_path)[0].pictures["whole-ffdm-worst"]
    assert picture.png == b"png" and picture.caption.startswith("ffdm, worst case: 2 labeled")
