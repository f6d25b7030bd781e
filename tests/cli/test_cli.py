"""The command line as a whole: help, unknown commands, exit codes, stdout against stderr."""

import argparse
import functools
import importlib
import json
import os
import resource
import subprocess
import sys

import pytest
from support.places import ROOT

from minialign import __version__, cli
from minialign.cli import COMMANDS, console, main
from minialign.errors import UserError

PYTHON = [sys.executable, "-m", "minialign"]
HEAVY = ("mlx_lm", "transformers", "textual", "torch", "matplotlib", "pyarrow", "datasets")


def run(*arguments: str, **options) -> subprocess.CompletedProcess:
    """``python -m minialign`` in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}
    return subprocess.run(
        [*PYTHON, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        stdin=subprocess.DEVNULL,
        timeout=300,
        **options,
    )


def test_help_lists_every_command_on_stdout():
    for arguments in ([], ["--help"], ["-h"], ["help"]):
        result = run(*arguments)
        assert (result.returncode, result.stderr) == (0, "")
        for command in COMMANDS:
            assert f"\n  {command} " in result.stdout
        assert max(map(len, result.stdout.splitlines())) <= 80


def test_version_from_the_module_and_from_the_command(capsys):
    result = run("--version")
    assert (result.returncode, result.stdout, result.stderr) == (
        0,
        f"minialign {__version__}\n",
        "",
    )
    assert main(["-V"]) == 0
    assert capsys.readouterr().out == f"minialign {__version__}\n"


def cpu_seconds_of_children() -> float:
    """Processor time of ended child processes; unlike wall time, what else runs does not count."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@functools.cache
def bare_seconds() -> float:
    """Processor time of Python with NumPy and MLX: how fast this machine starts anything."""
    before = cpu_seconds_of_children()
    for _ in range(3):
        subprocess.run([sys.executable, "-c", "import numpy, mlx.nn"], check=True, timeout=300)
    return (cpu_seconds_of_children() - before) / 3


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help_and_it_is_fast(command: str):
    code = (
        "import sys, json\nfrom minialign.cli import main\n"
        f"try: main([{command!r}, '--help'])\nexcept SystemExit as end: assert not end.code\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})),"
        " file=sys.stderr)"
    )
    best, bound = float("inf"), 4 * bare_seconds()
    for _ in range(5):
        before = cpu_seconds_of_children()
        result = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=300
        )
        best = min(best, cpu_seconds_of_children() - before)
        assert result.returncode == 0, result.stderr
        if best < bound:
            break
    assert result.stdout.startswith(f"usage: minialign {command}")
    assert len(result.stdout.splitlines()) >= 4
    assert set(HEAVY) & set(json.loads(result.stderr.splitlines()[-1])) == set()
    assert best < bound


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_refuses_a_flag_that_it_does_not_have(command: str, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, "--no-such-flag-at-all"])
    assert end.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.strip()


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_module_follows_the_protocol(command: str):
    module = importlib.import_module(COMMANDS[command][0])
    parser = argparse.ArgumentParser()
    module.add_arguments(parser, command)
    assert callable(module.run)
    assert module.__doc__
    assert COMMANDS[command][1]


@pytest.mark.parametrize(
    ("typed", "meant"), [("dop", "dpo"), ("run", "runs"), ("docter", "doctor"), ("chats", "chat")]
)
def test_an_unknown_command_names_the_nearest(typed: str, meant: str, capsys):
    assert main([typed]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert f"did you mean {meant!r}?" in err


def test_an_unknown_command_like_no_other_lists_all(capsys):
    assert main(["xyzzyxyzzy"]) == 2
    err = capsys.readouterr().err
    for command in COMMANDS:
        assert command in err


def test_a_users_mistake_is_two_lines_and_code_2(tmp_path):
    result = run("runs", "show", "no-such-run", env={"MINIALIGN_HOME": str(tmp_path / "none")})
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.splitlines() == [
        "minialign: there is no run 'no-such-run'",
        "  there are no runs yet",
    ]


def behaves(monkeypatch, error: BaseException | None) -> int:
    """The exit code of a command that raises ``error``."""

    class Command:
        @staticmethod
        def add_arguments(parser: argparse.ArgumentParser, command: str) -> None: ...

        @staticmethod
        def run(arguments: argparse.Namespace) -> int:
            console.emit("data")
            console.say("narration")
            if error is not None:
                raise error
            return 7

    monkeypatch.setitem(sys.modules, "fake_command", Command)
    monkeypatch.setitem(cli.COMMANDS, "fake", ("fake_command", "a command of this test"))
    return main(["fake"])


def test_exit_codes_and_streams(monkeypatch, capsys):
    assert behaves(monkeypatch, None) == 7
    out, err = capsys.readouterr()
    assert (out, err) == ("data\n", "narration\n")
    assert behaves(monkeypatch, UserError("what is wrong", "what to do")) == 2
    assert capsys.readouterr().err == "narration\nminialign: what is wrong\n  what to do\n"
    assert behaves(monkeypatch, KeyboardInterrupt()) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_bug_shows_its_traceback(monkeypatch):
    with pytest.raises(ZeroDivisionError):  # not hidden: everything but a UserError is a bug
        behaves(monkeypatch, ZeroDivisionError())


def test_a_closed_pipe_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run(
        [*PYTHON, "doctor", "--json"], stdout=writer, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    os.close(writer)
    assert result.returncode == 0
    assert "Traceback" not in result.stderr
    assert "BrokenPipeError" not in result.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_without_unicode_still_gets_the_help(encoding: str):
    result = run("--help", env={"PYTHONIOENCODING": encoding, "LC_ALL": "C"})
    assert result.returncode == 0


def test_numbers_for_people():
    assert [console.duration(s) for s in (0.2, 59, 61, 3600, 7500)] == [
        "0 s",
        "59 s",
        "1 min 1 s",
        "1 h 0 min",
        "2 h 5 min",
    ]
    assert [console.size(n) for n in (0, 999, 1500, 93e6, 1.8e9, 2.5e12)] == [
        "0 B",
        "999 B",
        "2 kB",
        "93 MB",
        "1.8 GB",
        "2500.0 GB",
    ]


def test_progress_passes_its_items_and_keeps_stdout_clean(capsys):
    assert list(console.progress(range(3), 3, "rows")) == [0, 1, 2]
    assert capsys.readouterr().out == ""


def test_a_table_prints_text_as_it_is(capsys):
    console.table(("model", "n"), [("[bold]x[/bold]", 1), ("é" * 30, 22)])
    out = capsys.readouterr().out
    assert "[bold]x[/bold]" in out
    assert len(out.splitlines()) == 3
