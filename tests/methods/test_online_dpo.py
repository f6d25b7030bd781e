"""Online DPO with models as scorers: a reward run, an implicit reward, the policy itself."""

import pytest
from support.places import written
from support.tiny import make_tiny_model

from minialign import formats
from minialign.cli import main
from minialign.durable import read_jsonl
from minialign.records import Pair
from minialign.run_folder import Run
from minialign.training.budget import tokens_read

BASE = "--rounds 2 --n 3 --response-length 8 --temperature 1 --learning-rate 0.01 --eval-split 0"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "prompts.txt").write_text("".join(f"fox {word}\n" for word in "abcdef"))
    rows = [{"prompt": f"fox {i}", "chosen": "yes", "rejected": "no dog"} for i in range(8)]
    written(tmp_path / "pairs.jsonl", rows)
    return tmp_path


def online(folder, tiny_model, flags):
    base = f"--model {tiny_model} --data {folder}/prompts.txt {BASE} --name online"
    assert main(["online-dpo", *base.split(), *flags.split()]) == 0
    run = Run.open("online")
    rows = [list(read_jsonl(run.path / f"rounds/candidates-{k}.jsonl")) for k in (1, 2)]
    pairs = [formats.read(run.path / f"rounds/train-{k}.jsonl").records for k in (1, 2)]
    assert {type(pair) for part in pairs for pair in part} == {Pair}
    for part, drawn in zip(pairs, rows, strict=True):
        by_prompt = {row["prompt"][0]["content"]: row for row in drawn}
        for pair in part:
            row = by_prompt[pair.prompt[0]["content"]]
            scores = dict(zip(row["responses"], row["scores"], strict=True))
            assert scores[pair.chosen] == max(row["scores"])
            assert scores[pair.rejected] == min(row["scores"])
    return run, rows


def test_the_policy_as_its_own_judge(folder, tiny_model, home):
    run, rows = online(folder, tiny_model, "--scorer judge:self")
    assert run.state().status == "finished"
    scores = [score for part in rows for row in part for score in row["scores"]]
    assert all(0 <= score <= 1 for score in scores)
    # the second round is judged by the policy that the first one made
    assert rows[0][0]["scorer"] == rows[1][0]["scorer"] == "judge:self"


@pytest.mark.parametrize("kind", ["reward", "dpo"])
def test_a_run_as_the_scorer_also_one_on_another_base_model(kind, folder, tiny_model, home):
    other = make_tiny_model(folder / "other", seed=7)
    for name, model in (("own", tiny_model), ("other", other)):
        flags = f"--model {model} --data {folder}/pairs.jsonl --iters 3 --learning-rate 0.01"
        assert main([kind, *flags.split(), "--name", name]) == 0
    _, rows = online(folder, tiny_model, f"--scorer {kind}:own")
    made = rows[0][0]
    assert made["used"] > 3 * len(made["responses"]) + sum(made["tokens"])
    assert main(["runs", "rm", "-y", "online"]) == 0
    _, others = online(folder, tiny_model, f"--scorer {kind}:other")
    # the same candidates, other scores: each run reads with its own base
    assert [row["responses"] for row in others[0]] == [row["responses"] for row in rows[0]]
    assert [row["scores"] for row in others[0]] != [row["scores"] for row in rows[0]]


def test_what_scorers_read_counts():
    assert tokens_read("length", 4, 10, 100) == 0
    assert tokens_read("reward:r", 4, 10, 100) == 140
    assert tokens_read("dpo:r", 4, 10, 100) == 280
    # 6 pairs in two orders, each the prompt and two answers of 25 tokens
    assert tokens_read("judge:m", 4, 10, 100) == 12 * (10 + 50)
