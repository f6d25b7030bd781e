"""The front door: what `import minialign` gives, and README's notebook, line by line."""

import json
import re
import subprocess
import sys

import pytest
from support.places import MODEL_HOME, ROOT, written

import minialign
from minialign.errors import UserError
from minialign.records import Pair
from minialign.run_folder import Run

PAIRS = [
    {"prompt": f"Say {word}.", "chosen": word, "rejected": f"no {word}"}
    for word in ("fox", "dog", "yes", "lazy", "quick", "brown")
]


@pytest.fixture
def model(tiny_model, home):
    return minialign.load(str(tiny_model))


def trained(tiny_model, **settings):
    rows = [
        Pair(**{**row, "prompt": [{"role": "user", "content": row["prompt"]}]}) for row in PAIRS
    ]
    return minialign.train("dpo", data=rows, model=str(tiny_model), iters=2, **settings)


def test_no_name_is_a_rooms_or_a_modules():
    """Python would put the package in its place as soon as something under it is imported."""
    code = (
        "import importlib, pkgutil, minialign\n"
        "for _, name, _ in pkgutil.walk_packages(minialign.__path__, 'minialign.'):\n"
        "    if not name.endswith('__main__'): importlib.import_module(name)\n"
        "for name in minialign.__all__:\n"
        "    assert getattr(minialign, name) is getattr(minialign.api, name), name\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(minialign.__all__) <= set(dir(minialign))
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        minialign.trian  # noqa: B018


def test_every_name_is_documented_and_typed():
    for name in minialign.__all__:
        one = getattr(minialign, name)
        assert one.__doc__, name
        assert name in ("losses",) or callable(one)


def test_importing_it_loads_nothing():
    code = "import sys, minialign; print([name for name in sys.modules if 'minialign.' in name])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_a_prompt_is_answered_and_several_are(model):
    one = minialign.generate("quick fox", model, max_tokens=4, seed=1)
    several = minialign.generate(["quick fox", "lazy dog"], model, max_tokens=4, seed=1)
    assert isinstance(one, str)
    assert several[0] == one
    assert len(several) == 2
    with pytest.raises(UserError, match="unknown key 'max_token'") as wrong:
        minialign.generate("fox", model, max_token=4)
    assert "max_tokens" in wrong.value.hint


def test_rows_are_read_with_their_line_and_fix(tmp_path):
    file = written(tmp_path / "pairs.jsonl", PAIRS)
    assert [type(row) for row in minialign.read(file)] == [Pair] * 6
    file.write_text(file.read_text() + '{"prompt": "x", "chosen": 3, "rejected": "y"}\n')
    with pytest.raises(UserError, match=r"pairs.jsonl:7"):
        minialign.read(file)


def test_a_run_is_trained_from_rows_and_is_a_run_like_any_other(tiny_model, home, capsys):
    run = trained(tiny_model, beta=0.3, name="first")
    assert isinstance(run, Run)
    assert repr(run).startswith("Run(first: finished, step 2 of 2")
    assert run.config["beta"] == 0.3
    assert "examples to train on" in capsys.readouterr().err
    (rows,) = run.config["data"]
    assert len(minialign.read(rows)) == 6  # they are kept, so that it could be resumed
    again = minialign.train("dpo", data=rows, model=str(tiny_model), adapter=run, iters=1)
    assert again.config["adapter"] == str(run.path)
    assert repr(minialign.load(adapter=again)).startswith("Engine(")


@pytest.mark.parametrize(
    ("method", "settings", "problem", "hint"),
    [
        ("dpo", {"bta": 0.1}, "unknown key 'bta'", "beta"),
        ("dop", {}, "no method 'dop'", "dpo"),
        ("dpo", {"beta": "high"}, "beta = 'high'", ""),
        ("dpo", {"beta": -1.0}, "beta = -1.0", "above 0"),
    ],
)
def test_a_wrong_word_names_the_right_one(tiny_model, home, method, settings, problem, hint):
    with pytest.raises(UserError) as wrong:
        minialign.train(method, data="pairs.jsonl", model=str(tiny_model), **settings)
    assert problem in wrong.value.problem
    assert hint in (wrong.value.hint or "")


def test_the_best_of_n_and_a_judge_and_the_win_rate(model):
    best = minialign.best_of_n("fox", minialign.scorer("length"), 3, model, max_tokens=6)
    assert best.score == max(best.scores)
    assert str(best) == best.text in best.texts
    verdict = minialign.ask_judge("fox", "dog", "lazy dog yes", judge=model)
    assert verdict.choice in ("a", "b", "tie", "unparsed")
    rates = minialign.win_rates([verdict], a="one", b="two")
    assert rates["pairs"][0]["prompts"] == 1
    assert repr(rates).startswith("one against two: 1 prompts")
    with pytest.raises(UserError, match="unknown key 'debiased'"):
        minialign.ask_judge("fox", "a", "b", judge=model, debiased=True)


def notebook_lines() -> str:
    """README's ten lines."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"## In a notebook\n.*?```python\n(.*?)```", readme, re.DOTALL)
    return code


def test_the_ten_lines_are_those_of_the_notebook():
    cells = json.loads((ROOT / "examples/notebook.ipynb").read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert "\n".join(code).strip() == notebook_lines().strip()
    assert all(cell["outputs"] for cell in cells[-1:] if cell["cell_type"] == "code")
    assert len(notebook_lines().strip().splitlines()) <= 12


@pytest.mark.model
def test_the_ten_lines_run(embedded_model, home, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    home.mkdir(exist_ok=True)
    (home / "models").symlink_to(MODEL_HOME / "models")
    names: dict = {}
    exec(compile(notebook_lines(), "README.md", "exec"), names)
    assert names["run"].state().status == "finished"
    assert names["verdict"].choice in ("a", "b", "tie", "unparsed")


@pytest.mark.slow
def test_the_notebook_runs_in_a_kernel(embedded_model, tmp_path):
    nbformat = pytest.importorskip("nbformat", reason="pip install '.[notebook]' for this test")
    nbclient = pytest.importorskip("nbclient", reason="pip install '.[notebook]' for this test")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "models").symlink_to(MODEL_HOME / "models")
    book = nbformat.read(ROOT / "examples/notebook.ipynb", as_version=4)
    client = nbclient.NotebookClient(book, timeout=600, resources={"metadata": {"path": str(ROOT)}})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINIALIGN_HOME", str(tmp_path / "home"))
        patch.setenv("PYTHONPATH", str(ROOT))
        client.execute()
    assert any(cell.get("outputs") for cell in book.cells)
