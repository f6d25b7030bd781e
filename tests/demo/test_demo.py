"""The demo on the embedded model, end to end: what README says of it holds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.places import MODEL_HOME, ROOT

from minialign.demo.loop import examples_folder, settings


def _lines(path):
    return path.read_text(encoding="utf-8").splitlines()


def test_the_pairs_are_enough_and_held_out():
    folder = examples_folder()
    rows = {
        name: [json.loads(line) for line in _lines(folder / "concise" / f"{name}.jsonl")]
        for name in ("train", "heldout")
    }
    assert len(rows["train"]) >= 240
    assert len(rows["heldout"]) >= 60
    prompts = [{row["prompt"].casefold() for row in part} for part in rows.values()]
    assert not prompts[0] & prompts[1]
    assert Path(settings("x").data[0]).exists()


@pytest.mark.model
@pytest.mark.slow
def test_the_demo_aligns_the_embedded_model(tmp_path, embedded_model):
    home = tmp_path / "home"
    home.mkdir()
    (home / "models").symlink_to(MODEL_HOME / "models")

    def demo():
        done = subprocess.run(
            [sys.executable, "-m", "minialign", "demo", "--json"],
            capture_output=True, text=True, timeout=1500, stdin=subprocess.DEVNULL,
            env={**os.environ, "MINIALIGN_HOME": str(home), "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    result = demo()
    count = len(result["prompts"])
    assert result["pairs"] >= 60
    assert result["reward_accuracy"] >= 0.85
    assert (result["style_after"] - result["style_before"]) / count >= 0.4
    assert result["peak_memory"] < 3e9
    again = demo()
    assert again["reused"]
    assert again["after"] == result["after"]
