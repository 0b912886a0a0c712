"""Write the PDFs with columns, tables and headings; run it only to change them.

    uv run --with fpdf2 tests/data/make_pdf.py

The lines of columns are drawn row by row, left, right, left, right, as some programs do: in the
order of drawing the text makes no sense. All facts are invented.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import fpdf

HERE = Path(__file__).parent
WHEN = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
LEADING_MM = 5.0
MARGIN_MM = 18.0

LEFT = (
    "The salt works of Ulverby lie where the river Aske meets the lagoon. In spring the gates are "
    "opened on the first new moon after the equinox, and sea water fills the forty outer ponds to "
    "the height of a hand. Wind and sun do the rest. By the end of June the brine has moved "
    "through three rings of ponds, and in each of them it leaves behind what the cooks do not "
    "want: first the mud, then the lime, and then the gypsum that the plasterers fetch by cart."
)
RIGHT = (
    "The rakers begin at four in the morning, before the heat. A raker brings in about 900 "
    "kilograms on a good day and is paid by the basket, which holds 31 kilograms when it is "
    "heaped. The finest salt floats on the pond like a skin and is skimmed with a wooden board "
    "by the eldest of each family. In the year of the great rain, 1897, the works made nothing, "
    "and the council lent every family six crowns until the following summer."
)
THIRD = (
    "Since the bridge was built the salt goes to market by road. The old barges are kept in the "
    "museum, which opens on Sundays from May to August. A ticket costs 4 crowns, and children "
    "under twelve pay nothing. The last bargeman, Osric Penhallow, tells of the winter in which "
    "the lagoon froze and the salt was drawn over the ice by ponies."
)
HARVEST = (
    ("Pond", "Area", "Harvest", "Foreman"),
    ("Northern", "1,200 m²", "310 t", "Ida Brandt"),
    ("Mill", "860 m²", "198 t", "Per Oakley"),
    ("Chapel", "440 m²", "87 t", "Ida Brandt"),
    ("Gull", "1,010 m²", "254 t", "Tove Marsh"),
)
MANUAL = (
    (0, "Repair of tide gates", "This manual is for the keepers of the gates at Ulverby."),
    (1, "1 Inspection", "Look at the hinges every Monday, and at the seals after each storm."),
    (2, "1.1 Hinges", "A hinge that has lost more than 3 millimetres is replaced."),
    (2, "1.2 Seals", "Seals are of larch wood. They swell for 9 days before they are tight."),
    (1, "2 Replacement", "Close the neighbouring gates first, and tell the miller."),
)


class _Pdf(fpdf.FPDF):
    def __init__(self, title: str = "") -> None:
        super().__init__()
        self.set_creation_date(WHEN)
        self.set_margin(MARGIN_MM)
        self.set_font("Helvetica", size=10)
        if title:
            self.set_title(title)

    def heading(self, text: str, size_points: float) -> None:
        self.set_font("Helvetica", style="B", size=size_points)
        self.multi_cell(0, size_points * 0.6, text, new_x="LMARGIN", new_y="NEXT")
        self.ln(2)
        self.set_font("Helvetica", size=10)

    def columns(self, texts: tuple[str, ...], gap_mm: float = 8.0) -> None:
        """Texts side by side, drawn row by row."""
        width = (self.epw - gap_mm * (len(texts) - 1)) / len(texts)
        columns = [
            self.multi_cell(width, text=text, dry_run=True, output="LINES", align="L")
            for text in texts
        ]
        top = self.get_y()
        for n in range(max(map(len, columns))):
            for number, lines in enumerate(columns):
                if n < len(lines):
                    x = MARGIN_MM + number * (width + gap_mm)
                    self.text(x + 1, top + (n + 1) * LEADING_MM, lines[n])
        self.set_y(top + (max(map(len, columns)) + 1) * LEADING_MM)


def write_columns(path: Path) -> None:
    pdf = _Pdf("Salt of Ulverby")
    pdf.add_page()
    pdf.heading("The salt works of Ulverby and the people who rake the ponds", 18)
    pdf.columns((LEFT, RIGHT))
    pdf.heading("What became of the barges in the years after the bridge", 14)
    pdf.columns((THIRD, LEFT))
    pdf.add_page()
    pdf.heading("Three columns of the same story", 18)
    pdf.columns((LEFT, RIGHT, THIRD), gap_mm=5)
    pdf.output(str(path))


def write_tables(path: Path) -> None:
    pdf = _Pdf("Harvest of Ulverby")
    pdf.add_page()
    pdf.heading("Harvest of 2025", 16)
    pdf.multi_cell(0, LEADING_MM, LEFT, new_x="LMARGIN", new_y="NEXT")
    pdf.ln(3)
    for row in HARVEST:
        for text in row:
            pdf.cell(40, 6, text)
        pdf.ln(6)
    pdf.ln(3)
    pdf.multi_cell(0, LEADING_MM, THIRD, new_x="LMARGIN", new_y="NEXT")
    pdf.output(str(path))


def write_outline(path: Path) -> None:
    """All of one size: only the bookmarks tell headings from text."""
    pdf = _Pdf("Repair of tide gates")
    pdf.add_page()
    for level, title, text in MANUAL:
        pdf.start_section(title, level=level)
        pdf.multi_cell(0, LEADING_MM, title, new_x="LMARGIN", new_y="NEXT")
        pdf.multi_cell(0, LEADING_MM, text, new_x="LMARGIN", new_y="NEXT")
    pdf.output(str(path))


if __name__ == "__main__":
    write_columns(HERE / "columns.pdf")
    write_tables(HERE / "tables.pdf")
    write_outline(HERE / "outline.pdf")
