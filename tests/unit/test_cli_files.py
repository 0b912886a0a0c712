"""Which files `ragdock ingest` sends, and the ids they get."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragdock.cli.files import discover, document_id
from ragdock.errors import InputError

ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~:@-]{0,199}")


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (
        "docs/guide.md",
        "docs/deep/Report 1.PDF",
        "docs/deep/tool.exe",
        "docs/.git/config.md",
        "docs/.hidden.md",
        "other/guide.md",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x", encoding="utf-8")
    (tmp_path / "docs" / "empty.md").touch()
    (tmp_path / "docs" / "deep" / "tool.exe").write_bytes(b"MZ\x90")
    (tmp_path / "docs" / "deep" / "LICENSE").write_text("words", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_folders_are_read_recursively_by_name(tree: Path) -> None:
    """Readable files are found in order, also without a suffix; the others are named."""
    files, skipped = discover([Path("docs")], Path())
    assert [file.name for file in files] == [
        "docs/guide.md",
        "docs/deep/LICENSE",
        "docs/deep/Report 1.PDF",
    ]
    assert sorted((item.path.name, item.reason) for item in skipped) == [
        (".git", "hidden"),
        (".hidden.md", "hidden"),
        ("empty.md", "empty"),
        ("tool.exe", "unsupported"),
    ]


def test_ids_follow_the_path_below_the_root(tree: Path) -> None:
    """The same file has the same id however it is named; another root shortens the id."""
    by_folder, _ = discover([Path("docs")], Path())
    by_name, _ = discover([tree / "docs" / "guide.md"], Path())
    rooted, _ = discover([Path("docs")], Path("docs"))
    assert by_folder[0].document_id == by_name[0].document_id == "docs:guide.md"
    assert rooted[0].document_id == "guide.md"


def test_a_file_named_twice_is_sent_once(tree: Path) -> None:
    """A folder and a file inside it make one upload of that file."""
    files, _ = discover([Path("docs"), Path("docs/guide.md")], Path())
    assert [file.name for file in files].count("docs/guide.md") == 1


def test_outside_the_root_ids_start_at_the_argument(tree: Path) -> None:
    """A folder elsewhere contributes its own name, not the path down to it."""
    files, _ = discover([tree / "other"], Path("docs"))
    assert [file.document_id for file in files] == ["other:guide.md"]


def test_two_files_with_one_id_are_refused(tree: Path) -> None:
    """Files outside the root that would replace each other are an error with a remedy."""
    with pytest.raises(InputError, match="--root"):
        discover([tree / "docs" / "guide.md", tree / "other" / "guide.md"], tree / "docs" / "deep")


def test_a_named_file_is_sent_whatever_its_suffix(tree: Path) -> None:
    """What the user names is left for the server to judge."""
    files, skipped = discover([Path("docs/deep/tool.exe")], Path())
    assert [file.name for file in files] == ["docs/deep/tool.exe"]
    assert skipped == []


def test_a_missing_path_is_an_error(tree: Path) -> None:
    """The error names the path."""
    with pytest.raises(InputError, match="nowhere doesn't exist"):
        discover([Path("nowhere")], Path())


def test_folder_links_are_not_followed(tree: Path) -> None:
    """A link that leads back up doesn't make the walk endless."""
    (tree / "docs" / "loop").symlink_to(tree / "docs")
    files, _ = discover([Path("docs")], Path())
    assert len(files) == 3


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.md", "a.md"),
        ("a/b/c.md", "a:b:c.md"),
        ("v1.0~rc@x.md", "v1.0~rc@x.md"),
        ("Report 1.pdf", "Report-1.pdf-df517db43347"),
        ("_x.md", "x.md-7328f56faedf"),
        ("日本.md", "md-a97488217ca8"),
    ],
)
def test_ids_read_like_their_paths(name: str, expected: str) -> None:
    """Plain paths stay readable; others get a digest behind what is left of them."""
    assert document_id(name) == expected


@given(st.lists(st.text(min_size=1, max_size=300), min_size=2, max_size=2, unique=True))
def test_ids_are_valid_and_distinct(names: list[str]) -> None:
    """Whatever two paths are called, their ids fit the API and differ."""
    names = [name.encode("utf-8", "replace").decode() for name in names]
    ids = [document_id(name) for name in names]
    assert all(ID.fullmatch(item) for item in ids)
    assert names[0] == names[1] or ids[0] != ids[1]
