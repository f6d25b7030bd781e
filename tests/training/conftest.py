"""The prompts and scorers of the tests of rounds."""

import pytest
from support.places import written
from support.rounds import SCORER, WORDS


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rounds")
    (folder / "prompts.txt").write_text("".join(f"fox {word}\n" for word in WORDS))
    (folder / "other.txt").write_text("".join(f"cat {word}\n" for word in WORDS[:4]))
    (folder / "score.py").write_text(SCORER)
    rows = [{"prompt": f"hm {word}", "completion": "aeiou aeiou"} for word in WORDS]
    written(folder / "mix.jsonl", rows)
    return folder
