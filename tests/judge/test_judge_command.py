"""``minialign judge``: files in, a summary, verdicts and pairs out; mistakes explained."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from support.chat_server import completion, serving, status
from support.places import ROOT
from support.processes import wait_until
from support.verdicts import forbidden, kept_in

from minialign.cli import main
from minialign.judge import open as judges
from minialign.judge.templates import known_templates, read_template

WORDS = "that quick brown fox jumps over the lazy dog yes no"


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def pairs(tmp_path: Path) -> str:
    rows = [
        {"prompt": f"{word}?", "chosen": word, "rejected": "the lazy dog"} for word in WORDS.split()
    ]
    return write(tmp_path / "pairs.jsonl", rows)


def judged(capsys: Any, *arguments: str) -> tuple[Any, str]:
    assert main(["judge", *arguments]) == 0
    out, err = capsys.readouterr()
    return out, err


def test_pairs_to_verdicts_to_training_pairs(tiny_model, home, tmp_path, pairs, capsys):
    out, made = tmp_path / "v.jsonl", tmp_path / "made.jsonl"
    text, err = judged(
        capsys, pairs, "--judge", str(tiny_model), "--template", "score", "--out", str(out),
        "--to-pairs", str(made),
    )  # fmt: skip
    verdicts = kept_in(out)
    assert len(verdicts) == 11
    assert verdicts[0].source.endswith("pairs.jsonl:1")
    assert (verdicts[0].a, verdicts[0].b) == ("that", "the lazy dog")  # in the file's order
    wins = sum(one.choice == "a" for one in verdicts)
    ties = sum(one.choice == "tie" for one in verdicts)
    assert f"verdicts   11: a {wins}, b {11 - wins - ties}, tie {ties}" in text
    assert f"a wins     {100 * (wins + ties / 2) / 11:.1f} %" in text
    assert "95 % interval" in text
    rows = [json.loads(line) for line in made.read_text().splitlines()]
    assert len(rows) == 11 - ties
    assert f"minialign dpo --data {made}" in err
    for row, verdict in zip(rows, [v for v in verdicts if v.choice != "tie"], strict=True):
        assert {row["chosen"], row["rejected"]} == {verdict.a, verdict.b}
        assert row["chosen"] == (verdict.a if verdict.choice == "a" else verdict.b)


def test_the_summary_as_json(tiny_model, home, pairs, capsys):
    text, _ = judged(capsys, pairs, "-m", str(tiny_model), "--json", "--limit", "5")
    found = json.loads(text)
    assert found["judged"] == 5 == found["a"] + found["b"] + found["tie"] + found["unparsed"]
    assert found["win_rate_a"] == (found["a"] + found["tie"] / 2) / 5
    assert 0 <= found["win_rate_a_interval"][0] <= found["win_rate_a"]
    assert 0 <= found["swap_agreement"] <= 1
    assert 0 < found["verdict_mass"] < 1
    assert found["template"] == "pairwise"
    alone = json.loads(judged(capsys, pairs, "-m", str(tiny_model), "--template", "score",
                              "--json")[0])  # fmt: skip
    assert alone["swap_agreement"] is None
    debiased = json.loads(judged(capsys, pairs, "-m", str(tiny_model), "--debias", "--json")[0])
    assert debiased["debias"] is True
    assert debiased["tie"] <= json.loads(judged(capsys, pairs, "-m", str(tiny_model),
                                                "--json")[0])["tie"]  # fmt: skip


def test_every_way_to_give_pairs(tiny_model, home, tmp_path, capsys):
    duels = write(tmp_path / "duels.jsonl", [
        {"prompt": "fox?", "a": "fox", "b": "dog", "reference": "fox"},
        {"prompt": [{"role": "user", "content": "dog?"}], "a": "no", "b": "dog", "choice": "tie",
         "a_from": {"model": "x"}},
    ])  # fmt: skip
    one = write(tmp_path / "one.jsonl", [
        {"prompt": "fox?", "response": "fox", "model": "x", "seed": 1},
        {"prompt": "dog?", "response": "dog"}, {"prompt": "fox?", "response": "fox again"},
    ])  # fmt: skip
    two = write(tmp_path / "two.jsonl", [
        {"prompt": "dog?", "response": "lazy"}, {"prompt": "fox?", "response": "quick"},
        {"prompt": "fox?", "response": "quick again"},
    ])  # fmt: skip
    rankings = write(tmp_path / "rankings.jsonl", [
        {"prompt": "fox?", "responses": ["fox", "dog", "no"], "scores": [3, 2, 1]},
    ])  # fmt: skip
    for name, files, expected in (
        ("a", [duels], [("fox", "dog"), ("no", "dog")]),
        ("b", [one, two], [("fox", "quick"), ("dog", "lazy"), ("fox again", "quick again")]),
        ("c", [rankings], [("fox", "dog"), ("fox", "no"), ("dog", "no")]),
    ):
        out = tmp_path / f"{name}.jsonl"
        judged(capsys, *files, "-m", str(tiny_model), "--out", str(out))
        assert [(v.a, v.b) for v in kept_in(out)] == expected
    (first, *_) = kept_in(tmp_path / "b.jsonl")
    assert first.a_from == {"file": one, "model": "x"}
    assert kept_in(tmp_path / "a.jsonl")[1].a_from == {"model": "x"}
    judged(capsys, duels, "-m", str(tiny_model), "--template", "reference", "--limit", "1")
    with pytest.raises(SystemExit):
        main(["judge", duels, "--limit", "x"])


def test_the_same_command_again_answers_without_the_model(
    tiny_model, home, tmp_path, pairs, capsys, monkeypatch
):
    out = str(tmp_path / "v.jsonl")
    for more in ([], ["--out", out]):
        first, _ = judged(capsys, pairs, "-m", str(tiny_model), *more)
    monkeypatch.setattr(judges, "open_engine", forbidden)
    for more in ([], ["--out", out], ["--debias"]):
        again, _ = judged(capsys, pairs, "-m", str(tiny_model), *more)
        assert again == first or more == ["--debias"]
    with pytest.raises(AssertionError, match="is opened"):
        main(["judge", pairs, "-m", str(tiny_model), "--template", "plain"])


def test_pairs_of_one_prompt_are_no_independent_pairs(tiny_model, home, tmp_path, capsys):
    responses = [" ".join(WORDS.split()[n:]) for n in range(8)]
    row = {"prompt": "fox?", "responses": responses, "scores": list(range(8))}
    file = write(tmp_path / "rankings.jsonl", [row])
    found = json.loads(judged(capsys, file, "-m", str(tiny_model), "--json")[0])
    assert found["judged"] == 28
    low, high = found["win_rate_a_interval"]
    assert high - low > 0.6  # of 28 prompts it would be 0.35


def test_answers_of_generate_keep_their_reference(tiny_model, home, tmp_path, capsys):
    files = [
        write(tmp_path / f"{text}.jsonl", [
            {"prompt": "fox?", "response": text, "extra": {"reference": "fox"}},
        ])
        for text in ("fox", "dog")
    ]  # fmt: skip
    text, _ = judged(capsys, *files, "-m", str(tiny_model), "--template", "reference", "--json")
    assert json.loads(text)["judged"] == 1


def test_templates_are_listed_shown_and_edited(tiny_model, home, tmp_path, pairs, capsys):
    listed, err = judged(capsys, "--list-templates")
    for name in known_templates():
        assert name in listed
    assert "judges/NAME.txt" in err
    rows = [json.loads(line) for line in
            judged(capsys, "--list-templates", "--json")[0].splitlines()]  # fmt: skip
    assert [row["name"] for row in rows] == list(known_templates())
    shown, _ = judged(capsys, "--show-template", "rules")
    assert shown == read_template("rules").file.read_text()
    mine = tmp_path / "mine.txt"
    mine.write_text(shown.replace("A, B", "1, 2").replace('"Verdict: A"', '"Verdict: 1"'))
    text, _ = judged(capsys, pairs, "-m", str(tiny_model), "--template", str(mine))
    assert f"template {mine}" in text


def test_a_users_mistakes_are_explained(tiny_model, home, tmp_path, pairs, capsys):
    model = ["-m", str(tiny_model)]
    bad = tmp_path / "bad.txt"
    bad.write_text("mode: pairwise\n--- user\n{{ first }} {{ second }} {{ promt }}\n")
    broken = write(tmp_path / "broken.jsonl", [{"prompt": "x", "a": "y", "b": "z"}, {"a": 5}])
    prompts = write(tmp_path / "prompts.jsonl", [{"prompt": "fox?"}])
    one = write(tmp_path / "one.jsonl", [{"prompt": "fox?", "response": "fox"}])
    two = write(tmp_path / "two.jsonl", [{"prompt": "dog?", "response": "dog"}])
    for arguments, words in (
        ([], "nothing to judge"),
        ([str(tmp_path / "gone.jsonl")], "gone.jsonl"),
        ([pairs, "-m", "no-such-model"], "no-such-model"),
        ([pairs, *model, "--template", "rulez"], "did you mean 'rules'"),
        ([pairs, *model, "--template", str(bad)], f"{bad}:3: 'promt' is undefined"),
        ([pairs, *model, "--template", "reference"], "pairs.jsonl:1: "),
        ([pairs, *model, "--criteria", "x", "--template", "rules"], "no place for criteria"),
        ([pairs, *model, "--limit", "0"], "--limit 0"),
        ([pairs, *model, "--batch-size", "0"], "batch size is 0"),
        ([pairs, *model, "--out", str(tmp_path / "no" / "v.jsonl")], "folder that exists"),
        ([pairs, *model, "--out", pairs], "is what is judged"),
        ([pairs, *model, "--to-pairs", pairs], "is there already"),
        ([pairs, *model, "--retries", "3"], "--retries is for an endpoint"),
        ([pairs, *model, "--timeout", "3"], "--timeout is for an endpoint"),
        ([pairs, "--judge-url", "http://127.0.0.1:9/v1", "--adapter", "x"], "both --adapter and"),
        ([pairs, *model, "--out", "x.jsonl", "--to-pairs", "x.jsonl"], "are one file"),
        ([pairs, "--judge-url", "http://127.0.0.1:9/v1"], "which model"),
        ([pairs, "--judge-url", "nonsense", "--judge-model", "x"], "no address"),
        ([pairs, "--judge", "reward:nope"], "nope"),
        ([broken, *model], "broken.jsonl:2"),
        ([prompts, *model], "no pair of answers"),
        ([one, two, *model], "no answer to this prompt"),
        ([one, two, pairs, *model], "3 files"),
        ([one, prompts, *model], "holds no answers"),
    ):
        assert main(["judge", *arguments]) == 2, arguments
        out, err = capsys.readouterr()
        assert words in err, (arguments, err)
        assert out == ""


def test_an_endpoint_that_fails_keeps_what_was_judged(home, tmp_path, pairs, capsys):
    out = tmp_path / "v.jsonl"
    faults = {n: status(500, "overloaded") for n in range(6, 100)}
    with serving(lambda body: completion("Verdict: A"), faults) as stub:
        endpoint = ["--judge-url", stub.url, "--judge", "m", "--retries", "0"]
        arguments = [pairs, *endpoint, "--out", str(out), "--batch-size", "1"]
        assert main(["judge", *arguments]) == 2
        text, err = capsys.readouterr()
        assert text == ""
        assert f"3 of 11 pairs are judged, and kept in {out}; the same command goes on" in err
        assert "HTTP 500: overloaded" in err
        stub.faults.clear()
        text, _ = judged(capsys, *arguments)
        assert "verdicts   11: a 0, b 0, tie 11" in text  # always the first: never a win
        assert "preferred in 100.0 % of 22" in text
        assert len(stub.requests) in (6 + 1 + 16, 6 + 2 + 16)  # one or both orders failed


def test_ctrl_c_keeps_everything_and_the_same_command_goes_on(home, tmp_path, pairs):
    out = tmp_path / "v.jsonl"

    go = threading.Event()

    def held(body: dict[str, Any]) -> dict[str, Any]:
        if len(stub.requests) > 8:  # four pairs; then it is slow until it is stopped
            go.wait(600)
        return completion("Verdict: B")

    with serving(held) as stub:
        command = [
            sys.executable, "-m", "minialign", "judge", pairs, "--judge-url", stub.url,
            "--judge-model", "m", "--out", str(out), "--batch-size", "1",
        ]  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        wait_until(process, lambda: out.exists() and len(out.read_text().splitlines()) >= 3)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=300)  # it does not wait for the server
        go.set()
        assert process.returncode == 130
        kept = len(kept_in(out))
        # one more than was told, when the stop came between the file and the telling
        said = [
            f"{n} of 11 pairs are judged, and kept in {out}; the same" for n in (kept - 1, kept)
        ]
        assert any(text in err for text in said), err
        assert "Traceback" not in err
        assert main(command[3:]) == 0
        assert len(kept_in(out)) == 11
        assert len(set(stub.asked)) == 22
        assert len(stub.asked) <= 24  # what was under way may be asked again
