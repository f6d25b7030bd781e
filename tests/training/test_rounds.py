"""The loop of rounds on the tiny model: learning, a kill in the middle, a budget, cut answers."""

import json
import signal
import threading

import pytest
from support.processes import command, ended, wait_until
from support.rounds import adapter, made, ran, words

from minialign import formats
from minialign.cli import main
from minialign.config import resolve
from minialign.durable import read_jsonl
from minialign.errors import UserError
from minialign.evaluate.comparison_files import prompt_key
from minialign.formats.kinds import answers_of, opening_of
from minialign.learn.batch import encode
from minialign.methods import METHODS
from minialign.models.adapter import WEIGHTS
from minialign.models.tokens.tokenizer import Tokenizer
from minialign.records import Demonstration, Pair
from minialign.run_folder import Run, remove_run
from minialign.training.settings import Settings
from minialign.training.start import resume, start

SMALL_STEPS = "--learning-rate 0.01 --epochs 4"  # DPO on few pairs is noisy with large ones


# ---- learning ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "flags", "kind"),
    [
        ("expert", "--epochs 8", Demonstration),
        ("expert", "--epochs 12 --train-from start", Demonstration),
        ("online-dpo", SMALL_STEPS, Pair),
        ("online-dpo", f"--reference start --beta 0.03 {SMALL_STEPS}", Pair),
        ("rso", f"--accept 8 --loss hinge --rejection-beta 0.1 {SMALL_STEPS}", Pair),
    ],
)
def test_the_reward_on_held_out_prompts_rises_by_round(name, flags, kind, files, tiny_model, home):
    base = "--rounds 3 --n 16 --heldout-n 16 --eval-split 0.25"
    run, _ = ran(name, files, tiny_model, f"{base} {flags}")
    held = [row["reward/mean"] for row in run.metrics("eval")]
    drawn = [row["reward/mean"] for row in run.metrics("train")]
    assert len(held) == 4
    assert len(drawn) == 3
    assert held[3] > held[0] + 0.05
    assert drawn[0] < drawn[1] < drawn[2]
    assert all(row["reward/best"] > row["reward/mean"] for row in run.metrics("train"))
    answers = list(read_jsonl(run.path / "rounds/candidates-1.jsonl"))
    ends = [reason for row in answers for reason in row["finish_reasons"]]
    assert run.metrics("train")[0]["ended"] == ends.count("stop") / len(ends)
    assert run.state().status == "finished"
    assert (run.state().step, run.state().total) == (3, 3)
    # the last round's adapter is the result, and every round is a run with metrics of its own
    inner = [Run(run.path / "rounds" / f"round-{k}") for k in (1, 2, 3)]
    assert adapter(inner[2]) == adapter(run) != adapter(inner[1])
    assert all(one.state().status == "finished" and one.metrics("train") for one in inner)
    records = formats.read(run.path / "rounds/train-2.jsonl").records
    assert {type(record) for record in records} == {kind}
    summary = json.loads((run.path / "summary.json").read_text())
    assert {"status", "steps", "seconds", "tokens", "peak_memory"} <= set(summary)
    assert summary["steps"] == sum(len(one.metrics("train")) for one in inner)
    trained = sum(row["tokens"] for one in inner for row in one.metrics("train"))
    assert summary["tokens"] == trained + summary["sampled_tokens"]
    assert summary["sampled_tokens"] > 0
    assert (summary["before"]["step"], summary["after"]["step"]) == (0, 3)


def test_the_selected_are_the_winners_of_what_was_drawn(files, tiny_model, home):
    run, _ = ran("expert", files, tiny_model, "--mix {f}/mix.jsonl --mix-share 0.4 --rounds 1")
    rows = {row["prompt"][0]["content"]: row for row in read_jsonl(
        run.path / "rounds/candidates-1.jsonl")}  # fmt: skip
    trained = formats.read(run.path / "rounds/train-1.jsonl").records
    winners = [row for row in trained if row.messages[0]["content"] in rows]
    for row in winners:
        found = rows[row.messages[0]["content"]]
        assert row.messages[-1]["content"] == found["best"]
        assert max(found["scores"]) > min(found["scores"])
    mixed = [row for row in trained if row.messages[0]["content"].startswith("hm ")]
    assert len(winners) + len(mixed) == len(trained)
    assert len(mixed) == round(len(winners) * 0.4 / 0.6)
    assert run.metrics("train")[0]["selected"] == len(winners)


def test_pairs_are_labelled_by_the_reward(files, tiny_model, home):
    counts = {}
    for ranking in ("tournament", "first-round"):
        flags = f"--n 8 --accept 4 --ranking {ranking} --rounds 1"
        run, _ = ran("rso", files, tiny_model, flags)
        rows = {row["prompt"][0]["content"]: row for row in read_jsonl(
            run.path / "rounds/candidates-1.jsonl")}  # fmt: skip
        pairs = formats.read(run.path / "rounds/train-1.jsonl").records
        for pair in pairs:
            row = rows[pair.prompt[0]["content"]]
            scores = dict(zip(row["responses"], row["scores"], strict=True))
            assert scores[pair.chosen] - scores[pair.rejected] == pytest.approx(pair.margin)
            assert pair.margin > 0
        counts[ranking] = len(pairs)
    assert 0 < counts["first-round"] <= 2 * len(rows)
    assert counts["first-round"] < counts["tournament"] <= 3 * len(rows)


def test_rounds_go_on_from_an_adapter_and_their_result_is_one(files, tiny_model, home, capsys):
    ran("expert", files, tiny_model, "--rounds 1 --name first")
    run, _ = ran("online-dpo", files, tiny_model, "--rounds 1 --adapter first --eval-split 0.25")
    inner = Run(run.path / "rounds/round-1").config
    assert (inner["adapter"], inner["reference_adapter"]) == ("first", None)
    assert main(["generate", "fox", "--adapter", run.name, "--max-tokens", "5"]) == 0
    assert main(["runs", "show", run.name]) == 0
    assert "scorer" in capsys.readouterr().out
    fixed, _ = ran("online-dpo", files, tiny_model, "--rounds 2 --adapter first --reference start")
    inner = Run(fixed.path / "rounds/round-2").config
    assert inner["adapter"] == str(fixed.path / "rounds/round-1")
    assert inner["reference_adapter"] == "first"
    remove_run(run)
    assert not run.path.exists()


# ---- stopping, killing, going on --------------------------------------------------------------


def test_killed_in_the_second_round_it_goes_on_to_the_same_adapter(files, tiny_model, home):
    flags = "--rounds 3 --scorer python:{f}/score.py:deadly --eval-split 0.25"
    undisturbed, _ = ran("expert", files, tiny_model, flags + " --name whole")
    path = home / "runs/killed/rounds/candidates-2.jsonl"
    # each of 3 held-out prompts is scored before and after a round, each of 9 others in a round
    (files / "dies-at").write_text(f"{3 + 9 + 3 + 5}")
    process = command(home, "expert", *words(files, tiny_model, flags), "--name", "killed")
    assert ended(process)[0] == -signal.SIGKILL
    run = Run.open("killed")
    assert run.state().status == "interrupted"
    before = path.read_bytes()
    before = before[: before.rfind(b"\n") + 1]
    first = (home / "runs/killed/rounds/candidates-1.jsonl").read_bytes()
    assert before.count(b"\n") == 4
    assert main(["runs", "resume", "killed"]) == 0
    assert path.read_bytes().startswith(before)  # what was on disk was not sampled again
    assert (home / "runs/killed/rounds/candidates-1.jsonl").read_bytes() == first
    assert adapter(run) == adapter(undisturbed)
    assert run.state().status == "finished"
    keys = ("step", "reward/mean", "reward/best")
    for kind in ("train", "eval"):
        rows = [[[row[key] for key in keys] for row in one.metrics(kind)] for one in
                (run, undisturbed)]  # fmt: skip
        assert rows[0] == rows[1]
    with pytest.raises(UserError, match="is finished"):
        resume(run)


def test_stopped_anywhere_it_goes_on(files, tiny_model, home):
    whole, events = ran("online-dpo", files, tiny_model, "--eval-split 0.25")
    run, events, stop = made("online-dpo", files, tiny_model, "--eval-split 0.25")
    places: list[str] = []
    for _ in range(40):
        for number, event in enumerate(events):
            if number >= 4 and event.kind in ("sampling", "step"):
                stop.set()
        places.append(run.state().message)
        if event.values["status"] == "finished":
            break
        assert run.state().status == "stopped"
        stop = threading.Event()
        events = resume(Run(run.path), stop)
    assert len(places) > 4
    assert any("candidates" in place for place in places)
    assert any("held-out" in place for place in places)
    assert any("training" in place for place in places)
    assert adapter(run) == adapter(whole)


def test_an_interrupt_saves_and_says_how_to_go_on(files, tiny_model, home):
    flags = words(files, tiny_model, "--scorer python:{f}/score.py:patient --name ctrl")
    process = command(home, "expert", *flags)
    wait_until(process, (home / "runs/ctrl/rounds/candidates-1.jsonl").exists)
    process.send_signal(signal.SIGINT)
    (files / "go").touch()
    code, _, said = ended(process)
    assert code == 130
    assert "minialign runs resume ctrl" in said
    assert Run.open("ctrl").state().status == "stopped"


# ---- a budget ---------------------------------------------------------------------------------


def test_sampling_counts_towards_the_budget(files, tiny_model, home):
    run, events = ran("expert", files, tiny_model, "--rounds 1")
    whole = json.loads((run.path / "summary.json").read_text())
    limit = round(2.5 * whole["tokens"])
    method, stored = METHODS["expert"], run.config
    settings = resolve(Settings, {**stored, "max_tokens": limit}, {}, "")
    config = resolve(method.config, {**stored, "rounds": None}, {}, "")
    run, events = start(method, settings, config)
    list(events)
    summary = json.loads((run.path / "summary.json").read_text())
    assert limit <= summary["tokens"] < limit + 0.5 * whole["tokens"]
    assert summary["rounds"] == 2 + (summary["rounds"] - 2)
    assert 2 <= summary["rounds"] <= 3
    assert f"of {limit:,} tokens used" in summary["reason"]
    # a scorer that is a model reads as well
    rows = list(read_jsonl(run.path / "rounds/candidates-1.jsonl"))
    assert all(row["used"] > sum(row["tokens"]) for row in rows)


def test_a_budget_too_small_to_train_gives_what_it_started_from(files, tiny_model, home):
    run, _ = ran("expert", files, tiny_model, "--max-tokens 100")
    summary = json.loads((run.path / "summary.json").read_text())
    assert (summary["rounds"], summary["status"]) == (0, "finished")
    assert len(list(read_jsonl(run.path / "rounds/candidates-1.jsonl"))) < 14
    assert main(["generate", "fox", "--adapter", run.name, "--max-tokens", "3"]) == 0


def test_a_candidate_that_was_cut_wins_over_none_that_ended(files, tiny_model, home):
    run, _ = ran("expert", files, tiny_model, "--rounds 1 --n 8 --eos-penalty 9 --eval-split 0")
    rows = list(read_jsonl(run.path / "rounds/candidates-1.jsonl"))
    learned = {prompt_key(row.messages[:-1]): row.messages[-1]["content"]
               for row in formats.read(run.path / "rounds/train-1.jsonl").records}  # fmt: skip
    assert len(learned) == len(rows)
    cut = 0
    for row in rows:
        text = learned[prompt_key(row["prompt"])]
        ends = list(zip(row["finish_reasons"], row["scores"], row["responses"], strict=True))
        ended = [(score, answer) for end, score, answer in ends if end == "stop"]
        cut += not ended
        if ended:
            assert text in [answer for score, answer in ended if score == max(ended)[0]]
    assert cut < len(rows)


@pytest.mark.parametrize(
    ("name", "flags"),
    [("expert", ""), ("expert", "--keep above-threshold --threshold -99"), ("online-dpo", ""),
     ("rso", "--accept 4")],
)  # fmt: skip
def test_a_candidate_that_was_cut_is_trained_without_an_end(name, flags, files, tiny_model, home):
    base = "--rounds 1 --n 8 --eval-split 0 --response-length 20 --eos-penalty 9"
    run, _ = ran(name, files, tiny_model, f"{base} {flags}")
    drawn = {row["prompt"][0]["content"]: row for row in read_jsonl(
        run.path / "rounds/candidates-1.jsonl")}  # fmt: skip
    tokenizer = Tokenizer.load(tiny_model)
    ends = []
    for record in formats.read(run.path / "rounds/train-1.jsonl").records:
        row = drawn[opening_of(record)[0]["content"]]
        example = encode(record, tokenizer, 500, "last")
        for text, ids in zip(answers_of(record), example.responses, strict=True):
            ends.append(row["finish_reasons"][row["responses"].index(text)])
            assert (ids[-1] in tokenizer.eos_ids) == (ends[-1] == "stop" or not text)
    assert set(ends) == {"stop", "length"}


def test_a_later_round_without_anything_to_learn_ends_the_run(files, tiny_model, home):
    (files / "calls").unlink(missing_ok=True)
    flags = "--scorer python:{f}/score.py:once --rounds 3 --eval-split 0 --prompts-per-round 12"
    run, _ = ran("expert", files, tiny_model, flags)
    summary = json.loads((run.path / "summary.json").read_text())
    assert summary["rounds"] == 1
    assert "round 2: no candidate was selected" in summary["reason"]
    assert run.state().status == "finished"
    assert (run.path / WEIGHTS).exists()


def test_one_candidate_is_enough_for_a_threshold(files, tiny_model, home):
    flags = "--n 1 --keep above-threshold --threshold 0.1 --rounds 1"
    run, _ = ran("expert", files, tiny_model, flags)
    rows = list(read_jsonl(run.path / "rounds/candidates-1.jsonl"))
    good = [row for row in rows if row["scores"][0] >= 0.1]
    assert 0 < run.metrics("train")[0]["selected"] == len(good) < len(rows)
