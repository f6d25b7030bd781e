"""Where tests find things: the checkout, the embedded model, real data; and a file of rows."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# The embedded model is fetched once and kept between test runs (git-ignored).
MODEL_HOME = Path(os.environ.get("MINIALIGN_TEST_HOME") or ROOT / ".test-home")
DATA = Path(os.environ.get("MINIALIGN_TEST_DATA") or ROOT.parent / "shared" / "data")


def written(path: Path, rows: Iterable[Any]) -> Path:
    """A JSONL file of these rows."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
