"""``minialign data`` as a user meets it: what it prints, writes and refuses, and its exit codes."""

import gzip
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.places import ROOT, written

from minialign import formats
from minialign.cli import main

FIXTURES = ROOT / "tests" / "fixtures" / "formats"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(home: Path, tmp_path: Path, monkeypatch, capsys) -> Run:
    """Run ``minialign data …`` in an empty folder: (exit code, stdout, stderr)."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def call(*words: object) -> tuple[int, str, str]:
        code = main(["data", *map(str, words)])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return call


def write(path: str, *rows: dict) -> Path:
    return written(Path(path), rows)


def pair(prompt: str, chosen: str = "Yes.", rejected: str = "No, never.") -> dict:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def test_check_lists_what_is_wrong_and_fails(run: Run):
    shutil.copy(FIXTURES / "bad.jsonl", "bad.jsonl")
    code, out, err = run("check", "bad.jsonl")
    assert code == 2
    assert "bad.jsonl:3: found the keys prompt, choosen, rejected\n" in out
    assert "  expected the keys of 'pairs': prompt or question or query, chosen, rejected\n" in out
    assert "  fix: --map chosen=choosen\n" in out
    assert "bad.jsonl: 15 rows, 14 bad\n" in out
    assert "next:" in err
    assert not Path("bad.jsonl.bad.jsonl").exists()


def test_check_with_skip_bad_keeps_the_bad_rows_apart(run: Run):
    shutil.copy(FIXTURES / "bad.jsonl", "bad.jsonl")
    code, _, err = run("check", "bad.jsonl", "--skip-bad")
    assert code == 0
    assert "14 bad rows left out, now in bad.jsonl.bad.jsonl" in err
    kept = [json.loads(line) for line in Path("bad.jsonl.bad.jsonl").read_text().splitlines()]
    assert [row["_source"] for row in kept][:2] == ["bad.jsonl:2", "bad.jsonl:3"]
    assert kept[0]["_row"].startswith('{"prompt": "Name a lake."')
    assert kept[1]["choosen"] == "The Baltic."
    assert all("expected" in row["_problem"] for row in kept)
    # mended in place, a row of that file is a row like any other
    mended = {**kept[1], "chosen": kept[1]["choosen"]}
    assert len(formats.read(write("mended.jsonl", mended)).records) == 1
    run("check", "bad.jsonl", "--skip-bad")  # a second time writes the file anew
    assert len(Path("bad.jsonl.bad.jsonl").read_text().splitlines()) == 14


def test_check_as_json(run: Run):
    shutil.copy(FIXTURES / "bad.jsonl", "bad.jsonl")
    code, out, _ = run("check", "bad.jsonl", "--json")
    report = json.loads(out)
    assert code == 2
    assert report["files"][0]["bad"] == len(report["problems"]) == 14
    assert report["problems"][1]["fix"] == "--map chosen=choosen"


def test_check_prints_twenty_problems_unless_told_otherwise(run: Run):
    write("many.jsonl", *[{"a": n} for n in range(30)])
    _, out, _ = run("check", "many.jsonl")
    assert out.count("fix:") == 20
    assert "and 10 more problems" in out
    assert run("check", "many.jsonl", "--all")[1].count("fix:") == 30


def test_check_counts_doubtful_rows_and_leaks(run: Run):
    write("train.jsonl", pair("A?"), pair("B?", "Same.", "Same."), pair("A?"), pair("C?", ""),
          pair("A?", "No, never.", "Yes."))  # fmt: skip
    write("test.jsonl", pair("C?"), pair("D?"))
    code, out, _ = run("check", "train.jsonl", "test.jsonl")
    assert code == 0
    assert "1 × chosen and rejected are the same text: line 2\n" in out
    assert "1 × an answer is empty: line 4\n" in out
    assert "1 × the same record stands earlier: line 3\n" in out
    assert "1 × an earlier row prefers the other answer: line 5\n" in out
    assert "leak: train.jsonl and test.jsonl share 1 prompt: test.jsonl:1 = train.jsonl:4\n" in out


def test_check_reads_the_splits_of_a_folder(run: Run):
    Path("set").mkdir()
    write("set/train.jsonl", pair("A?"))
    write("set/valid.jsonl", pair("A?"))
    _, out, _ = run("check", "set")
    assert "leak: set/train.jsonl and set/valid.jsonl share 1 prompt" in out


def test_a_file_that_breaks_off_cannot_be_skipped(run: Run):
    Path("a.json").write_text(json.dumps([pair("A?"), pair("B?")])[:-9])
    for command in (
        ("check", "a.json"),
        ("stats", "a.json"),
        ("convert", "a.json", "--to", "pairs"),
    ):
        code, _, err = run(*command, "--skip-bad")
        assert code == 2
        assert "mend" in err


def test_convert_writes_whole_files_only(run: Run):
    shutil.copy(FIXTURES / "bad.jsonl", "bad.jsonl")
    code, _, err = run("convert", "bad.jsonl", "--to", "pairs", "-o", "out.jsonl")
    assert code == 2
    assert "14 bad rows, the first: bad.jsonl:2: found broken JSON" in err
    assert "--skip-bad goes on" in err
    assert sorted(path.name for path in Path().iterdir()) == ["bad.jsonl"]
    code, _, err = run("convert", "bad.jsonl", "--to", "pairs", "-o", "out.jsonl", "--skip-bad")
    assert code == 0
    assert "1 row read, 1 pairs written" in err
    assert len(formats.read("out.jsonl").records) == 1
    code, _, err = run("convert", "bad.jsonl", "--to", "pairs", "-o", "out.jsonl", "--skip-bad")
    assert code == 2
    assert "out.jsonl exists" in err
    assert (
        run("convert", "bad.jsonl", "--to", "pairs", "-o", "out.jsonl", "--skip-bad", "--force")[0]
        == 0
    )


@pytest.mark.parametrize("kind", formats.KINDS)
def test_convert_every_fixture_to_every_kind(run: Run, kind: str):
    for path in sorted(FIXTURES.glob("*.*")):
        if path.name in ("bad.jsonl", "expected.json"):
            continue
        code, _, _ = run("convert", path, "--to", kind, "-o", "out.jsonl.gz", "--force")
        assert code == 0
        expected, _ = formats.as_kind(formats.read(path).records, formats.KINDS[kind])
        lines = gzip.decompress(Path("out.jsonl.gz").read_bytes()).decode().splitlines()
        assert len(lines) == len(expected)
        if lines:
            again = formats.read("out.jsonl.gz").records
            strip = [{**vars(record), "source": ""} for record in expected]
            assert [{**vars(record), "source": ""} for record in again] == strip


def test_convert_to_stdout_says_what_it_left_out(run: Run):
    code, out, err = run("convert", FIXTURES / "votes.jsonl", "--to", "pairs")
    assert code == 0
    assert len(out.splitlines()) == 4
    assert json.loads(out.splitlines()[0])["chosen"] == "Trout."
    assert "not used: 1 × a tie" in err
    assert "not used: 1 × a vote replaced by a later one of its id" in err
    _, out, err = run("convert", FIXTURES / "alpaca.json", "--to", "pairs")
    assert out == ""
    assert "not used: 3 × demonstration that gives no pair" in err


def test_an_unlabelled_pair_stays_one(run: Run):
    write("p.jsonl", {**pair("A?"), "unlabelled": True}, pair("B?"))
    for kind in ("pairs", "prompts"):
        code, _, _ = run("convert", "p.jsonl", "--to", kind, "-o", f"{kind}.jsonl")
        rows = [json.loads(line) for line in open_lines(f"{kind}.jsonl")]
        marks = [row.get("unlabelled") for row in rows]
        assert (code, marks) == (0, [kind == "pairs" or None, None])
    # its first answer is not the better one
    for kind in ("messages", "ratings", "rankings"):
        code, out, err = run("convert", "p.jsonl", "--to", kind)
        assert {row["prompt"][0]["content"] if "prompt" in row else row["messages"][0]["content"]
                for row in map(json.loads, out.splitlines())} == {"B?"}  # fmt: skip
        assert "not used: 1 × unlabelled pair that gives no" in err


def test_convert_drops_only_what_it_is_told_to(run: Run):
    rows = [pair("A?"), pair("A?"), pair("B?", "x", "x"), pair("C?", ""),
            pair("A?", "No, never.", "Yes.")]  # fmt: skip
    write("p.jsonl", *rows)
    _, out, err = run("convert", "p.jsonl", "--to", "pairs")
    assert len(out.splitlines()) == 5
    assert "1 × the same record stands earlier: kept (--drop-duplicates leaves them out)" in err
    flags = {"duplicates": 1, "identical": 1, "empty": 1, "reversed": 1}
    for flag in flags:
        _, out, err = run("convert", "p.jsonl", "--to", "pairs", f"--drop-{flag}")
        assert len(out.splitlines()) == 4
        assert ": dropped" in err
    _, out, _ = run("convert", "p.jsonl", "--to", "pairs", *[f"--drop-{flag}" for flag in flags])
    assert len(out.splitlines()) == 1


def test_map_renames_columns(run: Run):
    write("q.jsonl", {"q": "A?", "better": "Yes.", "worse": "No."})
    names = ("--map", "prompt=q", "--map", "chosen=better", "--map", "rejected=worse")
    code, out, _ = run("convert", "q.jsonl", "--to", "pairs", *names)
    assert code == 0
    assert json.loads(out)["rejected"] == "No."
    code, _, err = run("check", "q.jsonl", "--map", "choosen=better")
    assert (code, "did you mean 'chosen'?" in err) == (2, True)
    code, _, err = run("check", "q.jsonl", "--map", "chosen")
    assert (code, "KEY=COLUMN" in err) == (2, True)


def test_split_keeps_prompts_together_and_loses_nothing(run: Run):
    rows = [{**pair(f"Question {n % 40}?", f"Yes {n}."), "n": n} for n in range(100)]
    write("p.jsonl", *rows)
    code, out, _ = run("split", "p.jsonl", "--test", "0.2", "--valid", "10", "--seed", "3")
    assert code == 0
    parts = {}
    for name in ("train", "valid", "test"):
        lines = Path(f"p-split/{name}.jsonl").read_text().splitlines()
        parts[name] = [json.loads(line) for line in lines]
        assert f"p-split/{name}.jsonl: {len(lines)} rows" in out
    assert {name: len(part) for name, part in parts.items()} == {
        "train": 70, "valid": 10, "test": 20,
    }  # fmt: skip
    assert (
        sorted((row for part in parts.values() for row in part), key=lambda row: row["n"]) == rows
    )
    prompts = [{row["prompt"] for row in part} for part in parts.values()]
    assert sum(map(len, prompts)) == 40
    assert len(set.union(*prompts)) == 40

    def held_out(*words: str) -> set[str]:
        run("split", "p.jsonl", "--test", "0.2", "-o", "again", "--force", *words)
        return {row["prompt"] for row in map(json.loads, open_lines("again/test.jsonl"))}

    first = held_out("--seed", "3")
    assert held_out("--seed", "3") == first
    assert held_out("--seed", "4") != first
    write("p.jsonl", *reversed(rows))
    assert held_out("--seed", "3") == first


def open_lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines()


def test_split_keeps_conversations_with_one_opening_together(run: Run):
    def talk(n: int, turns: int) -> dict:
        said = [{"role": "user", "content": f"Opening {n}"}]
        for turn in range(turns):
            said += [{"role": "assistant", "content": "ok"}, {"role": "user", "content": str(turn)}]
        return pair("", "a", "b") | {"prompt": said}

    write("p.jsonl", *[talk(n, turns) for n in range(20) for turns in range(3)])
    run("split", "p.jsonl", "--test", "0.3")
    test = {json.loads(line)["prompt"][0]["content"] for line in open_lines("p-split/test.jsonl")}
    train = {json.loads(line)["prompt"][0]["content"] for line in open_lines("p-split/train.jsonl")}
    assert (len(test), len(train), test & train) == (6, 14, set())


def test_split_refuses_what_cannot_be(run: Run):
    write("p.jsonl", pair("A?"), pair("B?"))
    for share in ("2", "-0.1", "1e9"):
        code, _, err = run("split", "p.jsonl", f"--test={share}")
        assert (code, "cannot give" in err) == (2, True)
    assert not list(Path().glob("*/*.jsonl"))
    write("one.jsonl", *[pair("A?")] * 4)
    code, _, err = run("split", "one.jsonl", "--test", "1")
    assert (code, "no prompt has so few rows" in err) == (2, True)
    Path("p-split").rmdir()
    assert run("split", "p.jsonl", "--test", "1")[0] == 0
    code, _, err = run("split", "p.jsonl", "--test", "1")
    assert (code, "exists" in err) == (2, True)


def test_stats_in_words_and_as_json(run: Run):
    write("p.jsonl", pair("A?"), pair("B?"), pair("C?", "Certainly, yes.", "No."))
    code, out, _ = run("stats", "p.jsonl")
    assert code == 0
    assert "3 rows (3 pairs)" in out
    assert "the longer answer is the chosen one: 33.3 % (95 % interval 6.1 to 79.2 %)" in out
    _, out, _ = run("stats", "p.jsonl", "--json")
    report = json.loads(out)
    assert report["shorter_wins"]["share"] == pytest.approx(2 / 3)
    assert report["lengths"]["chosen"]["characters"]["max"] == 15
    assert "tokens" not in report["lengths"]["chosen"]


def test_stats_counts_the_tokens_of_a_model(run: Run, tiny_model: Path):
    from minialign.learn.batch import encode_prompt, encode_response
    from minialign.models.tokens.tokenizer import Tokenizer

    write("p.jsonl", pair("A quick fox?"))
    _, out, _ = run("stats", "p.jsonl", "--model", tiny_model, "--json")
    lengths = json.loads(out)["lengths"]
    tokenizer = Tokenizer.load(tiny_model)
    prompt = [{"role": "user", "content": "A quick fox?"}]
    assert lengths["prompt"]["tokens"]["total"] == len(encode_prompt(prompt, tokenizer))
    chosen = len(encode_response(prompt, "Yes.", tokenizer))
    assert lengths["chosen"]["tokens"]["total"] == chosen


def test_show_marks_exactly_the_trained_tokens(run: Run, tiny_model: Path):
    code, out, err = run("show", FIXTURES / "messages.jsonl", "-n", 1, "--model", tiny_model)
    assert code == 0
    assert "⟦Usually too much water. Let the top centimetre of soil dry first.<|im_end|>⟧" in out
    assert "⟦Then it may lack nitrogen; feed it every two weeks.<|im_end|>⟧" in out
    assert out.count("⟦") == 2
    assert "<|im_start|>system\nYou are a patient gardener.<|im_end|>" in out
    assert "⟦ ⟧" in err
    _, out, _ = run("show", FIXTURES / "messages.jsonl", "-n", 1, "--model", tiny_model,
                    "--train-on", "last")  # fmt: skip
    assert out.count("⟦") == 1
    assert "⟦Then it may lack" in out


def test_show_every_kind(run: Run, tiny_model: Path):
    names = {
        "pairs.csv": "── rejected", "rankings.jsonl": "── score 0.9", "ratings.jsonl": "── good",
        "prompts.jsonl": "nothing is trained", "text.jsonl": "⟦he tide comes in",
    }  # fmt: skip
    for name, expected in names.items():
        code, out, _ = run("show", FIXTURES / name, "-n", 1, "--model", tiny_model)
        assert (code, expected in out) == (0, True), out
    _, out, _ = run("show", FIXTURES / "pairs.csv", "--model", tiny_model, "--json", "-n", 9)
    assert [json.loads(line)["kind"] for line in out.splitlines()] == ["pairs", "pairs"]


def test_show_tells_what_does_not_fit_and_starts_where_told(run: Run, tiny_model: Path):
    write("p.jsonl", pair("A?", "long " * 100), pair("B?"))
    _, out, _ = run("show", "p.jsonl", "-n", 1, "--model", tiny_model, "--max-seq-length", 60)
    assert "left out: its answer alone has" in out
    _, out, _ = run("show", "p.jsonl", "--start", 2, "--model", tiny_model)
    assert "p.jsonl:2" in out
    assert "p.jsonl:1" not in out
    _, out, err = run("show", "p.jsonl", "--start", 9, "--model", tiny_model)
    assert (out, "no records from the 9. on" in err) == ("", True)


def test_show_in_a_terminal_has_colours_unless_told_not_to(run: Run, tiny_model: Path):
    write("p.jsonl", pair("A?", "Yes \x1b[2J now."))
    command = [sys.executable, "-m", "minialign", "data", "show", "p.jsonl", "-m", str(tiny_model)]
    base = {k: v for k, v in os.environ.items() if k != "NO_COLOR"} | {"PYTHONPATH": str(ROOT)}

    def shown(environment: dict[str, str]) -> str:
        main_end, terminal = os.openpty()
        process = subprocess.Popen(
            command, stdout=terminal, stderr=subprocess.PIPE, env=environment
        )
        os.close(terminal)
        out = b""
        while True:
            try:
                part = os.read(main_end, 4096)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            out += part
        os.close(main_end)
        process.communicate(timeout=300)
        assert process.returncode == 0
        return out.decode()

    coloured = shown(base)
    assert "\x1b[1;32mYes \\x1b[2J now.<|im_end|>\x1b[0m" in coloured
    assert "⟦" not in coloured
    plain = shown({**base, "NO_COLOR": "1"})
    assert "\x1b" not in plain
    assert "⟦Yes \\x1b[2J now.<|im_end|>⟧" in plain


def test_formats_lists_them_all(run: Run):
    _, out, _ = run("formats")
    for form in formats.FORMATS:
        assert f"{form.name} → " in out
    _, out, _ = run("formats", "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["name"] for row in rows] == [form.name for form in formats.FORMATS]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("check", "nothing.jsonl"), "no such file"),
        (("check", "data/train.jsonl"), "no such file"),
        (("stats", "empty.jsonl"), "the file is empty"),
        (("show", "folder"), "no data files"),
        (("convert", "p.jsonl", "--to", "pairs", "-o", "p.jsonl/x.jsonl"), "choose another place"),
        (("show", "p.jsonl", "--model", "no-such-model"), "no-such-model"),
    ],
)
def test_mistakes_are_told_without_a_traceback(run: Run, words: tuple[str, ...], said: str):
    write("p.jsonl", pair("A?"))
    Path("empty.jsonl").touch()
    Path("folder").mkdir()
    code, out, err = run(*words)
    assert code == 2
    assert said in err
    assert out == ""


def test_a_near_name_is_offered(run: Run):
    write("pairs.jsonl", pair("A?"))
    assert "did you mean 'pairs.jsonl'?" in run("check", "pair.jsonl")[2]


def test_bad_rows_of_real_transcripts(run: Run, data: Path):
    shutil.copy(data / "hh_rlhf" / "harmless_first_1800.jsonl.gz", "hh.jsonl.gz")
    code, out, _ = run("check", "hh.jsonl.gz")
    assert code == 2
    assert "hh.jsonl.gz:1255: found conversations that part at turn 4" in out
    assert "hh.jsonl.gz: 1,800 rows, 2 bad" in out
    assert "4 × an answer is empty: line 87, 517, 926 …" in out
    _, out, _ = run("stats", "hh.jsonl.gz", "--skip-bad")
    assert "the shorter answer is the chosen one: 55.1 % (95 % interval 52.8 to 57.3 %)" in out
    _, out, _ = run("convert", data / "oasst" / "en_100_tree.jsonl.gz", "--to", "pairs")
    assert len(out.splitlines()) == 754
