"""``minialign label`` and what it shows: pairs of files, answers it writes, the least sure one."""

import json
import os
import pty
import select
import subprocess
import sys

import pytest
from support.places import ROOT

from minialign.cli import main
from minialign.errors import UserError
from minialign.labels.items import read_items, starters, write_two_answers
from minialign.labels.votes import Votes
from minialign.records import Comparison
from minialign.scoring.uncertainty import measure_certainty


def test_doubts_of_a_scorer_and_of_a_judge(home, tiny_model):
    prompt = [{"role": "user", "content": "q"}]
    two = [Comparison(prompt, "one two three", "one"), Comparison(prompt, "one", "two")]
    assert list(measure_certainty("length", two)) == [(two[0].key, 2.0), (two[1].key, 0.0)]
    judged = dict(measure_certainty(f"judge:{tiny_model}", two))
    assert list(judged) == [pair.key for pair in two]
    assert all(0 <= sure <= 1 for sure in judged.values())
    with pytest.raises(UserError):
        next(measure_certainty("reward:nobody", two))


def test_the_command_shows_the_least_sure_pair_first(home, tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text(
        '{"prompt": "far", "chosen": "one two three", "rejected": "one"}\n'
        '{"prompt": "near", "chosen": "one two", "rejected": "two one"}\n'
    )
    words = [sys.executable, "-m", "minialign", "label", str(file), "--least-sure", "length"]
    subprocess.run(
        words, input="a\nq\n", text=True, check=True, capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    (vote,) = Votes().all
    assert vote.prompt[0]["content"] == "near"


def test_items_of_files(home, tmp_path):
    text = tmp_path / "prompts.txt"
    text.write_text("one?\n\ntwo?\n")
    assert read_items(text) == [[{"role": "user", "content": t}] for t in ("one?", "two?")]
    rows = tmp_path / "pairs.jsonl"
    rows.write_text('{"prompt": "q", "chosen": "x", "rejected": "y"}\n')
    (item,) = read_items(rows)
    assert (item.a, item.b, item.a_from["was"]) == ("x", "y", "chosen")
    assert "finish_reason" not in item.a_from  # the row says nothing of it
    (tmp_path / "p.jsonl").write_text('{"prompt": "q"}\n')
    assert read_items(tmp_path / "p.jsonl") == [[{"role": "user", "content": "q"}]]
    (tmp_path / "bad.jsonl").write_text('{"prompt": "q", "chosen": "x"}\n{\n')
    for name in ("bad.jsonl", "none.jsonl"):
        with pytest.raises(UserError):
            read_items(tmp_path / name)
    assert len(starters()) >= 20


def test_two_answers_differ_and_have_different_seeds(home, tiny_model):
    from minialign.engine import Engine, Sampling
    from minialign.models.load import load

    engine = Engine(load(str(tiny_model)))
    prompt = [{"role": "user", "content": "fox?"}]

    def made(seed: int) -> Comparison:
        sampling = Sampling(temperature=0, max_tokens=8)
        return list(write_two_answers(engine, prompt, sampling, {"model": "m"}, seed))[-1]

    one = made(1)
    assert one.a != one.b
    assert one.a_from["seed"] != one.b_from["seed"]
    assert one.a_from["model"] == "m"
    assert made(1) == one
    assert made(2).key != one.key


def test_two_answers_say_why_each_ended(home, tiny_model):
    from minialign.engine import Engine, Request, Sampling
    from minialign.learn.batch import encode_prompt
    from minialign.models.load import load

    engine = Engine(load(str(tiny_model)))
    prompt = [{"role": "user", "content": "fox?"}]
    ids = tuple(encode_prompt(prompt, engine.tokenizer))
    sampling = Sampling(temperature=1.2, max_tokens=30)
    ends = set()
    for seed in range(6):
        *_, pair = write_two_answers(engine, prompt, sampling, {}, seed)
        for text, origin in ((pair.a, pair.a_from), (pair.b, pair.b_from)):
            (done,) = engine.complete([Request(ids, seed=origin["seed"])], sampling)
            assert (text, origin["finish_reason"]) == (done.text.strip(), done.finish_reason)
            ends.add(done.finish_reason)
    assert ends == {"stop", "length"}


def test_the_command_takes_keys_from_a_pipe(home, tmp_path, monkeypatch, capsys):
    file = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"q{n}", "chosen": f"x{n}", "rejected": f"y\x1b[2J{n}"} for n in range(4)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    keys = tmp_path / "keys"
    keys.write_text("a\n?\nn\ntoo long\nb\nu\nu\nt\nz\nx\ne\nmy own\ns\n")
    with open(keys) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert main(["label", str(file)]) == 0
    votes = Votes().all
    assert [vote.choice for vote in votes] == ["tie", "both_bad", "both_bad", "skip"]
    assert votes[2].edited == "my own"
    out, err = capsys.readouterr()
    assert "── A" in out
    assert "taken back" in err
    assert "that was the last pair" in err
    assert main(["label", "--stats"]) == 0
    assert json.loads(capsys.readouterr().out)["pairs"] == 1
    assert main(["label", str(file)]) == 2
    assert "have a vote already" in capsys.readouterr().err


def test_the_command_in_a_terminal_reads_single_keys(home, tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"prompt": "q", "chosen": "x", "rejected": "y"}\n' * 1)
    main_end, end = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "minialign", "label", str(file)],
        stdin=end, stdout=end, stderr=end, cwd=ROOT, env={**os.environ},
    )  # fmt: skip
    os.close(end)
    text = b""
    while b"> " not in text:
        assert select.select([main_end], [], [], 300)[0], text
        text += os.read(main_end, 4096)
    os.write(main_end, b"\x1b[C")
    assert process.wait(300) == 0
    os.close(main_end)
    assert [vote.choice for vote in Votes().all] == ["b"]
