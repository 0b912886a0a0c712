"""Write the sample files beside this script; run it only to change them.

It needs `fpdf2` and `python-docx`, which nothing else in the project needs, and `pypdfium2`:

    uv run --with fpdf2 --with python-docx --with pypdfium2 tests/data/make.py
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import docx
import fpdf
import pypdfium2

HERE = Path(__file__).parent
SCAN_DPI = 150
WHEN = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)

HANDBOOK = (
    (
        "Marlow Ridge Observatory",
        (
            "This handbook is for visitors and volunteers of the Marlow Ridge Observatory, which "
            "stands on a hill above the village of Tarn Hollow. The observatory was founded in "
            "1931 by the clockmaker Edwina Farrow, who paid for the first dome with the sale of "
            "her workshop.",
            "The main instrument is a reflector with a mirror of 1.2 metres. Volunteers call it "
            "Old Patience. It weighs 14 tonnes and is turned by a motor no stronger than that of "
            "a washing machine.",
            "Visitors may come on Thursday and Saturday evenings from October to March. Groups of "
            "more than eight people have to write to the warden two weeks ahead.",
        ),
    ),
    (
        "Care of the instruments",
        (
            "The primary mirror is washed with distilled water every 47 days, and never with "
            "soap. Between washings only dry nitrogen may touch it.",
            "The dome has to be closed when the wind is stronger than 62 kilometres per hour or "
            "when the humidity is above 90 percent. The duty astronomer decides, and the dome "
            "keeper Tomas Okonkwo holds the only spare key to the shutter.",
            "A new aluminium coating is applied every seven years in the workshop at Brackwater. "
            "The last coating was applied in 2023.",
        ),
    ),
    (
        "In an emergency",
        (
            "If the fire bell rings, leave by the north stairs and meet at the sundial. The "
            "emergency telephone is behind the green door in the library; its extension is 3178.",
            "First aid is given by the warden, Ingrid Solheim. The nearest hospital is in "
            "Brackwater, 23 kilometres away.",
        ),
    ),
)

PARAGRAPHS = {
    "Summary": (
        "The Osprey Bay ferry carried 48,210 passengers in 2024, 12 percent more than the year "
        "before. The electric ferry Kittiwake replaced the diesel ship Gannet on 3 May 2024."
    ),
    "Fares": (
        "A single crossing costs 4.80 for adults and 2.10 for children. Bicycles travel free of "
        "charge outside July and August."
    ),
    "Crew": "The crew is led by captain Rosalind Achebe. Two deckhands are trained as medics.",
    "Outlook": (
        "A second charging point will be built at Heron Quay in 2026. It halves the turnaround "
        "time to 9 minutes."
    ),
}
CROSSINGS = (
    ("Quarter", "Crossings", "Passengers", "Punctuality"),
    ("Q1", "612", "7,904", "97.1 %"),
    ("Q2", "840", "13,377", "95.4 %"),
    ("Q3", "1,104", "19,650", "91.8 %"),
    ("Q4", "588", "7,279", "96.6 %"),
)


def write_pdf(path: Path, password: str | None = None) -> None:
    pdf = fpdf.FPDF()
    pdf.set_creation_date(WHEN)
    pdf.set_title("Marlow Ridge Observatory Handbook")
    if password is not None:
        pdf.set_encryption(owner_password=password, user_password=password)
    for title, paragraphs in HANDBOOK:
        pdf.add_page()
        pdf.set_font("Helvetica", style="B", size=16)
        pdf.cell(0, 12, title, new_x="LMARGIN", new_y="NEXT")
        pdf.set_font("Helvetica", size=11)
        for paragraph in paragraphs:
            pdf.multi_cell(0, 6, paragraph, new_x="LMARGIN", new_y="NEXT")
            pdf.ln(4)
    pdf.output(str(path))


def write_scan(path: Path, *, partly: bool = False) -> None:
    """The handbook's second page as a picture, as a scanner without OCR makes it."""
    page = pypdfium2.PdfDocument(HERE / "handbook.pdf")[1]
    picture = page.render(scale=SCAN_DPI / 72, grayscale=True).to_pil().convert("1")
    pdf = fpdf.FPDF()
    pdf.set_creation_date(WHEN)
    pdf.set_font("Helvetica", size=11)
    if partly:
        pdf.add_page()
        pdf.multi_cell(0, 6, "The next page was lost and put back as a picture.")
    pdf.add_page()
    pdf.image(picture, x=0, y=0, w=pdf.w)
    if partly:
        pdf.add_page()
        pdf.multi_cell(0, 6, "This page was never lost.")
    pdf.output(str(path))


def write_docx(path: Path) -> None:
    document = docx.Document()
    properties = document.core_properties
    properties.title = "Osprey Bay Ferry: Annual Report 2024"
    properties.author = "ragdock"
    properties.created = properties.modified = WHEN
    document.add_heading("Osprey Bay Ferry: Annual Report 2024", level=0)
    document.add_heading("Summary", level=1)
    document.add_paragraph(PARAGRAPHS["Summary"])
    document.add_heading("Operations", level=1)
    document.add_heading("Crossings by quarter", level=2)
    table = document.add_table(rows=0, cols=4)
    for row in CROSSINGS:
        for cell, text in zip(table.add_row().cells, row, strict=True):
            cell.text = text
    document.add_heading("Fares", level=2)
    document.add_paragraph(PARAGRAPHS["Fares"])
    document.add_heading("Crew", level=2)
    document.add_paragraph(PARAGRAPHS["Crew"])
    for duty in ("Check the life rafts every Monday.", "Log every crossing in the blue book."):
        document.add_paragraph(duty, style="List Bullet")
    document.add_heading("Outlook", level=1)
    document.add_paragraph(PARAGRAPHS["Outlook"])
    document.save(str(path))


if __name__ == "__main__":
    write_pdf(HERE / "handbook.pdf")
    write_pdf(HERE / "encrypted.pdf", password="opensesame")
    write_scan(HERE / "scan.pdf")
    write_scan(HERE / "partly_scanned.pdf", partly=True)
    write_docx(HERE / "report.docx")
