"""``minialign generate`` with good and bad input."""

import io
import json
import signal
from pathlib import Path

import pytest
from support.processes import command, ended, wait_until

from minialign import formats
from minialign.cli import main
from minialign.data.prompts import as_prompts, prompt_ids, read_prompts
from minialign.engine import Engine, Sampling
from minialign.engine.open import base_of, open_engine
from minialign.errors import UserError
from minialign.models.load import load
from minialign.records import Prompted

SHORT = ["--max-tokens", "8", "--temp", "1"]


@pytest.fixture
def model(tiny_model, home) -> list[str]:
    return ["--model", str(tiny_model), *SHORT]


def generated(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict]:
    assert main(["generate", *arguments, "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.split("\n")[:-1]]


def test_json_rows_say_how_to_get_each_answer_again(model, tiny_model, capsys):
    rows = generated(capsys, *model, "yes?", "no?", "-n", "3", "--seed", "8", "--batch-size", "4")
    assert {(row["prompt_index"], row["sample_index"]) for row in rows} == {
        (p, i) for p in range(2) for i in range(3)
    }
    engine = Engine(load(str(tiny_model)))
    for row in rows:
        assert row["model"] == str(tiny_model)
        ids = prompt_ids(Prompted(row["prompt"]), engine.tokenizer)
        pieces = list(engine.stream(ids, Sampling(temperature=1, max_tokens=8), row["seed"]))
        assert row["response"] == "".join(piece.text for piece in pieces)
        assert row["tokens"] == len(pieces)
        assert row["finish_reason"] == pieces[-1].finish_reason
    row = next(row for row in rows if (row["prompt_index"], row["sample_index"]) == (1, 2))
    (again,) = generated(capsys, *model, "no?", "--seed", str(row["seed"]))
    assert again["response"] == row["response"]


def test_plain_answers_come_in_order_and_one_alone_is_bare(model, capsys):
    rows = generated(capsys, *model, "yes?", "no?", "-n", "2")
    wanted = {(row["prompt_index"], row["sample_index"]): row["response"] for row in rows}
    assert main(["generate", *model, "yes?", "no?", "-n", "2", "--batch-size", "3"]) == 0
    out, err = capsys.readouterr()
    parts = [
        f"── {p + 1}.{i + 1} {('yes?', 'no?')[p]}\n{wanted[p, i].strip()}\n\n"
        for p in range(2)
        for i in range(2)
    ]
    assert out == "".join(parts)
    assert "tokens/s" in err
    assert main(["generate", *model, "yes?"]) == 0
    assert capsys.readouterr().out == wanted[0, 0] + "\n"


def test_prompts_from_files_and_stdin(model, tmp_path, capsys, monkeypatch):
    lines = tmp_path / "prompts.txt"
    lines.write_text("yes?\n\nno\u2028🦊?\n")
    turns = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "fox?"},
        {"role": "assistant", "content": "dog."},
        {"role": "user", "content": "and?"},
    ]
    rows = tmp_path / "prompts.jsonl"
    rows.write_text(json.dumps({"prompt": "fox?"}) + "\n" + json.dumps({"messages": turns}) + "\n")
    monkeypatch.setattr("sys.stdin", io.StringIO("two\nlines\n"))
    found = generated(capsys, *model, "-", "--file", str(lines), "--system", "kind")
    kind = {"role": "system", "content": "kind"}
    found.sort(key=lambda row: row["prompt_index"])
    assert [row["prompt"] for row in found] == [
        [kind, {"role": "user", "content": text}] for text in ("two\nlines", "yes?", "no\u2028🦊?")
    ]
    found = generated(capsys, *model, "--file", str(rows), "--system", "kind")
    found.sort(key=lambda row: row["prompt_index"])
    assert found[0]["prompt"] == [kind, {"role": "user", "content": "fox?"}]
    assert found[1]["prompt"] == turns  # its own system message stays
    monkeypatch.setattr("sys.stdin", io.StringIO("from a pipe\n"))
    (row,) = generated(capsys, *model)
    assert row["prompt"][0]["content"] == "from a pipe"


def test_raw_text_is_continued_without_a_template(model, tiny_model, capsys):
    (row,) = generated(capsys, *model, "--raw", "the quick", "--temp", "0")
    assert row["prompt"] == "the quick"
    engine = Engine(load(str(tiny_model)))
    ids = engine.tokenizer.encode("the quick")
    pieces = engine.stream(ids, Sampling(temperature=0, max_tokens=8))
    assert row["response"] == "".join(piece.text for piece in pieces)


def test_every_sampling_flag_changes_something(model, capsys):
    base = generated(capsys, *model, "fox?", "-n", "4", "--max-tokens", "20")

    def answers(rows: list[dict]) -> list[str]:
        return [row["response"] for row in sorted(rows, key=lambda row: row["sample_index"])]

    letter = next(c for c in answers(base)[0][2:] if c.isprintable())
    for flags in (
        ["--temp", "0"], ["--temperature", "0.2"], ["--top-p", "0.1"], ["--top-k", "2"],
        ["--min-p", "0.9"], ["--repetition-penalty", "50"], ["--max-tokens", "3"],
        ["--stop", letter], ["--seed", "5"], ["--system", "be brief"], ["--raw"],
    ):  # fmt: skip
        flags = flags if "--max-tokens" in flags else [*flags, "--max-tokens", "20"]
        assert answers(generated(capsys, *model, "fox?", "-n", "4", *flags)) != answers(base), flags


def test_output_files_are_resumed_where_they_broke_off(model, tmp_path, capsys):
    prompts = [f"fox {i}?\u2028\x85\x1e." for i in range(6)]  # no ends of lines in JSONL
    whole, part = tmp_path / "whole.jsonl", tmp_path / "part.jsonl"
    assert main(["generate", *model, *prompts, "-n", "2", "-o", str(whole)]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "minialign data show" in err
    lines = whole.read_bytes().splitlines(keepends=True)
    part.write_bytes(b"".join(lines[:5]) + lines[5][:20])  # as a kill leaves it
    arguments = ["generate", *model, *prompts, "-n", "2", "-o", str(part), "--resume"]
    assert main(arguments) == 0
    assert "5 of 12 answers are in" in capsys.readouterr().err
    assert sorted(part.read_bytes().splitlines()) == sorted(whole.read_bytes().splitlines())
    assert main(arguments) == 0  # nothing is left to do
    assert "12 of 12" in capsys.readouterr().err
    read = formats.read(whole)
    assert not read.problems
    assert len(read.records) == 12
    for change in (["--seed", "3"], ["--system", "other"]):
        assert main([*arguments, *change]) == 2
        assert "another prompt, or with another seed" in capsys.readouterr().err
    part.write_text("not ours\n")
    assert main(arguments) == 2
    assert "part.jsonl:1" in capsys.readouterr().err


def test_an_interrupt_keeps_what_is_finished(tiny_model, home, tmp_path):
    file, prompts = tmp_path / "answers.jsonl", tmp_path / "prompts.txt"
    prompts.write_text("".join(f"fox {i}?\n" for i in range(4000)))
    process = command(
        home, "generate", "--model", tiny_model, "--file", prompts, "--max-tokens", "60",
        "--batch-size", "2", "-o", file,
    )  # fmt: skip
    wait_until(process, lambda: file.exists() and file.stat().st_size)
    process.send_signal(signal.SIGINT)
    code, _, err = ended(process)
    assert code == 130
    assert "with --resume goes on" in err
    assert all(json.loads(line)["response"] is not None for line in file.read_text().splitlines())


def test_a_users_mistakes_are_explained(model, tiny_model, tmp_path, capsys, monkeypatch):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "a"}\n{"prompt": 5}\n')
    empty = tmp_path / "empty.txt"
    empty.write_text("\n\n")
    blank = tmp_path / "blank.jsonl"
    blank.write_text('{"prompt": "a"}\n{"prompt": " "}\n')
    taken = tmp_path / "taken.jsonl"
    taken.write_text("{}\n")
    for arguments, words in (
        (["", *model], "prompt is empty"),
        (["hi", "--model", "nope"], "no model 'nope'"),
        (["hi", *model, "--adapter", "nope"], "no run 'nope'"),
        (["hi", *model, "--adapter-path", "nope"], "no run 'nope'"),
        (["hi", *model, "--temp", "-1"], "temperature is -1"),
        (["hi", *model, "--top-p", "0"], "top-p is 0"),
        (["hi", *model, "--stop", ""], "stop is ''"),
        (["hi", *model, "-n", "0"], "-n 0"),
        (["hi", *model, "--batch-size", "0"], "batch size is 0"),
        (["fox " * 3000, *model], "at most 2,048"),
        (["--file", str(tmp_path / "gone.txt"), *model], "gone.txt: No such file"),
        (["--file", str(tmp_path / "gone.jsonl"), *model], "gone.jsonl"),
        (["--file", str(bad), *model], "bad.jsonl:2"),
        (["--file", str(empty), *model], "has no prompts"),
        (["--file", str(blank), *model], "blank.jsonl:2"),
        (["hi", *model, "--raw", "--system", "x"], "--raw has no place"),
        (["hi", *model, "--resume"], "--resume needs"),
        (["hi", *model, "-o", str(taken)], "is there already"),
        (["hi", *model, "-o", str(tmp_path / "no" / "file")], "cannot write"),
        (["-", "-", *model], "read once"),
    ):
        assert main(["generate", *arguments]) == 2, arguments
        out, err = capsys.readouterr()
        assert words in err, err
        assert out == ""
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", terminal)
    assert main(["generate", *model]) == 2
    assert "there is no prompt" in capsys.readouterr().err


def test_control_characters_do_not_reach_a_terminal(monkeypatch):
    from minialign.cli.answer_flags import printable

    assert printable("\x1b[2J\n") == "\x1b[2J\n"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert printable("\x1b[2Ja\tb\n\x9b\x7f🦊é") == "�[2Ja\tb\n��🦊é"


def test_the_help_states_the_defaults(capsys):
    with pytest.raises(SystemExit):
        main(["generate", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    default = Sampling()
    for name, value in (
        ("most likely token", default.temperature),
        ("most tokens of an answer", default.max_tokens),
    ):
        assert f"{name} ({value:g})" in text


def test_an_adapter_gives_what_mlx_lm_gives_with_it(tiny_model, home, tmp_path):
    import mlx.core as mx
    from mlx_lm.generate import generate_step
    from mlx_lm.utils import load_adapters, load_model

    from minialign.models.adapter import Lora, attach, save_adapter

    bare = load(str(tiny_model))
    attach(bare.module, Lora(rank=4, dropout=0.5))
    mx.random.seed(1)
    for _, part in bare.module.named_modules():
        if "lora_b" in part:
            part.lora_b = mx.random.normal(part.lora_b.shape) * 0.1
    save_adapter(tmp_path, bare.module, Lora(rank=4, dropout=0.5), str(tiny_model))
    engine, base = open_engine(adapter=tmp_path), open_engine(str(tiny_model))
    ids = engine.tokenizer.encode("the quick brown fox")
    greedy = Sampling(temperature=0, max_tokens=30)
    ours = [piece.id for piece in engine.stream(ids, greedy)]
    stock, _ = load_model(tiny_model)
    load_adapters(stock, str(tmp_path)).eval()
    theirs = [int(token) for token, _ in generate_step(mx.array(ids), stock, max_tokens=30)]
    assert ours == theirs[: len(ours)]
    assert ours != [piece.id for piece in base.stream(ids, greedy)]


def test_an_adapter_names_its_model(tiny_model, home, tmp_path):
    from minialign.models.adapter import Lora, attach, save_adapter

    bare = load(str(tiny_model))
    attach(bare.module, Lora(rank=2))
    save_adapter(tmp_path, bare.module, Lora(rank=2), str(tiny_model))
    assert base_of(tmp_path) == str(tiny_model)
    assert base_of(None) is None
    engine = open_engine(adapter=tmp_path)
    assert engine.model.name == str(tiny_model)


def test_questions_without_a_prompt_are_refused(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "plain"}\n')
    with pytest.raises(UserError, match="hold no prompt"):
        read_prompts(file)
    with pytest.raises(UserError, match="empty"):
        as_prompts(["ok", ""])
    file.write_text(
        json.dumps(
            {"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]}
        )
    )
    with pytest.raises(UserError, match="2 messages"):
        read_prompts(Path(file), raw=True)
