"""The printed page: steps, fingerprints and addresses, with QR codes for whoever has a phone.

What has a code is what people would have to compare digit by digit: fingerprints (scan the page,
compare with what the machine prints) and addresses (scan, look whether the coins are still there).
The same contents give the same bytes; no date is in it, and there is a line to write one on.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from keycairn.errors import Code, KeycairnError
from keycairn.ers.children import addresses_of
from keycairn.ers.statement import KeyStatement
from keycairn.kit.contents import Contents
from keycairn.kit.offline.tool import groups
from keycairn.kit.steps import STEPS, WHAT, Fingerprint

#: Keys beyond these are in public.json only: nobody reads a hundred pages.
MAX_KEYS = 60
#: Documents beyond these too.
MAX_DOCUMENTS = 12

_WIDTH, _HEIGHT = 595.28, 841.89  # A4, in points
_MARGIN = 48.0
_CODE = 66.0  # side of a QR code: 23 mm
_TEXT, _BOLD, _MONO = "Helvetica", "Helvetica-Bold", "Courier"


def page(what: Contents, prints: Sequence[Fingerprint]) -> bytes:
    """``page.pdf``.

    Raises:
        KeycairnError: E_UNAVAILABLE if the extra ``kit`` is not installed.
    """
    if importlib.util.find_spec("reportlab") is None:
        raise KeycairnError(
            Code.UNAVAILABLE,
            "the package that draws the printed page is not installed",
            not_lost="Nothing was written.",
            next="pip install 'keycairn[kit]'",
        )
    sheet = _Sheet("Keycairn recovery kit", prints[0].sha256)
    sheet.title("Keycairn recovery kit")
    if what.label:
        sheet.text(what.label, font=_BOLD, size=12)
    sheet.text(WHAT)
    sheet.gap(4)
    sheet.text(
        "made on ____________  by ____________________  RSA key kept at ____________________"
    )
    sheet.heading("Fingerprints (SHA-256)")
    shown = len(what.rsa_keys) + 2 + MAX_DOCUMENTS
    for one in prints[:shown]:
        sheet.block(one.of, groups(one.sha256), one.sha256)
    if len(prints) > shown:
        sheet.text(f"and {len(prints) - shown} more documents: see SHA256SUMS in the kit")
    sheet.heading("Steps")
    for number, step in enumerate(STEPS, 1):
        sheet.keep(60)
        sheet.text(f"{number}. {step.title}", font=_BOLD, size=10)
        sheet.text(step.text, indent=12)
        for command in step.commands:
            sheet.text(command, font=_MONO, size=8.5, indent=24)
        if step.after:
            sheet.text(step.after, indent=12)
        sheet.gap(4)
    sheet.heading(f"Keys ({len(what.keys)})")
    for key in list(what.keys.values())[:MAX_KEYS]:
        _key(sheet, what, key)
    if len(what.keys) > MAX_KEYS:
        sheet.text(f"and {len(what.keys) - MAX_KEYS} more keys: see public.json in the kit")
    return sheet.finish()


def _key(sheet: _Sheet, what: Contents, key: KeyStatement) -> None:
    known = addresses_of(key.scheme, key.curve, key.public_key)
    children = what.facts[key.key_id].paths if key.key_id in what.facts else {}
    code = next(iter(known.values()), key.public_key.hex())
    lines = [
        f"{key.scheme} on {key.curve}, generation {key.generation}, "
        f"{key.threshold + 1} of {len(key.holders)} nodes"
        + (f", {len(children)} derived keys in paths.json" if children else ""),
        key.public_key.hex(),
        *(f"{name}  {text}" for name, text in known.items()),
    ]
    sheet.block(key.key_id, lines, code)


class _Sheet:
    """Lines from the top of an A4 page downwards, and further pages when it is full."""

    def __init__(self, title: str, fingerprint: str) -> None:
        from reportlab.pdfgen.canvas import Canvas

        self._out = io.BytesIO()
        self._canvas: Any = Canvas(self._out, pagesize=(_WIDTH, _HEIGHT), invariant=1)
        self._canvas.setTitle(title)
        self._fingerprint, self._page = fingerprint, 1
        self._y = _HEIGHT - _MARGIN

    def title(self, text: str) -> None:
        self.text(text, font=_BOLD, size=18)
        self.gap(4)

    def heading(self, text: str) -> None:
        self.keep(110)
        self.gap(8)
        self.text(text, font=_BOLD, size=13)
        self.gap(3)

    def gap(self, points: float) -> None:
        self._y -= points

    def keep(self, points: float) -> None:
        """Begin a new page unless so much is left of this one."""
        if self._y - points < _MARGIN + 16:
            self._end_page()
            self._y = _HEIGHT - _MARGIN

    def text(self, text: str, font: str = _TEXT, size: float = 9.5, indent: float = 0) -> None:
        """A paragraph, broken into lines."""
        for line in self._lines(_printable(text), font, size, _WIDTH - 2 * _MARGIN - indent):
            self.keep(size * 1.3)
            self._y -= size * 1.3
            self._canvas.setFont(font, size)
            self._canvas.drawString(_MARGIN + indent, self._y, line)

    def block(self, name: str, lines: Iterable[str], code: str) -> None:
        """A name and fixed-width lines, with a QR code at the right."""
        width = _WIDTH - 2 * _MARGIN - _CODE - 12
        rows = [row for line in lines for row in self._lines(_printable(line), _MONO, 8.5, width)]
        height = max(_CODE, 13 + 11 * len(rows)) + 8
        self.keep(height)
        top = self._y
        self._canvas.setFont(_BOLD, 9.5)
        for i, line in enumerate(self._lines(_printable(name), _BOLD, 9.5, width)):
            self._canvas.drawString(_MARGIN, top - 11 - 11 * i, line)
            top -= 11 if i else 0
        self._canvas.setFont(_MONO, 8.5)
        for i, row in enumerate(rows):
            self._canvas.drawString(_MARGIN, top - 24 - 11 * i, row)
        self._draw_code(code, _WIDTH - _MARGIN - _CODE, self._y - _CODE)
        self._y -= height

    def finish(self) -> bytes:
        self._end_page()
        self._canvas.save()
        return self._out.getvalue()

    def _end_page(self) -> None:
        self._canvas.setFont(_TEXT, 8)
        foot = f"page {self._page}   kit {' '.join(groups(self._fingerprint)[0].split())} ..."
        self._canvas.drawString(_MARGIN, _MARGIN - 12, foot)
        self._canvas.showPage()
        self._page += 1

    def _draw_code(self, text: str, x: float, y: float) -> None:
        from reportlab.graphics import renderPDF
        from reportlab.graphics.barcode.qr import QrCodeWidget
        from reportlab.graphics.shapes import Drawing

        widget = QrCodeWidget(text, barLevel="M", barWidth=_CODE, barHeight=_CODE, barBorder=1)
        drawing = Drawing(_CODE, _CODE)
        drawing.add(widget)
        renderPDF.draw(drawing, self._canvas, x, y)

    def _lines(self, text: str, font: str, size: float, width: float) -> Iterator[str]:
        """The text in lines that fit; words that don't are cut."""
        line = ""
        for word in text.split(" "):
            joined = f"{line} {word}" if line else word
            if self._canvas.stringWidth(joined, font, size) <= width:
                line = joined
                continue
            if line:
                yield line
            while self._canvas.stringWidth(word, font, size) > width:
                count = int(len(word) * width / self._canvas.stringWidth(word, font, size))
                yield word[:count]
                word = word[count:]
            line = word
        yield line


def _printable(text: str) -> str:
    """The page's letters are those of Western Europe; others are named by their number."""
    return text.encode("cp1252", "backslashreplace").decode("cp1252")
