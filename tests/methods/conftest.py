"""The files of rows that the tests of methods train on."""

import random

import pytest
from support.method_rows import WORDS
from support.places import written

# ---- methods on a tiny model ------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Files of pairs, rankings of three, ratings, and demonstrations on 32 prompts: a good answer
    says yes, a bad one no."""
    folder = tmp_path_factory.mktemp("rows")
    chance = random.Random(0)
    kinds = {name: [] for name in ("pairs", "rankings", "ratings", "demonstrations")}
    for i in range(32):
        prompt = " ".join(chance.choices(WORDS, k=chance.randint(3, 12))) + f" {i}"
        tail = [" ".join(chance.choices(WORDS, k=chance.randint(1, 5))) for _ in range(3)]
        yes, perhaps, no = f"yes {tail[0]}", f"fox {tail[1]}", f"no {tail[2]} dog"
        kinds["pairs"].append({"prompt": prompt, "chosen": yes, "rejected": no, "margin": i % 3})
        kinds["rankings"].append(
            {"prompt": prompt, "responses": [perhaps, yes, no], "scores": [0.5, 1, 0]}
        )
        kinds["ratings"] += [
            {"prompt": prompt, "completion": yes, "label": True},
            {"prompt": prompt, "completion": no, "label": False},
        ]
        kinds["demonstrations"].append({"prompt": prompt, "completion": "over lazy brown"})
    for name, found in kinds.items():
        written(folder / f"{name}.jsonl", found)
    return folder
