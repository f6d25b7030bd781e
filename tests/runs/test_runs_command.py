"""``minialign runs``: every verb with good and with bad input."""

import json
import math
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from minialign.cli import main
from minialign.errors import UserError
from minialign.run_folder import Run
from minialign.runs import charts
from minialign.runs import summary as task
from minialign.runs.summary import Series

pytestmark = pytest.mark.usefixtures("home")


def made(name: str = "dpo-1", steps: int = 40, status: str = "finished", **config) -> Run:
    """A run of ``steps`` steps with a falling loss, evaluated every ten."""
    values = {"model": "smollm2-135m-4bit", "total_steps": 40, "beta": 0.1, "rank": 8, **config}
    run = Run.create("dpo", values, name=name)
    with run.locked():
        for step in range(1, steps + 1):
            loss = 0.7 * math.exp(-step / 20)
            run.log("train", step, {"loss": loss, "rewards/accuracies": min(1.0, step / 30)})
            if step % 10 == 0:
                run.log("eval", step, {"loss": loss + 0.1, "rewards/accuracies": 0.75})
        run.save_checkpoint(steps, lambda folder: (folder / "weights").write_text("w" * 5000))
    if status != "interrupted":
        run.finish(status, "as told" if status == "failed" else "")
    return run


def lines(text: str) -> list[dict]:
    """JSON Lines, strictly: NaN and Infinity are refused."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


# ---- list


def test_list_shows_every_run_with_its_state_in_words(capsys):
    made("first", rank=16)
    made("second", steps=25, status="interrupted")
    made("third", status="failed")
    Run.create("sft", {"model": "tiny"}, name="fourth")
    (Run.create("sft", {}, name="fifth").path / "config.json").write_text("{")
    assert main(["runs", "list"]) == 0
    out, err = capsys.readouterr()
    rows = {line.split()[0]: line for line in out.splitlines()}
    assert "finished" in rows["first"]
    assert "40/40" in rows["first"]
    assert "75 %" in rows["first"]
    assert "interrupted" in rows["second"]
    assert "25/40" in rows["second"]
    assert "failed" in rows["third"]
    assert "new" in rows["fourth"]
    assert "broken" in rows["fifth"]
    assert "third: as told" in err
    assert "config.json" in err
    assert "minialign runs show" in err


def test_list_as_json_and_without_a_verb(capsys):
    made()
    assert main(["runs", "list", "--json"]) == 0
    (row,) = lines(capsys.readouterr().out)
    assert row["status"] == "finished"
    assert (row["step"], row["total"]) == (40, 40)
    assert row["loss"] == pytest.approx(0.7 * math.exp(-2))
    assert row["eval_loss"] == pytest.approx(row["loss"] + 0.1)
    assert row["eval_accuracy"] == 0.75
    assert row["bytes"] > 5000
    assert 0 <= row["age"] < 60
    assert main(["runs"]) == 0
    assert "dpo-1" in capsys.readouterr().out


def test_list_of_nothing_says_how_to_begin(capsys):
    assert main(["runs"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "no runs yet" in err
    assert "minialign demo" in err
    assert main(["runs", "list", "--json"]) == 0
    assert capsys.readouterr().out == ""


# ---- show


def test_show_lists_only_what_was_changed(capsys):
    made(rank=16, beta=0.3)
    assert main(["runs", "show", "dpo-1"]) == 0
    out, err = capsys.readouterr()
    changed = out.partition("not the default")[2].partition("last metrics")[0]
    assert "rank" in changed
    assert "16" in changed
    assert "beta" in changed
    assert "model" not in changed  # it is the default one
    assert "eval (step 40)" in out
    assert "checkpoints: 40" in out
    assert "metrics.jsonl" in out
    assert "runs resume" not in err  # finished
    assert "minialign runs plot dpo-1" in err


def test_show_as_json_has_no_nan(capsys):
    run = made(status="interrupted")
    run.log("train", 41, {"loss": float("nan"), "rewards/accuracies": 0.5})
    assert main(["runs", "show", "dpo-1", "--json"]) == 0
    (row,) = lines(capsys.readouterr().out)
    assert row["status"] == "interrupted"
    assert row["last"]["train"]["loss"] is None
    assert row["config"]["method"] == "dpo"
    assert row["checkpoints"] == [40]
    assert {file["name"] for file in row["files"]} >= {"config.json", "checkpoints/"}
    assert "minialign runs resume dpo-1" in row["next"]


def test_show_of_a_broken_run_offers_to_remove_it(capsys):
    (made().path / "config.json").write_text("[]")
    assert main(["runs", "show", "dpo-1"]) == 0
    out, err = capsys.readouterr()
    assert "broken" in out
    assert "minialign runs rm dpo-1" in err


def test_unknown_runs_name_the_nearest(capsys):
    made()
    for verb in (["show"], ["plot"], ["resume"], ["rm", "--yes"]):
        assert main(["runs", *verb, "dpo-l"]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert "did you mean 'dpo-1'?" in err


# ---- plot


def test_plot_draws_the_newest_run_with_axes(capsys):
    made("old")
    made("new")
    os.utime(Run.open("old").path / "env.json", (1e9, 1e9))
    assert main(["runs", "plot", "--kind", "train", "--keys", "loss"]) == 0
    out = capsys.readouterr().out
    assert "loss by step" in out
    assert "new train" in out
    assert "old" not in out
    assert "┤" in out
    assert "┬" in out
    assert " 20 " in out
    assert "0.6 ┤" in out
    assert "\x1b" not in out  # colours only on a terminal


def test_plot_lays_runs_over_each_other_told_apart_by_letters(capsys):
    made("one")
    made("two", steps=30)
    assert main(["runs", "plot", "one", "two", "--keys", "loss, rewards/accuracies"]) == 0
    loss, accuracy = capsys.readouterr().out.split("\n\n")[:2]
    for chart, key in ((loss, "loss"), (accuracy, "rewards/accuracies")):
        assert chart.startswith(key)
        drawn = "".join(line for line in chart.splitlines() if "│" in line or "┤" in line)
        for letter, name in zip("ABCD", ("one train", "one eval", "two train"), strict=False):
            assert f"{letter}  {name}" in chart
            assert letter in drawn


def test_plot_as_json_gives_the_points(capsys):
    made(steps=20)
    assert main(["runs", "plot", "--keys", "loss", "--kind", "eval", "--json"]) == 0
    (row,) = lines(capsys.readouterr().out)
    assert (row["run"], row["key"], row["kind"]) == ("dpo-1", "loss", "eval")
    assert row["steps"] == [10, 20]
    assert row["values"][0] == pytest.approx(0.7 * math.exp(-0.5) + 0.1)


@pytest.mark.parametrize(("name", "start"), [("x.png", b"\x89PNG"), ("x.svg", b"<?xml")])
def test_plot_writes_a_picture(name: str, start: bytes, tmp_path: Path, capsys):
    made()
    assert main(["runs", "plot", "--out", str(tmp_path / name)]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert name in err
    assert (tmp_path / name).read_bytes().startswith(start)


def test_plot_without_matplotlib_says_what_to_install(tmp_path: Path, monkeypatch, capsys):
    made()
    for module in list(sys.modules):
        if module.partition(".")[0] == "matplotlib":
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["runs", "plot", "--out", str(tmp_path / "x.png")]) == 2
    assert "pip install 'minialign[plot]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--keys", "los"], "did you mean 'loss'?"),
        (["--smooth", "1"], "below 1"),
        (["--smooth", "nan"], "below 1"),
        (["--height", "1"], "3 to 200"),
        (["--out", "x.txt"], ".png"),
        (["--out", "/nowhere/x.png"], "No such file"),
    ],
)
def test_plot_refuses_with_a_word(arguments: list[str], said: str, capsys):
    made()
    assert main(["runs", "plot", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_plot_of_a_run_without_steps_and_of_no_run(capsys):
    assert main(["runs", "plot"]) == 2
    assert "no runs to plot" in capsys.readouterr().err
    Run.create("dpo", {})
    assert main(["runs", "plot"]) == 2
    assert "nothing has been logged yet" in capsys.readouterr().err
    made("early", steps=5)
    assert main(["runs", "plot", "early", "--kind", "eval"]) == 2
    assert "--kind both" in capsys.readouterr().err


@pytest.mark.parametrize(
    "values", [[0.5], [0.5, 0.5], [0.0, 0.0], [1e-9, 2e-9], [1e12, -1e12], [5.0, 5.0 + 1e-12]]
)
@pytest.mark.parametrize("width", [1, 20, 80, 300])
def test_a_chart_of_any_numbers_is_drawn_within_its_width(values: list[float], width: int):
    line = Series("r", "loss", "train", list(range(1, len(values) + 1)), values)
    chart = charts.in_terminal("loss", [line, line], width=width, height=6)
    rows = chart.splitlines()
    assert len(rows) == 1 + 6 + 2 + 2
    drawn = [row for row in rows if "│" in row or "┤" in row]
    assert len(drawn) == 6
    assert any("\u2801" <= cell <= "\u28ff" or cell in "AB" for row in drawn for cell in row)
    assert max(map(len, rows)) <= max(width, 45)


def test_ticks_are_round_and_inside():
    assert charts.ticks(0.03, 0.71, 4) == pytest.approx([0.2, 0.4, 0.6])
    assert charts.ticks(1, 300, 4) == [100, 200, 300]
    assert charts.ticks(-1, 1, 5) == pytest.approx([-1, -0.5, 0, 0.5, 1])


def test_smoothing_is_an_average_without_a_bias_to_the_start():
    assert task.moving_average([3.0, 3.0, 3.0], 0.9) == pytest.approx([3.0, 3.0, 3.0])
    first, second = task.moving_average([0.0, 1.0], 0.5)
    assert first == 0
    assert second == pytest.approx((0.5 * 1) / (0.5 * 0.5 + 0.5))
    run = made()
    raw = task.series([run], ["loss"], ["train", "eval"])["loss"]
    smooth = task.series([run], ["loss"], ["train", "eval"], 0.9)["loss"]
    assert smooth[0].values[-1] > raw[0].values[-1]
    assert smooth[1] == raw[1]  # evaluations stay as they are


def test_numbers_that_are_none_are_left_out_of_a_series():
    run = Run.create("dpo", {})
    for step, value in enumerate((1.0, float("nan"), float("inf"), None, "x", True, 2.0), 1):
        run.log("train", step, {"loss": value})
    (line,) = task.series([run], ["loss"], ["train"])["loss"]
    assert (line.steps, line.values) == ([1, 7], [1.0, 2.0])
    with pytest.raises(UserError, match="no run here logged"):
        task.series([run], ["time"], ["train"])


# ---- resume


def test_resume_refuses_what_cannot_go_on(capsys):
    run = made(status="stopped")
    with run.locked():
        assert main(["runs", "resume", "dpo-1"]) == 2
        assert f"process {os.getpid()}" in capsys.readouterr().err
    run.finish("finished")
    assert main(["runs", "resume", "dpo-1"]) == 2
    err = capsys.readouterr().err
    assert "run dpo-1 is finished" in err
    assert "minialign dpo --adapter dpo-1" in err


def test_resume_of_a_method_of_another_version(capsys):
    run = Run.create("rlhf2", {"total_steps": 3})
    run.finish("stopped")
    assert main(["runs", "resume", run.name]) == 2
    assert "rlhf2" in capsys.readouterr().err


# ---- rm


def test_rm_deletes_all_that_are_named_or_none(capsys):
    runs = [made(name) for name in ("a", "b", "c")]
    with runs[1].locked():
        assert main(["runs", "rm", "a", "b", "--yes"]) == 2
    assert "stop it first" in capsys.readouterr().err
    assert runs[0].path.exists()
    assert main(["runs", "rm", "a", "b", "nothere", "--yes"]) == 2
    assert runs[0].path.exists()
    assert main(["runs", "rm", "a", "b", "a", "--yes"]) == 0
    assert [run.path.exists() for run in runs] == [False, False, True]


def answered(text: str) -> tuple[int, str]:
    """(exit code, what was said) of ``runs rm dpo-1`` when ``text`` is typed on a terminal."""
    terminal, keyboard = pty.openpty()
    command = [sys.executable, "-m", "minialign", "runs", "rm", "dpo-1"]
    os.write(terminal, text.encode())
    result = subprocess.run(command, stdin=keyboard, capture_output=True, text=True, timeout=300)
    os.close(terminal)
    os.close(keyboard)
    return result.returncode, result.stderr


def test_rm_asks_on_a_terminal():
    run = made()
    for text in ("n\n", "\n", "\x04"):
        code, said = answered(text)
        assert code == 1
        assert "Delete this run? [y/N]" in said
        assert "nothing was deleted" in said
        assert run.path.exists()
    assert answered("y\n")[0] == 0
    assert not run.path.exists()
