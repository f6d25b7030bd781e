"""Rounds on the tiny model: every flag does something, and bad input is said."""

import dataclasses
from typing import Any

import pytest
from support.rounds import adapter, ran, words

from minialign.cli import main
from minialign.config import parts
from minialign.methods import METHODS
from minialign.methods.rounds import RoundSettings

# ---- every flag -------------------------------------------------------------------------------

# flag of RoundSettings: (what is typed, what both runs are told)
COMMON = {
    "scorer": ("--scorer length", ""),
    "n": ("--n 8", ""),
    "rounds": ("--rounds 2", ""),
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
        "train_from": ("--train-from start", "--rounds 2"),
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
        "reference": ("--reference start", "--rounds 2"),
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
    "select": ("--select best", "--rounds 2 --scorer python:{f}/score.py:worse"),
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
                run, _ = ran(name, files, tiny_model, f"--eval-split 0.25 --rounds 1 {flags}")
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
