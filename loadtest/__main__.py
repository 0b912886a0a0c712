"""`python -m loadtest COMMAND`: what `make load`, `make soak` and `make sizing-check` run."""

from __future__ import annotations

import sys

from loadtest.commands import main

sys.exit(main())
