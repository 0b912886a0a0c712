"""Which files `ragdock ingest` sends, and the ids they get."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragdock.cli.files import Discovery, LocalFile, Skipped, Source, discover, document_id
from ragdock.errors import InputError

ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~:@-]{0,199}")


def found(
    *arguments: str | Path, root: Path | str = "", **options: Any
) -> tuple[list[LocalFile], list[Skipped]]:
    """What is sent of the arguments, and what isn't."""
    files, skipped, _ = discover(arguments, Discovery(Path(root), **options))
    return files, skipped


def names(*arguments: str | Path, **options: Any) -> list[str]:
    return [file.name for file in found(*arguments, **options)[0]]


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


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
    files, skipped = found("docs")
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
    by_folder, _ = found("docs")
    by_name, _ = found(tree / "docs" / "guide.md")
    rooted, _ = found("docs", root="docs")
    assert by_folder[0].document_id == by_name[0].document_id == "docs:guide.md"
    assert rooted[0].document_id == "guide.md"


def test_a_file_named_twice_is_sent_once(tree: Path) -> None:
    """A folder and a file inside it make one upload of that file."""
    files, _ = found("docs", "docs/guide.md")
    assert [file.name for file in files].count("docs/guide.md") == 1


def test_outside_the_root_ids_start_at_the_argument(tree: Path) -> None:
    """A folder elsewhere contributes its own name, not the path down to it."""
    files, _ = found(tree / "other", root="docs")
    assert [file.document_id for file in files] == ["other:guide.md"]


def test_two_files_with_one_id_are_refused(tree: Path) -> None:
    """Files outside the root that would replace each other are an error with a remedy."""
    with pytest.raises(InputError, match="--root"):
        found(tree / "docs" / "guide.md", tree / "other" / "guide.md", root=tree / "docs" / "deep")


def test_a_named_file_is_sent_whatever_its_suffix(tree: Path) -> None:
    """What the user names is left for the server to judge."""
    files, skipped = found("docs/deep/tool.exe")
    assert [file.name for file in files] == ["docs/deep/tool.exe"]
    assert skipped == []


def test_a_missing_path_is_an_error(tree: Path) -> None:
    """The error names the path."""
    with pytest.raises(InputError, match="nowhere doesn't exist"):
        found("nowhere")


def test_folder_links_are_not_followed(tree: Path) -> None:
    """A link that leads back up doesn't make the walk endless."""
    (tree / "docs" / "loop").symlink_to(tree / "docs")
    files, _ = found("docs")
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
def test_ids_are_valid_and_distinct(texts: list[str]) -> None:
    """Whatever two paths are called, their ids fit the API and differ."""
    texts = [name.encode("utf-8", "replace").decode() for name in texts]
    ids = [document_id(name) for name in texts]
    assert all(ID.fullmatch(item) for item in ids)
    assert texts[0] == texts[1] or ids[0] != ids[1]


# Ignore files


IGNORED = {
    ".gitignore": "*.log\n!keep.log\n/top.md\nbuild/\n# a comment\n\\#odd.md\nsecret*.md\n",
    "a.log": "x",
    "keep.log": "x",
    "top.md": "x",
    "sub/top.md": "x",
    "build/x.md": "x",
    "sub/build/x.md": "x",
    "#odd.md": "x",
    "secret-1.md": "x",
    "sub/.gitignore": "!secret-ok.md\n*.txt\n",
    "sub/secret-ok.md": "x",
    "sub/note.txt": "x",
    "sub/deep/note.txt": "x",
    "note.txt": "x",
    "sub/.ragdockignore": "!note.txt\nkeep.md\n",
    "sub/keep.md": "x",
    "build/.gitignore": "!x.md\n",
}


def test_ignore_files_mean_what_they_mean_to_git(tmp_path: Path) -> None:
    """Negation, anchors, nesting and folders: what git would add is what is sent."""
    write(tmp_path, IGNORED)
    sent = set(names(tmp_path, root=tmp_path))
    assert sent == {
        *("keep.log", "sub/top.md", "sub/secret-ok.md", "note.txt", "sub/note.txt"),
        "sub/deep/note.txt",
    }
    # Without .ragdockignore, git itself says the same.
    (tmp_path / "sub" / ".ragdockignore").unlink()
    sent = set(names(tmp_path, root=tmp_path))
    assert shutil.which("git"), "this test compares with git"
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--others", "--exclude-standard"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "GIT_CONFIG_NOSYSTEM": "1"},
    )
    by_git = {name for name in listed.stdout.split("\0") if name and "/." not in f"/{name}"}
    assert sent == by_git - {"#odd.md"}


def test_ignored_files_are_counted_and_can_be_sent(tmp_path: Path) -> None:
    """They are told as skipped; --no-ignore sends them all the same."""
    write(tmp_path, IGNORED)
    skipped = found(tmp_path)[1]
    assert (tmp_path / "build", "ignored") in [(item.path, item.reason) for item in skipped]
    assert "build/x.md" in names(tmp_path, root=tmp_path, respect_ignore_files=False)


def test_the_work_trees_rules_hold_in_its_folders(tmp_path: Path) -> None:
    """A folder inside a git work tree heeds the rules above it, and .git/info/exclude."""
    write(
        tmp_path,
        {
            ".gitignore": "*.log\n",
            "docs/a.log": "x",
            "docs/a.md": "x",
            "docs/b.md": "x",
            "docs/out/c.md": "x",
            ".git/info/exclude": "b.md\n",
            "docs/.gitignore": "out/\n",
        },
    )
    assert names(tmp_path / "docs", root=tmp_path) == ["docs/a.md"]
    # An ignored folder that is named itself is meant.
    assert names(tmp_path / "docs" / "out", root=tmp_path) == ["docs/out/c.md"]
    (tmp_path / ".git" / "info" / "exclude").unlink()
    (tmp_path / ".git" / "info").rmdir()
    (tmp_path / ".git").rmdir()
    # Outside a work tree the folders above don't matter.
    assert names(tmp_path / "docs", root=tmp_path) == ["docs/a.log", "docs/a.md", "docs/b.md"]


def test_a_named_file_is_sent_although_it_is_ignored(tmp_path: Path) -> None:
    """Ignoring is for folders."""
    write(tmp_path, IGNORED)
    assert names(tmp_path / "top.md", root=tmp_path) == ["top.md"]


def test_hidden_files_on_request_and_vcs_never(tmp_path: Path) -> None:
    """--hidden brings hidden files; .git stays out, and so do editors' leavings."""
    write(
        tmp_path,
        {
            ".notes/a.md": "x",
            ".git/b.md": "x",
            "CVS/c.md": "x",
            ".hg/d.md": "x",
            "e.md~": "x",
            "~$f.docx": "x",
            ".g.md.swp": "x",
            "#h.md#": "x",
            "4913": "x",
            "i.md.part": "x",
        },
    )
    assert names(tmp_path, root=tmp_path) == []
    files, skipped = found(tmp_path, root=tmp_path, hidden=True)
    assert [file.name for file in files] == [".notes/a.md"]
    reasons = {item.path.name: item.reason for item in skipped}
    assert reasons[".git"] == reasons["CVS"] == "vcs"
    assert {reasons[name] for name in ("e.md~", "~$f.docx", "#h.md#", "4913", ".g.md.swp")} == {
        "temporary"
    }


# Globs


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("docs/*.md", ["docs/a.md"]),
        ("docs/**", ["docs/a.md", "docs/n.txt", "docs/sub/b.md", "docs/sub/deep/c.md"]),
        ("docs/**/*.md", ["docs/a.md", "docs/sub/b.md", "docs/sub/deep/c.md"]),
        ("docs/*/*.md", ["docs/sub/b.md"]),
        ("**/deep/?.md", ["docs/sub/deep/c.md"]),
        ("docs/[!b-z].md", ["docs/a.md"]),
        ("d*s/[an].*", ["docs/a.md", "docs/n.txt"]),
        ("*", ["top.md"]),
        ("docs/*.pdf", []),
    ],
)
def test_globs_are_expanded_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, expected: list[str]
) -> None:
    """A quoted pattern finds what a shell would, without hidden, ignored and unreadable files."""
    write(
        tmp_path,
        {
            "top.md": "x",
            "docs/a.md": "x",
            "docs/n.txt": "x",
            "docs/sub/b.md": "x",
            "docs/sub/deep/c.md": "x",
            "docs/.hidden/d.md": "x",
            "docs/.e.md": "x",
            "docs/ignored.md": "x",
            "docs/.gitignore": "ignored.md\n",
        },
    )
    monkeypatch.chdir(tmp_path)
    assert names(pattern) == expected


def test_a_name_with_wild_characters_is_that_file(tmp_path: Path) -> None:
    """A file that exists is itself, whatever its name looks like."""
    write(tmp_path, {"a[1].md": "x", "a1.md": "x"})
    assert names(tmp_path / "a[1].md", root=tmp_path) == ["a[1].md"]
    with pytest.raises(InputError, match="matches nothing"):
        found(tmp_path / "no" / "*.md")


# Sources and ids


def test_files_of_folders_tell_where_they_come_from(tmp_path: Path) -> None:
    """Folder and path below it are metadata; a file that is named itself has none."""
    write(tmp_path, {"docs/sub/a.md": "x"})
    (file,) = found(tmp_path / "docs", root=tmp_path)[0]
    source = Source.of(tmp_path / "docs")
    assert file.origin == {"source_root": source.id, "source_path": "sub/a.md"}
    assert re.fullmatch(r"docs-[0-9a-f]{12}", source.id)
    assert found(tmp_path / "docs" / "sub" / "a.md")[0][0].origin == {}
    named = found(tmp_path / "docs", source_name="handbook")[0][0]
    assert named.origin["source_root"] == "handbook"


def test_content_ids_follow_the_content(tmp_path: Path) -> None:
    """A file that moves keeps its id, and a copy is the same document."""
    write(tmp_path, {"a.md": "same", "sub/b.md": "same", "c.md": "other"})
    files, skipped = found(tmp_path, id_from="content")
    assert len({file.document_id for file in files}) == len(files) == 2
    assert [item.reason for item in skipped] == ["duplicate"]
    (tmp_path / "c.md").rename(tmp_path / "sub" / "moved.md")
    again = found(tmp_path, id_from="content")[0]
    assert {file.document_id for file in again} == {file.document_id for file in files}


def test_links_in_circles_end(tmp_path: Path) -> None:
    """Links to folders above, to themselves and to nothing neither loop nor fail."""
    write(tmp_path, {"docs/a.md": "x"})
    docs = tmp_path / "docs"
    (docs / "up").symlink_to(tmp_path)
    (docs / "self").symlink_to("self")
    (docs / "gone.md").symlink_to("nothing.md")
    (docs / "ring").symlink_to("ring2")
    (docs / "ring2").symlink_to("ring")
    assert names(docs, root=tmp_path) == ["docs/a.md"]
