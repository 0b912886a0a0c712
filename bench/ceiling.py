"""The ceiling: a bare FastAPI route that answers given bytes, under ragdock's uvicorn settings.

python bench/ceiling.py PORT FILE
"""

from __future__ import annotations

import sys
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Response

app = FastAPI()


@app.post("/answer")
async def answer() -> Response:
    """The bytes, as a JSON body."""
    return Response(app.state.body, media_type="application/json")


if __name__ == "__main__":
    app.state.body = Path(sys.argv[2]).read_bytes()
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        log_config=None,
        access_log=False,
        server_header=False,
        loop="uvloop",
        http="httptools",
    )
