"""The readers on real data sets, kept beside the project; skipped where they are absent."""

from itertools import pairwise
from pathlib import Path

import pytest

from minialign import formats
from minialign.formats.measures import Measures
from minialign.records import Pair, Prompted


@pytest.mark.parametrize(
    ("name", "records", "form"),
    [
        ("formats/alpaca_en_demo.json.gz", 999, "alpaca"),
        ("formats/dpo_en_demo.json.gz", 300, "sharegpt-pairs"),
        ("formats/kto_en_demo.json.gz", 300, "sharegpt-ratings"),
        ("dolly/dolly_3k.json.gz", 2996, "alpaca"),
        ("gsm8k/train.jsonl.gz", 7473, "completions"),
        ("gsm8k/example_model_solutions.jsonl.gz", 1319, "prompts"),
        ("ifeval/input_data.jsonl", 541, "prompts"),
        ("prompts/koala_test_set.jsonl", 180, "prompts"),
        ("prompts/vicuna_bench_question.jsonl", 80, "questions"),
        ("prompts/mt_bench_question.jsonl", 80, "questions"),
        ("prompts/self_instruct_user_oriented_252.jsonl", 252, "self-instruct"),
        ("prompts/self_instruct_seed_tasks_175.jsonl", 175, "self-instruct"),
    ],
)
def test_every_row_is_read(data: Path, name: str, records: int, form: str):
    read = formats.read(data / name)
    assert read.problems == []
    assert len(read.records) == records
    assert read.format == {form: records}
    assert read.unused == {}
    if name.startswith("prompts/"):
        assert all(isinstance(record, Prompted) for record in read.records)


def test_hh_rlhf_splits_but_for_two_rows_that_are_named(data: Path):
    path = data / "hh_rlhf" / "harmless_first_1800.jsonl.gz"
    read = formats.read(path)
    assert [problem.source for problem in read.problems] == [f"{path}:1255", f"{path}:1689"]
    assert len(read.records) == 1798
    for pair in read.records:
        assert isinstance(pair, Pair)
        assert pair.prompt[-1]["role"] == "user"
        roles = [turn["role"] for turn in pair.prompt]
        assert all(a != b for a, b in pairwise(roles))
    assert sum(not pair.chosen for pair in read.records) == 4
    longest = max(read.records, key=lambda pair: len(pair.prompt))
    assert len(longest.prompt) == 35


def test_oasst_trees(data: Path):
    read = formats.read(data / "oasst" / "en_100_tree.jsonl.gz")
    assert (read.problems, read.format) == ([], {"oasst": 100})
    assert len(read.records) == 212
    pairs, unused = formats.as_kind(read.records, Pair)
    assert (len(pairs), unused) == (754, 0)
    # every one of the 687 assistant turns is ranked or counted
    assert sum(len(ranking.responses) for ranking in read.records) == 641
    assert read.unused == {"an answer without a rank": 46}


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("LLMBar_Natural", 0.565),
        ("LLMBar_Adversarial_Neighbor", 0.119),
        ("LLMBar_Adversarial_GPTInst", 0.130),
        ("LLMBar_Adversarial_GPTOut", 0.447),
        ("LLMBar_Adversarial_Manual", 0.185),
        ("Processed_FairEval", 0.591),
        ("Processed_LLMEval2", 0.613),
        ("Processed_MT-Bench", 0.693),
    ],
)
def test_longer_wins_on_llmbar(data: Path, name: str, share: float):
    measures = Measures()
    for record in formats.read(data / "llmbar" / f"{name}.json").records:
        measures.add(record)
    assert measures.report()["longer_wins"]["share"] == pytest.approx(share, abs=6e-4)
