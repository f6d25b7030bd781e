"""A run's folder: what is read from it is right whenever its process was killed."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from minialign.durable import read_jsonl, write_atomic
from minialign.errors import UserError
from minialign.run_folder import FILES, Run, list_runs, remove_run

pytestmark = pytest.mark.usefixtures("home")


def process(code: str, *arguments: object) -> subprocess.Popen:
    """Another Python that runs ``code``; its stdout can be waited for."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


HOLD = """
import sys, time
from minialign.run_folder import Run
with Run.open(sys.argv[1]).locked():
    print("locked", flush=True)
    time.sleep(60)
"""


def killed_while_locked(run: Run) -> None:
    """Leave ``run`` as a kill -9 during its training leaves it."""
    child = process(HOLD, run.path)
    assert child.stdout is not None
    assert child.stdout.readline() == "locked\n"
    child.kill()
    child.communicate()


def killed_after(child: subprocess.Popen, lines: int) -> int:
    """Kill -9 after so many lines; returns the number on the last line printed."""
    assert child.stdout is not None
    before = [child.stdout.readline() for _ in range(lines)]
    child.kill()
    return int((before[-1] + child.communicate()[0]).split()[-1])


# ---- create and open


def test_create_numbers_the_runs_and_writes_config_and_environment():
    first = Run.create("dpo", {"beta": 0.2})
    second = Run.create("dpo", {})
    assert (first.name, second.name) == ("dpo-1", "dpo-2")
    assert first.config == {"method": "dpo", "beta": 0.2}
    environment = json.loads((first.path / "env.json").read_text())
    assert environment["versions"]["mlx"]
    assert environment["python"].startswith("3.")
    assert first.state().status == "new"


def test_two_processes_never_get_the_same_number():
    code = (
        "from minialign.run_folder import Run\nfor _ in range(5): print(Run.create('sft', {}).name)"
    )
    children = [process(code) for _ in range(3)]
    names = [name for child in children for name in child.communicate()[0].split()]
    assert len(names) == 15
    assert len(set(names)) == 15


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/tmp", "-rf", ".hidden", "a\0b", "a b"])
def test_create_refuses_names_that_are_none(name: str):
    with pytest.raises(UserError, match="is no name for a run"):
        Run.create("dpo", {}, name=name)


def test_create_refuses_a_name_that_is_taken():
    Run.create("dpo", {}, name="mine")
    with pytest.raises(UserError, match="there is a run 'mine' already"):
        Run.create("dpo", {}, name="mine")


def test_create_elsewhere_and_open_it_by_its_path(tmp_path: Path, monkeypatch):
    run = Run.create("sft", {}, out=tmp_path / "a" / "b")
    assert Run.open(tmp_path / "a" / "b").path == run.path
    monkeypatch.chdir(tmp_path)
    assert Run.open("a/b").path == run.path
    assert list_runs() == []  # the list is of the home
    with pytest.raises(UserError, match="already holds a run"):
        Run.create("sft", {}, out=tmp_path / "a" / "b")


def test_create_leaves_a_model_folder_and_a_file_alone(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UserError, match="no run's"):
        Run.create("dpo", {}, out=tmp_path)
    assert (tmp_path / "config.json").read_text() == '{"model_type": "llama"}'
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot make the folder"):
        Run.create("dpo", {}, out=tmp_path / "file")


def test_open_names_the_nearest_and_takes_no_model_for_a_run(tmp_path: Path):
    with pytest.raises(UserError) as none:
        Run.open("dpo-1")
    assert none.value.hint == "there are no runs yet"
    Run.create("dpo", {})
    with pytest.raises(UserError) as near:
        Run.open("dqo-1")
    assert near.value.hint == "did you mean 'dpo-1'?"
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UserError, match="not the configuration of a run"):
        Run.open(tmp_path)


def test_looking_makes_no_folder_and_a_home_that_cannot_be_is_said(
    home: Path, tmp_path, monkeypatch
):
    assert list_runs() == []
    assert not home.exists()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MINIALIGN_HOME", str(tmp_path / "file" / "home"))
    assert list_runs() == []
    with pytest.raises(UserError) as refused:
        Run.create("dpo", {})
    assert "MINIALIGN_HOME" in refused.value.hint


def test_a_name_means_the_home_even_beside_a_folder_of_that_name(tmp_path: Path, monkeypatch):
    run = Run.create("dpo", {})
    (tmp_path / "work" / "dpo-1").mkdir(parents=True)
    (tmp_path / "work" / "dpo-1" / "config.json").write_text('{"method": "sft"}')
    monkeypatch.chdir(tmp_path / "work")
    assert Run.open("dpo-1").path == run.path
    assert Run.open("./dpo-1").path != run.path


# ---- metrics


def test_metrics_are_by_kind_and_step_and_the_last_of_a_step_counts():
    run = Run.create("dpo", {})
    for step, loss in ((1, 0.7), (2, 0.6), (3, 0.5), (2, 0.61), (3, 0.51)):  # resumed after 1
        run.log("train", step, {"loss": loss})
    run.log("eval", 2, {"loss": 0.8})
    assert [(row["step"], row["loss"]) for row in run.metrics("train")] == [
        (1, 0.7),
        (2, 0.61),
        (3, 0.51),
    ]
    assert [row["kind"] for row in run.metrics()] == ["train", "train", "eval", "train"]
    assert all(row["time"] > 1.6e9 for row in run.metrics())


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_line_cut_by_a_kill_is_skipped_and_the_next_one_is_whole(cut: int):
    run = Run.create("dpo", {})
    run.log("train", 1, {"loss": 0.7})
    run.log("train", 2, {"loss": 0.6})
    path = run.path / "metrics.jsonl"
    os.truncate(path, path.stat().st_size - min(cut, 55))
    assert [row["step"] for row in run.metrics()] in ([1], [1, 2])  # [1, 2]: only the newline
    run.log("train", 3, {"loss": 0.5})
    assert [row["step"] for row in run.metrics()] in ([1, 3], [1, 2, 3])
    assert run.metrics()[-1]["loss"] == 0.5


def test_rows_that_are_none_are_skipped():
    run = Run.create("dpo", {})
    run.log("train", 1, {"loss": 1.0})
    with open(run.path / "metrics.jsonl", "ab") as file:
        file.write(b'\n[1]\n"text"\n{"step": "2"}\n{"step": [2]}\n{"kind": ["x"]}\n\xff\xfe\n')
    run.log("train", 2, {"loss": 0.9})
    assert [row["step"] for row in run.metrics()] == [1, 2]
    assert list(read_jsonl(run.path / "absent")) == []


LOG = """
import sys
from minialign.run_folder import Run
run = Run.open(sys.argv[1])
first = len(run.metrics())
for step in range(first + 1, 10**6):
    run.log("train", step, {"loss": 1 / step, "text": "x" * 3000})
    print(step, flush=True)
"""


def test_kill_while_logging_loses_no_acknowledged_line():
    run = Run.create("dpo", {})
    for lines in (1, 9):  # the next one is being written when the kill comes
        acknowledged = killed_after(process(LOG, run.path), lines)
        steps = [row["step"] for row in run.metrics()]
        assert steps == list(range(1, len(steps) + 1))
        assert len(steps) >= acknowledged
        assert run.state().step == len(steps)


# ---- checkpoints

SAVE = """
import sys
from minialign.run_folder import Run
run = Run.open(sys.argv[1])
step = (run.checkpoints() or [0])[-1]
def write(folder):
    for part in range(4):
        with open(folder / f"{part}.bin", "wb") as file:
            for _ in range(8):
                file.write(str(step).encode().ljust(8192))
while True:
    step += 1
    run.save_checkpoint(step, write, keep=2)
    run.save_checkpoint(step, write, keep=2)  # the same step again: saved on stopping, say
    print(step, flush=True)
"""


def test_kill_while_saving_leaves_only_whole_checkpoints():
    run = Run.create("dpo", {})
    for saved in (1, 2, 5):  # the next is being saved, or older ones cleared away, by then
        acknowledged = killed_after(process(SAVE, run.path), saved)
        steps = run.checkpoints()
        assert steps
        assert steps[-1] >= acknowledged - 1  # the very step may be between its two saves
        assert len(steps) <= 3
        for step in steps:
            parts = sorted(run.checkpoint_path(step).iterdir())
            assert [part.name for part in parts] == ["0.bin", "1.bin", "2.bin", "3.bin"]
            for part in parts:
                assert part.read_bytes() == str(step).encode().ljust(8192) * 8
    run.save_checkpoint(10**6 - 1, lambda folder: None)
    hidden = [path.name for path in (run.path / "checkpoints").iterdir() if path.name[0] == "."]
    assert hidden == []  # what killed processes left was cleared away


def test_the_newest_checkpoints_are_kept_and_a_step_can_be_saved_again():
    run = Run.create("dpo", {})
    for step in (5, 10, 15):
        run.save_checkpoint(step, lambda folder, step=step: (folder / "w").write_text(str(step)))
    assert run.checkpoints() == [10, 15]
    run.save_checkpoint(15, lambda folder: (folder / "w").write_text("again"))
    assert run.checkpoints() == [10, 15]
    assert (run.checkpoint_path(15) / "w").read_text() == "again"


def test_a_checkpoint_that_cannot_be_written_leaves_the_ones_before():
    run = Run.create("dpo", {})
    run.save_checkpoint(5, lambda folder: (folder / "w").write_text("5"))

    def full(folder: Path) -> None:
        (folder / "w").write_text("half")
        raise OSError(28, "No space left on device")

    for step in (5, 10):
        with pytest.raises(OSError, match="No space left"):
            run.save_checkpoint(step, full)
    assert run.checkpoints() == [5]
    assert (run.checkpoint_path(5) / "w").read_text() == "5"
    assert [path.name for path in (run.path / "checkpoints").iterdir()] == ["000005"]


def test_write_atomic_is_never_seen_half_written(tmp_path: Path):
    path = tmp_path / "file"
    texts = ["a" * 100_000, "b" * 200_000]
    write_atomic(path, texts[0])
    stop = threading.Event()

    def write() -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            write_atomic(path, texts[turn % 2])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert {path.read_text() for _ in range(200)} <= set(texts)
    finally:
        stop.set()
        writer.join()


# ---- the lock and the state


def test_only_one_process_trains_a_run_and_a_kill_frees_it():
    run = Run.create("dpo", {"total_steps": 9})
    child = process(HOLD, run.path)
    assert child.stdout is not None
    assert child.stdout.readline() == "locked\n"
    assert run.is_locked()
    assert run.pid() == child.pid
    assert run.state().status == "running"
    with pytest.raises(UserError, match="is being trained by another process"), run.locked():
        pass
    with pytest.raises(UserError, match=f"kill {child.pid}"):
        remove_run(run)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert not run.is_locked()
    assert run.pid() is None
    assert run.state().status == "interrupted"  # it began, and died without a word
    with run.locked():
        assert run.state().status == "running"
        assert run.pid() == os.getpid()


def test_a_watcher_never_turns_a_trainer_away():
    run = Run.create("dpo", {})
    with run.locked():
        pass
    code = (
        "import sys\nfrom minialign.run_folder import Run\nrun = Run.open(sys.argv[1])\n"
        "print('watching', flush=True)\nwhile True: run.is_locked()"
    )
    watchers = [process(code, run.path) for _ in range(2)]
    try:
        for watcher in watchers:
            assert watcher.stdout is not None
            watcher.stdout.readline()
        for _ in range(100):
            with run.locked():
                pass
    finally:
        for watcher in watchers:
            watcher.kill()
            watcher.communicate()


def test_states_in_the_order_of_a_life():
    run = Run.create("dpo", {})
    run.set_total(20)
    assert run.config["total_steps"] == 20
    assert (run.state().status, run.state().total) == ("new", 20)
    with run.locked():
        run.log("train", 1, {"loss": 0.7})
        assert (run.state().status, run.state().step) == ("running", 1)
        run.finish("stopped", "Ctrl-C")
    assert (run.state().status, run.state().message) == ("stopped", "Ctrl-C")
    with run.locked():  # resumed: the outcome is open again
        pass
    assert run.state().status == "interrupted"
    run.finish("failed", "the loss is not finite at step 2")
    assert run.state().message == "the loss is not finite at step 2"


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"message": "x"}', "\udcff"])
def test_a_damaged_outcome_reads_as_interrupted(text: str):
    run = Run.create("dpo", {})
    killed_while_locked(run) if text == "" else run.log("train", 1, {})
    (run.path / "outcome.json").write_text(text, encoding="utf-8", errors="surrogateescape")
    assert run.state().status == "interrupted"


# ---- damage and removal


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b"\xff\xfe{}"])
def test_a_damaged_config_is_named_and_the_run_can_be_removed(data: bytes):
    run = Run.create("dpo", {})
    (run.path / "config.json").write_bytes(data)
    again = Run.open("dpo-1")
    with pytest.raises(UserError, match=r"config\.json") as damaged:
        _ = again.config
    assert damaged.value.hint == "minialign runs rm dpo-1"
    assert [each.name for each in list_runs()] == ["dpo-1"]
    remove_run(again)
    assert not run.path.exists()


def test_a_folder_that_vanishes_is_said_to_have_vanished():
    run = Run.create("dpo", {})
    run.log("train", 1, {"loss": 0.7})
    remove_run(Run.open(run.name))
    with pytest.raises(UserError, match="vanished"):
        run.log("train", 2, {"loss": 0.6})
    with pytest.raises(UserError, match="vanished"):
        _ = run.config
    with pytest.raises(UserError, match="cannot train"), run.locked():
        pass
    assert run.metrics() == []
    assert run.checkpoints() == []
    assert not run.is_locked()
    assert run.pid() is None
    assert run.started() == 0
    assert not run.path.exists()


def test_runs_are_listed_from_the_oldest():
    runs = [Run.create("dpo", {}, name=name) for name in ("c", "a", "b")]
    for age, run in zip((300, 200, 100), runs, strict=True):
        os.utime(run.path / "env.json", (time.time() - age,) * 2)
    runs[0].finish("finished")  # what happens later does not reorder them
    assert [run.name for run in list_runs()] == ["c", "a", "b"]


def test_removing_a_run_elsewhere_never_deletes_other_files(tmp_path: Path):
    run = Run.create("sft", {}, out=tmp_path / "thesis")
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"not the run's: chapter\.tex"):
        remove_run(run)
    assert (tmp_path / "thesis" / "config.json").exists()
    (tmp_path / "thesis" / "chapter.tex").unlink()
    for name in FILES:
        (tmp_path / "thesis" / name).touch()
    remove_run(run)
    assert not (tmp_path / "thesis").exists()


def test_removing_a_link_in_the_home_leaves_what_it_points_to(tmp_path: Path, home: Path):
    there = Run.create("sft", {}, out=tmp_path / "disk" / "run").path
    (home / "runs").mkdir(parents=True)
    (home / "runs" / "linked").symlink_to(there)
    remove_run(Run.open("linked"))
    assert there.exists()
    assert list_runs() == []
