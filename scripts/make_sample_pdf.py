"""Write the sample corpus's PDF: the investigation report, three pages of plain text.

    python scripts/make_sample_pdf.py src/ragdock/samples/handbook/accident-report-2024.pdf

PDF 1.4 by hand (ISO 32000-1, section 7.5): three pages of one of the standard fonts need no
library, and the bytes are the same on every machine. The text is ASCII, so that no encoding table
is needed.
"""

from __future__ import annotations

import sys
from pathlib import Path

FONT_SIZE_POINTS = 10.5
LEADING_POINTS = 14
LEFT_POINTS = 64
TOP_POINTS = 780

PAGES = (
    """\
Report on the contact of MV Guillemot with the pier at Saltmere

Tarn Sound Ferries, safety department. Report 2024-03.

1. Summary

On Thursday 14 November 2024 at 17:06 the ro-ro ferry MV Guillemot, on the blue route
from Ardwick with 87 passengers, 9 crew and 23 vehicles, struck the north dolphin of the
pier at Saltmere at a speed of 3.4 knots. Four passengers and one steward were hurt, none
of them seriously. The bow thruster was torn from its tunnel and the visor was dented
over a length of 2.7 metres. Nothing was spilled. The pier was closed for 19 days.

The cause was the loss of the bow thruster 140 metres before the berth. The fuse of its
control unit had been replaced two days before by one of a lower rating: 6 amperes
instead of 10. The fuse blew when the thruster was set to full power in a gust.

2. The voyage

The ship left Ardwick at 15:31, one minute late. The route was posted amber. The master,
Captain Elin Sorby, decided at 13:55 that the ship would sail. The mean wind at Gannet
Point was 31 knots with gusts of 43 knots, within the limits of the weather policy.
The call at Little Orrin was not requested. At 16:58 the chief officer reported that the
berth was clear, and the speed was reduced to 6 knots.
""",
    """\
3. The last eight minutes

17:01  The thruster is tested to port and starboard at half power, without a fault.
17:03  The ship passes the green buoy. Speed 4.8 knots.
17:04  A gust of 47 knots from the south-west sets the bow to port. The thruster is set
       to full power to starboard. The alarm "thruster control fault" sounds.
17:05  The master orders both engines full astern and drops the port anchor, which
       holds after 20 metres of chain. The steward warns passengers over the public
       address system; many are already standing in the stairs.
17:06  Contact with the north dolphin.
17:09  Muster. All passengers are counted within eleven minutes.
17:52  The ship is moored at the outer berth with the help of the work boat Cormorant.

4. What we found

The store had been out of 10 ampere fuses since 28 October. The shortage was written on
the red sheet, but the sheet of that night was not typed into the stock system. The
second engineer took the 6 ampere fuse from the box of the galley. The work order did
not ask for the rating to be written down, and no test at full power was made at the pier,
because divers were working under the ship.

Nobody was punished. The second engineer reported the exchange in the Lantern system
on the same evening, before he was asked.
""",
    """\
5. Recommendations

R1  After any work on the bow thruster, test it at full power before passengers board.
    Done: in force since 1 December 2024.
R2  Keep fuses of each rating in boxes of different colours; ten amperes is red.
    Done: 20 January 2025.
R3  Ask passengers to stay seated until the ship is moored, by an announcement ten minutes
    before arrival, and not to stand in the stairs. Done: in force since 2 December 2024.
R4  Lower the gust limit of MV Guillemot for berthing at Saltmere to 40 knots in winds
    from the south-west. Under examination by the board.
R5  Replace the red sheet by a tablet in the store. Rejected: paper works when the power
    is off. Instead the store keeper checks the sheets every morning.

6. Cost

The repair of the ship cost 412,000 crowns, that of the pier 186,000 crowns. The insurer
bore the part above the excess of 150,000 crowns. MV Turnstone and a chartered vessel
served the blue route for five weeks.

Signed in Ardwick on 7 February 2025 by Captain Rosalind Achterberg, designated person
ashore.
""",
)


def content_stream(page: str) -> bytes:
    """The page's drawing instructions: one text object, one line below the other."""
    lines = [
        "BT",
        f"/F1 {FONT_SIZE_POINTS} Tf",
        f"{LEADING_POINTS} TL",
        f"{LEFT_POINTS} {TOP_POINTS} Td",
    ]
    for line in page.splitlines():
        escaped = line.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)")
        lines.append(f"({escaped}) Tj T*")
    lines.append("ET")
    return "\n".join(lines).encode("ascii")


def build() -> bytes:
    """The whole file: catalogue, page tree, font, then a page and its content for each page."""
    kids = " ".join(f"{4 + 2 * index} 0 R" for index in range(len(PAGES)))
    title = PAGES[0].splitlines()[0]
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(PAGES)} >>".encode("ascii"),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for index, page in enumerate(PAGES):
        stream = content_stream(page)
        objects.append(
            (
                "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] "
                f"/Resources << /Font << /F1 3 0 R >> >> /Contents {5 + 2 * index} 0 R >>"
            ).encode("ascii")
        )
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream))
    objects.append(f"<< /Title ({title}) >>".encode("ascii"))

    out = bytearray(b"%PDF-1.4\n")
    offsets = []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    xref = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    out += b"trailer\n<< /Size %d /Root 1 0 R /Info %d 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (
        len(objects) + 1,
        len(objects),
        xref,
    )
    return bytes(out)


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(build())
