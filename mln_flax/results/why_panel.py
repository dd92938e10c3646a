"""Why an image was answered as it was: distances to the branches, its numbers, how sure."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from mln_flax.results import page
from mln_flax.types import Record

_WIDEST_Z = 5.0  # the axis of the numbers ends here; what is beyond stands at its end


def panel(why: Record) -> str:
    """What an image's JSON has under `why`, as HTML; "" for a method that explains nothing."""
    words = [
        _far(why.get("far")),
        _disagreement(why.get("disagreement")),
        _attribution(why.get("attribution")),
        _distances(why) if why.get("distances") else "",
        *(
            page.folded(f"What each norm adds to {rule}", _by_norm(part, why["branches"]))
            for rule, part in (why.get("by_norm") or {}).items()
        ),
    ]
    columns = [
        "\n".join(filter(None, words)),
        _numbers(why["numbers"]) if why.get("numbers") else "",
    ]
    filled = [page.box(column, "column") for column in columns if column]
    return page.box("\n".join(filled), "why") if filled else ""


def _far(far: Record | None) -> str:
    if not far:
        return ""
    compared = f"distance {page.number(far['distance'])}, limit {page.number(far['threshold'])}"
    if far["is_far"]:
        return (
            '<p class="warned"><strong>Far from the source in every branch</strong> '
            f"({compared}): the images that the network learned from do not look like this one.</p>"
        )
    return f"<p>Within what the source looks like ({compared}).</p>"


def _distances(why: Record) -> str:
    """A row for each rule, a column for each branch; bars: how much farther than the nearest."""
    branches, chosen = why["branches"], why.get("chosen")
    heads = "".join(
        f'<th scope="col" class="number{" chosen" if branch == chosen else ""}">'
        f"{html.escape(branch)}{' (chosen)' if branch == chosen else ''}</th>"
        for branch in branches
    )
    rows = "\n".join(
        f'<tr><th scope="row">{html.escape(rule)}</th>{_bars(values, branches, chosen)}</tr>'
        for rule, values in why["distances"].items()
    )
    count = why.get("looked_at")
    over = f", summed over {count} tiles" if count and count > 1 else ""
    return (
        '<div class="table"><table class="distances"><caption>Distance to each branch by each rule'
        f"</caption>\n<thead><tr><td></td>{heads}</tr></thead>\n<tbody>{rows}</tbody></table></div>"
        f'<p class="note">Smaller is nearer{over}; bars begin at the nearest (●) and end at the '
        "farthest of each rule. The branch was chosen by more tiles, where none counts for "
        "much alone: it may be another than the nearest here.</p>"
    )


def _bars(values: Sequence[float | None], branches: Sequence[str], chosen: str | None) -> str:
    known = [value for value in values if value is not None]
    low, high = min(known, default=0), max(known, default=0)
    cells = []
    for value, branch in zip(values, branches, strict=True):
        kind = " chosen" if branch == chosen else ""
        if value is None:
            cells.append(f'<td class="number{kind}">–</td>')
            continue
        share = 100 * (value - low) / (high - low) if high > low else 0
        nearest = '<span title="nearest">● </span>' if value == low else ""
        cells.append(
            f'<td class="number{kind}">{nearest}{page.number(float(value), 3)}'
            f'<span class="bar" style="width:{share:.0f}%"></span></td>'
        )
    return "".join(cells)


def _by_norm(part: Mapping[str, Any], branches: Sequence[str]) -> str:
    heads = "".join(f'<th scope="col" class="number">{html.escape(name)}</th>' for name in branches)
    rows = "\n".join(
        f'<tr><th scope="row">{html.escape(norm)}</th>{_bars(values, branches, None)}</tr>'
        for norm, values in zip(part["norms"], part["distances"], strict=True)
    )
    return (
        f'<div class="table"><table class="distances"><thead><tr><td></td>{heads}</tr></thead>\n'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _numbers(numbers: Sequence[Record]) -> str:
    """A row for each number of the image, the outside ones marked by a word as well as a color."""
    outside = sum(bool(number["outside"]) for number in numbers)
    rows = "\n".join(map(_number_row, numbers))
    return (
        '<div class="table"><table class="numbers"><caption>The image in numbers, against the '
        f"source ({outside} of {len(numbers)} outside)</caption>\n<thead><tr>"
        '<th scope="col">number</th><th scope="col" class="number">image</th>'
        '<th scope="col" class="number">source</th><th scope="col" class="number">z</th>'
        f'<th scope="col"><span class="ends"><span>−{_WIDEST_Z:g}</span><span>0</span>'
        f"<span>{_WIDEST_Z:g}</span></span></th><td></td></tr></thead>\n"
        f"<tbody>{rows}</tbody></table></div>"
        '<p class="note">Source: mean ± standard deviation over its images, seen through the '
        "nearest view. z: how many standard deviations the image lies from the mean.</p>"
    )


def _number_row(number: Record) -> str:
    z, outside = number["z"], number["outside"]
    place = "" if z is None else f"{50 + 50 * max(-1.0, min(1.0, z / _WIDEST_Z)):.1f}%"
    dot = f'<i style="left:{place}"></i>' if place else ""
    return (
        f'<tr{" class=outside" if outside else ""}><th scope="row">{html.escape(number["name"])}'
        f'</th><td class="number">{page.number(number["value"], 3)}</td>'
        f'<td class="number">{page.number(number["mean"], 3)} ± '
        f"{page.number(number['std'], 3)}</td>"
        f'<td class="number">{page.number(z, 1)}</td><td><span class="axis">{dot}</span></td>'
        f"<td>{'outside' if outside else ''}</td></tr>"
    )


def _disagreement(disagreement: Record | None) -> str:
    if not disagreement:
        return ""
    return (
        "<p><strong>Disagreement of the branches:</strong> they decide differently on "
        f"{_percent(disagreement['share'])} of the pixels looked at; mean "
        f"{page.number(disagreement['mean'], 3)}, "
        f"largest {page.number(disagreement['largest'], 3)}.</p>"
    )


def _attribution(attribution: Record | None) -> str:
    if not attribution:
        return ""
    drop, random = attribution["drop"], attribution["drop_random"]
    weak = (
        ""
        if drop is None or random is None or drop > random
        else ' <strong class="warned">The map explains no more than chance.</strong>'
    )
    return (
        f"<p><strong>Attribution</strong> of cluster {attribution['cluster']} "
        f"({html.escape(attribution['method'])}). Deletion check: without the pixels that it names "
        f"the score falls by {page.number(drop)}, without as many random ones by "
        f"{page.number(random)}.{weak}</p>"
    )


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.2g}%"
