"""What the tests of models ask of a home."""

import json
from pathlib import Path
from typing import Any

from support.places import ROOT

FIXTURE = json.loads((ROOT / "tests" / "fixtures" / "llama_cpp.json").read_text())
BPE: dict[str, Any] = FIXTURE["bpe"]["vocabulary"] | {"pre": "smollm"}


def write_config(home: Path, text: str) -> None:
    home.mkdir(parents=True, exist_ok=True)
    (home / "config.toml").write_text(text)
