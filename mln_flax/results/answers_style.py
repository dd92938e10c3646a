"""Style and script of the pages of a folder of answers, beside what all pages have.

Without a script everything is shown and linked; the controls that need one (class `scripted`) are
hidden. Layers are switched by native checkboxes through `:has()`, which needs no script.
"""

_BOTH = """
:root {
  --mark: #a85500; --warn-ink: #7a3b00; --warn: #fff1dc; --chosen: #e8f1f8; --bar: #7fa9c9;
}
@media (prefers-color-scheme: dark) {
  :root {
    --mark: #ffb21e; --warn-ink: #ffd79a; --warn: #3a2a12; --chosen: #1d2f3d; --bar: #47789c;
  }
}
body { max-width: 96rem; padding: 1.5rem 1.5rem 4rem; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; border-radius: 3px; }
html:not(.js) .scripted { display: none; }
.facts, .none { color: var(--soft); font-size: .85rem; margin: 0; }
.warned {
  background: var(--warn); color: var(--warn-ink); border-left: 4px solid var(--mark);
  padding: .4rem .8rem; margin: .5rem 0; border-radius: 0 4px 4px 0;
}
strong.warned { padding: .1rem .4rem; border-left-width: 3px; }
label { display: inline-flex; align-items: center; gap: .35rem; white-space: nowrap; }
input, select, button { font: inherit; color: inherit; accent-color: var(--link); }
input[type="search"], input[type="number"], select, button {
  background: var(--paper); border: 1px solid var(--soft); border-radius: 4px; padding: .2rem .5rem;
}
input[type="checkbox"] { width: 1.05rem; height: 1.05rem; margin: 0; }
.tools {
  display: flex; flex-wrap: wrap; align-items: center; gap: .5rem 1.1rem; font-size: .9rem;
  padding: .5rem .8rem; background: var(--band); border-radius: 6px;
}
"""

LIST = (
    _BOTH
    + """
.research { color: var(--soft); font-size: .9rem; margin: .2rem 0 1rem; }
.counts { display: flex; flex-wrap: wrap; gap: .6rem 2.2rem; margin: 0 0 1rem; max-width: none; }
.counts div { display: flex; flex-direction: column-reverse; }
.counts dd { font-size: 1.6rem; line-height: 1.15; font-weight: 600; }
section:first-of-type h2 { margin-top: 1.5rem; }
.images {
  list-style: none; margin: .8rem 0 0; padding: 0; max-width: none; display: grid; gap: .7rem;
  grid-template-columns: repeat(auto-fill, minmax(min(21.5rem, 100%), 1fr));
}
.images > li {
  display: grid; grid-template-columns: 8rem minmax(0, 1fr); gap: .8rem; padding: .5rem;
  border: 1px solid var(--line); border-radius: 6px; content-visibility: auto;
  contain-intrinsic-size: auto 9.2rem;
}
.images > li:hover { border-color: var(--soft); }
.images > li[hidden] { display: none; }
.thumbnail {
  display: flex; align-items: center; justify-content: center; background: #000; height: 8rem;
  border-radius: 4px; overflow: hidden;
}
.thumbnail img { display: block; max-width: 100%; max-height: 100%; object-fit: contain; }
.images h3 { font-size: .95rem; line-height: 1.3; margin: 0 0 .1rem; }
.images h3 a { text-decoration: none; }
.images h3 a:hover { text-decoration: underline; }
.images .none { margin-top: .45rem; font-size: .9rem; }
.chips, .flags, .links { list-style: none; padding: 0; margin: .4rem 0 0; font-size: .85rem; }
.chips a { color: inherit; text-decoration: none; }
.chips a:hover { text-decoration: underline; }
.chips { line-height: 1.5; font-variant-numeric: tabular-nums; }
.chips b { color: var(--mark); }
.flags { display: flex; flex-wrap: wrap; gap: .25rem .4rem; }
.flags li { background: var(--band); border-radius: 3px; padding: 0 .4rem; font-size: .8rem; }
.flags .warning { background: var(--warn); color: var(--warn-ink); }
.links li { margin: .25rem 0; }
.tools { position: sticky; top: 0; z-index: 1; }
#find { width: 14rem; max-width: 100%; }
#least { width: 4.6rem; }
@media (max-width: 40rem) {
  body { padding: 1rem .8rem 3rem; }
  .images > li { grid-template-columns: 6rem minmax(0, 1fr); }
  .thumbnail { height: 6.5rem; }
  .tools { position: static; }
  dl { grid-template-columns: 1fr; }
  dd + dt { margin-top: .4rem; }
}
"""
)

LIST_TOOLS = """<form class="tools scripted" id="tools">
<label>Sort by <select id="sort">
<option value="score">highest score</option><option value="clusters">number of clusters</option>
<option value="warnings">warnings</option><option value="name">name</option></select></label>
<label>Find <input type="search" id="find" placeholder="name, branch"></label>
<label>Score from <input type="number" id="least" min="0" max="1" step="0.05" value="0"></label>
<label><input type="checkbox" id="marked">with clusters</label>
<label><input type="checkbox" id="warned">with warnings</label>
<output id="count" aria-live="polite"></output>
</form>"""

LIST_SCRIPT = """
"use strict";
const list = document.getElementById("images");
if (list) {
  document.documentElement.classList.add("js");
  const get = id => document.getElementById(id);
  const entries = [...list.children].map(element => ({
    element, ...element.dataset, name: element.querySelector("h3").textContent,
    text: element.textContent.toLowerCase(),
  }));
  const byName = (a, b) => a.name.localeCompare(b.name, undefined, {numeric: true});
  const sort = () => {
    const by = get("sort").value;
    const order = by === "name" ? byName : (a, b) => b[by] - a[by] || b.score - a.score;
    list.append(...[...entries].sort((a, b) => order(a, b) || byName(a, b)).map(e => e.element));
  };
  const filter = () => {
    const words = get("find").value.toLowerCase().split(/\\s+/);
    let count = 0;
    for (const entry of entries) {
      const shown = words.every(word => entry.text.includes(word))
        && entry.score >= Number(get("least").value)
        && (!get("marked").checked || entry.clusters > 0)
        && (!get("warned").checked || entry.warnings > 0);
      entry.element.hidden = !shown;
      count += shown;
    }
    get("count").textContent = `${count} of ${entries.length} images`;
  };
  get("tools").addEventListener("submit", event => event.preventDefault());
  get("tools").addEventListener("input", filter);
  get("sort").addEventListener("change", sort);
  sort();  // a browser keeps what was chosen before the page was loaded again
  filter();
}
"""

IMAGE = (
    _BOTH
    + """
header nav span { color: var(--soft); opacity: .6; }
header h1 { margin-top: .6rem; }
header .lead { margin-bottom: .6rem; }
.viewer {
  display: grid; gap: 1rem 1.5rem; margin-top: 1rem; align-items: start;
  grid-template-columns: minmax(0, 3fr) minmax(0, 2fr);
  --map: linear-gradient(90deg, #7e03a8, #cc4778, #f89540, #f0f921);
}
.tools, .branches { grid-column: 1 / -1; }
.tools { position: sticky; top: 0; z-index: 3; }
.shown { position: sticky; top: 3.6rem; }
.stack {
  position: relative; aspect-ratio: var(--ratio); background: #000; border-radius: 4px;
  overflow: hidden; width: min(100%, calc((100vh - 7.5rem) * var(--ratio))); margin: 0 auto;
}
.stack img { position: absolute; inset: 0; width: 100%; height: 100%; display: block; }
.view { filter: var(--window, brightness(1)); }
.viewer:has(#invert:checked) .view { filter: var(--window, brightness(1)) invert(1); }
.layer { pointer-events: none; }
.viewer:has(#show-marks:not(:checked)) .layer.marks,
.viewer:has(#show-disagreement:not(:checked)) .layer.disagreement,
.viewer:has(#show-attribution:not(:checked)) .layer.attribution { display: none; }
.spot { position: absolute; border-radius: 4px; }
.spot:hover, .spot:target { box-shadow: 0 0 0 2px #000, 0 0 0 4px #fff; }
.spot:target { scroll-margin: 8rem; }
.stack :focus-visible { outline-color: #fff; }
.scale {
  display: inline-block; width: 4.5rem; height: .6rem; background: var(--map); border-radius: 2px;
}
.beside h2, .branches h2 { margin: 0 0 .6rem; padding: 0; border: 0; }
.clusters { list-style: none; margin: 0; padding: 0; max-width: none; }
.clusters > li {
  display: grid; grid-template-columns: 9.5rem minmax(0, 1fr); gap: .9rem; padding: .6rem 0;
  border-top: 1px solid var(--line); scroll-margin: 4.5rem;
}
.clusters > li:target { background: var(--chosen); box-shadow: 0 0 0 .4rem var(--chosen); }
.clusters h3 { margin: 0; }
.clusters p { margin: .1rem 0; font-size: .9rem; font-variant-numeric: tabular-nums; }
.clusters details { margin: .3rem 0 0; }
.clusters .table { margin: .3rem 0 0; }
.clusters table { font-size: .8rem; }
.clusters th, .clusters td { padding: .1rem .4rem; }
.score { display: flex; align-items: center; gap: .6rem; }
.score b { color: var(--mark); }
.full { width: 7rem; height: .5rem; background: var(--line); border-radius: 2px; }
.full span { display: block; height: 100%; background: var(--mark); border-radius: 2px; }
.close-up {
  position: relative; aspect-ratio: 1; overflow: hidden; background: #000; border-radius: 4px;
  align-self: start;
}
.close-up img { position: absolute; max-width: none; }
.row { display: grid; gap: .8rem; grid-template-columns: repeat(auto-fit, minmax(12rem, 1fr)); }
.branch-view { margin: 0; }
.branch-view .stack { width: 100%; }
.branch-view.chosen .stack { box-shadow: 0 0 0 3px var(--mark); }
.branch-view.chosen figcaption { color: var(--mark); font-weight: 600; }
.stack img, .close-up img { border: 0; border-radius: 0; background: none; }
.why { display: grid; gap: 0 2.5rem; grid-template-columns: minmax(0, 1fr); align-items: start; }
@media (min-width: 86rem) { .why { grid-template-columns: minmax(0, 1fr) max-content; } }
.why > div > :first-child { margin-top: 0; }
tbody th { font-weight: 400; color: var(--ink); vertical-align: top; white-space: nowrap; }
.table .chosen { background: var(--chosen); color: var(--ink); }
th, td { overflow-wrap: normal; }
.distances td { min-width: 6rem; }
.bar { display: block; height: .35rem; background: var(--bar); border-radius: 2px; }
.numbers th, .numbers td { padding-top: .12rem; padding-bottom: .12rem; }
.axis {
  display: block; position: relative; width: 11rem; height: 1.3rem;
  background: linear-gradient(var(--soft), var(--soft)) 50% 50% / 1px 100% no-repeat,
    linear-gradient(var(--line), var(--line)) 0 50% / 100% 1px no-repeat;
}
.axis i {
  position: absolute; top: 50%; width: .6rem; height: .6rem; margin: -.3rem; border-radius: 50%;
  background: var(--bar);
}
.ends { display: flex; justify-content: space-between; width: 11rem; font-weight: 400; }
.outside { background: var(--warn); }
.outside th, .outside td { color: var(--warn-ink); font-weight: 600; }
.outside i { background: var(--mark); border-radius: 0; transform: rotate(45deg); }
.links { columns: 20rem; font-size: .95rem; list-style: none; padding: 0; max-width: none; }
.links li { margin: .2rem 0; }
footer { margin-top: 3rem; }
.tools input[type="range"] { width: 7rem; }
.tools output { min-width: 2.4em; font-variant-numeric: tabular-nums; }
.stack.magnified { cursor: none; touch-action: none; }
.lens {
  position: absolute; width: 15rem; height: 15rem; margin: -7.5rem; border-radius: 50%;
  overflow: hidden; background: #000; box-shadow: 0 0 0 2px #fff, 0 0 0 3px #000; display: none;
  pointer-events: none; z-index: 2;
}
.stack.magnified .lens { display: block; }
.stack .lens img { inset: auto; max-width: none; }
@media (max-width: 60rem) {
  .viewer { grid-template-columns: minmax(0, 1fr); }
  .tools, .shown { position: static; }
  .stack { width: min(100%, calc(90vh * var(--ratio))); }
}
@media (max-width: 40rem) {
  body { padding: 1rem .8rem 3rem; }
  .clusters > li { grid-template-columns: 7rem minmax(0, 1fr); }
  .row { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .lens { width: 11rem; height: 11rem; margin: -5.5rem; }
  dl { grid-template-columns: 1fr; }
  dd + dt { margin-top: .4rem; }
}
@media print { .tools, .spot { display: none; } .shown { position: static; } }
"""
)

# A filter of SVG does what a viewer's window does, exactly: (gray - level) / width + 1/2.
IMAGE_TOOLS = """<label class="scripted">Level <input type="range" id="level" min="0" max="100"
value="50"><output id="level-is">50</output></label>
<label class="scripted">Width <input type="range" id="width" min="2" max="200" value="100"><output
id="width-is">100</output></label>
<button type="button" class="scripted" id="reset">Reset</button>
<label class="scripted"><input type="checkbox" id="magnify">Magnifier</label>
<svg width="0" height="0" style="position:absolute" aria-hidden="true"><filter id="window"
color-interpolation-filters="sRGB"><feComponentTransfer><feFuncR type="linear"/><feFuncG
type="linear"/><feFuncB type="linear"/></feComponentTransfer></filter></svg>
"""

IMAGE_SCRIPT = """
"use strict";
const get = id => document.getElementById(id);
const stack = get("stack");
if (stack) {
  document.documentElement.classList.add("js");
  const level = get("level"), width = get("width");
  const show = () => {
    const slope = 100 / width.value, intercept = 0.5 - level.value / width.value;
    for (const transfer of document.querySelectorAll("#window feComponentTransfer > *")) {
      transfer.setAttribute("slope", slope);
      transfer.setAttribute("intercept", intercept);
    }
    const changed = slope !== 1 || intercept !== 0;
    if (changed) document.documentElement.style.setProperty("--window", "url(#window)");
    else document.documentElement.style.removeProperty("--window");
    get("level-is").textContent = level.value;
    get("width-is").textContent = width.value;
  };
  level.addEventListener("input", show);
  width.addEventListener("input", show);
  get("reset").addEventListener("click", () => { level.value = 50; width.value = 100; show(); });
  show();

  const lens = document.createElement("div");
  lens.className = "lens";
  const copies = [...stack.querySelectorAll("img")].map(image => image.cloneNode());
  for (const copy of copies) { copy.alt = ""; copy.loading = "eager"; }
  let place = [0.5, 0.5], zoom = 3;
  const move = (x, y) => {
    place = [x, y].map(share => Math.min(1, Math.max(0, share)));
    lens.style.left = `${100 * place[0]}%`;
    lens.style.top = `${100 * place[1]}%`;
    const sides = [stack.clientWidth * zoom, stack.clientHeight * zoom];
    const middle = [lens.clientWidth / 2, lens.clientHeight / 2];
    for (const copy of copies) {
      copy.style.width = `${sides[0]}px`;
      copy.style.height = `${sides[1]}px`;
      copy.style.left = `${middle[0] - place[0] * sides[0]}px`;
      copy.style.top = `${middle[1] - place[1] * sides[1]}px`;
    }
  };
  get("magnify").addEventListener("change", event => {
    if (!lens.isConnected) { lens.append(...copies); stack.append(lens); }
    stack.classList.toggle("magnified", event.target.checked);
    if (event.target.checked) {
      stack.tabIndex = 0;
      stack.setAttribute("role", "group");
      stack.setAttribute("aria-label", "View. Arrow keys move the magnifier, + and - zoom");
      move(...place);
    } else stack.removeAttribute("tabindex");
  });
  stack.addEventListener("pointermove", event => {
    if (!get("magnify").checked) return;
    const box = stack.getBoundingClientRect();
    move((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
  });
  const steps = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
  stack.addEventListener("keydown", event => {
    if (!get("magnify").checked) return;
    const zooms = {"+": 1.25, "=": 1.25, "-": 0.8};
    if (event.key in zooms) zoom = Math.min(12, Math.max(1.5, zoom * zooms[event.key]));
    else if (!(event.key in steps)) return;
    event.preventDefault();
    const [x, y] = steps[event.key] || [0, 0];
    move(place[0] + x * 0.02, place[1] + y * 0.02);
  });
  get("magnify").dispatchEvent(new Event("change"));
}
"""
