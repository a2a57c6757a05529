# SPDX-License-Identifier: Apache-2.0
"""Picture of the data flow, docs/flow.svg, drawn from the folders of the code.

``python -m docs.generate`` writes it, ``tests/test_docs.py`` compares.
"""

import dataclasses
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parents[1]

WIDTH, MARGIN = 480, 8  # narrow, so that a phone shows letters of 10 pixels
BAND, GAP = 80, 34  # heights of a package and of what it hands on
BOX, TOP = 38, 33  # height of a folder's box, and its distance from the edge of the band
LETTERS = 70  # of a line of names of 11 pixels, in a box as wide as the picture


@dataclasses.dataclass(frozen=True)
class Band:
    """A package with folders in the order of the data flow.

    Parameters
    ----------
    package, caption : title of the band
    folders : folders of the package; empty for its own files
    fill, line : colours
    left, right : share of the picture's width, 0 to 1
    """

    package: str
    caption: str
    folders: Sequence[str]
    fill: str
    line: str
    left: float = 0.0
    right: float = 1.0


#: Packages from top to bottom, those of a tuple side by side.
BANDS: tuple[tuple[Band, ...], ...] = (
    (
        Band(
            "quant",
            "training in PyTorch",
            ("capture", "nn", "assignment", "training", "lowering"),
            "#e3ecf8",
            "#3b6ea8",
        ),
    ),
    (Band("ir", "contract: numerics, integer graph, golden model", (), "#f4edda", "#9a7418"),),
    (
        Band(
            "gateware",
            "accelerator in Amaranth",
            ("compiler", "arch", "rtl", "pe", "model"),
            "#e2f1e4",
            "#3a7d44",
        ),
    ),
    (
        Band(
            "sim",
            "that Verilog, bit by bit",
            ("backend", "world", "verify"),
            "#f6e4ea",
            "#a3436a",
            right=0.595,
        ),
        Band("boards", "host side", ("driver",), "#ebe6f5", "#6b4fa0", left=0.615),
    ),
)
#: What one package hands to the next, between two bands.
ARTEFACTS = (
    "integers of every layer: graph.safetensors",
    "the same file, read without PyTorch",
    "program.bin and accelerator.v",
)


def files(*parts: str) -> int:
    """Files with code below a folder, tests apart."""
    return sum(
        bool(file.read_text(encoding="utf-8").strip())
        for file in ROOT.joinpath(*parts).rglob("*.py")
        if not file.name.startswith(("test_", "conftest"))
    )


def text(x: float, y: float, words: str, size: int, **style: str) -> str:
    attributes = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in style.items())
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}"{attributes}>{escape(words)}</text>'


def rectangle(x: float, y: float, width: float, height: float, fill: str, line: str) -> str:
    return (
        f'<rect x="{x:.4g}" y="{y:g}" width="{width:.4g}" height="{height:g}" rx="5" '
        f'fill="{fill}" stroke="{line}"/>'
    )


def band_shapes(band: Band, top: int) -> Iterator[str]:
    """Shapes of one band whose upper edge is at ``top``."""
    inner = WIDTH - 2 * MARGIN
    left, width = MARGIN + band.left * inner, (band.right - band.left) * inner
    yield rectangle(left, top, width, BAND, band.fill, band.line)
    yield (
        f'<text x="{left + 10:g}" y="{top + 21}" font-size="14" fill="{band.line}">'
        f'<tspan font-weight="bold">{band.package}/</tspan> {escape(band.caption)}</text>'
    )
    boxes = [(name, files(band.package, name)) for name in band.folders] or [
        (", ".join(sorted(f.stem for f in (ROOT / band.package).glob("[a-z]*.py"))), None)
    ]
    step = (width - 12) / len(boxes)
    for index, (name, count) in enumerate(boxes):
        x = left + 6 + index * step
        yield rectangle(x + 3, top + TOP, step - 6, BOX, "#ffffff", band.line)
        middle = x + step / 2
        if count is None:
            lines = textwrap.wrap(name, LETTERS)
            for number, line in enumerate(lines):
                y = top + TOP + 23 + (number - (len(lines) - 1) / 2) * 15
                yield text(middle, y, line, 11, text_anchor="middle")
            continue
        yield text(middle, top + TOP + 16, name, 14, text_anchor="middle")
        words = f"{count} file{'s' * (count != 1)}"
        yield text(middle, top + TOP + 31, words, 11, text_anchor="middle", fill="#555555")


def arrow(top: int, words: str) -> Iterator[str]:
    """An arrow down from ``top`` through a gap, and what goes along it."""
    x = 40
    yield f'<path d="M{x} {top + 3}V{top + GAP - 10}" stroke="#444444" stroke-width="2"/>'
    yield f'<path d="M{x - 5} {top + GAP - 11}h10l-5 9z" fill="#444444"/>'
    yield text(x + 14, top + 21, words, 12, fill="#444444")


def svg() -> str:
    """docs/flow.svg."""
    height = 2 * MARGIN + len(BANDS) * BAND + len(ARTEFACTS) * GAP
    shapes = [f'<rect width="{WIDTH}" height="{height}" rx="8" fill="#ffffff"/>']
    for index, bands in enumerate(BANDS):
        top = MARGIN + index * (BAND + GAP)
        for band in bands:
            shapes += band_shapes(band, top)
        if index < len(ARTEFACTS):
            shapes += arrow(top + BAND, ARTEFACTS[index])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'font-family="Helvetica, Arial, sans-serif" fill="#1b1b1b">\n'
        "<!-- Written by `python -m docs.generate` from docs/flow.py. -->\n"
        + "\n".join(shapes)
        + "\n</svg>\n"
    )
