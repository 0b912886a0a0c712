"""Write the office documents, the book and the mail beside this script; run it only to change them.

uv run --with python-pptx --with openpyxl --with odfpy tests/data/make_office.py
"""

from __future__ import annotations

import datetime as dt
import zipfile
from email.message import EmailMessage
from pathlib import Path

import openpyxl
import pptx
from odf import opendocument, style, table, text
from odf.draw import Frame, Page, TextBox
from odf.namespaces import PRESENTATIONNS
from odf.office import Annotation
from odf.presentation import Notes
from pptx.util import Inches

HERE = Path(__file__).parent
WHEN = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)

TRAINS = (
    ("Train", "Departs", "Seats", "Fare"),
    ("Morning Heron", "06:40", "84", "12.50"),
    ("Slow Badger", "11:05", "120", "7.80"),
    ("Night Otter", "23:15", "64", "19.90"),
)


def write_pptx(path: Path) -> None:
    deck = pptx.Presentation()
    deck.core_properties.title = "Valley Railway: Plans for 2027"
    slide = deck.slides.add_slide(deck.slide_layouts[0])
    slide.shapes.title.text = "Valley Railway"
    slide.placeholders[1].text = "Plans for 2027, by Imogen Thorne"
    slide = deck.slides.add_slide(deck.slide_layouts[1])
    slide.shapes.title.text = "What changes"
    body = slide.placeholders[1].text_frame
    body.text = "The viaduct at Crow Gill is closed from 4 May"
    for line, level in (
        ("Buses run every 25 minutes", 1),
        ("Bicycles are not carried", 1),
        ("A second guard joins the Night Otter", 0),
    ):
        paragraph = body.add_paragraph()
        paragraph.text, paragraph.level = line, level
    slide.notes_slide.notes_text_frame.text = "Say that the viaduct was built in 1874."
    slide = deck.slides.add_slide(deck.slide_layouts[5])
    slide.shapes.title.text = "Trains"
    frame = slide.shapes.add_table(len(TRAINS), 4, Inches(1), Inches(2), Inches(8), Inches(2))
    for r, row in enumerate(TRAINS):
        for c, value in enumerate(row):
            frame.table.cell(r, c).text = value
    deck.save(str(path))


def write_xlsx(path: Path) -> None:
    book = openpyxl.Workbook()
    book.properties.title = "Boatyard stock"
    book.properties.created = book.properties.modified = WHEN.replace(tzinfo=None)
    sheet = book.active
    sheet.title = "Stock"
    sheet.append(["Stock of the Pellow boatyard"])
    sheet.append([])
    sheet.append(["Part", "Shelf", "Pieces", "Price", "Counted", "Share"])
    for row in (
        ["Bronze cleat", "A4", 1240, 18.5, dt.date(2025, 11, 3), 0.425],
        ["Larch plank", "C1", 86, 44.9, dt.date(2025, 11, 4), 0.1],
        ["Sail needle", "B7", 12, 0.35, dt.datetime(2025, 11, 4, 16, 30), 0.005],  # noqa: DTZ001
    ):
        sheet.append(row)
    for r in range(4, 7):
        sheet.cell(r, 3).number_format = "#,##0"
        sheet.cell(r, 4).number_format = '"£"0.00'
        sheet.cell(r, 6).number_format = "0.0%"
    sheet["A8"] = "Total"
    sheet["C8"] = "=SUM(C4:C6)"
    staff = book.create_sheet("Staff")
    staff.append(["Name", "Works on", "Since"])
    staff.append(["Wilhelmina Garrick", "masts", 2009])
    staff.append(["Tobias Enfield", "sails", 2021])
    book.save(str(path))


def write_odt(path: Path) -> None:
    document = opendocument.OpenDocumentText()
    document.meta.addElement(
        opendocument.element.Element(qname=("http://purl.org/dc/elements/1.1/", "title"))
    )
    document.meta.childNodes[-1].addText("Lighthouse log")
    document.text.addElement(text.H(outlinelevel=1, text="Lighthouse log of Skerry Point"))
    document.text.addElement(text.P(text="The lamp turns once in 14 seconds and is lit at dusk."))
    document.text.addElement(text.H(outlinelevel=2, text="Duties"))
    duties = text.List()
    for duty in ("Wind the clockwork every 3 hours.", "Polish the lens on Fridays."):
        item = text.ListItem()
        item.addElement(text.P(text=duty))
        duties.addElement(item)
    document.text.addElement(duties)
    paragraph = text.P(text="The keeper is Maud Trelawney")
    note = text.Note(noteclass="footnote")
    note.addElement(text.NoteCitation(text="1"))
    body = text.NoteBody()
    body.addElement(text.P(text="Appointed in 1998."))
    note.addElement(body)
    paragraph.addElement(note)
    paragraph.addText(".")
    comment = Annotation()
    comment.addElement(text.P(text="Nobody should read this comment."))
    paragraph.addElement(comment)
    document.text.addElement(paragraph)
    sheet = table.Table(name="Ships")
    for row in (
        ("Ship", "Flag", "Passed"),
        ("Anna Maria", "Norway", "21:40"),
        ("Gull", "Malta", "23:05"),
    ):
        line = table.TableRow()
        for value in row:
            cell = table.TableCell()
            cell.addElement(text.P(text=value))
            line.addElement(cell)
        sheet.addElement(line)
    document.text.addElement(sheet)
    document.save(str(path))


def write_ods(path: Path) -> None:
    document = opendocument.OpenDocumentSpreadsheet()
    sheet = table.Table(name="Rainfall")
    for row in (("Month", "Rain in mm", "Days"), ("March", "61.4", "13"), ("April", "48.0", "11")):
        line = table.TableRow()
        for value in row:
            cell = table.TableCell()
            cell.addElement(text.P(text=value))
            line.addElement(cell)
        line.addElement(table.TableCell(numbercolumnsrepeated=16381))
        sheet.addElement(line)
    sheet.addElement(table.TableRow(numberrowsrepeated=1048573))
    document.spreadsheet.addElement(sheet)
    document.save(str(path))


def write_odp(path: Path) -> None:
    document = opendocument.OpenDocumentPresentation()
    layout = style.PageLayout(name="L")
    document.automaticstyles.addElement(layout)
    master = style.MasterPage(name="M", pagelayoutname=layout)
    document.masterstyles.addElement(master)
    for title, line in (
        ("Beekeeping", "A hive needs 18 kg of honey for the winter."),
        ("Swarms", "A swarm weighs about 2 kg and flies at noon."),
    ):
        page = Page(masterpagename=master)
        frame = Frame(width="20cm", height="3cm", x="1cm", y="1cm")
        frame.setAttrNS(PRESENTATIONNS, "class", "title")
        frame.addElement(TextBox())
        frame.childNodes[0].addElement(text.P(text=title))
        page.addElement(frame)
        frame = Frame(width="20cm", height="9cm", x="1cm", y="5cm")
        frame.addElement(TextBox())
        frame.childNodes[0].addElement(text.P(text=line))
        page.addElement(frame)
        notes = Notes()
        frame = Frame(width="15cm", height="9cm", x="1cm", y="5cm")
        frame.addElement(TextBox())
        frame.childNodes[0].addElement(text.P(text=f"Show the picture of {title.lower()}."))
        notes.addElement(frame)
        page.addElement(notes)
        document.presentation.addElement(page)
    document.save(str(path))


CHAPTER = (
    '<?xml version="1.0" encoding="utf-8"?><!DOCTYPE html>'
    '<html xmlns="http://www.w3.org/1999/xhtml"><head><title>{0}</title></head>'
    "<body><h1>{0}</h1>{1}</body></html>"
)
CHAPTERS = {
    "one.xhtml": (
        "The Salt Road",
        "<p>The caravan of Yusra Demir left Karsan with 41 mules.</p>"
        "<aside><p>A mule carries 90 kilograms of salt.</p></aside>",
    ),
    "two.xhtml": (
        "The Pass",
        "<p>They crossed the Grey Pass in eleven days.</p>"
        "<table><tr><th>Day</th><th>Height</th></tr><tr><td>3</td><td>2,140 m</td></tr>"
        "<tr><td>7</td><td>3,615 m</td></tr></table>",
    ),
}
OPF = (
    '<?xml version="1.0"?><package xmlns="http://www.idpf.org/2007/opf" version="3.0" '
    'unique-identifier="u"><metadata xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:identifier '
    'id="u">x</dc:identifier><dc:title>The Salt Caravan</dc:title><dc:language>en</dc:language>'
    '</metadata><manifest><item id="nav" href="nav.xhtml" properties="nav" '
    'media-type="application/xhtml+xml"/><item id="b" href="text/two.xhtml" '
    'media-type="application/xhtml+xml"/><item id="a" href="text/one.xhtml" '
    'media-type="application/xhtml+xml"/></manifest><spine><itemref idref="nav"/>'
    '<itemref idref="a"/><itemref idref="b"/></spine></package>'
)
CONTAINER = (
    '<?xml version="1.0"?><container version="1.0" '
    'xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles><rootfile '
    'full-path="OEBPS/content.opf" media-type="application/oebps-package+xml"/></rootfiles>'
    "</container>"
)


def write_epub(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as book:
        book.writestr("mimetype", "application/epub+zip", zipfile.ZIP_STORED)
        book.writestr("META-INF/container.xml", CONTAINER)
        book.writestr("OEBPS/content.opf", OPF)
        book.writestr(
            "OEBPS/nav.xhtml", CHAPTER.format("Contents", "<nav><ol><li>x</li></ol></nav>")
        )
        for name, (title, body) in CHAPTERS.items():
            book.writestr(f"OEBPS/text/{name}", CHAPTER.format(title, body))


def write_eml(path: Path) -> None:
    mail = EmailMessage()
    mail["From"] = "Rosa Lindqvist <rosa@example.org>"
    mail["To"] = "Jürgen Vogt <vogt@example.org>"
    mail["Date"] = dt.datetime(2026, 3, 9, 8, 15, tzinfo=dt.UTC)
    mail["Subject"] = "Schlüssel für die Glockenkammer"
    mail.set_content(
        "Dear Jürgen,\n\nthe key to the belfry is with the baker, Mr Abara, in a blue tin.\n"
        "The bells are tuned on 17 June.\n\nRosa\n"
    )
    mail.add_alternative("<p>Dear Jürgen, see the other part.</p>", subtype="html")
    inner = EmailMessage()
    inner["From"] = "office@example.org"
    inner["Subject"] = "Invoice 4471"
    inner.set_content("The invoice over 312 euros is due on 1 April.\n")
    mail.add_attachment(inner)
    mail.add_attachment(b"%PDF-", maintype="application", subtype="pdf", filename="offer.pdf")
    boundaries = iter(range(1000))
    for part in mail.walk():
        if part.is_multipart() and part.get_content_maintype() == "multipart":
            part.set_boundary(f"==ragdock-{next(boundaries)}==")
    path.write_bytes(mail.as_bytes())


if __name__ == "__main__":
    write_pptx(HERE / "railway.pptx")
    write_xlsx(HERE / "boatyard.xlsx")
    write_odt(HERE / "lighthouse.odt")
    write_ods(HERE / "rainfall.ods")
    write_odp(HERE / "bees.odp")
    write_epub(HERE / "caravan.epub")
    write_eml(HERE / "belfry.eml")
