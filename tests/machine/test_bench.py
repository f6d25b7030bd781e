"""``minialign bench``: what it counts is right, and what it prints can be read."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.tiny import make_tiny_model

from minialign.cli import main
from minialign.engine.kv import BatchRows
from minialign.engine.native import NativeRows
from minialign.machine import bench
from minialign.machine.bench import Endless, Row, decode_rate, estimates
from minialign.machine.hardware import best
from minialign.machine.roofline import Machine, Work, read_bandwidth, work_of
from minialign.models.load import load

MACHINE = Machine("chip", 2, 8 * 10**9, "native", (4, 8), 10e9, 20e9, 100e9)
HIDDEN, MLP, VOCABULARY, LAYERS = 64, 128, 320, 2
BODY = LAYERS * (2 * HIDDEN * HIDDEN + 2 * HIDDEN * HIDDEN // 2 + 3 * HIDDEN * MLP)


@pytest.mark.parametrize(("bits", "tied"), [(4, True), (None, True), (4, False)])
def test_the_weights_of_a_token_are_counted(tmp_path: Path, bits: int | None, tied: bool):
    model = load(str(make_tiny_model(tmp_path / "model", bits=bits, tied=tied)))
    work = work_of(model)
    assert work.body == BODY
    assert work.head == HIDDEN * VOCABULARY
    # In float32 a weight has 4 bytes; quantized to 4 bits, groups of 32 add 2 x 4 or 2 x 2 bytes.
    assert work.held in (4 * work.weights, work.weights * 3 // 4, work.weights * 5 // 8)
    assert work.update(10, 5) == 2 * work.forward(10, 5) == 2 * (20 * BODY + 10 * work.head)


def test_decoding_is_bound_by_reading_or_by_multiplying():
    work = Work(body=90_000_000, head=10_000_000, held=100_000_000)
    assert work.decode_seconds(MACHINE, 1) == pytest.approx(100e6 / 20e9)
    assert work.decode_seconds(MACHINE, 16) == pytest.approx(2 * 100e6 * 16 / 100e9)


def test_the_memory_is_read_at_a_rate_that_memory_can_have():
    assert 0.2e9 < read_bandwidth(1, 0.02) < 1e12


def test_the_best_of_several_calls_after_one_to_warm_up():
    calls = []
    assert 0 <= best(lambda: calls.append(1), 0, 3) < 0.1
    assert len(calls) == 4


def test_answers_without_an_end_are_timed_step_by_step(tiny_model: Path, monkeypatch):
    model = load(str(tiny_model))
    engine = bench.Engine(replace(model, tokenizer=Endless(model.tokenizer)))
    done = list(engine.generate([[5, 6, 7]] * 3, bench.Sampling(temperature=1.0, max_tokens=40)))
    assert [len(answer.ids) for answer in done] == [40] * 3
    steps = []  # a clock that goes on by a second with every step
    for rows in (BatchRows, NativeRows):
        monkeypatch.setattr(rows, "advance", _counted(rows.advance, steps))
    monkeypatch.setattr(bench.time, "perf_counter", lambda: float(len(steps)))
    assert decode_rate(engine, [[5, 6, 7]] * 3, 10) == pytest.approx(3.0)
    assert len(steps) >= 9


def _counted(advance, steps: list):
    def counted(self, tokens):
        steps.append(1)
        return advance(self, tokens)

    return counted


def test_the_report_of_a_tiny_model(tiny_model: Path, home: Path, capsys):
    assert main(["bench", "--model", str(tiny_model), "--quick", "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    rows = {row["name"]: row for row in found["rows"]}
    assert list(rows) == [
        "load", "score", "decode 1", "decode 4", "best of 4", "sft", "dpo", "process",
    ]  # fmt: skip
    assert all(np.isfinite(row["value"]) and row["value"] > 0 for row in rows.values())
    for name in ("score", "decode 1", "decode 4", "best of 4", "sft", "dpo"):
        # On a busy machine the limits themselves come out too low, so a share may be above 1.
        assert rows[name]["share"] > 0, name
        assert rows[name]["share"] == pytest.approx(rows[name]["value"] / rows[name]["limit"])
    assert rows["process"]["value"] > 50e6
    assert found["machine"]["bandwidth"] >= found["machine"]["bandwidth_one"] > 0
    assert "smollm2-135m-4bit" in {one["name"] for one in found["models"]}
    assert "decode 4" in err


def test_the_tables_for_people(tiny_model: Path, home: Path, capsys):
    assert main(["bench", "--model", str(tiny_model), "--quick"]) == 0
    out, err = capsys.readouterr()
    for text in ("GFLOP/s", "write one answer", "write 4 answers at once", "LoRA fine-tuning"):
        assert text in out
    assert "llama-3b-4bit" in out
    assert "--quick measures too little" in err


def test_a_model_that_is_not_there_is_said_at_once(home: Path, capsys):
    assert main(["bench", "--model", "no/such/folder/at-all"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def _rows(decode: float, sft: float, dpo: float) -> dict[str, Row]:
    names = {"decode 1": decode, "sft": sft, "dpo": dpo}
    return {name: Row(name, value, "") for name, value in names.items()}


def test_other_models_are_scaled_by_their_weights(home: Path):
    work = Work(100_000_000, 34_500_000, 84_000_000)
    found = {one.name: one for one in estimates(_rows(100.0, 200.0, 1.0), work, MACHINE)}
    three = found["llama-3b-4bit"]
    assert three.train == pytest.approx(200 * 134.5e6 / 3212.7e6, rel=1e-3)
    assert three.thousand_pairs == pytest.approx(1000 * 3212.7 / 134.5, rel=1e-3)
    assert three.decode == pytest.approx(100 * 84e6 / 1825e6, rel=1e-3)
    assert three.run_bytes < three.train_bytes < MACHINE.memory
    # Without kernels weights are float32 in memory, and there are more bytes to read.
    pure = replace(MACHINE, kept=())
    slower = {one.name: one for one in estimates(_rows(100.0, 200.0, 1.0), work, pure)}
    assert slower["llama-3b-4bit"].decode == pytest.approx(100 * 84e6 / (4 * 3212.7e6), rel=1e-3)
    assert slower["llama-3b-4bit"].verdict == "does not fit"


@pytest.mark.parametrize(
    ("memory", "decode", "dpo", "verdict"),
    [
        (100e9, 100.0, 10.0, "to chat and to train"),
        (0.9e9, 100.0, 10.0, "does not fit"),
        (1.2e9, 100.0, 10.0, "to chat; too large to train"),
        (100e9, 0.1, 10.0, "slow to read along"),
        (100e9, 100.0, 1e-3, "to chat; training takes days"),
    ],
)
def test_the_verdict_says_what_stands_in_the_way(
    home: Path, memory: float, decode: float, dpo: float, verdict: str
):
    work = Work(100_000_000, 34_500_000, 84_000_000)
    here = replace(MACHINE, memory=int(memory))
    found = {one.name: one for one in estimates(_rows(decode, 100.0, dpo), work, here)}
    assert found["llama-1b-4bit"].verdict == verdict
