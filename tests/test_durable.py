"""Journals: rows that survive a kill, writers that take turns."""

import json
import signal
import subprocess
import sys

import pytest

from minialign.durable import Journal, read_jsonl
from minialign.errors import UserError

HOLDS_THE_LOCK = """
import sys, time
from pathlib import Path
from minialign.durable import Journal
with Journal(Path(sys.argv[1]), synced=True)._locked():
    print("held", flush=True)
    time.sleep(60)
"""


def test_half_a_row_is_dropped_on_resuming_and_left_alone_by_a_row_behind_it(tmp_path):
    file = tmp_path / "rows.jsonl"
    Journal(file).append({"n": 1}, {"n": 2})
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"n": 3')
    Journal(file).append({"n": 4})
    assert file.read_bytes() == whole + b'{"n": 3\n{"n": 4}\n'
    assert [row["n"] for row in read_jsonl(file)] == [1, 2, 4]
    file.write_bytes(whole + b'{"n": 3')
    journal = Journal.resume(file)
    assert file.read_bytes() == whole
    assert sorted(journal.known("n")) == [1, 2]
    assert list(tmp_path.iterdir()) == [file]


def test_a_row_without_its_newline_is_a_row(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"n": 1}')
    Journal.open(file).append({"n": 2})
    assert file.read_text() == '{"n": 1}\n{"n": 2}\n'


def test_a_killed_writer_leaves_the_journal_free(tmp_path):
    file = tmp_path / "rows.jsonl"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDS_THE_LOCK, str(file)], stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    Journal.open(file).append({"n": 1})
    assert [row["n"] for row in read_jsonl(file)] == [1]


def test_one_process_claims_a_file(tmp_path):
    with Journal(tmp_path / "rows.jsonl") as first, Journal(first.path) as second:
        assert first.claim()
        assert not second.claim()


def test_a_journal_goes_to_a_pipe_too_and_says_where_it_cannot(tmp_path):
    words = "from pathlib import Path; from minialign.durable import Journal; "
    words += "Journal(Path('/dev/stdout')).append({'n': 1}, {'n': 2})"
    said = subprocess.run([sys.executable, "-c", words], stdout=subprocess.PIPE, check=True)
    assert [json.loads(line)["n"] for line in said.stdout.splitlines()] == [1, 2]
    with pytest.raises(UserError, match="cannot write"):
        Journal(tmp_path / "no" / "rows.jsonl").append({"n": 1})
    with pytest.raises(UserError, match="cannot write"), Journal(tmp_path / "no" / "rows.jsonl"):
        pass
