"""Gold sets in every spelling; what an audit says of judges whose truth is known; the command."""

import json
import random
import shutil
from pathlib import Path

import pytest

from minialign.audit.outcomes import ask_scorer, compare_verdict, read_outcomes
from minialign.audit.reference_labels import read_gold
from minialign.audit.report import report
from minialign.cli import main
from minialign.errors import UserError
from minialign.home import labels_file
from minialign.judge import decide
from minialign.labels.votes import Votes
from minialign.records import Verdict, to_json, vote_of
from minialign.rewards.scorer import Scorer


def write(path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def items(count: int, tmp_path, seed: int = 0):
    """Gold where either side, of either length, is better."""
    chance = random.Random(seed)
    rows = [
        {"prompt": f"question {n}", "a": "word " * chance.randint(1, 30),
         "b": "word " * chance.randint(1, 30) + "x", "gold": chance.choice("ab")}
        for n in range(count)
    ]  # fmt: skip
    return read_gold([write(tmp_path / f"gold{seed}.jsonl", rows)])


def verdict(gold, forward: str, backward: str) -> Verdict:
    """What a judge said with a first and with b first."""
    orders = [
        {"unparsed": "?"} if choice == "unparsed"
        else {"a": 0.1, "b": 0.1, "tie": 0.1, choice: 0.8}
        for choice in (forward, backward)
    ]  # fmt: skip
    pair = gold.comparison
    return Verdict("v", pair.prompt, pair.a, pair.b, decide(orders), orders, "judge", "pairwise")


OTHER = {"a": "b", "b": "a"}

# ---- gold sets --------------------------------------------------------------------------------


def test_llmbar_files_and_folders(tmp_path):
    rows = [{"input": "Say hi.", "output_1": "hi", "output_2": "bye", "label": "1"},
            {"input": "Add 1 and 1.", "output_1": "3", "output_2": "2", "label": 2}]  # fmt: skip
    (tmp_path / "LLMBar_Adversarial_Manual.json").write_text(json.dumps(rows))
    (tmp_path / "CaseStudy_Base_9.json").write_text(json.dumps(rows))
    found = read_gold([str(tmp_path)])
    assert [(one.best, one.subset) for one in found] == [("a", "Manual"), ("b", "Manual")]
    assert found[0].comparison.prompt == [{"role": "user", "content": "Say hi."}]
    assert len(read_gold([str(tmp_path / "CaseStudy_Base_9.json")])) == 2
    repo = tmp_path / "Dataset" / "LLMBar" / "Natural"
    repo.mkdir(parents=True)
    shutil.move(tmp_path / "LLMBar_Adversarial_Manual.json", repo / "dataset.json")
    (one, _) = read_gold([str(tmp_path / "Dataset")])
    assert one.subset == "Natural"


def test_several_annotators_are_one_item(tmp_path):
    row = {"prompt": "p", "a": "x", "b": "y"}
    swapped = {"prompt": "p", "a": "y", "b": "x"}
    path = write(tmp_path / "g.jsonl", [
        {**row, "gold": "a", "annotator": "ann"}, {**row, "gold": "b", "annotator": "bob"},
        {**swapped, "gold": "b", "annotator": "cy"}, {**row, "gold": "tie", "annotator": "bob"},
    ])  # fmt: skip
    (one,) = read_gold([path])
    assert one.votes == (("ann", "a"), ("bob", "b"), ("cy", "a"), ("bob", "tie"))
    assert one.best == "a"
    (alone,) = read_gold([path], annotators="bob")
    assert alone.best == "b"
    # without a name nobody knows whether it is the same annotator
    assert len(read_gold([write(tmp_path / "h.jsonl", [{**row, "gold": "a"}] * 2)])) == 2


def test_annotators_of_one_id_and_of_other_names_for_the_models(tmp_path):
    row = {"id": "q1", "prompt": "p", "a": "x", "b": ""}
    path = write(tmp_path / "g.jsonl", [
        {**row, "gold": "a", "annotator": "ann", "model_a": "m", "model_b": "n"},
        {**row, "gold": "a", "annotator": "bob"},
        {**row, "a": "", "b": "x", "gold": "b", "annotator": "cy", "a_from": {"model": "o"}},
    ])  # fmt: skip
    (one,) = read_gold([path])
    assert one.votes == (("ann", "a"), ("bob", "a"), ("cy", "a"))
    said = {"prompt": "p", "a": "", "b": "x", "gold": "b", "annotator": "z"}
    (found,) = read_outcomes(Path(write(tmp_path / "votes.jsonl", [said])), [one])
    assert (found.choice, found.right) == ("a", 1.0)


def test_your_own_labels(home):
    with pytest.raises(UserError, match="no labels of your own"):
        read_gold([])
    votes = Votes()
    for number, choice in (("1", "a"), ("2", "skip"), ("3", "both_bad"), ("1.2", "b")):
        row = {"id": number, "prompt": [{"role": "user", "content": number[0]}], "choice": choice,
               "a": "x", "b": "y"}  # fmt: skip
        if number == "1.2":
            row |= {"a": "y", "b": "x"}
        votes.add(vote_of(row))
    assert labels_file().exists()
    found = read_gold([])
    assert [(one.best, len(one.votes)) for one in found] == [("a", 2), ("tie", 1)]
    said = report([compare_verdict(one, verdict(one, "a", "a")) for one in found], "judge")
    assert said["consistency"] == {"same": 1, "compared": 1}


def test_preference_pairs_are_gold_too(tmp_path):
    rows = [{"prompt": f"p{n}", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(40)]
    found = read_gold([write(tmp_path / "pairs.jsonl", rows)])
    for one in found:
        assert (one.comparison.a if one.best == "a" else one.comparison.b).startswith("good")
    assert 8 < sum(one.best == "a" for one in found) < 32


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"prompt": "p", "a": "x", "b": "y", "gold": "c"}', "gold is 'c'"),
        ('{"prompt": "p", "a": "x", "b": 3, "gold": "a"}', "must be texts"),
        ('{"prompt": "", "a": "x", "b": "y", "gold": "a"}', "no prompt"),
        ('{"a": "x", "b": "y", "gold": "a"}', "no prompt"),
        ('{"prompt": "p", "response": "x"}', "does not say which"),
        ("[1, 2]", "not an object"),
        ("", "the file is empty"),
        ('{"prompt": "p", "a": "x", "b": "y", "choice": "skip"}', "no pair with a gold choice"),
        ('{"prompt": ', "found"),
    ],
)
def test_bad_gold_is_told_with_its_line(tmp_path, text: str, said: str):
    path = tmp_path / "gold.jsonl"
    path.write_text(text + "\n")
    with pytest.raises(UserError) as caught:
        read_gold([str(path)])
    assert said in caught.value.problem
    assert str(path) in caught.value.problem
    assert caught.value.hint


def test_a_gold_set_that_is_not_there():
    with pytest.raises(UserError, match="no such file"):
        read_gold(["nowhere.jsonl"])


# ---- what an audit says of judges that are known ----------------------------------------------


def audit(gold, choices):
    """The report on a judge that says ``choices(best)`` -> (with a first, with b first)."""
    return report([compare_verdict(one, verdict(one, *choices(one))) for one in gold], "judge")


def test_a_judge_that_is_right(tmp_path):
    said = audit(items(80, tmp_path), lambda one: (one.best, one.best))
    (row,) = said["rows"]
    assert row["accuracy"][0] == row["agreement"] == row["kappa"] == 1
    assert (row["first_slot"], row["conflict"], row["unparsed"]) == (0.5, 0, 0)
    assert said["leans"]["length"]["rate"] == 0.5
    assert said["conclusion"]["word"] == "usable"
    assert said["decided"]["share"] == 1
    assert said["calibration"]["bins"][0]["accuracy"] == 1


def test_a_judge_that_takes_the_first(tmp_path):
    said = audit(items(80, tmp_path), lambda one: ("a", "b"))
    (row,) = said["rows"]
    assert (row["first_slot"], row["conflict"], row["agreement"]) == (1, 1, 0)
    assert row["accuracy"][0] == 0.5
    assert said["conclusion"]["word"] == "no better than answer length"


def test_a_judge_that_takes_the_longer(tmp_path):
    def longer(one):
        pick = "a" if len(one.comparison.a) > len(one.comparison.b) else "b"
        return pick, pick

    said = audit(items(80, tmp_path), longer)
    (row,) = said["rows"]
    assert row["accuracy"][0] == row["baselines"]["longer wins"]["accuracy"]
    assert said["leans"]["length"]["rate"] == row["longer_chosen"] == 1
    assert said["leans"]["length"]["clear"]
    assert said["conclusion"]["word"] == "no better than answer length"


def test_a_judge_that_takes_the_shorter(tmp_path):
    """As a reward head that has learned nothing else, where short answers are mostly better."""
    chance, rows = random.Random(4), []
    for n in range(80):
        long, short = f"a long answer {n} " * 3, f"short {n}"
        best = "b" if chance.random() < 0.8 else "a"
        rows.append({"prompt": f"p{n}", "a": long, "b": short, "gold": best})
    gold = read_gold([write(tmp_path / "g.jsonl", rows)])
    said = audit(gold, lambda one: ("b", "b"))
    (row,) = said["rows"]
    shorter = row["baselines"]["shorter wins"]["accuracy"]
    assert row["accuracy"][0] == shorter == 1 - row["baselines"]["longer wins"]["accuracy"] > 0.7
    assert said["conclusion"]["word"] == "no better than answer length"
    assert said["conclusion"]["why"] == [f'"shorter wins" has {100 * shorter:.1f} %']
    # by a number of each answer, as a reward model gives it
    scored = list(
        ask_scorer(Scorer("short", lambda _, texts: [-len(text) for text in texts]), gold)
    )
    assert report(scored, "short")["conclusion"] == said["conclusion"]
    # no better either when the difference is within the interval
    near = audit(
        gold, lambda one: ("a", "a") if one.comparison.prompt[0]["content"] == "p1" else ("b",) * 2
    )
    assert near["conclusion"]["word"] == "no better than answer length"
    assert audit(gold, lambda one: (one.best, one.best))["conclusion"]["word"] == "usable"


def test_a_judge_that_needs_both_orders(tmp_path):
    chance = random.Random(2)

    def leaning(one):
        return ("a", "b") if chance.random() < 0.3 else (one.best, one.best)

    said = audit(items(120, tmp_path), leaning)
    assert said["conclusion"]["word"] == "usable with both orders"
    assert said["decided"]["accuracy"][0] == 1
    assert 0.6 < said["decided"]["share"] < 0.8


def test_reversed_labels_give_exactly_reversed_numbers(tmp_path):
    gold = items(60, tmp_path)
    chance = random.Random(5)
    choices = [tuple(chance.choices("ab", k=2)) for _ in gold]
    there = report(
        [compare_verdict(g, verdict(g, *c)) for g, c in zip(gold, choices, strict=True)], "judge"
    )
    # the same answers under each other's names: first shown stays first shown
    rows = [
        {"prompt": pair.prompt, "a": pair.b, "b": pair.a, "gold": OTHER[g.best]}
        for g, pair in ((g, g.comparison) for g in gold)
    ]
    turned = read_gold([write(tmp_path / "turned.jsonl", rows)])
    back = report(
        [compare_verdict(t, verdict(g, *c)) for t, g, c in zip(turned, gold, choices, strict=True)],
        "judge",
    )
    for key in ("accuracy", "agreement", "kappa", "first_slot", "conflict", "longer_chosen"):
        assert back["rows"][0][key] == pytest.approx(there["rows"][0][key])
    flipped = [{**row, "gold": OTHER[row["gold"]]} for row in rows]
    wrong = read_gold([write(tmp_path / "wrong.jsonl", flipped)])
    other = report(
        [compare_verdict(t, verdict(g, *c)) for t, g, c in zip(wrong, gold, choices, strict=True)],
        "judge",
    )
    accuracy = there["rows"][0]["accuracy"][0]
    assert other["rows"][0]["accuracy"][0] == pytest.approx(1 - accuracy)


def test_unparsed_verdicts_are_wrong_and_counted(tmp_path):
    said = audit(items(30, tmp_path), lambda one: ("unparsed", one.best))
    (row,) = said["rows"]
    assert row["unparsed"] == 30
    assert row["accuracy"][0] == 0.5
    assert row["longer_chosen"] == pytest.approx(row["baselines"]["longer wins"]["accuracy"])
    assert said["decided"]["share"] == 0
    assert "calibration" not in said


def test_self_preference_and_people(tmp_path):
    chance, rows = random.Random(1), []
    for n in range(200):
        best = chance.choice("ab")
        row = {"prompt": f"p{n}", "a": "one", "b": "two", "model_a": "me", "model_b": "you"}
        rows += [{**row, "gold": best, "annotator": "x"},
                 {**row, "gold": best if n % 4 else "tie", "annotator": "y"}]  # fmt: skip
    gold = read_gold([write(tmp_path / "g.jsonl", rows)])
    assert len(gold) == 200
    said = report(
        [compare_verdict(g, verdict(g, *(["a", "a"] if n % 2 else [g.best] * 2)))
         for n, g in enumerate(gold)], "judge", own=["me"],
    )  # fmt: skip
    assert said["leans"]["own"]["rate"] == pytest.approx(0.75, abs=0.06)
    assert said["leans"]["own"]["clear"]
    assert said["people"]["people_with_ties"] == [150, 200]
    assert said["people"]["people_without_ties"] == [150, 150]
    assert said["people"]["judge_with_ties"][1] == 400


# ---- the command ------------------------------------------------------------------------------


@pytest.fixture
def gold_file(tmp_path):
    chance = random.Random(3)
    return write(tmp_path / "gold.jsonl", [
        {"prompt": f"the fox {n}", "a": "yes " * chance.randint(1, 6),
         "b": "no " * chance.randint(1, 6), "gold": chance.choice("ab"), "subset": "xy"[n % 2]}
        for n in range(8)
    ])  # fmt: skip


def run(*words: str) -> int:
    return main(["audit", *words])


def test_the_tiny_model_is_audited_and_asked_once(home, tiny_model, gold_file, tmp_path, capsys):
    verdicts = tmp_path / "verdicts.jsonl"
    picture = tmp_path / "accuracy.svg"
    words = [str(tiny_model), "--gold", gold_file]
    assert run(*words, "-o", str(verdicts), "--plot", str(picture), "--json") == 0
    first = json.loads(capsys.readouterr().out)
    assert [row["subset"] for row in first["rows"]] == ["x", "y", "all"]
    assert first["rows"][-1]["items"] == 8
    assert len(verdicts.read_text().splitlines()) == 8
    assert picture.read_text().lstrip().startswith("<?xml")
    size = verdicts.stat().st_size
    assert run(*words, "-o", str(verdicts)) == 0
    shown = capsys.readouterr().out
    assert verdicts.stat().st_size == size
    for word in (
        "accuracy %",
        "longer wins",
        "· shorter wins",
        "S shorter wins",
        "first wins",
        "coin",
        "●",
        "calibration error",
    ):
        assert word in shown
    # what it said, as a judge of its own
    assert run(str(verdicts), "--gold", gold_file, "--json") == 0
    again = json.loads(capsys.readouterr().out)
    assert again["rows"] == first["rows"]


def test_a_scorer_is_audited(home, gold_file, capsys):
    assert run("length", "--gold", gold_file, "--json", "--limit", "3") == 0
    said = json.loads(capsys.readouterr().out)
    assert [row["items"] for row in said["rows"]] == [3, 3, 6]
    assert said["rows"][-1]["conflict"] == 0
    assert said["calibration"]["length_correlation"] > 0.8


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["length", "--gold", "nowhere.json"], "nowhere.json: no such file"),
        (["length"], "no --gold, and no labels"),
        (["lenght-model-x", "--gold", "{gold}"], "lenght-model-x"),
        (["length", "--gold", "{gold}", "--limit", "0"], "--limit 0"),
        (["length", "--gold", "{gold}", "--plot", "x.gif"], "not a picture's name"),
        (["length", "--gold", "{gold}", "-o", "/nowhere/x.jsonl"], "cannot write"),
        (["length", "--gold", "{gold}", "--annotators", "zoe"], "by annotators zoe"),
        (["smollm2-135m-4bit", "--gold", "{gold}", "--batch-size", "0"], "batch size is 0"),
        (["smollm2-135m-4bit", "--gold", "{gold}", "--template", "nope"], "no template 'nope'"),
        (["{gold}", "--gold", "{other}"], "it says nothing of any pair"),
    ],
)
def test_mistakes_are_told(home, gold_file, tmp_path, capsys, words: list[str], said: str):
    other = write(tmp_path / "other.jsonl", [{"prompt": "z", "a": "x", "b": "y", "gold": "a"}])
    words = [word.replace("{gold}", gold_file).replace("{other}", other) for word in words]
    assert run(*words) == 2
    assert said in capsys.readouterr().err


def test_mtbench_through_the_command(home, data, capsys):
    folder = data / "mtbench_human"
    assert run(str(folder / "gpt4_pair.jsonl"), "--gold", str(folder / "human.jsonl"),
               "--annotators", "expert", "--own", "gpt-4", "--json") == 0  # fmt: skip
    said = json.loads(capsys.readouterr().out)
    assert said["people"] == {
        "judge_with_ties": [886 + 871, 1343 + 1325],
        "judge_without_ties": [727 + 731, 859 + 864],
        "people_with_ties": [454 + 471, 721 + 707],
        "people_without_ties": [388 + 388, 479 + 474],
    }
    assert said["leans"]["own"]["rate"] > 0.7
    assert run("smollm2-135m-4bit", "--gold", str(folder / "human.jsonl")) == 2
    assert "without the texts" in capsys.readouterr().err


def test_llmbar_through_the_command(home, data, capsys):
    assert run("length", "--gold", str(data / "llmbar"), "--json") == 0
    said = json.loads(capsys.readouterr().out)
    longer = {row["subset"]: row["baselines"]["longer wins"]["accuracy"] for row in said["rows"]}
    assert said["items"] == 419 + 466
    assert longer["Natural"] == pytest.approx(0.565)
    assert longer["MT-Bench"] == pytest.approx(0.6925)


def test_stored_verdicts_of_other_pairs_are_left_out(tmp_path):
    gold = items(5, tmp_path)
    rows = [to_json(verdict(one, "a", "a")) for one in gold[:3]]
    found = read_outcomes(
        tmp_path / "v.jsonl" if write(tmp_path / "v.jsonl", rows) else tmp_path, gold
    )
    assert len(found) == 3
