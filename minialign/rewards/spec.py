"""What `--scorer` may say."""

import os
from pathlib import Path

from minialign.errors import UserError, nearest
from minialign.models.adapter import CONFIG

# what stands before the colon: (what stands behind it, one line of help)
KINDS = {
    "reward": ("RUN", "the value of a reward head"),
    "dpo": ("RUN", "the implicit reward of a DPO run, beta x (log-prob - reference's)"),
    "exact": ("", "1 when the final answer is the row's reference (GSM8K style)"),
    "ifeval": ("", "the share of the row's checkable instructions that is followed"),
    "regex": ("PATTERN", "1 when the pattern is found"),
    "length": ("", "the number of words"),
    "judge": ("MODEL", "wins against the other answers, in pairs; judge:self is the model"),
    "python": ("FILE.py:FUNCTION", "your own function of (prompt, responses)"),
}


def parse(spec: str) -> tuple[str, str]:
    """(kind, what stands behind the colon).

    Raises:
        UserError: for a kind that there is not, or without what it needs.
    """
    kind, _, rest = spec.partition(":")
    if kind not in KINDS:
        raise UserError(f"there is no scorer {kind!r}", nearest(kind, KINDS))
    wants = KINDS[kind][0]
    if bool(wants) != bool(rest):
        said = f"{kind}:{wants}" if wants else kind
        raise UserError(f"scorer {spec!r}", f"write {said}")
    return kind, rest


def with_whole_path(spec: str) -> str:
    """Make the path in a spec absolute, where it holds one: good in any folder."""
    kind, _, rest = spec.partition(":")
    file, colon, word = rest.rpartition(":") if kind == "python" else (rest, "", "")
    path = Path(file).expanduser()
    there = path.is_file() if kind == "python" else (path / CONFIG).is_file()
    return f"{kind}:{os.path.abspath(path)}{colon}{word}" if file and there else spec
