"""Scores against sums made by hand from the model's own logits."""

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from support.made_runs import make_adapter, make_reward
from support.places import written

from minialign.cli import main
from minialign.errors import UserError
from minialign.models.load import Model, load
from minialign.records import Demonstration, Message, Pair, Ranking
from minialign.rewards.score import open_measures

PROMPT: list[Message] = [{"role": "user", "content": "the quick brown fox"}]
PAIRS = [
    Pair(PROMPT, "jumps over", "the lazy dog and the fox and the dog", source="f:1"),
    Pair([{"role": "user", "content": "yes?"}], "no", "yes yes", source="f:2"),
]


def by_hand(model: Model, prompt: list[Message], response: str) -> tuple[float, int]:
    """(sum of log-probs, tokens) of a response with its end of turn, from whole logits."""
    text = model.tokenizer.render_text(prompt, True)
    ids = model.tokenizer.encode(text)
    answer = model.tokenizer.encode(response + "<|im_end|>")
    logits = model.module(mx.array([ids + answer]))[0].astype(mx.float32)
    table = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True), np.float64)
    return sum(table[len(ids) - 1 + i, t] for i, t in enumerate(answer)), len(answer)


def test_log_probs_are_the_models_own(tiny_model, home):
    model = load(str(tiny_model))
    found = list(open_measures(str(tiny_model)).score(PAIRS))
    assert [(one.row, one.role) for one in found] == [
        (0, "chosen"), (0, "rejected"), (1, "chosen"), (1, "rejected"),
    ]  # fmt: skip
    texts = [(pair, text) for pair in PAIRS for text in (pair.chosen, pair.rejected)]
    for one, (row, text) in zip(found, texts, strict=True):
        logp, count = by_hand(model, row.prompt, text)
        assert one.logp == pytest.approx(logp, abs=1e-3)
        assert one.tokens == count
        assert one.mean_logp == pytest.approx(logp / count, abs=1e-3)
        assert one.implicit_reward is one.reward is one.reference_logp is None
        assert (one.response, one.source) == (text, row.source)


def test_scores_do_not_depend_on_the_other_rows(tiny_model, home):
    scorer = open_measures(str(tiny_model))
    rows = [PAIRS[i % 2] for i in range(70)]  # more than a window
    together = list(scorer.score(rows))
    alone = [one.logp for pair in PAIRS for one in scorer.score([pair])]
    assert [one.row for one in together] == [i // 2 for i in range(140)]
    np.testing.assert_allclose([one.logp for one in together], alone * 35, atol=1e-4)


def test_implicit_reward_is_beta_times_the_ratio_to_the_base(tiny_model, home, tmp_path):
    run = make_adapter(tmp_path / "run", tiny_model, 1, method="dpo", beta=0.3, adapter=None)
    base, tuned = load(str(tiny_model)), load(str(tiny_model), run)
    for beta in (None, 2.0):
        # the model's name is in the adapter
        for one, text in zip(
            open_measures(adapter=str(run), beta=beta).score(PAIRS[:1]),
            (PAIRS[0].chosen, PAIRS[0].rejected),
            strict=True,
        ):
            logp, _ = by_hand(tuned, PROMPT, text)
            reference, _ = by_hand(base, PROMPT, text)
            assert one.logp == pytest.approx(logp, abs=1e-3)
            assert one.reference_logp == pytest.approx(reference, abs=1e-3)
            assert abs(logp - reference) > 0.01
            assert one.implicit_reward == pytest.approx(
                (beta or 0.3) * (logp - reference), abs=2e-3
            )


def test_a_run_that_started_from_an_adapter_has_it_as_its_reference(tiny_model, home, tmp_path):
    start = make_adapter(tmp_path / "sft", tiny_model, 2, method="sft")
    run = make_adapter(tmp_path / "run", tiny_model, 1, method="dpo", beta=0.1, adapter=str(start))
    (one, _) = open_measures(adapter=str(run)).score(PAIRS[:1])
    reference, _ = by_hand(load(str(tiny_model), start), PROMPT, PAIRS[0].chosen)
    assert one.reference_logp == pytest.approx(reference, abs=1e-3)


def test_reward_is_the_head_on_the_last_token(tiny_model, home, tmp_path):
    run = make_reward(tmp_path / "reward", tiny_model)
    tuned = load(str(tiny_model), run)
    weights = mx.load(str(run / "reward_head.safetensors"))
    wanted = []
    for text in (PAIRS[0].chosen, PAIRS[0].rejected):
        ids = tuned.tokenizer.encode(tuned.tokenizer.render_text(PROMPT, True))
        ids += tuned.tokenizer.encode(text + "<|im_end|>")
        hidden = tuned.module.model(mx.array([ids]))[0, -1]
        wanted.append(((hidden * weights["weight"]).sum() / 8 + weights["bias"][0]).item())
    found = list(open_measures(reward=str(run)).score(PAIRS[:1]))
    assert [one.reward for one in found] == pytest.approx(wanted, abs=1e-3)
    assert found[0].logp is None
    assert wanted[0] != pytest.approx(wanted[1], abs=1e-3)


def test_reward_and_implicit_reward_together(tiny_model, home, tmp_path):
    dpo = make_adapter(tmp_path / "dpo", tiny_model, 1, method="dpo", beta=0.1)
    reward = make_reward(tmp_path / "reward", tiny_model)
    both = list(open_measures(adapter=str(dpo), reward=str(reward)).score(PAIRS))
    one = list(open_measures(adapter=str(dpo)).score(PAIRS))
    other = list(open_measures(reward=str(reward)).score(PAIRS))
    for a, b, c in zip(both, one, other, strict=True):
        assert a.implicit_reward == pytest.approx(b.implicit_reward, abs=1e-5)
        assert a.reward == pytest.approx(c.reward, abs=1e-5)


def test_demonstrations_and_rankings(tiny_model, home):
    turns = [*PROMPT, {"role": "assistant", "content": "jumps over"}]
    rows = [Demonstration(turns), Ranking(PROMPT, ["no", "jumps over", "yes"], [0, 1, 2])]
    found = list(open_measures(str(tiny_model)).score(rows))
    assert [one.response for one in found] == ["jumps over", "no", "jumps over", "yes"]
    assert found[0].logp == pytest.approx(found[2].logp, abs=1e-4)


def test_responses_that_do_not_fit_are_named(tiny_model, home):
    long = Pair(PROMPT, "no", "the lazy dog " * 20, source="f:9")
    scorer = open_measures(str(tiny_model), max_length=40)
    found = list(scorer.score([PAIRS[1], long]))
    assert [one.row for one in found] == [0, 0]
    assert [row.source for row in scorer.too_long] == ["f:9"]


def pairs_file(path: Path) -> Path:
    rows = [
        {"prompt": "yes?", "chosen": "no", "rejected": "yes yes yes yes yes"},
        {"prompt": "fox?", "chosen": "dog", "rejected": "the lazy dog jumps over the fox"},
    ]
    return written(path, rows)


def test_the_command_writes_json_and_a_summary(tiny_model, home, tmp_path, capsys):
    file = pairs_file(tmp_path / "pairs.jsonl")
    run = make_adapter(tmp_path / "run", tiny_model, 1)
    assert main(["score", str(file), "--adapter", str(run), "--beta", "0.5"]) == 0
    out, err = capsys.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    assert len(rows) == 4
    assert rows[0]["source"].endswith("pairs.jsonl:1")
    for row in rows:
        ratio = row["logp"] - row["reference_logp"]
        assert row["implicit_reward"] == pytest.approx(0.5 * ratio, abs=1e-5)
    for words in ("log-prob: chosen", "mean log-prob", "reference's", "implicit reward: chosen"):
        assert words in err
    right = sum(rows[i]["implicit_reward"] > rows[i + 1]["implicit_reward"] for i in (0, 2))
    assert f"({right}/2, 95 % interval" in err.splitlines()[-1]


def test_the_command_scores_responses_of_one_prompt(tiny_model, home, capsys):
    arguments = ["--prompt", "yes?", "--response", "no", "--response", "yes", "--system", "fox"]
    assert main(["score", "--model", str(tiny_model), *arguments]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["response"] for row in rows] == ["no", "yes"]
    model = load(str(tiny_model))
    prompt = [{"role": "system", "content": "fox"}, {"role": "user", "content": "yes?"}]
    assert rows[0]["logp"] == pytest.approx(by_hand(model, prompt, "no")[0], abs=1e-3)


def test_a_users_mistakes_are_explained(tiny_model, home, tmp_path, capsys):
    file = str(pairs_file(tmp_path / "pairs.jsonl"))
    plain = str(make_adapter(tmp_path / "plain", tiny_model, 1))
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n{"prompt": 5}\n')
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "a"}\n')
    model = ["--model", str(tiny_model)]
    for arguments, words in (
        ([], "nothing to score"),
        ([file, "--model", "nope"], "no model 'nope'"),
        ([file, *model, "--adapter", "nope"], "no run 'nope'"),
        ([file, *model, "--reward", "nope"], "no run 'nope'"),
        ([file, *model, "--reward", plain], "has no reward head"),
        ([str(tmp_path / "gone.jsonl"), *model], "gone.jsonl"),
        ([str(bad), *model], "bad.jsonl:2"),
        ([str(prompts), *model], "no row has a response"),
        (["--prompt", "hi", *model], "without a response"),
        (["--prompt", " ", "--response", "x", *model], "prompt is empty"),
        ([file, "--prompt", "hi", "--response", "x", *model], "both files and --prompt"),
        ([file, "--response", "x", *model], "belong to --prompt"),
        ([file, *model, "--beta", "0.5"], "--beta is for"),
        ([file, *model, "--adapter", plain, "--beta", "-1"], "beta is -1"),
        ([file, *model, "--max-seq-length", "3"], "at least 16"),
    ):
        assert main(["score", *arguments]) == 2, arguments
        out, err = capsys.readouterr()
        assert words in err
        assert out == ""
    assert main(["score", str(bad), *model, "--skip-bad"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_an_adapter_of_another_shape_is_refused(tiny_model, home, tmp_path):
    from support.tiny import make_tiny_model

    other = make_tiny_model(tmp_path / "other", layers=3)
    run = make_adapter(tmp_path / "run", other, 1)
    with pytest.raises(UserError):
        open_measures(str(tiny_model), adapter=str(run))
