"""A folder as mini-MIAS has them, whose films show dots that a network of brightness marks."""

import answering
import numpy as np

SIDE = 96
# Of `answering.DOTS` the middle is at row 46, column 29; y counts from the bottom.
HIT, ELSEWHERE, IN_AIR = f"28 {SIDE - 45} 8", f"20 {SIDE - 76} 4", f"75 {SIDE - 6} 3"
FILMS = {  # film -> what Info.txt says of it, and whether it shows dots
    1: ("G NORM", False),
    2: ("G NORM", True),
    3: (f"G CALC B {HIT}", True),
    4: (f"G CALC M {ELSEWHERE}", True),
    5: ("G CIRC B 30 40 9", True),
    6: ("G CALC M *NOTE 3*", True),
    7: (f"G CALC B {IN_AIR}", True),
}


def write(folder, films=None):
    """The folder, with these films alone."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [f"mdb{film:03d} {row}" for film, (row, _) in FILMS.items()]
    (folder / "Info.txt").write_text("\n".join(rows) + "\n")
    for film in FILMS if films is None else films:
        dots = answering.DOTS if FILMS[film][1] else ()
        image = np.round(answering.mammogram((SIDE, SIDE), dots) * 255).astype(np.uint8)
        image[-1, -1] = film  # no two are one file
        (folder / f"mdb{film:03d}.pgm").write_bytes(b"P5\n96 96\n255\n" + image.tobytes())
    return folder
