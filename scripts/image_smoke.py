"""Runs the built server once while the image is built, and keeps the bytecode of what that loaded.

    python scripts/image_smoke.py OUT

It starts `m3_1_dockerize.py --serve` in the working directory, sends it a Markdown, a PDF and a
Word file, asks a question of each, probes its health and stops it. A library that stripping broke,
a missing package or a model that doesn't load fails the build here, not in production.

Then it compiles every module that those processes imported, outside the working directory, to
`OUT/<directory>/__pycache__/`: the official Python image has no bytecode, and a read-only container
can't write any. Bytecode of everything would weigh twice as much.
"""

from __future__ import annotations

import io
import json
import os
import py_compile
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

PORT = 18000
URL = f"http://127.0.0.1:{PORT}"
START_SECONDS = 180  # A loaded builder has needed 63.

# One fact a format, so that an answer shows which file it came from.
MARKDOWN = b"# Ferry\n\nThe ferry to Amber Island leaves at nine every morning.\n"
PDF_SENTENCE = "The lighthouse on Granite Point was built in 1871."
DOCX_SENTENCE = "The museum of clocks is closed on Tuesdays."

TRACING = """
import sys
import redis
found = [name for name in sys.modules if name.startswith("opentelemetry.sdk.")]
assert not found, f"redis-py has found OpenTelemetry's SDK: {found}"
from contextvars import ContextVar
from ragdock.adapters.metrics.null import NullMetrics
from ragdock.adapters.tracing.otel import OtelTracer
tracer = OtelTracer("http://127.0.0.1:9/v1/traces", metrics=NullMetrics(), trace_id=ContextVar("t"))
with tracer.request("GET", {}) as span:
    span.note({"works": True})
tracer.close()
print("traces can be made")
"""


def main(out: Path) -> None:
    """Run the smoke test and write the bytecode below `out`."""
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        (scratch / "data").mkdir()
        environment = {
            **os.environ,
            "PORT": str(PORT),
            "RAG_DATA_DIR": str(scratch / "data"),
            # Every process below notes here what it imports, whatever caches exist.
            "PYTHONPYCACHEPREFIX": str(scratch / "seen"),
        }
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        command = [sys.executable, "m3_1_dockerize.py"]
        server = subprocess.Popen([*command, "--serve"], env=environment)
        try:
            wait_until_healthy(server)
            ask_each_format()
            subprocess.run([*command, "--health", "--url", URL], env=environment, check=True)
        finally:
            server.send_signal(signal.SIGTERM)
            code = server.wait(timeout=30)
        # With the traces' packages, which no server without an endpoint loads.
        subprocess.run([sys.executable, "-B", "-c", TRACING], check=True)
        # uvicorn raises the signal again once it is done; as process 1 of a container that is a 0.
        if code not in (0, -signal.SIGTERM):
            raise SystemExit(f"the server ended with {code} after SIGTERM")
        print(f"{compile_seen(scratch / 'seen', out)} modules compiled to {out}")


def wait_until_healthy(server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            health = call("GET", "/health")
            break
        except OSError as exc:
            if server.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the server did not start: {exc}") from exc
            time.sleep(0.2)
    if health["status"] != "ok":
        raise SystemExit(f"not healthy: {health}")


def ask_each_format() -> None:
    files = {
        "ferry.md": (MARKDOWN, "When does the ferry to Amber Island leave?", "nine"),
        "lighthouse.pdf": (pdf(), "When was the lighthouse on Granite Point built?", "1871"),
        "museum.docx": (docx(), "When is the museum of clocks closed?", "Tuesdays"),
    }
    for filename, (content, question, expected) in files.items():
        body, content_type = multipart(filename, content)
        answer = call("POST", "/v1/documents?wait=true", body, content_type)
        if answer["documents"][0]["status"] != "done":
            raise SystemExit(f"{filename}: {answer}")
        question_body = json.dumps({"question": question}).encode()
        answer = call("POST", "/v1/ask", question_body, "application/json")
        if expected not in answer["answer"] or not answer["citations"]:
            raise SystemExit(f"{filename}: {answer}")
        print(f"{filename}: {answer['answer']}")


def call(method: str, path: str, body: bytes | None = None, content_type: str = "") -> Any:
    headers = {"Content-Type": content_type} if body is not None else {}
    request = urllib.request.Request(URL + path, body, headers, method=method)
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def multipart(filename: str, content: bytes) -> tuple[bytes, str]:
    boundary = "ragdock-image-smoke"
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{filename}"'
        "\r\nContent-Type: application/octet-stream\r\n\r\n"
    )
    body = head.encode() + content + f"\r\n--{boundary}--\r\n".encode()
    return body, f"multipart/form-data; boundary={boundary}"


def pdf() -> bytes:
    stream = f"BT /F1 12 Tf 72 720 Td ({PDF_SENTENCE}) Tj ET".encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R"
        b" /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    content, offsets = b"%PDF-1.4\n", []
    for number, each in enumerate(objects, 1):
        offsets.append(len(content))
        content += b"%d 0 obj\n%s\nendobj\n" % (number, each)
    start = len(content)
    content += b"xref\n0 6\n0000000000 65535 f \n"
    content += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    return content + b"trailer << /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % start


def docx() -> bytes:
    word = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
    package = "http://schemas.openxmlformats.org/package/2006"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    main_type = "application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"
    relations_type = "application/vnd.openxmlformats-package.relationships+xml"
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{package}/content-types">'
        f'<Default Extension="rels" ContentType="{relations_type}"/>'
        f'<Override PartName="/word/document.xml" ContentType="{main_type}"/></Types>',
        "_rels/.rels": f'<Relationships xmlns="{package}/relationships"><Relationship Id="r1" '
        f'Type="{office}/officeDocument" Target="word/document.xml"/></Relationships>',
        "word/document.xml": f'<w:document xmlns:w="{word}"><w:body><w:p><w:r><w:t>'
        f"{DOCX_SENTENCE}</w:t></w:r></w:p></w:body></w:document>",
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in parts.items():
            archive.writestr(name, f'<?xml version="1.0" encoding="UTF-8"?>{text}')
    return buffer.getvalue()


def compile_seen(seen: Path, out: Path) -> int:
    """Compile each module noted below `seen` to below `out`, by content; returns how many."""
    count, own = 0, Path.cwd()
    for cache in sorted(seen.rglob("*.pyc")):
        source = Path("/") / cache.relative_to(seen).parent / f"{cache.name.split('.')[0]}.py"
        if own in source.parents or not source.is_file():
            continue
        target = out / source.parent.relative_to("/") / "__pycache__" / cache.name
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        py_compile.compile(str(source), str(target), str(source), True, -1, invalidation_mode=mode)
        count += 1
    # The layer's bytes depend on its content alone.
    for path in [out, *out.rglob("*")]:
        os.utime(path, (0, 0))
    return count


if __name__ == "__main__":
    main(Path(sys.argv[1]))
