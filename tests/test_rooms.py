"""Who may import whom, read from the source of every module, and enforced.

A module imports from the floors below its own, from its own package, and from what stands to its
left on its own floor. Imports inside functions count as much as those at the top.
"""

import ast
import json
import os
import resource
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from support.places import ROOT

# Rooms by floor, the lowest first; within a floor in the order in which they may import each other.
FLOORS = (
    ("minialign", "errors", "records", "control", "sampling", "stats", "home", "config",
     "runs", "formats"),
    ("cpu", "ops", "losses"),
    ("models", "batch", "packing", "forward", "train", "engine"),
    ("evaluation", "methods", "select", "judge", "synth"),
    ("tasks", "lane"),
    ("cli", "__main__", "tui"),
)  # fmt: skip
PLACES = {
    room: (floor, place) for floor, rooms in enumerate(FLOORS) for place, room in enumerate(rooms)
}
FACES = {"cli": "tui", "tui": "cli", "__main__": "tui"}  # a face and the one it must not import
SLOW = ("mlx_lm", "transformers", "textual", "torch", "matplotlib", "pyarrow", "datasets")


@dataclass(frozen=True)
class Import:
    """One imported name: ``from a.b import c`` is a.b.c."""

    module: str
    line: int
    on_top: bool  # run when the module is imported: not inside a function


@cache
def imports(source: str, module: str, is_package: bool) -> tuple[Import, ...]:
    """Every import in a module's source, relative ones resolved."""
    return tuple(_imports(ast.parse(source), module, is_package))


def _is_later(node: ast.AST) -> bool:
    """Whether what stands in this node is not run when the module is imported."""
    if isinstance(node, ast.If):
        return ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)


def _imports(tree: ast.Module, module: str, is_package: bool) -> Iterator[Import]:
    inner = {id(node) for later in ast.walk(tree) if _is_later(later) for node in ast.walk(later)}
    for node in ast.walk(tree):
        on_top = id(node) not in inner
        if isinstance(node, ast.Import):
            for name in node.names:
                yield Import(name.name, node.lineno, on_top)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                parts = parts[: len(parts) - node.level + (1 if is_package else 0)]
                base = ".".join([*parts, *([base] if base else [])])
            for name in node.names:
                yield Import(f"{base}.{name.name}", node.lineno, on_top)
        elif isinstance(node, ast.Call) and node.args:
            called = node.func.attr if isinstance(node.func, ast.Attribute) else node.func
            called = called.id if isinstance(called, ast.Name) else called
            text = node.args[0]
            if called in ("import_module", "__import__") and isinstance(text, ast.Constant):
                yield Import(str(text.value), node.lineno, on_top)


def room_of(module: str) -> str | None:
    """The room of one of our modules ("minialign.models.load" -> "models"), None for others."""
    parts = module.split(".")
    if parts[0] == "tui":
        return "tui"
    if parts[0] != "minialign":
        return None
    return parts[1] if len(parts) > 1 else "minialign"


def slow_at_import(sources: dict[str, tuple[str, bool]]) -> dict[str, str]:
    """module: the chain of imports outside of functions by which it waits for a slow package."""
    chains: dict[str, str] = {}
    before = None
    while len(chains) != before:
        before = len(chains)
        for module, (source, is_package) in sources.items():
            for one in imports(source, module, is_package):
                if module in chains or not one.on_top:
                    continue
                top = one.module.partition(".")[0]
                parts = one.module.split(".")
                prefixes = [".".join(parts[: n + 1]) for n in range(len(parts))]
                if top in SLOW and not (top == "textual" and module.startswith("tui")):
                    chains[module] = f"{module}:{one.line} imports {one.module}"
                elif chain := next((chains[name] for name in prefixes if name in chains), None):
                    chains[module] = f"{module}:{one.line} imports {one.module}, and {chain}"
    return chains


def violations(sources: dict[str, tuple[str, bool]]) -> list[str]:
    """What breaks a rule, one line each; ``sources`` is module: (source, whether a package)."""
    known = set(sources)
    public = {room for room in map(room_of, known) if room}
    found = [
        f"{chain}: too slow to import outside a function"
        for module, chain in slow_at_import(sources).items()
        if not module.startswith("minialign.cpu.")  # loaded by functions of minialign.cpu
    ]
    for module, (source, is_package) in sorted(sources.items()):
        room = room_of(module)
        if room not in PLACES:
            found.append(f"{module}: give its room a place in FLOORS")
            continue
        floor = PLACES[room][0]
        for one in imports(source, module, is_package):
            where = f"{module}:{one.line} imports {one.module}"
            top = one.module.partition(".")[0]
            target = room_of(one.module)
            if target is not None and target not in public:
                target = room_of(one.module.rpartition(".")[0])  # a name of the package itself
            if target is None:
                if one.on_top and floor == 0 and top not in sys.stdlib_module_names:
                    found.append(f"{where}: floor 0 is the standard library only")
                if one.on_top and room == "cli" and top == "mlx":
                    found.append(f"{where}: --help must not wait for mlx")
            elif target not in PLACES:
                found.append(f"{where}: give that room a place in FLOORS")
            elif target != room and PLACES[target] > PLACES[room]:
                found.append(f"{where}: it is on a floor above, or to the right")
            elif target == FACES.get(room):
                found.append(f"{where}: one face must not import the other")
            if target == "cpu" and room != "cpu":
                inside = [name for name in known if name.startswith("minialign.cpu.")]
                if any(one.module == name or one.module.startswith(f"{name}.") for name in inside):
                    found.append(f"{where}: outside of cpu/ only `minialign.cpu` itself is used")
                if one.module.rpartition(".")[2].startswith("_"):
                    found.append(f"{where}: that is private to cpu/")
    return found


def our_sources() -> dict[str, tuple[str, bool]]:
    """module: (source, whether it is a package) for everything that is installed."""
    sources = {}
    for package in ("minialign", "tui"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = list(path.relative_to(ROOT).with_suffix("").parts)
            is_package = parts[-1] == "__init__"
            name = ".".join(parts[:-1] if is_package else parts)
            sources[name] = path.read_text(encoding="utf-8"), is_package
    return sources


def test_the_floors_hold():
    sources = our_sources()
    assert "minialign.runs" in sources
    assert violations(sources) == []


@pytest.mark.parametrize(
    ("module", "source", "said"),
    [
        ("minialign.runs", "from minialign.train import fit", "floor above"),
        ("minialign.runs", "def f():\n    from minialign import engine", "floor above"),
        ("minialign.runs", "import numpy", "standard library only"),
        ("minialign.formats.table", "import pyarrow", "standard library only"),
        ("minialign.errors", "from minialign.home import home", "to the right"),
        ("minialign.models.load", "from ..tasks import doctor", "floor above"),
        ("minialign.models", "from . import load, nothing\nfrom ..engine import x", "to the right"),
        ("minialign.batch", "import importlib\nimportlib.import_module('minialign.cli')", "above"),
        ("minialign.engine", "from minialign.cpu import blas", "only `minialign.cpu` itself"),
        ("minialign.engine", "import minialign.cpu.blas", "only `minialign.cpu` itself"),
        ("minialign.engine", "from minialign.cpu.blas import install", "only `minialign.cpu`"),
        ("minialign.engine", "from minialign.cpu import _state", "private"),
        ("minialign.models.load", "import mlx_lm", "too slow"),
        (
            "minialign.engine",
            "from minialign import batch\nfrom minialign.engine.kv import x",
            "too slow",
        ),
        ("minialign.cpu", "from minialign.cpu import swap", "too slow"),
        ("minialign.cli.runs", "import mlx.core as mx", "must not wait"),
        ("minialign.cli.runs", "from tui import app", "to the right"),
        ("tui.app", "from minialign.cli import console", "one face"),
        ("minialign.tasks.chat", "from tui.app import App", "floor above"),
        ("minialign.misc", "", "give its room a place"),
        ("minialign.engine", "from minialign.oracle import say", "give that room a place"),
    ],
)
def test_a_violation_is_caught(module: str, source: str, said: str):
    sources = {**our_sources(), "minialign.oracle": ("", False), "tui.app": ("", False)}
    sources = {name: ("", package) for name, (_, package) in sources.items()}
    if module != "minialign.engine" or "oracle" not in source:
        del sources["minialign.oracle"]
    sources["minialign.engine.kv"] = sources["minialign.cpu.swap"] = (
        "import mlx_lm.models.cache",
        False,
    )
    sources[module] = source, module in ("minialign.models", "minialign.cpu")
    found = [line for line in violations(sources) if line.startswith(module)]
    assert any(said in line for line in found), found


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("minialign.formats.table", "def f():\n    import pyarrow"),
        ("minialign.formats.table", "import json\nfrom minialign import errors, records"),
        ("minialign.models.load", "def f():\n    import mlx_lm\nfrom minialign import cpu, home"),
        ("minialign.models.load", "from .fetch import ensure\nfrom . import template"),
        ("minialign.ops", "from minialign.cpu import activate, status"),
        ("minialign.cpu", "from minialign.cpu import blas"),
        ("minialign.cpu.swap", "import mlx_lm"),
        ("minialign.cli.runs", "if TYPE_CHECKING:\n    import mlx.core"),
        ("minialign.cli.runs", "from minialign import __version__\nimport rich"),
        ("tui.app", "import textual\nfrom minialign.tasks import runs"),
    ],
)
def test_what_is_allowed_is_let_through(module: str, source: str):
    sources = {name: ("", package) for name, (_, package) in our_sources().items()}
    sources[module] = source, module == "minialign.cpu"
    assert [line for line in violations(sources) if line.startswith(module)] == []


def fresh(code: str) -> str:
    """What ``code`` prints in a new interpreter."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(
        command, capture_output=True, text=True, check=True, env=environment, timeout=300
    ).stdout


def test_help_imports_nothing_heavy():
    loaded = fresh(
        """
        import contextlib, io, json, sys
        from minialign.cli import main
        with contextlib.redirect_stdout(io.StringIO()) as out:
            assert main(["--help"]) == 0
        assert "minialign COMMAND" in out.getvalue()
        print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
        """
    )
    heavy = {*SLOW, "mlx", "numpy", "rich", "tokenizers", "huggingface_hub", "jinja2"}
    assert heavy & set(json.loads(loaded)) == set()


def test_help_takes_less_than_a_third_of_a_second():
    """Without the time for which other programs use the cores."""

    def waited_and_computed() -> tuple[float, float]:
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-m", "minialign", "--help"],
            check=True,
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        computed = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return time.perf_counter() - start, computed

    waited, computed = map(min, zip(*(waited_and_computed() for _ in range(5)), strict=True))
    assert waited <= 0.3 or computed <= 0.15


def test_floor_0_starts_without_any_package():
    names = [
        f"minialign.{room}" if room != "minialign" else room
        for room in FLOORS[0]
        if (ROOT / "minialign" / f"{room}.py").exists() or (ROOT / "minialign" / room).is_dir()
    ]
    code = f"import importlib\nfor name in {names}: importlib.import_module(name)\nprint('fine')"
    command = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        f"import sys; sys.path[:0] = [{str(ROOT)!r}]\n{code}",
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (result.stdout, result.stderr) == ("fine\n", "")
    assert Path(ROOT / "minialign" / "runs.py").exists()
