"""Readers of document formats compared: size on disk, time, memory and what they find.

Run it where the contenders are installed beside ragdock's dependencies:

    uv run --with python-pptx --with openpyxl --with python-calamine --with odfpy --with striprtf \
        --with ebooklib --with docutils --with pylatexenc --with markitdown[pptx,xlsx] \
        bench/formats.py

Each reader runs in a process of its own over a large file made from the sample (its content many
times over, where the format allows that) for time and memory, and over the sample for the facts.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import resource
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from importlib import import_module, metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "src"))
DATA = ROOT / "tests" / "data"

FACTS = {
    "railway.pptx": ["What changes", "Buses run every 25 minutes", "built in 1874", "Night Otter",
                     "19.90"],
    "boatyard.xlsx": ["Bronze cleat", "1,240", "18.50", "2025-11-03", "42.5%", "Wilhelmina"],
    "lighthouse.odt": ["14 seconds", "Duties", "Wind the clockwork", "Appointed in 1998", "Malta"],
    "caravan.epub": ["41 mules", "90 kilograms", "3,615 m"],
    "vineyard.rtf": ["Côte d’Abers", "310 barrels", "Negrette", "21 September", "Вино"],
    "glacier.tex": ["31 metres", "(ρ g h)/(2)", "8.69", "qgis --project", "split in 2021"],
    "kiln.rst": ["38 hours", "Wear the leather gloves", "35 cm", "set ramp 95"],
}  # fmt: skip
NOT_TEXT = {
    "lighthouse.odt": ["Nobody should read"],
    "vineyard.rtf": ["Page header", "hidden words", "generator"],
    "glacier.tex": ["nobody reads", "Nothing after", "usepackage"],
}


def ours(module: str) -> Callable[[bytes], str]:
    """ragdock's reader."""
    parse = import_module(f"ragdock.adapters.parsers.{module}").parse
    return lambda content: parse(content).text


def _pptx(content: bytes) -> str:
    deck = import_module("pptx").Presentation(io.BytesIO(content))
    found = []
    for slide in deck.slides:
        for shape in slide.shapes:
            if shape.has_text_frame:
                found.append(shape.text_frame.text)
            elif shape.has_table:
                found += [cell.text for row in shape.table.rows for cell in row.cells]
        if slide.has_notes_slide:
            found.append(slide.notes_slide.notes_text_frame.text)
    return "\n".join(found)


def _openpyxl(content: bytes) -> str:
    book = import_module("openpyxl").load_workbook(io.BytesIO(content), True, data_only=True)
    rows = (row for sheet in book for row in sheet.iter_rows(values_only=True))
    return "\n".join(" | ".join("" if v is None else str(v) for v in row) for row in rows)


def _calamine(content: bytes) -> str:
    book = import_module("python_calamine").CalamineWorkbook.from_filelike(io.BytesIO(content))
    rows = (row for name in book.sheet_names for row in book.get_sheet_by_name(name).iter_rows())
    return "\n".join(" | ".join(map(str, row)) for row in rows)


def _odfpy(content: bytes) -> str:
    document = import_module("odf.opendocument").load(io.BytesIO(content))
    text, teletype = import_module("odf.text"), import_module("odf.teletype")
    return "\n".join(
        teletype.extractText(element)
        for kind in (text.H, text.P)
        for element in document.getElementsByType(kind)
    )


def _striprtf(content: bytes) -> str:
    return str(import_module("striprtf.striprtf").rtf_to_text(content.decode("latin-1")))


def _ebooklib(content: bytes) -> str:
    path = Path("/tmp/bench.epub")
    path.write_bytes(content)
    book = import_module("ebooklib.epub").read_epub(str(path))
    return "\n".join(
        re.sub("<[^>]+>", " ", item.get_content().decode()) for item in book.get_items_of_type(9)
    )


def _pylatexenc(content: bytes) -> str:
    return str(
        import_module("pylatexenc.latex2text").LatexNodes2Text().latex_to_text(content.decode())
    )


def _docutils(content: bytes) -> str:
    core = import_module("docutils.core")
    settings = {"report_level": 5, "file_insertion_enabled": False, "raw_enabled": False}
    return str(core.publish_doctree(content.decode(), settings_overrides=settings).astext())


def _markitdown(suffix: str) -> Callable[[bytes], str]:
    converter = import_module("markitdown").MarkItDown()
    return lambda content: str(
        converter.convert_stream(io.BytesIO(content), file_extension=suffix).text_content
    )


READERS: dict[str, list[tuple[str, tuple[str, ...], Callable[[], Callable[[bytes], str]]]]] = {
    "railway.pptx": [
        ("ours", (), lambda: ours("pptx_xml")), ("python-pptx", ("python-pptx",), lambda: _pptx),
        ("markitdown", ("markitdown", "python-pptx"), lambda: _markitdown(".pptx"))],
    "boatyard.xlsx": [
        ("ours", (), lambda: ours("xlsx_xml")), ("openpyxl", ("openpyxl",), lambda: _openpyxl),
        ("calamine", ("python-calamine",), lambda: _calamine)],
    "lighthouse.odt": [
        ("ours", (), lambda: ours("odf_xml")), ("odfpy", ("odfpy",), lambda: _odfpy)],
    "caravan.epub": [
        ("ours", (), lambda: ours("epub")), ("ebooklib", ("ebooklib",), lambda: _ebooklib)],
    "vineyard.rtf": [
        ("ours", (), lambda: ours("rtf")), ("striprtf", ("striprtf",), lambda: _striprtf)],
    "glacier.tex": [
        ("ours", (), lambda: ours("latex")), ("pylatexenc", ("pylatexenc",), lambda: _pylatexenc)],
    "kiln.rst": [
        ("ours", (), lambda: ours("restructured")), ("docutils", ("docutils",), lambda: _docutils)],
}  # fmt: skip


def enlarged(name: str) -> bytes:
    """The sample with its body many times over."""
    content = (DATA / name).read_bytes()
    parts = {
        "railway.pptx": ("ppt/slides/slide3.xml", b"<a:tr ", b"</a:tbl>", 300),
        "boatyard.xlsx": ("xl/worksheets/sheet1.xml", b'<row r="4"', b"</sheetData>", 4000),
        "lighthouse.odt": ("content.xml", b"<text:h", b"</office:text>", 1500),
        "caravan.epub": ("OEBPS/text/one.xhtml", b"<p>", b"</body>", 4000),
    }
    if name in parts:
        part, begin, end, times = parts[name]
        out = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w", 8) as new:
            for info in old.infolist():
                body = old.read(info)
                if info.filename == part:
                    a, b = body.index(begin), body.index(end)
                    piece = re.sub(rb' r="[A-Z]*[0-9]+"', b"", body[a:b])
                    body = body[:b] + piece * times + body[b:]
                new.writestr(info.filename, body)
        return out.getvalue()
    if name == "vineyard.rtf":
        at = content.index(b"\\pard\\s0\\b0")
        return content[:at] + content[at:].rstrip()[:-1] * 800 + b"}"
    if name == "glacier.tex":
        a, b = content.index(b"\\section"), content.index(b"\\end{document}")
        return content[:b] + content[a:b] * 800 + content[b:]
    return content + content[content.index(b"Loading") :] * 500


def size_mb(distributions: tuple[str, ...]) -> float:
    """Of the packages and of what they need that ragdock has not, in MB."""
    project = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    have = {normal(found) for found in re.findall(r"^([\w.-]+)==", project, re.MULTILINE)}
    todo, seen, total = list(distributions), set(), 0
    while todo:
        name = normal(todo.pop())
        if name in seen or name in have:
            continue
        seen.add(name)
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # Not wanted on this system.
        files = (Path(str(f.locate())) for f in distribution.files or ())
        total += sum(f.stat().st_size for f in files if f.is_file() and f.suffix != ".pyc")
        needs = (need for need in distribution.requires or () if "extra ==" not in need)
        todo += [re.split(r"[ ;<>=!~\[(]", need)[0] for need in needs]
    return total / 1e6


def normal(name: str) -> str:
    """A package's name as the index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def measure(name: str, reader: str) -> dict[str, float]:
    """In this process: seconds and memory for the large file, and the facts of the sample."""
    read = next(make for label, _, make in READERS[name] if label == reader)()
    text = read((DATA / name).read_bytes())
    facts = [fact in re.sub(r"\s+", " ", text) for fact in FACTS[name]]
    facts += [noise not in text for noise in NOT_TEXT.get(name, ())]
    content = enlarged(name)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.process_time()
    n_characters = len(read(content))
    seconds = time.process_time() - begin
    peak_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return {"facts": sum(facts), "of": len(facts), "ms_per_mb": 1e9 * seconds / n_characters,
            "text_mb": n_characters / 1e6, "memory_mb": peak_mb}  # fmt: skip


def main() -> None:
    """Print the table, as Markdown."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--one", nargs=2)
    one = arguments.parse_args().one
    if one:
        print(json.dumps(measure(*one)))
        return
    print("| file | reader | MB on disk | facts | ms per MB of text | memory for the large file |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for name, readers in READERS.items():
        for reader, distributions, _ in readers:
            ran = subprocess.run([sys.executable, __file__, "--one", name, reader],
                                 capture_output=True, text=True, check=False)  # fmt: skip
            if ran.returncode:
                print(f"| {name} | {reader} | | {ran.stderr.strip().splitlines()[-1][:60]} | | |")
                continue
            found = json.loads(ran.stdout)
            print(
                f"| {name} | {reader} | {size_mb(distributions):.1f} | {found['facts']} of "
                f"{found['of']} | {found['ms_per_mb']:,.0f} | {found['memory_mb']:.0f} MB for "
                f"{found['text_mb']:.1f} MB of text |"
            )


if __name__ == "__main__":
    main()
