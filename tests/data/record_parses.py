"""Write parses.json: what each sample becomes; run it after a change that is meant.

Read the diff before you commit it:
PYTHONPATH=src:tests python tests/data/record_parses.py
"""

from __future__ import annotations

import json

from support.files import DATA, SAMPLES, parse_sample, summary


def main() -> None:
    parses = {name: summary(parse_sample(name)) for name in SAMPLES}
    text = json.dumps(parses, ensure_ascii=False, indent=1)
    (DATA / "parses.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
