import contextlib
import multiprocessing
import os

import numpy as np
import pytest
import tiny

from mln_flax.config import DataConfig, PhantomConfig
from mln_flax.data import processes
from mln_flax.data.core import loaders
from mln_flax.data.phantoms import drawing, phantom, scanners, store
from mln_flax.data.phantoms.store import Block
from mln_flax.types import UserError

BLOCK = Block(3, ("ffdm", "film"), 4, 7, 12, 10, 0.5)


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    """An empty cache."""
    monkeypatch.setenv(store.PLACE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def in_processes(monkeypatch):
    """Blocks so short, and processes so welcome, that a few phantoms are drawn in two."""
    monkeypatch.setattr(drawing, "BLOCK_SECONDS", 0.0)
    monkeypatch.setattr(drawing, "WORTH_SECONDS", 0.0)


def directly(block):
    return [
        phantom.phantom(
            block.seed, domain, i, height=block.height, width=block.width, spacing_mm=0.5
        )
        for i in range(block.first, block.stop)
        for domain in block.domains
    ]


def assert_same(examples, expected):
    assert len(examples) == len(expected)
    for one, other in zip(examples, expected, strict=True):
        for name, value, wanted in zip(one._fields, one, other, strict=True):
            assert type(value) is type(wanted), name
            if isinstance(wanted, np.ndarray):
                assert value.dtype == wanted.dtype and value.flags.writeable
                np.testing.assert_array_equal(value, wanted)
            else:
                assert value == wanted


def refuses_to_draw(*_arguments, **_settings):
    raise AssertionError("drawn again")


def test_drawn_kept_and_read_they_are_the_same(folder, monkeypatch):
    monkeypatch.setattr(drawing, "BLOCK_SECONDS", 0.0)  # a patient in each file
    expected = directly(BLOCK)
    assert_same(drawing.draw([BLOCK], phantom.shown)[0], expected)
    assert len(list(folder.iterdir())) == 3
    assert_same(drawing.draw([BLOCK], refuses_to_draw)[0], expected)
    several = drawing.draw([BLOCK._replace(stop=6), BLOCK._replace(first=6)], refuses_to_draw)
    assert_same([*several[0], *several[1]], expected)


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 4},
        {"domains": ("ffdm", "dbt")},
        {"first": 5},
        {"stop": 8},
        {"height": 13},
        {"width": 11},
        {"spacing_mm": 0.25},
    ],
)
def test_other_settings_are_drawn(changes):
    drawing.draw([BLOCK], phantom.shown)
    with pytest.raises(AssertionError, match="drawn again"):
        drawing.draw([BLOCK._replace(**changes)], refuses_to_draw)


@pytest.mark.parametrize("name", ["SOURCES", "_machine"])
def test_other_code_or_libraries_are_drawn(name, monkeypatch):
    drawing.draw([BLOCK], phantom.shown)
    monkeypatch.setattr(store, name, "another" if name == "SOURCES" else lambda: "another")
    monkeypatch.setattr(store, "is_as_imported", lambda: True)
    with pytest.raises(AssertionError, match="drawn again"):
        drawing.draw([BLOCK], refuses_to_draw)


def test_every_file_of_the_package_is_in_the_key(tmp_path, monkeypatch):
    package = tmp_path / "phantoms"
    package.mkdir()
    monkeypatch.setattr(store, "__file__", str(package / "store.py"))
    assert store._sources() == ""
    seen = set()
    for name, text in (("a.py", "1"), ("b.py", ""), ("b.py", "2"), ("a.py", "12")):
        (package / name).write_text(text)
        seen.add(store._sources())
    assert len(seen) == 4


@pytest.mark.usefixtures("in_processes")
@pytest.mark.parametrize("changed", ["constant", "file"])
def test_changed_code_neither_reads_nor_keeps_nor_asks_other_processes(
    changed, folder, monkeypatch
):
    drawing.draw([BLOCK], phantom.shown, workers=1)
    before = tiny.snapshot(folder)
    if changed == "constant":
        monkeypatch.setattr(scanners, "PHOTON_NOISE", 0.5)
    else:
        monkeypatch.setattr(store, "_sources", lambda: "another")
    monkeypatch.setattr(drawing.processes, "pool", refuses_to_draw)
    found = drawing.draw([BLOCK], phantom.shown, workers=2)[0]
    assert_same(found, directly(BLOCK))
    assert tiny.snapshot(folder) == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:100],
        lambda content: content[:-1],
        lambda content: b"no zip" * 50,
        lambda content: content[:600] + bytes([content[600] ^ 1]) + content[601:],
    ],
    ids=["empty", "short", "one byte short", "strange", "one bit"],
)
def test_a_damaged_file_is_drawn_anew(damage, folder, capsys):
    expected = drawing.draw([BLOCK], phantom.shown)[0]
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert_same(drawing.draw([BLOCK], phantom.shown)[0], expected)
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 1 and f"{path} is damaged" in out
    assert_same(drawing.draw([BLOCK], refuses_to_draw)[0], expected)


def test_a_file_of_other_phantoms_is_not_believed(folder, capsys):
    drawing.draw([BLOCK._replace(seed=8)], phantom.shown)
    (other,) = folder.iterdir()
    other.rename(folder / store._name(store._key(BLOCK)))
    assert_same(drawing.draw([BLOCK], phantom.shown)[0], directly(BLOCK))
    assert "it holds other phantoms" in capsys.readouterr().out


def test_files_hold_no_pickle_and_are_whole_or_not_there(folder, monkeypatch):
    def no_space(*_paths):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "replace", no_space)
    drawing.draw([BLOCK], phantom.shown)
    assert list(folder.iterdir()) == []
    monkeypatch.undo()
    store.write(folder, BLOCK, directly(BLOCK))
    (path,) = folder.iterdir()
    with np.load(path, allow_pickle=False) as arrays:
        assert all(arrays[name].dtype != object for name in arrays.files)


def test_a_folder_that_takes_nothing_is_no_error(folder, capsys):
    folder.write_text("a file, not a folder")
    assert_same(drawing.draw([BLOCK], phantom.shown)[0], directly(BLOCK))
    assert capsys.readouterr().out.startswith("phantoms: not kept for the next run (")


def test_a_cache_that_can_only_be_read_is_read(monkeypatch):
    def refused(*_arguments):
        raise PermissionError("read only")

    drawing.draw([BLOCK], phantom.shown)
    monkeypatch.setattr(os, "utime", refused)
    assert_same(drawing.draw([BLOCK], refuses_to_draw)[0], directly(BLOCK))


def test_the_place_of_the_cache(monkeypatch, tmp_path):
    assert store.folder() == tmp_path / "cache"
    monkeypatch.setenv(store.PLACE, "0")
    assert store.folder() is None
    drawing.draw([BLOCK], phantom.shown)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv(store.PLACE, "off")
    with pytest.raises(UserError, match="=off: allowed are an absolute path, and 0"):
        store.folder()
    monkeypatch.delenv(store.PLACE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert store.folder() == tmp_path / "mln_flax" / "phantoms"


def test_files_used_longest_ago_go_first(folder, monkeypatch):
    blocks = [BLOCK._replace(seed=seed) for seed in range(4)]
    drawing.draw(blocks, phantom.shown)
    paths = [folder / store._name(store._key(block)) for block in blocks]
    for age, path in enumerate(paths):
        os.utime(path, (1000 - age, 1000 - age))
    left = folder / f".{paths[0].name}.77.tmp"  # of a killed writer
    left.write_bytes(b"half")
    os.utime(left, (500, 500))
    drawing.draw(blocks[2:3], refuses_to_draw)  # used now
    size = paths[0].stat().st_size
    store.trim(folder, most_bytes=2 * size + 100)
    assert [path.exists() for path in (*paths, left)] == [True, False, True, False, False]


def test_what_would_not_fit_is_not_kept(folder, monkeypatch):
    monkeypatch.setattr(store, "MOST_BYTES", 1000)
    drawing.draw([BLOCK], phantom.shown)
    assert not folder.exists()


@pytest.mark.usefixtures("in_processes")
def test_several_processes_draw_the_same(monkeypatch, capsys):
    real, started = drawing.processes.pool, []

    def noted(workers, **settings):
        started.append(workers)
        return real(workers, **settings)

    monkeypatch.setattr(drawing.processes, "pool", noted)
    found = drawing.draw([BLOCK], phantom.shown, workers=2)[0]
    assert_same(found, directly(BLOCK))
    assert started == [1] and capsys.readouterr().out == ""


@pytest.mark.usefixtures("in_processes")
def test_where_processes_are_killed_the_phantoms_are_drawn_here(monkeypatch, capsys):
    real = drawing.processes.pool

    @contextlib.contextmanager
    def killed(workers, **settings):
        with real(workers, **settings) as pool:
            pool.submit(os._exit, 1)
            yield pool

    monkeypatch.setattr(drawing.processes, "pool", killed)
    assert_same(drawing.draw([BLOCK], phantom.shown, workers=2)[0], directly(BLOCK))
    out = capsys.readouterr().out
    assert out.startswith("phantoms: drawn in this process alone (Broken") and out.count("\n") == 1


def test_few_phantoms_start_no_process(monkeypatch):
    monkeypatch.setattr(drawing.processes, "pool", refuses_to_draw)
    counts = PhantomConfig(train=6, validation=3, test=4)
    loaders["phantom"](DataConfig(size=32, phantom=counts, workers=2))


def test_settings_are_refused_before_any_process_starts(monkeypatch):
    monkeypatch.setattr(drawing.processes, "pool", refuses_to_draw)
    with pytest.raises(UserError, match="spacing 0.0 mm"):
        loaders["phantom"](DataConfig(phantom=PhantomConfig(train=5000, spacing_mm=0.0)))


@pytest.mark.usefixtures("in_processes")
def test_a_process_that_may_have_no_children_draws_alone(monkeypatch):
    daemon = multiprocessing.Process(daemon=True)
    monkeypatch.setattr(multiprocessing, "current_process", lambda: daemon)
    monkeypatch.setattr(drawing.processes, "pool", refuses_to_draw)
    assert_same(drawing.draw([BLOCK], phantom.shown, workers=2)[0], directly(BLOCK))


UNGUARDED = """
from mln_flax.data.phantoms import drawing, phantom
drawing.BLOCK_SECONDS = drawing.WORTH_SECONDS = 0.0
print("started")
block = drawing.Block(3, ("ffdm",), 0, 2, 8, 8, 0.5)
print(len(drawing.draw([block], phantom.shown, workers=2)[0]))
"""


def test_a_script_that_does_not_ask_for_its_name(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED)
    process = tiny.python("-W", "error", script, PYTHONPATH=str(tiny.ROOT))
    assert process.communicate(timeout=60) == ("started\n2\n", "")


def test_processes_that_draw_know_no_accelerator(folder):
    with processes.pool(1, with_main=False) as pool:
        settings = {"height": 8, "width": 8, "spacing_mm": 1.0}
        pool.submit(phantom.shown, 0, ("dbt",), 0, **settings).result()
        modules = pool.submit(eval, "set(__import__('sys').modules)").result()
    assert not {"jax", "jaxlib", "flax", "tensorflow"} & modules


def test_writers_and_readers_at_once(folder, capsys):
    expected = directly(BLOCK)
    with processes.pool(2, with_main=False) as pool:
        writing = [pool.submit(store.write, folder, BLOCK, expected) for _ in range(60)]
        while not all(each.done() for each in writing):
            found = store.read(folder, BLOCK)
            assert found is None or len(found) == len(expected)
        for each in writing:
            each.result()
    assert_same(store.read(folder, BLOCK), expected)
    assert len(list(folder.iterdir())) == 1 and capsys.readouterr().out == ""
