"""What the repository holds: its top level, the file tree in the README, and nothing private."""

import re
import subprocess
from functools import cache
from pathlib import PurePosixPath

import pytest
from support.places import ROOT

TOP_LEVEL = {
    "minialign", "tui", "examples", "tests",
    "README.md", "LICENSE", "Makefile", "pyproject.toml", "setup.py", "MANIFEST.in",
}  # fmt: skip
UNLISTED = {"__init__.py", "py.typed"}  # files that say nothing by themselves

# What must not be in any file. A "~" splits what this file would otherwise hold itself.
FORBIDDEN = {
    "a path of one machine": r"(?<![\w.~])/(?:home|Users|work|root)/[a-z]",
    "a package index of one network": r"(?:index-url|find-links)[ =]+(?!https://pypi\.org)\S",
    "a Hugging Face token": r"\bhf_[A-Za-z0-9]{30,}",
    "a GitHub token": r"\b(?:ghp|gho|ghs)_[A-Za-z0-9]{30,}|\bgithub_pat_\w{30,}",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "a password in an address": r"https?://[\w.-]+:[^/\s@\"']+@",
    "an unfinished merge": r"^(?:<{7} |>{7} |={7}$)",
    "an unfinished thought": r"\b(?:TO~DO|FIX~ME|X~XX)\b".replace("~", ""),
}


@cache
def files() -> tuple[str, ...]:
    """Paths of what git tracks, and of what it would track: new files that it does not ignore."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return tuple(sorted(name for name in listed.split("\0") if name and (ROOT / name).exists()))


def test_the_top_level_holds_only_what_belongs_there():
    top = {name.partition("/")[0] for name in files()}
    assert {name for name in top if not name.startswith(".")} - TOP_LEVEL == set()
    assert {"minialign", "tests", "pyproject.toml"} <= top


def violations(name: str, text: str) -> list[str]:
    """What a file holds that it must not, one line each."""
    return [
        f"{name}:{text[: match.start()].count(chr(10)) + 1}: {what}: {match.group()!r}"
        for what, pattern in FORBIDDEN.items()
        for match in re.finditer(pattern, text, re.MULTILINE)
    ]


def test_no_file_holds_anything_private_or_unfinished():
    found = []
    for name in files():
        data = (ROOT / name).read_bytes()
        if b"\0" not in data:
            found += violations(name, data.decode("utf-8", errors="replace"))
    assert found == []


@pytest.mark.parametrize(
    "text",
    [
        "cd /ho~me/anna/minialign",
        "--extra-index~-url http://pypi.internal/simple",
        "token = 'hf_~" + "a1B2" * 9 + "'",
        "-----BEGIN RSA PRI~VATE KEY-----",
        "https:/~/me:hunter2@example.org",
        "x = 1\n<<<<<<~< HEAD\n",
        "# TO~DO: later",
    ],
)
def test_each_forbidden_thing_is_found(text: str):
    assert violations("file", text) == []
    assert len(violations("file", text.replace("~", ""))) == 1


def test_ordinary_text_is_let_through():
    text = "see ~/.minialign, $HOME/runs, ~/work/x, a/home/b, "
    text += "https://pypi.org/simple, hf_token, x == 7\n"
    assert violations("file", text) == []


# ---- the README's file tree


def tree(readme: str) -> dict[str, str]:
    """path: caption, from the fenced block after the heading "## The files"."""
    section = re.search(r"^## The files\s*$(.*?)(?=^## |\Z)", readme, re.MULTILINE | re.DOTALL)
    assert section, 'the README needs a heading "## The files"'
    block = re.search(r"^```\w*\n(.*?)^```", section.group(1), re.MULTILINE | re.DOTALL)
    assert block, "a fenced block with the tree belongs under that heading"
    entries: dict[str, str] = {}
    for line in block.group(1).splitlines():
        if line.strip():
            path, _, caption = line.strip().partition(" ")
            assert path not in entries, f"{path} is listed twice"
            entries[path] = caption.strip()
    return entries


def mistakes(entries: dict[str, str], tracked: tuple[str, ...]) -> list[str]:
    """Where the tree and the files differ.

    A folder is written with a slash at its end. One line can stand for a whole folder; but when
    anything in a folder is listed, then everything in it must be.
    """
    folders = {f"{parent}/" for name in tracked for parent in PurePosixPath(name).parents}
    folders.discard("./")
    found = [f"{path}: has no caption" for path, caption in entries.items() if not caption]
    found += [
        f"{path}: is not there" for path in entries if path not in folders and path not in tracked
    ]
    opened = {
        f"{parent}/" if str(parent) != "." else ""
        for path in entries
        for parent in PurePosixPath(path).parents
    }
    for path in sorted({*tracked, *folders}):
        pure = PurePosixPath(path)
        parent = f"{pure.parent}/" if str(pure.parent) != "." else ""
        hidden = any(part.startswith(".") for part in pure.parts) or pure.name in UNLISTED
        if parent in opened and not hidden and path not in entries and path not in opened:
            found.append(f"{path}: is not listed")
    return found


def test_the_readme_lists_exactly_the_real_files():
    readme = ROOT / "README.md"
    if not readme.exists():
        pytest.skip("there is no README yet")
    entries = tree(readme.read_text(encoding="utf-8"))
    assert mistakes(entries, files()) == []
    listed = {path for path in entries if path.startswith("minialign/")}
    assert len(listed) > 10, "the tree goes down to the modules"


def test_each_difference_of_the_tree_is_found():
    tracked = ("README.md", ".ci/run", "pkg/__init__.py", "pkg/a.py", "pkg/deep/b.py", "tests/t.py")
    entries = tree(
        "# x\n## The files\nHere:\n```\nREADME.md  this\npkg/a.py   the a\npkg/deep/  the deep\n"
        "tests/     the tests\n```\n## Next\n```\nother\n```\n"
    )
    assert entries == {
        "README.md": "this",
        "pkg/a.py": "the a",
        "pkg/deep/": "the deep",
        "tests/": "the tests",
    }
    assert mistakes(entries, tracked) == []
    without = {path: text for path, text in entries.items() if path != "pkg/deep/"}
    assert mistakes(without, tracked) == ["pkg/deep/: is not listed"]
    assert mistakes(entries, (*tracked, "pkg/new.py")) == ["pkg/new.py: is not listed"]
    assert mistakes(entries, (*tracked, "new.py")) == ["new.py: is not listed"]
    assert mistakes({**entries, "pkg/gone.py": "x"}, tracked) == ["pkg/gone.py: is not there"]
    assert mistakes({**entries, "pkg/a.py": ""}, tracked) == ["pkg/a.py: has no caption"]
