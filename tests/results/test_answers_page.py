import html
import json
import re
import shutil
import subprocess
import urllib.parse
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mln_flax import files
from mln_flax.results import answers_page, overlay, records
from mln_flax.results.study import Picture, Section
from mln_flax.results.table_layout import Table
from mln_flax.types import UserError

BRANCHES = ["identity", "bezier(0.3)", "invert"]
ODD = 'a <b> & "c" #1 50% ü.png'
POINT = {"threshold": 0.8, "min_area_mm2": 0.04, "asked": 0.5, "reached": 0.4, "images": 60}
WHY = {
    "branches": BRANCHES,
    "chosen": "bezier(0.3)",
    "distances": {"polarity": [2.0, 0.125, 1.0], "image": [-20.5, -83.25, None]},
    "by_norm": {"cosine": {"norms": ["stage0/<norm1>"], "distances": [[0.5, 0.25, 0.75]]}},
    "numbers": [
        {"name": "median", "value": 0.9, "mean": 0.4, "std": 0.1, "z": 5.5, "outside": True},
        {"name": "skewness", "value": 0.41, "mean": 0.4, "std": 0.1, "z": 0.1, "outside": False},
        {"name": "entropy", "value": None, "mean": 0.4, "std": 0.0, "z": None, "outside": False},
    ],
    "far": {"distance": 40.5, "threshold": 31.0, "is_far": True},
    "disagreement": {"mean": 0.021, "largest": 0.44, "share": 0.0031},
    "attribution": {
        **{"cluster": 1, "method": "integrated gradients"},
        **{"drop": 0.03, "drop_random": 0.04},
    },
    "looked_at": 20,
}


def cluster(number, score, row=40, column=60):
    corners = [[row - 9, column - 12], [row - 9, column + 12], [row + 9, column]]
    return {
        **{"number": number, "row_px": row, "column_px": column, "row_mm": 4.0, "column_mm": 6.0},
        **{"box": [row - 8, column - 10, row + 8, column + 10], "outline": corners},
        **{"count": 1, "score": score, "area_mm2": 3.25, "extent_mm": 2.04},
        "calcifications": [number],
    }


def calcification(number):
    return {
        **{"number": number, "row_px": 40.0, "column_px": 60.0, "row_mm": 4.0, "column_mm": 6.0},
        **{"box": [38, 58, 42, 62], "length_mm": 0.41, "area_mm2": 0.125, "mean": 0.7},
        **{"peak": 0.987, "cluster": number},
    }


def answer(folder, name, scores=(), pictures=True, **changes):
    """One image's JSON and pictures in the folder; its line of predictions.jsonl."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    clusters = [cluster(i, score) for i, score in enumerate(scores, start=1)]
    stem = path.stem + (f"_{changes['frame'] + 1:04}" if "frame" in changes else "")
    names = {kind: f"{stem}_{kind}.png" for kind in ("probability", "mask")}
    if pictures:
        image = np.random.default_rng(0).random((100, 80), np.float32)
        spot = np.zeros_like(image)
        spot[35:45, 55:65] = 0.9
        maps = {"disagreement": spot, "attribution": spot, "branch identity": spot}
        for kind, content in overlay.pictures(image, clusters, spot > 0, maps).items():
            names[kind] = stem + overlay.ending(kind)
            (path.parent / names[kind]).write_bytes(content)
        for kind in ("probability", "mask"):
            Image.fromarray((spot * 255).astype(np.uint8)).save(path.parent / names[kind])
    line = {
        **{"image": name, "frame": 0, "frames": 1, "height": 100, "width": 80},
        **{"spacing_mm": [0.1, 0.1], "spacing_from": "file", "model_spacing_mm": None},
        **{"operating_point": POINT, "clusters": clusters},
        **{"calcifications": [calcification(c["number"]) for c in clusters]},
        **{"facts": {"answer": "polarity", "branch": "bezier(0.3)", "shares": {"identity": 0.25}}},
        **{"why": {}, "notes": [], "warnings": [], "files": names},
        **{"hashes": {"file": "f" * 64, "model": "abc" * 20}, "versions": {"jax": "0.10"}},
        "seconds": 1.5,
        **changes,
    }
    files.write_json(path.parent / f"{stem}.json", line)
    return {name: value for name, value in line.items() if name != "calcifications"}


def close(folder, lines, **about):
    records.write_whole(folder / "predictions.jsonl", lines)
    config = {"model": {"name": "swin_unet"}, "method": {"name": "mln"}}
    files.write_json(folder / "prediction.json", {"config": config, **about})


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    """Three answered images, one of a name that no page would take as it is, and one not read."""
    folder = tmp_path_factory.mktemp("answered")
    lines = [
        answer(folder, "plain.png"),
        answer(folder, f"sub #2/{ODD}", (0.9, 0.7), why=WHY, warnings=["a <warning>"]),
        answer(folder, "sub #2/x.dcm", (0.8,), notes=["two & more"]),
    ]
    left_out = [{"item": "broken <1>.dcm", "reason": "ends within its pixels"}]
    close(folder, lines, left_out=left_out)
    (folder / "clusters.csv").write_text("image\n")
    answers_page.write(folder)
    return folder


@pytest.fixture
def folder(answered, tmp_path):
    """A copy, to be changed."""
    return Path(shutil.copytree(answered, tmp_path / "answered"))


def read(path):
    return path.read_text(encoding="utf-8")


def pages(folder):
    return [folder / "index.html", *folder.rglob("*_page.html")]


def plain_text(content):
    return html.unescape(re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", content)))


def test_the_list_counts_and_sorts(folder):
    text = read(folder / "index.html")
    shown = plain_text(text)
    for words in (
        "images 3",
        "with clusters 2",
        "clusters 3",
        "with warnings 1",
        "not read 1",
        "broken <1>.dcm ends within its pixels",
        "Model. swin_unet, mln, hash abcabcabcabc.",
        "not a medical device",
        "on 60 normal validation images of the source there were 0.4",
        "0.90 1 calc., 2.0 mm",
    ):
        assert words in shown, words
    links = re.findall(r'<h3><a href="[^"]*">(.*?)</a>', text)
    names = [html.unescape(link.replace("<wbr>", "")) for link in links]
    assert names == [f"sub #2/{ODD}", "sub #2/x.dcm", "plain.png"]
    assert "clusters.csv" in text and "objects.csv" not in text


def test_every_link_leads_into_the_folder(folder):
    addresses = 0
    for path in pages(folder):
        text = read(path)
        assert not re.search(r"""["'(](\w+:)?//""", text)
        for address in re.findall(r'(?:href|src|srcset|action)="([^"]*)"', text):
            file, _, anchor = html.unescape(address).partition("#")
            if file:
                target = path.parent / urllib.parse.unquote(file)
                assert target.is_file(), (path.name, address)
                assert folder in target.resolve().parents
            else:
                assert f'id="{anchor}"' in text, address
            addresses += 1
        assert set(re.findall(r"url\(([^)]*)\)", text)) <= {"#window"}
        assert "@import" not in text
    assert len(pages(folder)) == 4 and addresses > 60


def test_what_is_not_ours_is_escaped(folder):
    for path in pages(folder):
        text = read(path)
        assert ODD not in text and "<b> &" not in text
        assert "a <warning>" not in text and "<norm1>" not in text and "broken <1>" not in text
    page = plain_text(read(folder / "sub #2" / f"{Path(ODD).stem}_page.html"))
    for words in ("a <warning>", "stage0/<norm1>", ODD):
        assert words in page


def test_the_page_of_an_image(folder):
    shown = plain_text(read(folder / "sub #2" / f"{Path(ODD).stem}_page.html"))
    for words in (
        "2 clusters, highest score 0.90. 100 × 80 px of 0.1 mm (file). Answered by branch "
        "bezier(0.3) (rule polarity).",
        "1 calcifications, 2.0\N{NO-BREAK SPACE}mm across, 3.2\N{NO-BREAK SPACE}mm²",
        "row 40, column 60 (4.0, 6.0 mm)",
        "1 40.0 60.0 0.41 0.125 0.70 0.99",
        "Far from the source in every branch (distance 40.50, limit 31.00)",
        "differently on 0.31% of the pixels",
        "the score falls by 0.03, without as many random ones by 0.04. The map explains no more "
        "than chance.",
        "polarity 2.000 ● 0.125 1.000",
        "image -20.500 ● -83.250 –",
        "median 0.900 0.400 ± 0.100 5.5 outside",
        "(1 of 3 outside)",
        "shares.identity 0.25",
    ):
        assert re.sub(" ", "", words) in re.sub(" ", "", shown), words


def test_bars_reach_from_the_nearest_to_the_farthest(folder):
    text = read(folder / "sub #2" / f"{Path(ODD).stem}_page.html")
    row = text[text.index(">polarity</th>") :].partition("</tr>")[0]
    assert re.findall(r"width:(\d+)%", row) == ["100", "0", "47"]  # (1 - 0.125) / (2 - 0.125)
    # Chosen is the second column, in its head and in each row.
    cells = re.findall(r"<td class=\"([^\"]*)\"", row)
    assert ["chosen" in cell for cell in cells] == [False, True, False]
    assert re.findall(r'<i style="left:([\d.]+)%">', text) == ["100.0", "51.0"]


def test_close_ups_and_places_are_where_the_cluster_is(folder):
    text = read(folder / "sub #2" / "x_page.html")
    spot = re.search(r'id="spot-1"[^>]*style="([^"]*)"', text).group(1)
    # The outline reaches from row 31 to 49 and from column 48 to 72 of 100 x 80 pixels.
    assert spot == "top:31.00%;left:60.00%;height:19.00%;width:31.25%"
    close = re.search(r'class="close-up"><img[^>]*style="([^"]*)"', text).group(1)
    sizes = {k: float(v) / 100 for k, v in re.findall(r"(\w+):(-?[\d.]+)%", close)}
    side = 100 / sizes["height"]
    assert side == pytest.approx(48, abs=0.1) and sizes["width"] * side == pytest.approx(
        80, abs=0.1
    )
    middle = np.array([-sizes["top"], -sizes["left"]]) * side + side / 2
    assert middle == pytest.approx([40.5, 60.5], abs=0.05)


def test_pages_lead_to_each_other_by_score(folder):
    text = read(folder / "sub #2" / "x_page.html")
    nav = re.search("<nav>(.*?)</nav>", text).group(1)
    ways = [urllib.parse.unquote(way) for way in re.findall('href="([^"]*)"', nav)]
    assert ways == [
        "../index.html",
        f"../sub #2/{Path(ODD).stem}_page.html",
        "../plain_page.html",
    ]
    assert "<span>Next</span>" in read(folder / "plain_page.html")


def test_operating_points_in_words():
    words = answers_page.operating_point(POINT)
    assert words.startswith("At most 0.5 false clusters per normal image were asked for; on 60 ")
    assert "more than" not in words
    over = answers_page.operating_point(POINT | {"reached": 0.75, "images": 1})
    assert "1 normal validation image of" in over and "0.75" in over
    assert over.endswith("That is more than was asked for.")
    for missing in ({"asked": None}, {"images": 0}):
        assert "is not known" in answers_page.operating_point(POINT | missing)
    assert "is not known" in answers_page.operating_point({"threshold": 0.5})


def test_an_image_without_pictures_or_reasons_and_frames_of_a_volume(tmp_path):
    point = {"threshold": 0.5}
    lines = [
        answer(
            tmp_path,
            "bare.png",
            (0.6,),
            pictures=False,
            facts={},
            operating_point=point,
            spacing_mm=None,
            spacing_from="assumed",
        ),
        *(answer(tmp_path, "v.dcm", pictures=False, frame=i, frames=2) for i in range(2)),
        {"image": "no.png", "reason": "not an image"},
    ]
    close(tmp_path, lines)
    answers_page.write(tmp_path)
    bare = plain_text(read(tmp_path / "bare_page.html"))
    assert "No pictures were written" in bare and "The pixel spacing was assumed" in bare
    assert "Why this answer" not in bare
    shown = plain_text(read(tmp_path / "index.html"))
    assert "v.dcm, frame 1 of 2" in shown and "v.dcm, frame 2 of 2" in shown
    assert "pixel spacing unknown" in shown and "no.png not an image" in shown
    assert shown.count("Operating point.") == 2
    assert (tmp_path / "v_0002_page.html").is_file()


def test_sections_of_labels_come_between(folder):
    png = next(folder.rglob("*_view.png")).read_bytes()
    table = Table("Sensitivity", ("false clusters", "TPR"), (("0.5", "0.91"),))
    answers_page.write(folder, [Section("FROC <1>", {"froc": Picture(png, "a curve")}, [table])])
    text = read(folder / "index.html")
    assert "FROC &lt;1&gt;" in text and table.to_html() in text and "data:image/png" in text


def test_examples_for_a_report_name_no_image(folder):
    section = answers_page.examples(folder, most=3)
    assert list(section.pictures) == ["whole-01", "whole-02"]  # the third has no cluster
    first = section.pictures["whole-01"]
    assert first.caption == "2 clusters, score 0.90"
    assert first.png == (folder / "sub #2" / f"{Path(ODD).stem}_overlay.png").read_bytes()


@pytest.mark.parametrize("image", ["../x.png", "/x.png", "a/../../x.png"])
def test_nothing_is_read_or_written_outside(folder, image):
    line = json.loads(read(folder / "plain.json")) | {"image": image}
    close(folder, [line])
    with pytest.raises(UserError, match="outside"):
        answers_page.write(folder)


def test_two_images_of_one_page_are_refused(folder):
    line = json.loads(read(folder / "plain.json"))
    close(folder, [line, line])
    with pytest.raises(UserError, match="2 images would have the page plain_page.html"):
        answers_page.write(folder)


def test_what_is_missing_is_named(folder):
    (folder / "plain.json").unlink()
    with pytest.raises(UserError, match="plain.json"):
        answers_page.write(folder)
    line = answer(folder, "plain.png")
    files.write_json(folder / "plain.json", {k: v for k, v in line.items() if k != "clusters"})
    with pytest.raises(UserError, match="clusters"):
        answers_page.write(folder)


def test_the_list_stays_small(tmp_path):
    name = "screening/a rather long name of a file, view {:03}.dcm"
    lines = [
        answer(tmp_path, name.format(i), (0.9, 0.8, 0.7, 0.6), pictures=False, why=WHY)
        for i in range(20)
    ]
    for line in lines:
        line["files"]["thumbnail"] = "some thumbnail of the same length as the image's own.jpg"
        stem = Path(line["image"]).stem
        files.write_json(tmp_path / "screening" / f"{stem}.json", line | {"calcifications": []})
    close(tmp_path, lines)
    size = answers_page.write(tmp_path).stat().st_size
    close(tmp_path, lines[:10])
    each = (size - answers_page.write(tmp_path).stat().st_size) / 10
    assert size - 20 * each + 500 * each < 2e6


PROBE = """<script>
addEventListener("load", () => setTimeout(() => {
  const $ = id => document.getElementById(id);
  const seen = {name: NAME, overflow: document.documentElement.scrollWidth - innerWidth,
    broken: [...document.images].filter(i => !i.naturalWidth).map(i => i.src),
    fetched: performance.getEntriesByType("resource").map(e => e.name)};
  if ($("sort")) {
    $("find").value = "X.DCM"; $("find").dispatchEvent(new Event("input", {bubbles: true}));
    seen.count = $("count").textContent;
    $("find").value = ""; $("find").dispatchEvent(new Event("input", {bubbles: true}));
    $("sort").value = "name"; $("sort").dispatchEvent(new Event("change"));
    seen.order = [...document.querySelectorAll("#images h3")].map(h => h.textContent);
  }
  if ($("stack")) {
    const marks = document.querySelector("#stack .marks");
    seen.on = getComputedStyle(marks).display;
    $("show-marks").click(); seen.off = getComputedStyle(marks).display;
    $("level").value = 30; $("level").dispatchEvent(new Event("input"));
    seen.filter = getComputedStyle(document.querySelector("#stack .view")).filter;
    seen.transfer = document.querySelector("#window feFuncR").getAttribute("intercept");
    $("magnify").click(); seen.lens = document.querySelectorAll(".lens img").length;
  }
  document.documentElement.classList.remove("js");
  seen.tools = [...document.querySelectorAll(".scripted")].map(e => getComputedStyle(e).display);
  parent.postMessage(JSON.stringify(seen), "*");
}, 300));
</script>"""
FRAMES = """<!DOCTYPE html><title>frames</title><pre id="seen"></pre><script>
const seen = document.getElementById("seen");
addEventListener("message", event => { seen.append(event.data, "\\n"); });
</script>"""
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")


def browse(tmp_path, page, *flags):
    """What Chromium prints of a page, and what it logs."""
    command = [
        *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
        *(f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--v=0"),
        *flags,
        page.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, done.stderr


@needs_chromium
def test_a_browser_shows_the_pages_at_every_width(folder, tmp_path):
    odd = folder / "sub #2" / f"{Path(ODD).stem}_page.html"
    frames = FRAMES
    for path in (folder / "index.html", odd):
        for width in (1280, 390):
            name = f"{path.name[:1]}{width}"
            text = read(path).replace('loading="lazy"', "")
            probe = path.with_name(f"probe{width}.html")
            probe.write_text(
                text.replace("</body>", PROBE.replace("NAME", f'"{name}"') + "</body>"), "utf-8"
            )
            address = urllib.parse.quote(probe.relative_to(folder).as_posix())
            frames += f'<iframe src="{address}" width="{width}" height="800"></iframe>'
    (folder / "frames.html").write_text(frames, "utf-8")
    printed, log = browse(
        tmp_path, folder / "frames.html", "--virtual-time-budget=4000", "--dump-dom"
    )
    lines = re.search('<pre id="seen">(.*?)</pre>', printed, re.DOTALL).group(1).split("\n")
    seen = {
        entry["name"]: entry
        for line in lines
        if line
        for entry in [json.loads(html.unescape(line))]
    }
    assert sorted(seen) == ["a1280", "a390", "i1280", "i390"]
    for entry in seen.values():
        assert entry["overflow"] <= 0, entry
        assert entry["broken"] == []
        assert set(entry["tools"]) == {"none"}  # which nothing would answer without a script
        assert all(address.startswith(folder.as_uri()) for address in entry["fetched"])
    for width in (1280, 390):
        assert seen[f"i{width}"]["count"] == "1 of 3 images"
        assert seen[f"i{width}"]["order"] == ["plain.png", f"sub #2/{ODD}", "sub #2/x.dcm"]
        image = seen[f"a{width}"]
        assert (image["on"], image["off"]) == ("block", "none")
        assert "#window" in image["filter"] and float(image["transfer"]) == pytest.approx(0.2)
        assert image["lens"] == 4  # the view, marks and two maps
    assert "CONSOLE" not in log, log


@needs_chromium
def test_layers_are_switched_without_a_script(folder, tmp_path):
    path = folder / "sub #2" / "x_page.html"
    text = read(path)
    boxes = {"on": "checked", "off": ""}
    for name, state in boxes.items():
        shown = text.replace('id="show-marks" checked', f'id="show-marks" {state}')
        path.with_name(f"{name}.html").write_text(shown, "utf-8")
    # In a frame with the attribute `sandbox` no script runs.
    kind = 'sandbox="allow-same-origin" width="600" height="900"'
    frames = "".join(f'<iframe {kind} src="sub%20%232/{name}.html"></iframe>' for name in boxes)
    style = "<style>body{margin:0;white-space:nowrap;font-size:0}iframe{border:0}</style>"
    (folder / "both.html").write_text(f"<!DOCTYPE html>{style}{frames}", "utf-8")
    picture = tmp_path / "both.png"
    browse(
        tmp_path,
        folder / "both.html",
        "--window-size=1200,900",
        f"--screenshot={picture}",
    )
    shown = np.asarray(Image.open(picture).convert("RGB")).astype(int)
    amber = (np.abs(shown - overlay.CLUSTER).sum(axis=-1) < 60).reshape(900, 2, 600).sum((0, 2))
    assert amber[0] > 300 > 30 > amber[1]
