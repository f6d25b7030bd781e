"""The loop of rounds on the tiny model: learning, a kill in the middle, every flag, bad input."""

import dataclasses
import hashlib
import json
import signal
import threading
from typing import Any

import pytest
from support.places import written
from support.processes import command, ended, wait_until

from minialign import formats
from minialign.cli import main
from minialign.config import parts, resolve
from minialign.durable import read_jsonl
from minialign.errors import UserError
from minialign.evaluate.comparison_files import prompt_key
from minialign.formats.kinds import answers_of, opening_of
from minialign.learn.batch import encode
from minialign.methods import METHODS
from minialign.methods.rounds import RoundSettings
from minialign.models.adapter import WEIGHTS
from minialign.models.tokens.tokenizer import Tokenizer
from minialign.records import Demonstration, Pair
from minialign.run_folder import Run, remove_run
from minialign.training.settings import Settings
from minialign.training.start import resume, start

WORDS = [*"abcdefg", "quick", "brown", "lazy", "dog", "over"]
SCORER = """
import os, pathlib, time
def vowels(prompt, responses):
    return [sum(c in "aeiou" for c in r) / 10 for r in responses]
def worse(prompt, responses):
    calls = counted("worse")
    return [value - calls for value in vowels(prompt, responses)]
def counted(name):
    here = pathlib.Path(__file__).with_name(name)
    here.write_text((here.read_text() if here.exists() else "") + ".")
    return len(here.read_text())
def deadly(prompt, responses):
    at = pathlib.Path(__file__).with_name("dies-at")
    if at.exists() and counted("lived") == int(at.read_text()):
        at.unlink()
        os.kill(os.getpid(), 9)
    return vowels(prompt, responses)
def patient(prompt, responses):
    while counted("waited") > 3 and not pathlib.Path(__file__).with_name("go").exists():
        time.sleep(0.01)
    return vowels(prompt, responses)
def nan(prompt, responses):
    return [float("nan")] * len(responses)
def few(prompt, responses):
    return [1.0]
def raises(prompt, responses):
    raise RuntimeError("oops")
def same(prompt, responses):
    return [1.0] * len(responses)
def once(prompt, responses):
    return vowels(prompt, responses) if counted("calls") <= 12 else same(prompt, responses)
"""
BASE = "--n 4 --rounds 2 --response-length 10 --temperature 1 --learning-rate 0.02 --epochs 2"
SMALL_STEPS = "--learning-rate 0.01 --epochs 4"  # DPO on few pairs is noisy with large ones


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rounds")
    (folder / "prompts.txt").write_text("".join(f"fox {word}\n" for word in WORDS))
    (folder / "other.txt").write_text("".join(f"cat {word}\n" for word in WORDS[:4]))
    (folder / "score.py").write_text(SCORER)
    rows = [{"prompt": f"hm {word}", "completion": "aeiou aeiou"} for word in WORDS]
    written(folder / "mix.jsonl", rows)
    return folder


def words(files, tiny_model, flags):
    base = (
        f"--model {tiny_model} --data {files}/prompts.txt --scorer python:{files}/score.py:vowels"
    )
    return f"{base} {BASE} {flags.format(f=files)}".split()


def made(name, files, tiny_model, flags=""):
    """A run that is not begun, and its events."""
    import argparse

    from minialign.cli.train import add_arguments

    parser, method = argparse.ArgumentParser(), METHODS[name]
    add_arguments(parser, name)
    typed = vars(parser.parse_args(words(files, tiny_model, flags)))
    settings, config = (resolve(kind, {}, typed, "") for kind in (Settings, method.config))
    stop = threading.Event()
    return *start(method, settings, config, stop), stop


def ran(name, files, tiny_model, flags=""):
    run, events, _ = made(name, files, tiny_model, flags)
    return run, list(events)


def adapter(run):
    return hashlib.sha256((run.path / WEIGHTS).read_bytes()).hexdigest()


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


# ---- every flag -------------------------------------------------------------------------------

# flag of RoundSettings: (what is typed, what both runs are told)
COMMON = {
    "scorer": ("--scorer length", ""),
    "n": ("--n 3", ""),
    "rounds": ("--rounds 1", ""),
    "prompts_per_round": ("--prompts-per-round 5", ""),
    "heldout_n": ("--heldout-n 2", ""),
    "system": ("--system aeiou", ""),
    "rollout_batch": ("--rollout-batch 2", ""),
    "response_length": ("--response-length 6", ""),
    "temperature": ("--temperature 0.5", ""),
    "top_p": ("--top-p 0.5", ""),
    "top_k": ("--top-k 3", ""),
    "min_p": ("--min-p 0.3", ""),
    "repetition_penalty": ("--repetition-penalty 3", ""),
    "stop": ("--stop o e", ""),
    "eos_penalty": ("--eos-penalty 9", ""),
}
OWN = {
    "expert": {
        "keep": ("--keep above-threshold --threshold 0.1", ""),
        "threshold": ("--threshold 0.3", "--keep above-threshold --threshold 0.1"),
        "train_from": ("--train-from start", ""),
        "mix": ("--mix {f}/mix.jsonl", ""),
        "mix_share": ("--mix-share 0.2", "--mix {f}/mix.jsonl"),
    },
    "rso": {
        "accept": ("--accept 2", "--accept 4"),
        "rejection_beta": ("--rejection-beta 0.001", "--accept 2 --n 8"),
        "ranking": ("--ranking first-round", "--accept 4"),
        "loss": ("--loss hinge", "--accept 4"),
        "beta": ("--beta 2", "--accept 4"),
    },
    "online-dpo": {
        "reference": ("--reference start", ""),
        "loss": ("--loss ipo", ""),
        "beta": ("--beta 2", ""),
        "nll_weight": ("--nll-weight 1", ""),
    },
}
# what a training run has as well, and the loop itself makes use of
LOOP = {
    "data": ("--data {f}/other.txt", ""),
    "eval_data": ("--eval-data {f}/other.txt", ""),
    "eval_split": ("--eval-split 0.5", ""),
    "seed": ("--seed 1", ""),
    "iters": ("--iters 1", ""),
    "select": ("--select best", "--scorer python:{f}/score.py:worse"),
}
ROWS = [("expert", name, *row) for name, row in {**COMMON, **LOOP}.items()]
ROWS += [(loop, name, *row) for loop, own in OWN.items() for name, row in own.items()]


def test_every_field_has_a_row():
    assert set(COMMON) == {one.name for one in dataclasses.fields(RoundSettings)}
    assert set(OWN) == {name for name, method in METHODS.items() if method.rounds}
    for name, own in OWN.items():
        assert set(own) == {one.name for one in parts(METHODS[name].config)[-1][1]}


@pytest.fixture(scope="module")
def seen(files, tiny_model, tmp_path_factory):
    """What can be seen of a run with these flags."""
    known: dict[Any, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINIALIGN_HOME", str(tmp_path_factory.mktemp("home")))

        def look(name, flags):
            if (name, flags) not in known:
                run, _ = ran(name, files, tiny_model, f"--eval-split 0.25 {flags}")
                batch = run.config["rollout_batch"]
                held = [row["reward/mean"] for row in run.metrics("eval")]
                known[name, flags] = adapter(run), held, batch
            return known[name, flags]

        yield look


@pytest.mark.parametrize(("name", "flag", "typed", "both"), ROWS)
def test_every_flag_changes_something(seen, name, flag, typed, both):
    without, with_it = seen(name, both), seen(name, f"{both} {typed}".strip())
    assert with_it != without
    if flag == "select":  # the last round is never the best one here
        assert with_it[0] != without[0]
    if flag == "rollout_batch":  # and what it must not change
        assert with_it[:2] == without[:2]


# ---- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "flags", "said"),
    [
        ("expert", "--scorer lenght", "did you mean 'length'"),
        ("expert", "--scorer python:{f}/score.py:nan", "the score nan"),
        ("expert", "--scorer python:{f}/score.py:few", "1 scores for 4 responses"),
        ("expert", "--scorer python:{f}/score.py:raises", "RuntimeError: oops, line"),
        ("expert", "--scorer python:{f}/score.py:absent", "there is no function"),
        ("expert", "--scorer python:{f}/score.py:same", "the scores are 1 to 1"),
        ("online-dpo", "--scorer python:{f}/score.py:same", "nothing to learn"),
        ("rso", "--accept 4 --scorer python:{f}/score.py:same", "nothing to learn"),
        ("expert", "--scorer exact", "no reference answer"),
        ("expert", "--scorer reward:nowhere", "there is no run"),
        ("expert", "--n 1", "one candidate is always the best"),
        ("online-dpo", "--n 1", "a pair needs two"),
        ("rso", "--n 3", "--accept 8 of 3"),
        ("expert", "--eos-penalty -1", "eos_penalty = -1"),
        ("rso", "--accept 1", "2 accepted"),
        ("rso", "--rejection-beta 0", "above 0"),
        ("expert", "--n 0", "n = 0"),
        ("expert", "--rounds 0", "rounds = 0"),
        ("expert", "--temperature 0", "temperature 0"),
        ("expert", "--keep above-threshold", "needs its threshold"),
        ("expert", "--threshold 1", "--keep above-threshold"),
        ("expert", "--keep above-threshold --threshold 99", "nothing to learn"),
        ("expert", "--mix-share 1", "mix_share"),
        ("expert", "--mix {f}/nothing.jsonl", "nothing.jsonl"),
        ("expert", "--data {f}/nothing.txt", "nothing.txt"),
        ("expert", "--eval-data {f}/prompts.txt", "among the held-out"),
        ("expert", "--select best --eval-split 0", "held-out prompts"),
        ("expert", "--adapter nowhere", "there is no run"),
        ("expert", "--learning-rate -1", "learning_rate"),
        ("online-dpo", "--beta 0", "beta"),
    ],
)
def test_bad_input(name, flags, said, files, tiny_model, home, capsys):
    assert main([name, *words(files, tiny_model, flags)]) == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert "Traceback" not in shown.err


def test_rso_draws_more_candidates_than_it_accepts(capsys):
    for name, n in (("rso", 16), ("expert", 8)):
        assert main([name, "--print-config"]) == 0
        assert f"\nn = {n}\n" in capsys.readouterr().out
        with pytest.raises(SystemExit):
            main([name, "--help"])
        assert f"twice as many cost twice ({n})" in " ".join(capsys.readouterr().out.split())


def test_nothing_is_left_of_a_run_that_did_not_begin(files, tiny_model, home):
    flags = "--name mine --scorer python:{f}/score.py:raises"
    assert main(["expert", *words(files, tiny_model, flags)]) == 2
    assert not (home / "runs/mine").exists()
    assert main(["expert", *words(files, tiny_model, "--name mine --rounds 1")]) == 0


@pytest.mark.parametrize("flags", ["", "--data", "--map a=b", "--patience 1"])
def test_what_is_missing_or_means_nothing_here(flags, tiny_model, home, capsys):
    with pytest.raises(SystemExit) if flags else _nothing():
        code = main(["expert", "--model", str(tiny_model), *flags.split()])
        assert code == 2
        assert "needs a scorer" in capsys.readouterr().err


class _nothing:
    def __enter__(self): ...
    def __exit__(self, *why): ...


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
