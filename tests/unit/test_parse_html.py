"""HTML: what a reader of the page reads, and hostile pages."""

from __future__ import annotations

import io

import pytest

from ragdock.adapters.parsers import formats
from ragdock.adapters.parsers.html_lexbor import parse
from ragdock.core.media import HTML
from ragdock.errors import DocumentError
from ragdock.types import BlockKind
from support.files import DATA, joined


def text_of(source: str) -> str:
    return parse(source.encode()).text


def test_sample_page() -> None:
    """Title, headings, paragraph, nested list, table and code; no navigation, script or footer."""
    parsed = parse((DATA / "page.html").read_bytes())
    assert parsed.title == "Sourdough at Altitude"
    assert parsed.text == (
        "Sourdough at Altitude\n\n"
        "Above 1,500 metres dough rises faster. Use 15 percent less starter & bake at 235°C.\n\n"
        "Schedule\n\n"
        "- Mix at 18:00.\n- Fold four times:\n  1. after 30 minutes\n  2. after 60 minutes\n"
        "- Bake at 07:00.\n\n"
        "Hydration\n\nAltitude | Water\nsea level | 70 %\n2,000 m | 76 %\n\n"
        "water = flour * 0.76\nstarter = flour * 0.17"
    )
    assert [(b.level, b.label) for b in parsed.blocks if b.kind is BlockKind.HEADING] == [
        (1, "Sourdough at Altitude"), (2, "Schedule"), (2, "Hydration"),
    ]  # fmt: skip
    table = next(b for b in parsed.blocks if b.kind is BlockKind.TABLE)
    assert table.label == "Altitude | Water"


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("<p>a <b>b</b>c\n d<br>e&nbsp;&lt;f&gt;</p>", "a bc d\ne <f>"),
        ("<div>a<div>b</div>c</div>", "a\n\nb\n\nc"),
        ("<p>one<p>two", "one\n\ntwo"),
        ("<span>x</span><span>y</span>", "xy"),
        ("<dl><dt>Term<dd>Meaning</dl>", "Term\nMeaning"),
        ("<ol start=3><li>a<li>b</ol>", "3. a\n4. b"),
        ("<ul><li>a<p>more</p></ul>after", "- a\n  more\n\nafter"),
        (f"<ol start={'9' * 5000}><li>a</ol>", "1. a"),
        ("<li>stray</li><p>text", "stray\n\ntext"),
        ("<h2>Head<a href=#x>¶</a></h2>", "Head"),
        ("<pre>a\n  b\n</pre>", "a\n  b"),
        ("<p>soft&shy;hyphen zero&#8203;width", "softhyphen zerowidth"),
        ("<p hidden>no<p style='display: none'>no<p aria-hidden=true>no<p>yes", "yes"),
        ("<p><script>a</script><style>b</style><noscript>c</noscript><template>d</template>e", "e"),
        ("<select><option>a</select><button>b</button><svg><text>c</text></svg>d", "d"),
        ("<p>a<!-- comment -->b", "ab"),
    ],
)
def test_small_pages(source: str, text: str) -> None:
    """White space, entities, breaks, lists and invisible parts come out as a browser shows them."""
    assert text_of(source) == text


def test_main_part_is_preferred() -> None:
    """With one main element, what stands around it is left out; asides within it stay."""
    main = "<main><p>" + "Main text. " * 30 + "<aside>A note.</aside></main>"
    text = text_of(f"<p>Around.</p><aside>Ad</aside>{main}<footer>Foot</footer>")
    assert text.startswith("Main text.")
    assert text.endswith("A note.")


def test_tiny_main_is_not_trusted() -> None:
    """A main element without content does not hide the page."""
    body = "<p>" + "Real text. " * 50
    assert "Real text." in text_of(f"<main><p>Loading</main>{body}")


def test_boilerplate_is_left_out() -> None:
    """Navigation, asides and footers around the text are dropped."""
    text = text_of("<nav>Home</nav><h1>T</h1><p>Text.</p><aside>Ad</aside><footer>F</footer>")
    assert text == "T\n\nText."


def test_page_of_boilerplate_is_kept() -> None:
    """When nothing else is there, navigation is better than nothing."""
    assert text_of("<nav>Home and About</nav>") == "Home and About"


def test_merged_cells_are_repeated() -> None:
    """A cell that reaches over rows is repeated in each, so that every row reads alone."""
    source = (
        "<table><caption>Cap</caption><tr><th>Land<th>City<th>N</tr>"
        "<tr><td rowspan=2>Peru<td>Lima<td>1<tr><td>Cusco<td><p>2</p><p>3</p></table>"
    )
    assert text_of(source) == "Cap\n\nLand | City | N\nPeru | Lima | 1\nPeru | Cusco | 2 3"


def test_layout_tables_are_no_tables() -> None:
    """A table that holds headings or tables lays out the page; its cells are read as blocks."""
    source = "<table><tr><td><h2>Menu</h2>x<td><table><tr><td>a<td>b</table></table>"
    parsed = parse(source.encode())
    assert parsed.text == "Menu\n\nx\n\na | b"
    assert parsed.blocks[-1].kind is BlockKind.TABLE


@pytest.mark.parametrize(
    "content",
    [
        "<meta charset=utf-8><p>Grüße".encode(),
        "<p>Grüße".encode(),
        b"\xef\xbb\xbf<meta charset=iso-8859-1><p>" + "Grüße".encode(),
        "<meta charset='iso-8859-1'><p>Grüße".encode("cp1252"),
        "<meta http-equiv=Content-Type content='text/html; charset=utf-16'><p>Grüße".encode(),
        "<meta charset=nonsense><p>Grüße".encode(),
        '<?xml version="1.0" encoding="iso-8859-15"?><p>Grüße'.encode("iso-8859-15"),
        b"\xff\xfe" + "<p>Grüße".encode("utf-16-le"),
    ],
)
def test_encodings(content: bytes) -> None:
    """The byte-order mark decides, then a declaration that fits, then the bytes themselves."""
    assert parse(content).text == "Grüße"


def test_japanese_declared() -> None:
    """A declared encoding is used where guessing would refuse."""
    content = "<meta charset=Shift_JIS><p>日本語の文章".encode("cp932")
    assert parse(content).text == "日本語の文章"


def test_title_falls_back() -> None:
    """The title is the heading that it contains, else itself; without one, the first heading."""
    assert parse(b"<title>Page | Site</title><h1>Page</h1>").title == "Page"
    assert parse(b"<title>Site</title><h1>Page</h1>").title == "Site"
    assert parse(b"<h1>Page</h1><h1>Two</h1>").title == "Page"


def test_empty_page_has_no_text() -> None:
    """A page that a script would fill says so."""
    page = io.BytesIO(b"<body><div id=root></div><script>x()</script>")
    with pytest.raises(DocumentError, match="no text") as caught:
        joined(formats.read(page, "x.html", HTML, max_pages=1))
    assert caught.value.code == "no_text"


def test_deep_nesting_is_refused() -> None:
    """Nesting that takes the HTML algorithm minutes is refused at once."""
    with pytest.raises(DocumentError, match="deep") as caught:
        parse(b"<div>" * 100_000 + b"x")
    assert caught.value.code == "too_complex"


def test_many_siblings_are_fine() -> None:
    """Many unclosed paragraphs, items and cells are wide, not deep."""
    assert len(parse(b"<p>x" * 5000).blocks) == 5000
    assert parse(b"<ul>" + b"<li>x" * 5000).text.count("- x") == 5000
