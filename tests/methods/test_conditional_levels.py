"""Conditional training on levels of a score: which level a response has, and what is learned."""

import json

import pytest
from support.places import written

from minialign.cli import main
from minialign.data.prompts import as_prompts, prompt_ids
from minialign.engine import Engine
from minialign.engine.open import open_engine
from minialign.methods.conditional import Config, levels
from minialign.models import control
from minialign.records import Pair, Prompted, as_prompt
from minialign.rewards.score import open_measures
from minialign.run_folder import Run
from minialign.scoring.open import open_scorer


def test_levels_are_equal_parts_and_equal_scores_have_one_level():
    assert levels([1, 2, 3, 4], 2) == [1, 1, 2, 2]
    assert levels([4, 1, 3, 2], 4) == [4, 1, 3, 2]
    assert levels([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 3) == [1, 1, 2, 2, 3, 3]
    assert levels([1, 1, 1, 5], 2) == [1, 1, 1, 2]
    assert levels([1, 5, 5, 5], 2) == [1, 2, 2, 2]
    assert levels([2, 2], 2) == [2, 2]
    assert levels([9], 3) == [2]
    assert Config(quantiles=3).words(3) == "Quality 3 of 3."


@pytest.fixture
def rankings(tmp_path):
    """Four answers, the same for all prompts, from bad to good."""
    answers = ["no", "dog", "fox", "yes"]
    rows = [
        {"prompt": f"fox {i}", "responses": answers, "scores": [0.1, 0.2, 0.3, 0.4]}
        for i in range(12)
    ]
    file = tmp_path / "rankings.jsonl"
    return written(file, rows)


def test_each_level_learns_its_own_responses_and_the_best_words_are_kept(
    rankings, tiny_model, home
):
    flags = "--quantiles 4 --epochs 6 --learning-rate 0.01 --level Grade{level} --name graded"
    base = ["--model", str(tiny_model), "--data", str(rankings)]
    assert main(["conditional", *base, *flags.split()]) == 0
    kept = control.read(home / "runs/graded")
    assert kept == control.Control("Grade4")
    engine = open_engine(adapter="graded")
    plain = Engine(engine.model)
    answers = ["no", "dog", "fox", "yes"]
    (asked,) = as_prompts(["fox 30"])
    ids = {level: control.Controlled(engine.tokenizer.tokenizer, control.Control(f"Grade{level}"))
           .render(as_prompt("fox 30"), True) for level in (1, 4)}  # fmt: skip
    # whoever asks gets the best level by itself
    assert prompt_ids(asked, engine.tokenizer) == ids[4]
    coded = [[*engine.tokenizer.encode(text), 2] for text in answers]
    best, worst = plain.logps(ids[4], coded), plain.logps(ids[1], coded)
    assert best.index(max(best)) == 3
    assert worst.index(max(worst)) == 0


def test_what_starts_from_a_conditional_run_trains_behind_its_words_and_keeps_them(
    rankings, tiny_model, home, tmp_path
):
    base = ["--model", str(tiny_model), "--eval-split", "0"]
    flags = "--quantiles 2 --level Grade{level} --epochs 1 --learning-rate 0.01 --name graded"
    assert main(["conditional", *base, "--data", str(rankings), *flags.split()]) == 0
    pairs = [{"prompt": f"fox {i}", "chosen": "yes", "rejected": "no"} for i in range(2)]
    demos = [{"prompt": f"fox {i}", "completion": "yes"} for i in range(2)]
    files = {name: written(tmp_path / f"{name}.jsonl", rows) for name, rows in
             (("sft", demos), ("dpo", pairs), ("reward", pairs))}  # fmt: skip
    for name, file in files.items():
        more = ["--adapter", "graded", "--iters", "1", "--name", name, "--data", str(file)]
        assert main([name, *base, *more]) == 0
    words = control.Control("Grade2")
    assert control.read(home / "runs/sft") == control.read(home / "runs/dpo") == words
    assert control.read(home / "runs/reward") is None  # its head reads answers of anybody
    engine = open_engine(adapter="graded")
    asked = as_prompts(["fox 0", "fox 1"])
    coded = [*engine.tokenizer.encode("yes"), 2]
    logps = [
        Engine(engine.model).logps(prompt_ids(one, engine.tokenizer), [coded])[0] for one in asked
    ]
    first = Run.open("sft").metrics("train")[0]["loss"]
    assert first == pytest.approx(-sum(logps) / (2 * len(coded)), abs=1e-5)
    # A DPO run's implicit reward is that of what it was trained on.
    given = open_scorer("dpo:dpo").score(Prompted(as_prompt("fox 0")), ["yes", "no"])
    shown = open_measures(adapter="dpo").score([Pair(as_prompt("fox 0"), "yes", "no")])
    assert given == pytest.approx([one.implicit_reward for one in shown], abs=1e-5)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--quantiles", "1"], "2 levels or more"),
        (["--quantiles", "3", "--good", "Well."], "no words of quantiles"),
        (["--quantiles", "3", "--level", "Quality"], "the same for all levels"),
        (["--quantiles", "3", "--level", "{grade}"], "--level"),
        (["--quantiles", "3", "--data", "{ratings}"], "rows left out"),
        (["--quantiles", "3", "--data", "{flat}"], "the same score"),
    ],
)
def test_bad_input(flags, said, rankings, tiny_model, home, tmp_path, capsys):
    made = {
        "ratings": [{"prompt": f"fox {i}", "completion": "no", "label": i % 2} for i in range(4)],
        "flat": [{"prompt": f"a {i}", "responses": ["b", "c"], "scores": [1, 1]} for i in range(4)],
    }
    for name, rows in made.items():
        (tmp_path / name).with_suffix(".jsonl").write_text("\n".join(map(json.dumps, rows)))
    files = {f"{{{name}}}": str(tmp_path / f"{name}.jsonl") for name in made}
    base = ["--model", str(tiny_model), "--data", str(rankings)]
    assert main(["conditional", *base, *[files.get(flag, flag) for flag in flags]]) == 2
    assert said in capsys.readouterr().err
