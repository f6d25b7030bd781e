"""Where rows are found: JSON Lines, JSON, CSV, Parquet, gzip, folders; with the right places."""

import csv
import gzip
import io
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.places import ROOT

from minialign import formats
from minialign.errors import UserError
from minialign.formats.containers import kind_of
from minialign.formats.folders import data_files
from minialign.formats.json_stream import Broken, rows

PAIR = {"prompt": "Name a lake.", "chosen": "Como.", "rejected": "Water é."}
ROW_KEYS = frozenset({"prompt", "chosen", "rejected", "messages", "responses"})


def lines(read: formats.Read) -> list[str]:
    return [record.source.rpartition(":")[2] for record in read.records]


def test_byte_order_marks_blank_lines_and_crlf(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    row = json.dumps(PAIR, ensure_ascii=False)
    path.write_bytes(f"\ufeff{row}\r\n\r\n   \r\n{row}\r\n".encode())
    read = formats.read(path)
    assert (read.problems, lines(read)) == ([], ["1", "4"])
    assert read.records[0].rejected == "Water é."


def test_line_separators_inside_a_text_do_not_end_the_line(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({**PAIR, "chosen": "a\u2028b\x85c"}, ensure_ascii=False) + "\n")
    read = formats.read(path)
    assert read.problems == []
    assert read.records[0].chosen == "a\u2028b\x85c"


def test_bytes_that_are_not_utf8_are_named_by_line_and_column(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    good = json.dumps(PAIR)
    path.write_bytes(f'{good}\n{{"text": "caf'.encode() + b'\xe9"}\n' + good.encode() + b"\n")
    read = formats.read(path)
    (problem,) = read.problems
    assert problem.source == f"{path}:2"
    assert problem.found == "the byte 0xe9 at column 14"
    assert "iconv" in problem.fix
    assert problem.row == '{"text": "caf\\xe9"}'
    assert lines(read) == ["1", "3"]


@pytest.mark.parametrize("indent", [None, 0, 2])
@pytest.mark.parametrize("wrapped", ["array", "object", "objects"])
@pytest.mark.parametrize("zipped", [False, True])
def test_json_in_its_shapes(tmp_path: Path, indent: int | None, wrapped: str, zipped: bool):
    table = [PAIR, {"messages": [{"role": "user", "content": "a"}]}, {"prompt": "x", "n": [{}]}]
    if wrapped == "objects":
        text = "\n".join(json.dumps(row, indent=indent) for row in table)
    else:
        text = json.dumps(
            table if wrapped == "array" else {"v": 1, "names": [], "data": table, "end": [1]},
            indent=indent,
        )
    path = tmp_path / ("rows.json.gz" if zipped else "rows.json")
    path.write_bytes(gzip.compress(text.encode()) if zipped else text.encode())
    read = formats.read(path)
    assert read.problems == []
    assert read.format == {"pairs": 1, "messages": 1, "prompts": 1}
    found = [text.splitlines()[int(line) - 1].strip() for line in lines(read)]
    assert all("{" in line for line in found)  # the line where each row begins


def test_gzip_is_told_by_content(tmp_path: Path):
    path = tmp_path / "no-ending.jsonl"
    path.write_bytes(gzip.compress(json.dumps(PAIR).encode()))
    assert len(formats.read(path).records) == 1
    whole = gzip.compress(
        "".join(json.dumps({**PAIR, "n": n}) + "\n" for n in range(9999)).encode()
    )
    path.write_bytes(whole[: len(whole) // 2])
    read = formats.read(path)
    assert len(read.records) > 100
    assert read.problems[-1].fatal
    assert "gzip that breaks off" in read.problems[-1].found


def test_one_row_alone_in_a_file(tmp_path: Path):
    for name, text in (("a.json", json.dumps(PAIR)), ("a.jsonl", json.dumps(PAIR, indent=1))):
        (tmp_path / name).write_text(text)
        assert len(formats.read(tmp_path / name).records) == 1


def test_json_that_breaks_off_is_fatal_and_names_its_line(tmp_path: Path):
    path = tmp_path / "a.json"
    text = json.dumps([PAIR] * 3, indent=1)
    path.write_text(text.replace('"chosen": "Como."', '"chosen" "Como."', 2).replace(
        '"chosen" "Como."', '"chosen": "Como."', 1))  # fmt: skip
    read = formats.read(path)
    assert len(read.records) == 1
    (problem,) = read.problems
    assert problem.fatal
    assert problem.source == f"{path}:9"
    assert "':'" in problem.found
    path.write_text(text[:-3])
    assert formats.read(path).problems[0].fatal


def test_two_lists_in_one_object_are_not_merged(tmp_path: Path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"train": [PAIR], "test": [PAIR]}))
    (problem,) = formats.read(path).problems
    assert "two lists of rows, 'train' and 'test'" in problem.found


@settings(max_examples=40)
@given(
    st.lists(
        st.dictionaries(
            st.text(max_size=5),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.text(max_size=20)
                | st.floats(allow_nan=False, allow_infinity=False),
                lambda inner: st.lists(inner, max_size=3)
                | st.dictionaries(st.text(max_size=3), inner, max_size=3),
                max_leaves=5,
            ),
            max_size=4,
        ),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from([1, 2, 3, 7, 40]),  # one byte cuts everywhere, the others between such cuts
    st.sampled_from([None, 1]),
    st.booleans(),
)  # fmt: skip
@example([{"a": 'é \\ " 🦊 \u2028', "b": [-1.5e-7, True, None, [{}]]}, {}], 1, 1, False)
def test_json_is_read_alike_in_pieces_of_any_size(table, chunk, indent, plain):
    text = json.dumps(table, indent=indent, ensure_ascii=plain)
    try:
        data = text.encode()
    except UnicodeEncodeError:
        return
    assert [value for _, value in rows(io.BytesIO(data), ROW_KEYS, chunk)] == table


@given(st.integers(0, 200), st.integers(1, 64))
def test_cut_json_never_passes_for_whole(cut: int, chunk: int):
    data = json.dumps([PAIR, {"prompt": "é" * 9}], ensure_ascii=False).encode()
    part = data[: min(cut, len(data) - 1)]
    if not part:
        return
    with pytest.raises(Broken):
        list(rows(io.BytesIO(part), ROW_KEYS, chunk))


def test_csv_places_quotes_and_semicolons(tmp_path: Path):
    path = tmp_path / "a.csv"
    path.write_text('prompt;chosen;rejected\r\n"a\nb";"say ""x""";c\r\nd;e\r\n\r\nf;g;h\r\n')
    read = formats.read(path)
    assert lines(read) == ["2", "6"]
    assert read.records[0].prompt[0]["content"] == "a\nb"
    assert read.records[0].chosen == 'say "x"'
    (problem,) = read.problems
    assert (problem.source, problem.found) == (f"{path}:4", "2 cells")
    path.write_text('prompt,chosen,rejected\na,b,c\nd,"e,f\n')
    assert formats.read(path).problems[0].fatal
    path.write_bytes(b"prompt,chosen,rejected\na,caf\xe9,c\nd,e,f\n")
    read = formats.read(path)
    assert "not UTF-8" in read.problems[0].found
    assert lines(read) == ["3"]


def test_csv_cells_may_hold_messages(tmp_path: Path):
    path = tmp_path / "a.tsv"
    with path.open("w", newline="") as stream:
        table = csv.writer(stream, delimiter="\t")
        table.writerow(["messages"])
        table.writerow(
            ['[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]']
        )
        table.writerow(["[{'role': 'user'}]"])
    read = formats.read(path)
    assert read.records[0].messages[1]["content"] == "b"
    assert "double quotes" in read.problems[0].fix


texts = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0\r"), min_size=1)


@given(st.lists(st.tuples(texts, texts, texts), min_size=1, max_size=5))
def test_csv_round_trip(tmp_path_factory: pytest.TempPathFactory, table):
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["prompt", "chosen", "rejected"])
        writer.writerows(table)
    read = formats.read(path)
    good = [row for row in table if row[0].strip() and "Human:" not in row[0]]
    got = [(r.prompt[0]["content"], r.chosen, r.rejected) for r in read.records]
    assert got == good


def test_parquet(tmp_path: Path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    table = pyarrow.table(
        {
            "messages": [turns, None, turns],
            "prompt": ["p", "q", "r"],
            "chosen": [None, "x", None],
            "rejected": [None, "y", None],
            "score": [math.nan, 1.0, None],
        }
    )
    path = tmp_path / "train-00000-of-00001.parquet"
    parquet.write_table(table, path)
    read = formats.read(path)
    assert read.problems == []
    assert read.format == {"messages": 2, "pairs": 1}
    assert read.records[1].source == f"{path}:row 2"
    data = path.read_bytes()
    path.write_bytes(data[:-20])
    assert formats.read(path).problems[0].fatal


def test_without_pyarrow_the_error_says_what_to_install(tmp_path: Path, monkeypatch):
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1....PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError) as caught:
        formats.read(path)
    assert caught.value.hint == "pip install 'minialign[parquet]'"


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.jsonl", b"", "empty"),
        ("a.jsonl", b"\n \n", "empty"),
        ("a.jsonl", "{}".encode("utf-16"), "UTF-16"),
        ("a.bin", b"\x7fELF\x02", "not a data file"),
        ("a.txt", b"just text\n", "not a data file"),
        ("a.jsonl.gz", b"\x1f\x8b\x08broken", "broken gzip"),
    ],
)
def test_what_is_no_data_file(tmp_path: Path, name: str, data: bytes, said: str):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError) as caught:
        formats.read(tmp_path / name)
    assert said in caught.value.problem
    assert caught.value.hint


def test_a_missing_file():
    with pytest.raises(UserError, match="no such file"):
        formats.read("nowhere/at/all.jsonl")


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("a.jsonl", '{"a": 1}\n', "jsonl"),
        ("a.jsonl", '{"a": \n{"a": 1}\n', "jsonl"),
        ("a.json", '{"a": 1}\n{"a": 2}\n', "jsonl"),
        ("a.json", '{"a": \n{"a": 1}\n', "jsonl"),
        ("a.json", '{\n"a": 1}\n', "json"),
        ("a.json", '{"a":\n 1}\n', "json"),
        ("a.jsonl", '{\n"a": 1\n}\n', "json"),
        ("a.jsonl", '[\n{"a": 1}\n]', "json"),
        ("a.data", '{"a": 1}\n{"a": 2}\n', "jsonl"),
        ("a.csv", "a,b\n", "csv"),
    ],
)
def test_how_a_file_is_read(tmp_path: Path, name: str, text: str, kind: str):
    (tmp_path / name).write_text(text)
    assert kind_of(tmp_path / name) == kind


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**PAIR, "prompt": name}) + "\n")
    return folder


def test_folders_as_mlx_lm_and_the_hub_have_them(tmp_path: Path):
    mlx = touch(tmp_path / "mlx", "train.jsonl", "valid.jsonl", "test.jsonl", "notes.md", "x.jsonl")
    (mlx / "train.jsonl.bad.jsonl").write_text("{}\n")
    assert {k: [p.name for p in v] for k, v in data_files(mlx).items()} == {
        "train": ["train.jsonl"], "valid": ["valid.jsonl"], "test": ["test.jsonl"],
    }  # fmt: skip
    assert formats.read(mlx).records[0].prompt[0]["content"] == "train.jsonl"
    assert formats.read(mlx, split="valid").records[0].prompt[0]["content"] == "valid.jsonl"
    hub = touch(
        tmp_path / "hub",
        "README.md",
        "data/train-00001-of-00002.jsonl",
        "data/train-00000-of-00002.jsonl",
        "data/validation-00000-of-00001.jsonl",
    )
    assert [record.prompt[0]["content"][:16] for record in formats.read(hub).records] == [
        "data/train-00000",
        "data/train-00001",
    ]
    with pytest.raises(UserError, match="it has no test file"):
        formats.read(hub, split="test")
    plain = touch(tmp_path / "plain", "b.jsonl", "a.json")
    assert len(formats.read(plain).records) == 2
    two = touch(tmp_path / "two", "train_sft.jsonl", "train_prefs.jsonl")
    with pytest.raises(UserError, match="2 files for 'train'"):
        formats.read(two)
    (hub / "data/train-00000-of-00002.jsonl").unlink()
    with pytest.raises(UserError, match="1 of 2 files for 'train'"):
        formats.read(hub)
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="no data files"):
        formats.read(tmp_path / "none")


def test_a_large_file_is_streamed(tmp_path: Path):
    """40 MB are checked within 40 MB more than nothing takes."""
    path = tmp_path / "big.json"
    with path.open("w") as stream:
        row = json.dumps({"prompt": "p" * 1000, "chosen": "c" * 2000, "rejected": "r" * 1000})
        stream.write("[" + ",".join([row] * 10_000) + "]")
    code = (
        "import resource, sys\n"
        "from minialign import formats\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "count = sum(len(item.records) for item in formats.stream(sys.argv[1]))\n"
        "after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print(count, (after - before) * (1 if sys.platform == 'darwin' else 1024))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    count, grown = map(int, done.stdout.split())
    assert count == 10_000
    assert grown < 40_000_000
