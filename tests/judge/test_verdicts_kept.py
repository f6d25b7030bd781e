"""Verdicts are kept: nothing is asked twice, a kill or a stop loses nothing, rows read again."""

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
from support.judging import PAIRS, asked, memory_of, opened, order
from support.made_runs import make_adapter, make_reward
from support.places import ROOT
from support.verdicts import forbidden, kept_in

from minialign import formats
from minialign.judge import open as judges
from minialign.judge.ask import judge_comparisons, verdicts_to_pairs
from minialign.judge.plans import count_verdicts
from minialign.judge.verdict_files import verdict_of
from minialign.records import Comparison, Pair, to_json


class Counting:
    """A reader that counts what it is asked."""

    def __init__(self, reader):
        self.reader = reader
        self.asked: list[str] = []

    def read(self, questions, explain, stop):
        for index, reading in self.reader.read(questions, explain, stop):
            self.asked.append(questions[index].messages[-1]["content"])
            yield index, reading


def counted(judge):
    return replace(judge, reader=Counting(judge.reader))


def test_asking_again_asks_nothing_twice(tiny_model, home, tmp_path):
    file = tmp_path / "verdicts.jsonl"
    judge = counted(opened(str(tiny_model)))
    first = list(judge_comparisons(judge, PAIRS, file=file))
    assert len(judge.reader.asked) == 8  # two orders; the same answer twice is not asked about
    assert [one.source for one in first] == [pair.source for pair in PAIRS]
    assert first[3].choice == "tie"
    again = list(judge_comparisons(judge, PAIRS, file=file))
    assert len(judge.reader.asked) == 8
    assert again == first
    assert kept_in(file) == first
    # another file, the answers the other way round, another way to decide: all known
    turned = [replace(pair, a=pair.b, b=pair.a) for pair in PAIRS]
    list(judge_comparisons(judge, turned, file=tmp_path / "other.jsonl"))
    list(judge_comparisons(replace(judge, debias=True), PAIRS))
    assert len(judge.reader.asked) == 8
    # the file alone is enough too
    memory_of(home, judge).unlink()
    assert list(judge_comparisons(judge, PAIRS, file=file)) == first
    assert len(judge.reader.asked) == 8
    # another template is another judge
    other = counted(opened(str(tiny_model), template="plain"))
    mixed = list(judge_comparisons(other, PAIRS[:1], file=file))
    assert len(other.reader.asked) == 2
    assert len(kept_in(file)) == 6
    assert mixed[0].id != first[0].id


def test_what_was_asked_before_needs_no_model(tiny_model, home, tmp_path, monkeypatch):
    run = make_adapter(tmp_path / "run", tiny_model, 1)
    reward = f"reward:{make_reward(tmp_path / 'reward', tiny_model)}"
    specs = (str(tiny_model), str(run), reward)
    before = [list(judge_comparisons(opened(spec), PAIRS)) for spec in specs]
    monkeypatch.setattr(judges, "open_engine", forbidden)
    monkeypatch.setattr(judges, "run_scorer", forbidden)
    for spec, said in zip(specs, before, strict=True):
        again = list(judge_comparisons(opened(spec), PAIRS))
        assert [one.orders for one in again] == [one.orders for one in said]
        with pytest.raises(AssertionError, match="is opened"):
            list(judge_comparisons(opened(spec), [Comparison(asked("new?"), "one", "other")]))
    config = run / "adapter_config.json"
    settings = json.loads(config.read_text())
    settings["lora_parameters"]["scale"] *= 2
    config.write_text(json.dumps(settings))
    with pytest.raises(AssertionError, match="is opened"):  # it may say something else now
        list(judge_comparisons(opened(str(run)), PAIRS))


def test_rows_that_are_no_verdicts(tiny_model, home):
    (one,) = judge_comparisons(opened(str(tiny_model)), PAIRS[:1])
    row = to_json(one)
    assert verdict_of(row) == replace(one, source="")
    some = row["orders"][0]
    for wrong in (
        {"orders": [1, 2]}, {"orders": [{"a": 1}, {"a": 1}]}, {"orders": []}, {"orders": [some]},
        {"orders": [some, {"a": "x", "b": 0, "tie": 0}]}, {"a": 3}, {"id": None},
    ):  # fmt: skip
        assert verdict_of({**row, **wrong}) is None, wrong
    assert verdict_of({**row, "orders": [some, {"unparsed": "?"}]}) is not None
    assert verdict_of({key: value for key, value in row.items() if key != "judge"}) is None


def test_an_order_without_a_preference_names_nobody(tiny_model, home):
    (one,) = judge_comparisons(opened(str(tiny_model)), PAIRS[:1])
    said = count_verdicts(
        {"x": replace(one, choice="tie", orders=[order(0.5, 0.5), order(0.6, 0.4)])}, {}
    )
    assert said.first == (0.0, 1)  # with b first it preferred a
    assert said.conflicts == (1.0, 1)


def test_a_file_cut_by_a_kill_and_foreign_lines_are_no_harm(tiny_model, home, tmp_path):
    file = tmp_path / "verdicts.jsonl"
    judge = opened(str(tiny_model))
    first = list(judge_comparisons(judge, PAIRS[:3], file=file))
    data = file.read_bytes()
    file.write_bytes(b'{"note": 1}\nnonsense\n' + data[: len(data) - 40])
    assert len(list(judge_comparisons(judge, PAIRS[:3], file=file))) == 3
    assert [one.id for one in kept_in(file)] == [one.id for one in first]
    assert file.read_bytes().startswith(b'{"note": 1}\nnonsense\n')


def test_stopping_keeps_what_was_said(tiny_model, home, tmp_path):
    stop = threading.Event()
    judge = counted(opened(str(tiny_model)))
    file = tmp_path / "v.jsonl"
    found = []
    for verdict in judge_comparisons(judge, PAIRS, file=file, batch_size=1, stop=stop):
        found.append(verdict)
        if len(found) == 2:
            stop.set()
    assert len(found) == len(kept_in(file)) == 2
    assert len(list(judge_comparisons(judge, PAIRS, file=file))) == 5
    assert len(judge.reader.asked) == len(set(judge.reader.asked)) == 8


SCRIPT = """
import sys
from pathlib import Path
from minialign.judge.ask import judge_comparisons
from minialign.judge.open import open_judge
from minialign.records import Comparison
judge = open_judge(sys.argv[1])
asks = judge.reader.read
def read(questions, explain, stop):
    for index, reading in asks(questions, explain, stop):
        print("asked", flush=True)
        yield index, reading
judge.reader.read = read
pairs = [Comparison([{"role": "user", "content": f"{n}?"}], "one", "two") for n in range(40)]
for verdict in judge_comparisons(judge, pairs, file=Path(sys.argv[2]), batch_size=4):
    print("verdict", verdict.id, flush=True)
"""


def test_killed_and_resumed_nothing_is_lost_or_asked_twice(tiny_model, home, tmp_path):
    file = tmp_path / "verdicts.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tiny_model), str(file)], stdout=subprocess.PIPE,
        text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    lines: list[str] = []
    while sum(line.startswith("verdict ") for line in lines) < 5:
        lines.append(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    lines += process.stdout.readlines()
    process.wait()
    process.stdout.close()
    told = {line.split()[1] for line in lines if line.startswith("verdict ") and line[-1] == "\n"}
    kept = {one.id for one in kept_in(file)}
    assert told <= kept  # each was on disk before it was told
    assert 5 <= len(kept) < 40
    judge = counted(opened(str(tiny_model)))
    pairs = [Comparison(asked(f"{n}?"), "one", "two") for n in range(40)]
    assert len(list(judge_comparisons(judge, pairs, file=file))) == 40
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(rows) == len({row["id"] for row in rows}) == 40
    assert kept <= {row["id"] for row in rows}
    # at most the one question under way is asked again
    asked_in_all = lines.count("asked\n") + len(judge.reader.asked)
    assert 80 <= asked_in_all <= 81


def test_verdicts_become_pairs(tiny_model, home, tmp_path):
    (one,) = judge_comparisons(opened(str(tiny_model)), PAIRS[:1])
    verdicts = [replace(one, choice=choice) for choice in ("a", "b", "tie", "unparsed")]
    assert verdicts_to_pairs(verdicts) == [
        Pair(one.prompt, one.a, one.b, source="f:1"), Pair(one.prompt, one.b, one.a, source="f:1"),
    ]  # fmt: skip
    assert verdicts_to_pairs([replace(one, choice="a", b=f"{one.a} ")]) == []
    # a file of verdicts is read as pairs as it is
    file = tmp_path / "v.jsonl"
    rows = [to_json(replace(v, id=str(i))) for i, v in enumerate(verdicts)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = formats.read(file)
    assert [(r.chosen, r.rejected) for r in read.records] == [(one.a, one.b), (one.b, one.a)]
    assert not read.problems
