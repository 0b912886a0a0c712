"""The sample corpus holds what its questions ask for."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pypdfium2

from ragdock.samples import sample_files, sample_questions


def text_of(path: Path) -> str:
    if path.suffix == ".pdf":
        document = pypdfium2.PdfDocument(path)
        try:
            return "\n".join(page.get_textpage().get_text_range() for page in document)
        finally:
            document.close()
    return path.read_text(encoding="utf-8")


def flat(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def test_corpus_has_a_useful_size_and_four_formats() -> None:
    """There are 8 to 12 files of Markdown, HTML, CSV and PDF, about 25 to 40 KB together."""
    files = sample_files()
    assert 8 <= len(files) <= 12
    assert {path.suffix for path in files} == {".md", ".html", ".csv", ".pdf"}
    assert 25_000 <= sum(path.stat().st_size for path in files) <= 40_000


def test_every_gold_answer_is_in_its_file() -> None:
    """The named file of each of the 20 questions contains all of its answers."""
    texts = {path.name: flat(text_of(path)) for path in sample_files()}
    on_topic = [question for question in sample_questions() if question.file is not None]
    assert len(on_topic) == 20
    for question in on_topic:
        assert question.answers
        assert question.file is not None
        for answer in question.answers:
            assert flat(answer) in texts[question.file], question.question


def test_every_file_answers_a_question_but_one() -> None:
    """The questions reach into all documents, apart from the one on freight."""
    asked = {question.file for question in sample_questions()}
    assert {path.name for path in sample_files()} - asked == {"dangerous-goods.md"}


def test_off_topic_questions_have_no_answer() -> None:
    """Five questions name no file and no answer."""
    off_topic = [question for question in sample_questions() if question.file is None]
    assert len(off_topic) == 5
    assert all(question.answers == () for question in off_topic)


def test_the_pdf_is_what_its_script_writes(tmp_path: Path) -> None:
    """The committed PDF has three pages and equals the script's output byte for byte."""
    script = Path(__file__).parents[2] / "scripts" / "make_sample_pdf.py"
    target = tmp_path / "report.pdf"
    subprocess.run([sys.executable, str(script), str(target)], check=True)
    committed = next(path for path in sample_files() if path.suffix == ".pdf")
    assert committed.read_bytes() == target.read_bytes()
    assert committed.read_bytes().count(b"/Type /Page ") == 3
