"""Archives: what is in them, and what they may not do."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable

import pytest

from ragdock.adapters.parsers.archives import Bounds, members
from ragdock.core.media import BZIP2, GZIP, TAR, XZ, ZIP
from ragdock.errors import DocumentError
from support.files import zip_bytes

FILES = {"a.txt": b"Hello", "sub/b.md": b"# Hi\n" * 100_000}
BOUNDS = Bounds(max_files=10, max_bytes=60 * 2**20)


def tar_bytes(files: dict[str, bytes], **extra: tarfile.TarInfo) -> bytes:
    """A TAR of these files, and of entries that are no files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for info in extra.values():
            archive.addfile(info)
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def unpacked(
    content: bytes, media_type: str, name: str = "x", bounds: Bounds = BOUNDS
) -> dict[str, bytes]:
    """Path and content of every member."""
    found = members(io.BytesIO(content), name, media_type, bounds)
    return {member.path: b"".join(member.pieces) for member in found}


def code_of(content: bytes, media_type: str, bounds: Bounds = BOUNDS) -> str:
    with pytest.raises(DocumentError) as caught:
        unpacked(content, media_type, bounds=bounds)
    assert str(caught.value).endswith(".")
    return caught.value.code


@pytest.mark.parametrize(
    ("pack", "media_type"),
    [
        (zip_bytes, ZIP),
        (tar_bytes, TAR),
        (lambda files: gzip.compress(tar_bytes(files)), GZIP),
        (lambda files: bz2.compress(tar_bytes(files)), BZIP2),
        (lambda files: lzma.compress(tar_bytes(files)), XZ),
    ],
    ids=["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"],
)
def test_files_come_out(pack: Callable[[dict[str, bytes]], bytes], media_type: str) -> None:
    """Every file of an archive comes with its path and its content."""
    assert unpacked(pack(dict(FILES)), media_type) == FILES


@pytest.mark.parametrize(
    ("content", "media_type", "name", "inner"),
    [
        (gzip.compress(b"log"), GZIP, "app.log.gz", "app.log"),
        (bz2.compress(b"log"), BZIP2, "notes.txt.bz2", "notes.txt"),
        (lzma.compress(b"log"), XZ, "x.XZ", "x"),
        (gzip.compress(b"log"), GZIP, ".gz", "file"),
    ],
)
def test_one_compressed_file(content: bytes, media_type: str, name: str, inner: str) -> None:
    """A compressed file is an archive of one, named without the extension."""
    assert unpacked(content, media_type, name) == {inner: b"log"}


def test_what_is_no_file_is_passed_over() -> None:
    """Directories, links, devices and the litter of operating systems are left out."""
    link, device, folder = (tarfile.TarInfo(n) for n in ("link", "device", "folder"))
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    device.type, folder.type = tarfile.CHRTYPE, tarfile.DIRTYPE
    content = tar_bytes({"a": b"1", "__MACOSX/a": b"2", "b/._c": b"3"}, l=link, d=device, f=folder)
    assert unpacked(content, TAR) == {"a": b"1"}
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        info = zipfile.ZipInfo("link")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
        archive.writestr("a", "1")
    assert unpacked(out.getvalue(), ZIP) == {"a": b"1"}


@pytest.mark.parametrize(
    "path", ["../x", "/etc/x", "a/../../x", "..\\x", "C:\\x", "a\n", "x" * 1001]
)
def test_unsafe_paths_are_refused(path: str) -> None:
    """A path that leads out of the archive, or hides what it is, refuses the archive by name."""
    assert code_of(tar_bytes({path: b"x"}), TAR) == "unsafe_path"


def test_encrypted_members_are_named() -> None:
    """An encrypted member is named, so that its owner knows which."""
    content = bytearray(zip_bytes({"secret.txt": b"x"}))
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(DocumentError, match=r"secret\.txt is encrypted"):
        unpacked(bytes(content), ZIP)


def test_bounds() -> None:
    """Too many files, too many bytes, and too great a ratio are bombs; the message names why."""
    assert code_of(zip_bytes({f"{n}": b"x" for n in range(11)}), ZIP) == "bomb"
    assert code_of(zip_bytes({"a": bytes(2**20)}), ZIP, Bounds(9, 2**20 - 1)) == "bomb"
    assert code_of(gzip.compress(bytes(70 * 2**20)), GZIP, Bounds(9, 2**40)) == "bomb"


def test_overlapping_members_are_a_bomb() -> None:
    """Entries that share the same compressed bytes are refused before any is inflated."""
    content = bytearray(zip_bytes({"a": b"x" * 5000, "b": b"y" * 5000}))
    second = content.rindex(b"PK\x01\x02")
    content[second + 42 : second + 46] = (0).to_bytes(4, "little")
    assert code_of(bytes(content), ZIP) == "bomb"


@pytest.mark.parametrize("media_type", [ZIP, TAR, GZIP, BZIP2, XZ])
def test_broken_archives(media_type: str) -> None:
    """Noise, an empty file and a cut archive fail with a reason."""
    noise = bytes(range(256)) * 100
    pack: dict[str, Callable[[bytes], bytes]] = {
        ZIP: lambda body: zip_bytes({"a": body}), TAR: lambda body: tar_bytes({"a": body}),
        GZIP: gzip.compress, BZIP2: bz2.compress, XZ: lzma.compress,
    }  # fmt: skip
    packed = pack[media_type](noise)
    assert code_of(b"noise" * 500, media_type) == "damaged"
    assert code_of(packed[: len(packed) // 2], media_type) in ("damaged", "truncated")


def test_an_empty_archive_says_so() -> None:
    """An archive without files is no document."""
    assert code_of(zip_bytes({}), ZIP) == "no_text"
    assert code_of(tar_bytes({}), TAR) == "no_text"
