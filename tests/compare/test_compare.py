"""``minialign compare`` on the tiny model: equal budgets, kills, reuse, honest verdicts."""

import json
import random
import re
import shlex
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from support.places import written
from support.processes import command, ended

from minialign.cli import main
from minialign.cli.compare import settings_of
from minialign.compare.config import line_of, read
from minialign.compare.plan import plan
from minialign.compare.process import record_of
from minialign.compare.report import NO_DIFFERENCE, crossed_interval, verdict, win_rate
from minialign.compare.run import command as command_of
from minialign.compare.run import is_done, run
from minialign.errors import UserError
from minialign.run_folder import Run

WORDS = ["fox", "dog", "quick", "lazy", "brown", "over", "jumps"]
CONFIG = """\
model = "{model}"
methods = ["dpo", "rrhf", "best-of-n"]
seeds = [0, 1]

[data]
prompts = "prompts.jsonl"
heldout = "heldout.jsonl"
pairs = "pairs.jsonl"

[scorers]
proxy = "length"
gold = "python:gold.py:short"

[budget]
tokens = 2500

[sampled]
n = 3
prompts = 6

[sampling]
max_tokens = 8
best_of = 4

[training]
learning_rate = 0.01
max_seq_length = 128

[start]
iters = 2

[method.dpo]
beta = 0.2
"""
GOLD = "def short(prompt, responses):\n    return [1 / (1 + len(r)) for r in responses]\n"


def text(chance, count):
    return " ".join(chance.choices(WORDS, k=count))


def make(folder, tiny_model, config=CONFIG):
    chance = random.Random(0)
    pairs = [
        {
            "prompt": f"{text(chance, 4)} {i}",
            "chosen": f"yes {text(chance, 2)}",
            "rejected": f"no {text(chance, 5)}",
        }
        for i in range(16)
    ]
    written(folder / "pairs.jsonl", pairs)
    written(folder / "prompts.jsonl", [{"prompt": f"{text(chance, 4)} {i}"} for i in range(30, 42)])
    written(folder / "heldout.jsonl", [{"prompt": f"{text(chance, 4)} {i}"} for i in range(50, 56)])
    (folder / "gold.py").write_text(GOLD)
    (folder / "compare.toml").write_text(config.format(model=tiny_model))
    return folder / "compare.toml"


def state(out):
    """What lies in a comparison's parts: every file that a repetition would change."""
    names = ("metrics.jsonl", "adapters.safetensors", "answers.jsonl", "sampled.jsonl")
    return {
        str(path.relative_to(out)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(out.rglob("*"))
        if path.name in names
    }


@pytest.fixture(scope="module")
def compared(tmp_path_factory, tiny_model):
    """A comparison that was killed (SIGKILL) in the middle of each kind of part, then went on."""
    folder = tmp_path_factory.mktemp("compare")
    config, home, out = make(folder, tiny_model), folder / "home", folder / "out"
    kills = []
    for part, file in (
        ("dpo-s0-*", "run/metrics.jsonl"),
        ("dpo-s0-answers-*", "answers.jsonl"),
        ("best-of-n-s0-*", "sampled.jsonl"),
    ):
        process = command(home, "compare", config, "--out", out)
        deadline = time.monotonic() + 100
        while not any(p.stat().st_size for p in out.glob(f"parts/{part}/{file}")):
            assert time.monotonic() < deadline
            assert process.poll() is None, process.communicate()
            time.sleep(0.005)
        process.kill()
        process.communicate()
        kills.append(state(out))
    code, stdout, err = ended(command(home, "compare", config, "--out", out))
    assert code == 0, err
    return {"config": config, "home": home, "out": out, "stdout": stdout, "err": err,
            "kills": kills, "results": json.loads((out / "results.json").read_text())}  # fmt: skip


@pytest.mark.slow
def test_killed_it_goes_on_and_asks_nothing_twice(compared):
    out = compared["out"]
    after = state(out)
    for before in compared["kills"]:
        for name, (_, content) in before.items():
            if name.endswith(".jsonl"):  # append only: what was there is still there
                whole = content[: content.rfind(b"\n") + 1]
                assert after[name][1].startswith(whole), name
    for path in out.glob("parts/*/answers.jsonl"):
        asked = [json.loads(line)["prompt_index"] for line in path.read_text().splitlines()]
        assert sorted(asked) == list(range(6)), path
    for path in out.glob("parts/*/sampled.jsonl"):
        asked = [json.loads(line)["prompt_index"] for line in path.read_text().splitlines()]
        assert len(asked) == len(set(asked)) == 6, path
    records = [read_json(path) for path in out.glob("parts/*/part.json")]
    assert all(one["peak_memory"] > 10e6 for one in records if "steps" in one)
    tries = [record["tries"] for record in records]
    assert max(map(len, tries)) >= 2  # the kills did hit something
    assert all(one["seconds"] is not None for each in tries for one in each)


def read_json(path):
    return json.loads(path.read_text())


@pytest.mark.slow
def test_all_used_the_same_budget_within_a_step(compared):
    found = {row["method"]: row for row in compared["results"]["methods"]}
    out = compared["out"]
    for method in ("dpo", "rrhf"):
        for seed in (0, 1):
            (folder,) = [
                p for p in out.glob(f"parts/{method}-s{seed}-*") if "answers" not in p.name
            ]
            steps = [row["tokens"] for row in Run(folder / "run").metrics("train")]
            used = sum(steps)
            if method == "rrhf":
                (sampled,) = out.glob(f"parts/sampled-s{seed}-*/part.json")
                charged = read_json(sampled)["tokens"]
                assert charged > 6 * 3  # at least a token an answer
                used += charged
            assert used - steps[-1] < 2500 <= used
            assert found[method]["tokens"] == pytest.approx(used, abs=max(steps))
    assert found["SFT policy"]["verdict"] == ""


@pytest.mark.slow
def test_the_report_has_every_method_and_number(compared):
    out, results = compared["out"], compared["results"]
    methods = [row["method"] for row in results["methods"]]
    assert methods == ["SFT policy", "dpo", "rrhf", "best-of-n"]
    assert results["prompts"] == 6
    start = results["methods"][0]
    assert start["kl"] == 0
    assert start["difference"] == [0, 0, 0]
    assert start["win_rate"][0] == 0.5
    for row in results["methods"]:
        assert row["seeds"] == 2
        assert row["gold"][1] <= row["gold"][0] <= row["gold"][2]
        assert row["peak_memory"] > 50e6
        assert row["seconds"] > 0.1
        assert row["verdict"] in ("", "better", "worse", NO_DIFFERENCE)
    dpo = results["methods"][1]
    assert dpo["kl"] != 0
    points = results["over_optimization"]["best-of-n"]
    assert [point["n"] for point in points] == [1, 2, 3, 4]
    assert points[-1]["proxy"] == pytest.approx(results["methods"][3]["proxy"])
    report = (out / "report.md").read_text()
    for method in methods:
        assert f"| {method} |" in report
        assert method in compared["stdout"]
    for word in ("2,500 tokens a method", "95 % intervals", "best-of-n: proxy and gold", "n = 4"):
        assert word in report
    assert "next:" in compared["err"]
    assert "minialign chat --adapter" in compared["err"]


@pytest.mark.slow
def test_the_gold_and_proxy_of_the_table_are_those_of_the_answers(compared):
    out, results = compared["out"], compared["results"]
    gold, words = [], []
    for path in out.glob("parts/dpo-s*-answers-*/answers.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        gold += [1 / (1 + len(row["response"])) for row in rows]
        words += [len(row["response"].split()) for row in rows]
    assert results["methods"][1]["gold"][0] == pytest.approx(np.mean(gold))
    assert results["methods"][1]["proxy"] == pytest.approx(np.mean(words))


@pytest.mark.slow
def test_pictures_are_drawn(compared):
    pytest.importorskip("matplotlib")
    for name in ("methods", "frontier", "over-optimization"):
        assert (compared["out"] / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
        assert "<svg" in (compared["out"] / f"{name}.svg").read_text()


@pytest.mark.slow
def test_again_it_runs_nothing_and_says_the_same(compared):
    before = state(compared["out"])
    arguments = ["compare", compared["config"], "--out", compared["out"], "--json"]
    code, stdout, err = ended(command(compared["home"], *arguments))
    assert code == 0
    assert "of 16 parts are there" not in err
    assert "15 of 15 parts are there" in err
    assert state(compared["out"]) == before
    assert json.loads(stdout)["methods"] == compared["results"]["methods"]


@pytest.mark.slow
def test_a_changed_setting_makes_that_part_anew_and_no_other(compared):
    config, out = compared["config"], compared["out"]
    other = config.with_name("other.toml")
    other.write_text(config.read_text().replace("beta = 0.2", "beta = 0.3"))
    made, changed = (plan(read(path), out, settings_of) for path in (config, other))
    assert all(map(is_done, made.parts.values()))
    missing = {name for name, part in changed.parts.items() if not is_done(part)}
    assert missing == {f"dpo-s{s}{a}" for s in (0, 1) for a in ("", "-answers")}
    gold = config.with_name("gold.py")
    kept = gold.read_text()
    gold.write_text(kept.replace("1 +", "2 +"))  # another judge: everything is judged anew
    changed = plan(read(config), out, settings_of)
    gold.write_text(kept)
    missing = {name for name, part in changed.parts.items() if not is_done(part)}
    assert missing == {n for n in changed.parts if n.endswith("answers") or "best-of-n" in n}


@pytest.mark.slow
def test_a_command_run_by_hand_gives_the_same(compared, tmp_path):
    lines = (compared["out"] / "commands.sh").read_text().splitlines()
    (line,) = [one for one in lines if one.startswith("minialign dpo") and "--seed=1" in one]
    (old,) = re.findall(r"--out=(\S+)", line)
    words = shlex.split(line.replace(old, str(tmp_path / "mine")))[1:]
    code, _, _ = ended(command(compared["home"], *words))
    assert code == 0
    weights = "adapters.safetensors"
    assert (tmp_path / "mine" / weights).read_bytes() == Path(old, weights).read_bytes()


@pytest.mark.slow
def test_ctrl_c_stops_and_the_same_command_goes_on(tiny_model, tmp_path):
    config = make(tmp_path, tiny_model, CONFIG.replace("2500", "90000").replace("[0, 1]", "[0]"))
    home, out = tmp_path / "home", tmp_path / "out"
    process = command(home, "compare", config, "--out", out, "--only", "dpo")
    deadline = time.monotonic() + 60
    while not list(out.glob("parts/dpo-s0-*/run/metrics.jsonl")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    code, stdout, err = ended(process)
    assert (code, stdout) == (130, "")
    (told,) = re.findall(r"go on with: minialign (.*)", err)
    (folder,) = out.glob("parts/dpo-s0-*/run")
    assert Run(folder).state().status == "stopped"
    assert shlex.split(told) == ["compare", str(config), "--out", str(out), "--only", "dpo"]


@pytest.mark.slow
def test_a_method_that_fails_is_told_and_the_others_go_on(home, tiny_model, tmp_path, capsys):
    config = CONFIG.replace("[0, 1]", "[0]").replace('"rrhf", "best-of-n"', '"simpo"')
    config = config.replace("tokens = 2500", "tokens = 600")
    config += "\n[method.simpo]\nmemory_limit = 0.001\n"
    path = make(tmp_path, tiny_model, config)
    assert main(["compare", str(path), "--out", str(tmp_path / "out"), "--json"]) == 2
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert [row["method"] for row in found["methods"]] == ["SFT policy", "dpo"]
    assert set(found["failed"]) == {"simpo-s0", "simpo-s0-answers"}
    assert "simpo-s0 failed: exit code 2" in err
    assert "0.0 GB are there" in err
    assert "simpo-s0-answers skipped: without simpo-s0" in err
    assert "**simpo-s0 failed**" in (tmp_path / "out" / "report.md").read_text()


BAD = [
    ("gold = ", "glod = ", ["compare.toml:12 [scorers]: unknown key 'glod'", "'gold'"]),
    ("python:gold.py:short", "length", ["compare.toml:12", "both 'length'", "allow_same = true"]),
    ("[budget]", "[budgte]", ["compare.toml:14: unknown table [budgte]", "'budget'"]),
    ("tokens = 2500", "tokens = 'many'", ["compare.toml:15 [budget]: tokens = 'many'", "int"]),
    ("tokens = 2500", "", ["compare.toml:14 [budget]: one budget", "tokens = 24000"]),
    ("tokens = 2500", "tokens = 1\nminutes = 1", ["one budget"]),
    ('"rrhf"', '"rrfh"', ["compare.toml:2: there is no method 'rrfh'", "'rrhf'"]),
    ("[method.dpo]", "[method.dop]", ["compare.toml:32: there is no method 'dop'", "'dpo'"]),
    ("beta = 0.2", "btea = 0.2", ["compare.toml:33 [method.dpo]", "no setting 'btea'", "'beta'"]),
    ("beta = 0.2", "beta = 0", ["[method.dpo]: beta = 0.0", "above 0"]),
    ("beta = 0.2", "beta = 'x'", ["[method.dpo]: argument --beta: invalid float value"]),
    ("beta = 0.2", "seed = 3", ["compare.toml:33", "seed is what the comparison sets"]),
    ("learning_rate", "learning_rat", ["compare.toml:26 [training]", "'learning_rate'"]),
    ("seeds = [0, 1]", "seeds = [0, 0]", ["compare.toml:3: seeds = [0, 0]"]),
    ("best_of = 4", "best_of = 1", ["compare.toml:23 [sampling]: best_of = 1", "at least 2"]),
    ("proxy = \"length\"", "proxy = \"lenght\"", ["compare.toml:11", "'lenght'", "'length'"]),
    ("heldout.jsonl", "prompts.jsonl", ["12 of its prompts are among the held-out"]),
    ("heldout.jsonl", "nothing.jsonl", ["nothing.jsonl"]),
    ("max_tokens = 8", "temperature = 0", ["temperature = 0", "above 0"]),
    ("[data]", "[data", ["compare.toml: ", "line 5"]),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "words"), BAD, ids=lambda part: str(part)[:30])
def test_a_mistake_in_the_file_is_named_with_its_line(
    home, tiny_model, tmp_path, capsys, old, new, words
):
    path = make(tmp_path, tiny_model, CONFIG.replace(old, new))
    assert main(["compare", str(path), "--out", str(tmp_path / "out")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert not (tmp_path / "out").exists()
    for word in words:
        assert word in err, err


def test_mistakes_on_the_command_line(home, tiny_model, tmp_path, capsys):
    path = make(tmp_path, tiny_model)
    assert main(["compare"]) == 2
    assert "which comparison?" in capsys.readouterr().err
    assert main(["compare", str(tmp_path / "none.toml")]) == 2
    assert "none.toml: No such file" in capsys.readouterr().err
    assert main(["compare", str(path), "--only", "doo"]) == 2
    assert "did you mean 'dpo'?" in capsys.readouterr().err
    assert main(["compare", str(path), "--out", str(path)]) == 2
    assert "is a file" in capsys.readouterr().err
    assert main(["compare", "--answers", str(path)]) == 2
    assert "the comparison writes this file" in capsys.readouterr().err


def test_dry_run_shows_the_plan_and_makes_nothing(home, tiny_model, tmp_path, capsys):
    path = make(tmp_path, tiny_model)
    arguments = ["compare", str(path), "--out", str(tmp_path / "out"), "--dry-run"]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert "rrhf-s1-answers" in out
    assert "missing" in out
    assert "about " in err
    assert main([*arguments, "--json"]) == 0
    parts = json.loads(capsys.readouterr().out)["parts"]
    assert len(parts) == 15
    assert all(part["command"].startswith("minialign ") for part in parts)
    assert all(part["seconds"] > 0 for part in parts)
    assert not (tmp_path / "out").exists()


def test_variants_and_rows_of_a_method(home, tiny_model, tmp_path):
    config = CONFIG.replace('"dpo", "rrhf", "best-of-n"', '"ipo", "slic", "ppo", "rloo"')
    config += '\n[method.ipo]\ncommand = "dpo"\nloss = "ipo"\n[method.slic]\nrows = "sampled"\n'
    made = plan(read(make(tmp_path, tiny_model, config)), tmp_path / "out", settings_of)
    words = {name: part.words for name, part in made.parts.items()}
    assert words["ipo-s0"][0] == "dpo"
    assert "--loss=ipo" in words["ipo-s0"]
    assert made.parts["slic-s1"].charged == "sampled-s1"
    assert f"--data={made.parts['sampled-s1'].result}" in words["slic-s1"]
    assert "--advantage=rloo" in words["rloo-s0"]
    assert "--scorer=length" in words["ppo-s0"]
    assert "--response-length=8" in words["ppo-s0"]
    assert made.parts["ppo-s0"].budget == ("max_tokens", 2500.0)
    minutes = make(tmp_path, tiny_model, config.replace("tokens = 2500", "minutes = 1.5"))
    made = plan(read(minutes), tmp_path / "out", settings_of)
    assert command_of(made, made.parts["ppo-s0"])[-1] == "--max-minutes=1.5"
    bad = config.replace('rows = "sampled"', 'rows = "prompts"')
    with pytest.raises(UserError, match="slic learns from pairs"):
        read(make(tmp_path, tiny_model, bad))


@pytest.mark.slow
def test_sampling_that_leaves_no_budget_is_said(home, tiny_model, tmp_path):
    config = CONFIG.replace("[0, 1]", "[0]").replace('"dpo", "rrhf", "best-of-n"', '"rrhf"')
    path = make(tmp_path, tiny_model, config.replace("tokens = 2500", "tokens = 50"))
    made = plan(read(path), tmp_path / "out", settings_of)
    import threading

    happened = list(run(made, threading.Event()))
    failed = {event.part.name: event.text for event in happened if event.kind == "failed"}
    assert set(failed) == {"rrhf-s0"}
    assert "sampled-s0 took" in failed["rrhf-s0"]
    assert "nothing is left" in failed["rrhf-s0"]
    assert record_of(made.parts["sampled-s0"])["finished"]


def test_lines_of_keys():
    source = 'a = 1\n[t]\n"b" = 2\n\n[ t.u ]\na=3\nc = """\nx\n"""\n'
    assert [line_of(source, *at) for at in (("", "a"), ("t", "b"), ("t.u", "a"), ("t", ""))] == [
        1, 3, 6, 2,
    ]  # fmt: skip
    assert line_of(source, "t", "a") == 0


def test_a_null_difference_is_no_difference_shown():
    chance = np.random.default_rng(0)
    false = 0
    for trial in range(200):
        prompts = chance.normal(size=60)  # some are easier than others, for both
        a, b = (prompts + chance.normal(size=(1, 60)) for _ in range(2))
        false += verdict(crossed_interval(a - b, seed=trial)) != NO_DIFFERENCE
    assert 1 <= false <= 22  # 5 % of 200, and the bootstrap's own optimism


def test_a_seed_effect_alone_is_no_difference():
    """Two lucky and two unlucky seeds: over prompts alone the mean would look certain."""
    chance = np.random.default_rng(1)
    seeds = np.array([[0.9], [-0.5], [0.8], [-0.6]])
    values = seeds + 0.05 * chance.normal(size=(4, 80))
    assert verdict(crossed_interval(values)) == NO_DIFFERENCE
    assert verdict(crossed_interval(values.mean(axis=0, keepdims=True))) == "better"


def test_a_true_difference_is_found_in_its_direction():
    chance = np.random.default_rng(2)
    values = 0.5 + chance.normal(size=(2, 80))
    mean, low, high = crossed_interval(values)
    assert low < mean < high
    assert mean == pytest.approx(values.mean())
    assert (verdict(crossed_interval(values)), verdict(crossed_interval(-values))) == (
        "better",
        "worse",
    )
    assert verdict((0.0, 0.0, 0.0)) == NO_DIFFERENCE


def test_win_rates_count_ties_half_and_are_never_certain():
    ones, zeros = np.ones((1, 10)), np.zeros((1, 10))
    assert win_rate(ones, ones)[0] == 0.5
    rate, low, high = win_rate(ones, zeros)
    assert rate == 1
    assert low < 0.9
    assert high == pytest.approx(1)
