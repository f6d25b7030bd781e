"""Win rates by hand; ``minialign evaluate`` on answer files and on the tiny model, resumed."""

import json
import math

import pytest
from support.verdicts import forbidden

from minialign.cli import main
from minialign.cli.evaluate import _sentence
from minialign.evaluate import systems as evaluate
from minialign.evaluate.systems import name_apart, read_system
from minialign.evaluate.win_rates import report
from minialign.judge import decide
from minialign.judge import open as judges
from minialign.records import Comparison, Verdict


def write(path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def judgement(n: int, forward: str, backward: str, a="x", b="y", names=("A", "B"), category=""):
    """What a judge said of one prompt with a first and with b first."""
    orders = [
        {"unparsed": "?"} if c == "unparsed" else {"a": 0.0, "b": 0.0, "tie": 0.0, c: 1.0}
        for c in (forward, backward)
    ]
    prompt = [{"role": "user", "content": f"p{n}"}]
    pair = Comparison(prompt, a, b, a_from={"model": names[0]}, b_from={"model": names[1]},
                extra={"category": category})  # fmt: skip
    return pair, Verdict(f"v{n}", prompt, a, b, decide(orders), orders, "judge", "")


def test_ties_are_half_and_unparsed_are_nothing():
    found = [judgement(0, "a", "a"), judgement(1, "a", "b"), judgement(2, "b", "b"),
             judgement(3, "a", "a"), judgement(4, "unparsed", "a")]  # fmt: skip
    (pair,) = report(found, "judge")["pairs"]
    assert [pair[key] for key in ("wins", "ties", "losses", "unparsed")] == [2, 1, 1, 1]
    assert pair["win_rate"][0] == pytest.approx(2.5 / 4)
    assert not pair["difference_shown"]
    assert pair["conflict"] == 0.25
    (nothing,) = report([judgement(0, "unparsed", "unparsed")], "judge")["pairs"]
    assert (nothing["unparsed"], "win_rate" in nothing) == (1, False)


def test_a_clear_win_and_all_wins():
    found = [judgement(n, *("bb" if n % 8 == 0 else "aa")) for n in range(80)]
    (pair,) = report(found, "judge")["pairs"]
    assert pair["win_rate"][0] == pytest.approx(0.875)
    assert pair["difference_shown"]
    (always,) = report([judgement(n, "a", "a") for n in range(6)], "judge")["pairs"]
    assert always["win_rate"][0] == 1
    assert always["win_rate"][1] < 0.7
    assert always["weak_prior"]


def test_a_judge_that_takes_the_first_shows_no_difference():
    (pair,) = report([judgement(n, "a", "b") for n in range(40)], "judge")["pairs"]
    assert pair["win_rate"][0] == 0.5
    assert pair["position_debiased"][0] == pytest.approx(0.5)
    assert pair["order_effect"] > 2
    assert pair["conflict"] == 1
    assert not pair["difference_shown"]


def test_categories_have_rows_of_their_own():
    found = [judgement(n, *("aa" if n % 2 else "bb"), category="odd" if n % 2 else "even")
             for n in range(20)]  # fmt: skip
    (pair,) = report(found, "judge")["pairs"]
    rates = {row["category"]: row["win_rate"][0] for row in pair["categories"]}
    assert rates == {"even": 0.0, "odd": 1.0}
    assert pair["win_rate"][0] == 0.5


def test_the_leaderboard_ranks_and_agrees_with_the_odds():
    found = []
    for names, wins in ((("A", "B"), 30), (("B", "C"), 30), (("A", "C"), 36)):
        found += [judgement(n, *("aa" if n < wins else "bb"), names=names) for n in range(40)]
    result = report(found, "judge")
    board = result["leaderboard"]
    assert [row["system"] for row in board] == ["A", "B", "C"]
    gaps = [board[i]["ability"] - board[i + 1]["ability"] for i in range(2)]
    assert gaps == pytest.approx([math.log(3)] * 2, rel=0.02)
    assert board[0]["low"] < board[0]["ability"] < board[0]["high"]
    assert board[0]["low"] > 0
    assert board[1]["ability"] == pytest.approx(0)
    assert board[2]["high"] < 0
    assert sum(row["ability"] for row in board) == pytest.approx(0)
    assert board[0]["win_rate"][0] == pytest.approx(66 / 80)


def test_systems_are_told_apart(tmp_path, home):
    rows = [{"prompt": "p", "response": "r", "extra": {"category": "c"}}]
    (tmp_path / "other").mkdir()
    first = write(tmp_path / "a.jsonl", rows)
    second = write(tmp_path / "other" / "a.jsonl", rows)
    systems = [read_system(first), read_system(second)]
    assert [system.name for system in systems] == ["a", "a"]
    assert systems[0].prompts[0].extra == {"category": "c"}
    name_apart(systems)
    assert [system.name for system in systems] == [first, second]
    assert read_system("smollm2-135m-4bit").adapter is None


# ---- the command ------------------------------------------------------------------------------


def run(*words: str) -> int:
    return main(["evaluate", *words])


@pytest.fixture
def answers(tmp_path):
    """Two files: ours is longer on two prompts of three, and says nothing on a fourth."""
    prompts = ["one", "two", "three"]
    ours = ["a b c", "a b", "a"]
    theirs = ["a", "a", "a b c", "x"]
    return [
        write(tmp_path / "ours.jsonl",
              [{"prompt": p, "response": r} for p, r in zip(prompts, ours, strict=True)]),
        write(tmp_path / "theirs.jsonl",
              [{"prompt": p, "response": r}
               for p, r in zip([*prompts, "four"], theirs, strict=True)]),
    ]  # fmt: skip


def test_answer_files_by_a_scorer(home, answers, tmp_path, capsys):
    picture = tmp_path / "x.png"
    assert run(*answers, "--scorer", "length", "--json", "--plot", str(picture)) == 0
    (pair,) = json.loads(capsys.readouterr().out)["pairs"]
    assert (pair["a"], pair["b"], pair["prompts"]) == ("ours", "theirs", 3)
    assert (pair["wins"], pair["losses"]) == (2, 1)
    assert pair["length_a"] == pytest.approx(3)
    assert picture.stat().st_size > 1000
    assert run(*answers, "--scorer", "length") == 0
    shown = capsys.readouterr().out
    assert "no difference shown between ours and theirs" in shown
    assert "length-controlled" in shown


def answered_now(file, model, tmp_path):
    """(folder, arguments): a file of answers against a model, judged by that model."""
    out = tmp_path / "out"
    return out, [file, str(model), "--judge", str(model), "--out", str(out), "--max-tokens", "6",
                 "--json"]  # fmt: skip


def test_an_answer_file_against_a_model_that_answers_now(home, tiny_model, answers, tmp_path,
                                                         capsys):  # fmt: skip
    out, words = answered_now(answers[0], tiny_model, tmp_path)
    assert run(*words) == 0
    first = json.loads(capsys.readouterr().out)
    (file,) = out.glob("answers-*.jsonl")
    whole = file.read_bytes()
    assert len(whole.splitlines()) == 3
    assert len((out / "verdicts.jsonl").read_bytes().splitlines()) == 3
    # killed while it wrote the last answer and the last verdict
    file.write_bytes(whole[:-20])
    said = (out / "verdicts.jsonl").read_bytes()
    (out / "verdicts.jsonl").write_bytes(said[:-20])
    assert run(*words) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == first
    assert "2 of 3 answers are there already" in captured.err
    assert sorted(file.read_bytes().splitlines()) == sorted(whole.splitlines())
    assert len((out / "verdicts.jsonl").read_bytes().splitlines()) == 3
    # other settings are other answers, beside the old ones
    assert run(*words, "--temperature", "0.2") == 0
    assert len(list(out.glob("answers-*.jsonl"))) == 2
    assert file.read_bytes().splitlines()[:2] == whole.splitlines()[:2]


def test_a_finished_evaluation_answers_again_without_a_model(
    home, tiny_model, answers, tmp_path, capsys, monkeypatch
):
    out, words = answered_now(answers[0], tiny_model, tmp_path)
    assert run(*words) == 0
    first = json.loads(capsys.readouterr().out)
    (file,) = out.glob("answers-*.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for tasks in (evaluate, judges):
        monkeypatch.setattr(tasks, "open_engine", forbidden)
    assert run(*words) == 0
    assert json.loads(capsys.readouterr().out) == first
    # a line separator of Unicode ends no line of JSON
    rows[0]["response"] = "two\u2028lines"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    assert run(*words[:2], "--scorer", "length", *words[4:]) == 0
    (pair,) = json.loads(capsys.readouterr().out)["pairs"]
    assert pair["length_b"] == pytest.approx(sum(len(row["response"]) for row in rows) / 3)


def test_longer_answers_that_lose_at_equal_length_are_said_so(home, answers, capsys):
    """A is longer by far where it wins, and loses where it is not."""
    won = [judgement(n, "a", "a", a="x" * (60 + n % 7), b="y" * 9) for n in range(60)]
    lost = [judgement(100 + n, "b", "b", a="x" * 9, b="y" * (9 + n % 3)) for n in range(30)]
    some = [judgement(200 + n, "b", "b", a="x" * (60 + n), b="y" * 9) for n in range(4)]
    (pair,) = report([*won, *lost, *some], "judge")["pairs"]
    assert pair["win_rate"][1] > 0.5
    assert pair["length_controlled"][2] < 0.5
    assert "A wins against B" in _sentence(pair, "judge")
    assert _sentence(pair, "judge").endswith("; at equal length B wins")


def test_three_systems_and_prompts_with_categories(home, tiny_model, answers, tmp_path, capsys):
    third = write(tmp_path / "third.jsonl",
                  [{"prompt": p, "response": "a b c d"} for p in ("one", "two")])  # fmt: skip
    rows = [{"prompt": "one", "category": "x"}, {"prompt": "two", "category": "y"}]
    prompts = write(tmp_path / "prompts.jsonl", rows)
    assert run(*answers, third, "--prompts", prompts, "--scorer", "length") == 0
    shown = capsys.readouterr().out
    assert "beats the average" in shown
    assert "· x" in shown
    assert "third wins against" in shown or "no difference shown" in shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{a}"], "nobody to win against"),
        (["{a}", "{a}"], "against itself"),
        (["{a}", "nowhere.jsonl"], "nowhere.jsonl: no such file"),
        (["{a}", "{empty}"], "no answers"),
        (["{a}", "{apart}"], "no prompt is answered by all"),
        (["smollm2-135m-4bit", "{run}"], "which prompts?"),
        (["{a}", "{b}", "--judge", "x", "--scorer", "length"], "both --judge and --scorer"),
        (["{a}", "{b}", "--limit", "0"], "--limit 0"),
        (["{a}", "{b}", "--scorer", "lenght"], "no scorer 'lenght'"),
        (["{a}", "{b}", "--judge", "no-such-judge"], "no-such-judge"),
        (["{a}", "{b}", "--plot", "x.txt"], "not a picture's name"),
    ],
)
def test_mistakes_are_told(home, answers, tmp_path, capsys, words: list[str], said: str):
    apart = write(tmp_path / "apart.jsonl", [{"prompt": "else", "response": "r"}])
    empty = write(tmp_path / "empty.jsonl", [{"text": "plain"}])
    names = {"a": answers[0], "b": answers[1], "apart": apart, "empty": empty, "run": "another"}
    assert run(*(word.format(**names) for word in words)) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.out == ""
