"""``minialign models``: list, import, info, rm."""

import json
from pathlib import Path

import pytest

from minialign.cli import main
from minialign.models.sources.fetch import import_model

# The command


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["models", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_list_command(home: Path, gguf_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import_model(gguf_file, "mine")
    code, out, err = run(capsys, "list", "--json")
    rows = {row["name"]: row for row in map(json.loads, out.splitlines())}
    assert code == 0
    assert rows["mine"]["installed"]
    assert not rows["smollm2-135m-4bit"]["installed"]
    assert rows["mine"]["params"] == 900 * 64 + 2 * (2 * 64 * 64 + 2 * 32 * 64 + 6 * 64 * 64) + 320
    code, out, err = run(capsys, "list")
    assert "llama-3b-4bit" in out
    assert "minialign models pull" in err


def test_import_info_and_rm_commands(
    home: Path, gguf_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "import", str(gguf_file), "--name", "mine", "--bits", "4")
    assert (code, out) == (0, "")
    assert "mine is here" in err
    code, out, err = run(capsys, "info", "mine", "--json")
    facts = json.loads(out)
    assert (facts["architecture"], facts["bits"], facts["layers"]) == ("llama", 4, 2)
    assert facts["end_tokens"] == ["<|endoftext|>", "<|im_end|>"]
    code, out, err = run(capsys, "info", "mine")
    assert "architecture" in out
    code, out, err = run(capsys, "rm", "mine", "--json")
    assert json.loads(out)["removed"]
    code, out, err = run(capsys, "rm", "mine")
    assert code == 2
    assert "is not here" in err


def test_info_of_what_is_not_here(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "info", "llama-3b-4bit")
    assert code == 0
    assert "mlx-community/Llama-3.2-3B-Instruct-4bit" in out
    assert "minialign models pull llama-3b-4bit" in err
    code, out, err = run(capsys, "info", "lama-3b-4bit")
    assert code == 2
    assert "did you mean 'llama-3b-4bit'" in err
    code, out, err = run(capsys, "import", "absent.gguf")
    assert code == 2
    assert "no such file" in err
