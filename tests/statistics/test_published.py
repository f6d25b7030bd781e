"""Published and recomputed numbers from the files they are of; skipped where those are absent."""

import csv
import gzip
import json
import math
from collections import defaultdict
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from minialign.judge.endpoint import parse_word
from minialign.judge.templates import read_template
from minialign.statistics import bradley_terry
from minialign.statistics.agreement import (
    accuracy,
    ceiling,
    cohen_kappa,
    count_agreement,
    swap_agreement,
)
from minialign.statistics.bias import baselines, conflict_rate, first_slot_rate
from minialign.statistics.bradley_terry import Game

CHOICE = {"1": "a", "2": "b", "None": "unparsed"}


@cache
def llmbar_runs(data: Path):
    """(subset, judge, strategy): (choices with 1 first, with 2 first, gold)."""
    runs = defaultdict(lambda: ([], [], []))
    with gzip.open(data / "llmbar" / "verdicts.csv.gz", "rt", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            run = runs[row["subset"], row["evaluator"], row["strategy"]]
            for column, kept in zip(("winner_noswap", "winner_swap", "label"), run, strict=True):
                kept.append(CHOICE[row[column]])
    return dict(runs)


def test_all_stored_llmbar_runs(data):
    runs = llmbar_runs(data)
    with open(data / "llmbar" / "published_statistics.csv", encoding="utf-8") as file:
        published = list(csv.DictReader(file))
    assert len(published) == len(runs) == 499
    for row in published:
        forward, backward, gold = runs[row["subset"], row["evaluator"], row["strategy"]]
        said = float(row["correct_average"].rstrip("%")) / 100
        found = (accuracy(forward, gold) + accuracy(backward, gold)) / 2
        assert found == pytest.approx(said, abs=1e-12), row
        same = float(row["equal"].partition("= ")[2].rstrip("%")) / 100
        assert swap_agreement(forward, backward) == pytest.approx(same, abs=1e-12), row
        # there an unparsed verdict is counted as the second answer
        merged = [["a" if c == "a" else "b" for c in choices] for choices in (forward, backward)]
        kappa = float(row["kappa_agreement"])
        found = cohen_kappa(*merged)
        assert (math.isnan(kappa) and math.isnan(found)) or found == pytest.approx(kappa, abs=1e-12)


def test_position_bias_on_faireval(data):
    runs = llmbar_runs(data)
    for judge, first, conflict in (("ChatGPT", 0.909, 0.818), ("GPT-4", 0.621, 0.303)):
        forward, backward, _ = runs["Processed/FairEval", judge, "Vanilla_NoRules"]
        assert len(forward) == 66
        assert first_slot_rate(forward, backward) == pytest.approx(first, abs=5e-4)
        assert conflict_rate(forward, backward) == pytest.approx(conflict, abs=5e-4)


@pytest.mark.parametrize(
    ("name", "count", "longer"),
    [
        ("LLMBar_Natural", 100, 0.565), ("LLMBar_Adversarial_Neighbor", 134, 0.119),
        ("LLMBar_Adversarial_GPTInst", 92, 0.130), ("LLMBar_Adversarial_GPTOut", 47, 0.447),
        ("LLMBar_Adversarial_Manual", 46, 0.185), ("Processed_FairEval", 66, 0.591),
        ("Processed_LLMEval2", 200, 0.613), ("Processed_MT-Bench", 200, 0.693),
    ],
)  # fmt: skip
def test_longer_wins(data, name: str, count: int, longer: float):
    rows = json.loads((data / "llmbar" / f"{name}.json").read_text(encoding="utf-8"))
    assert len(rows) == count
    found = baselines(
        [row["output_1"] for row in rows], [row["output_2"] for row in rows],
        [CHOICE[str(row["label"])] for row in rows],
    )  # fmt: skip
    assert found["longer wins"]["accuracy"] == pytest.approx(longer, abs=6e-4)


def test_the_verdicts_in_texts_that_give_no_reasons(data):
    template = replace(read_template("metrics"), words=("a", "b"), answer="Output (")
    path = data / "llmbar" / "judge_completions_sample.jsonl.gz"
    same, read_in_prose = 0, 0
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for row in map(json.loads, file):
            # "Swap" asks twice, first for an explanation, then for at most 50 tokens
            first_round = row["strategy"] == "Swap" and len(row["completion"]) > 250
            if "CoT" in row["strategy"] or first_round:
                continue
            found = parse_word(row["completion"], template)
            choice = "unparsed" if found is None else "ba"[found] if row["swap"] else "ab"[found]
            same += choice == CHOICE[str(row["winner"])]
            read_in_prose += choice != "unparsed" and CHOICE[str(row["winner"])] == "unparsed"
    # The stored runs read a verdict at the beginning of a line only; the last one counts here.
    assert (same, read_in_prose) == (1689, 10)


def mtbench(path: Path, judges: str):
    """turn: what was compared: the votes, with the two models in one order."""
    votes = {1: defaultdict(list), 2: defaultdict(list)}
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if not row["judge"].startswith(judges):
            continue
        swapped = row["model_a"] > row["model_b"]
        names = {"model_a": "ba"[not swapped], "model_b": "ab"[not swapped]}
        models = tuple(sorted([row["model_a"], row["model_b"]]))
        choice = names.get(row["winner"], "tie")
        votes[row["turn"]][row["question_id"], models].append(choice)
    return votes


def test_mtbench_agreement(data):
    experts = mtbench(data / "mtbench_human" / "human.jsonl", "expert")
    judge = mtbench(data / "mtbench_human" / "gpt4_pair.jsonl", "gpt4")
    for turn, with_ties, without, people, people_without in (
        (1, (886, 1343), (727, 859), (454, 721), (388, 479)),
        (2, (871, 1325), (731, 864), (471, 707), (388, 474)),
    ):
        assert count_agreement(judge[turn], experts[turn]) == with_ties
        assert count_agreement(judge[turn], experts[turn], ties=False) == without
        assert ceiling(experts[turn]) == people
        assert ceiling(experts[turn], ties=False) == people_without


def test_mtbench_gpt4_changes_its_mind_on_380(data):
    lines = (data / "mtbench_human" / "gpt4_pair.jsonl").read_text(encoding="utf-8").splitlines()
    winners = [json.loads(line)["winner"] for line in lines]
    # what was stored is the sum of both orders: an inconsistent tie is a conflict
    forward = ["a" if winner == "tie (inconsistent)" else "tie" for winner in winners]
    backward = ["b" if winner == "tie (inconsistent)" else "tie" for winner in winners]
    assert conflict_rate(forward, backward) == pytest.approx(380 / 2400)


def test_bradley_terry_on_citations(data):
    stored = json.loads((data / "bradley_terry" / "citations.json").read_text(encoding="utf-8"))
    names, wins = stored["journals"], stored["wins_row_cited_over_col_citing"]
    games = [
        Game(a, b, 1.0, weight=wins[i][j])
        for i, a in enumerate(names)
        for j, b in enumerate(names)
        if i != j
    ]
    fitted = bradley_terry.fit(games, reference="Biometrika")
    exact = [0.0, -2.949072, -0.479570, 0.268954]
    assert [fitted.ability[name] for name in names] == pytest.approx(exact, abs=5e-7)
    assert fitted.ability == pytest.approx(stored["published_log_ability"], abs=5e-5)
    # the errors of the R package's vignette
    assert [fitted.error[name] for name in names[1:]] == pytest.approx(
        [0.10255, 0.06059, 0.07083], abs=5e-5
    )


def test_bradley_terry_on_baseball_with_the_home_effect(data):
    stored = json.loads((data / "bradley_terry" / "baseball.json").read_text(encoding="utf-8"))
    games = []
    for home, away, won, lost in stored["rows"]:
        games += [Game(home, away, 1.0, 1, won), Game(home, away, 0.0, 1, lost)]
    published = stored["published"]
    plain = bradley_terry.fit(games, reference="Baltimore")
    above = sorted(value for name, value in plain.ability.items() if name != "Baltimore")
    assert above == pytest.approx(published["sorted_log_ability_no_home_vs_Baltimore"], abs=6e-3)
    errors = [error for name, error in plain.error.items() if name != "Baltimore"]
    assert errors == pytest.approx([published["std_error_about"]] * 6, abs=0.06)
    at_home = bradley_terry.fit(games, order=True, reference="Baltimore")
    assert at_home.order == pytest.approx(published["at_home"], abs=5e-4)
    odds = [math.exp(ability) for ability in at_home.ability.values()]
    assert sorted(one / sum(odds) for one in odds) == pytest.approx(
        published["sorted_abilities_with_home_sum1"], abs=6e-4
    )


@pytest.mark.parametrize("name", ["choix_pairwise_1", "choix_pairwise_2"])
def test_bradley_terry_on_choix(data, name: str):
    stored = json.loads((data / "bradley_terry" / f"{name}.json").read_text(encoding="utf-8"))
    fitted = bradley_terry.fit([Game(str(a), str(b), 1.0) for a, b in stored["data"]])
    centre = sum(fitted.ability.values()) / stored["n_items"]
    found = [fitted.ability[str(i)] - centre for i in range(stored["n_items"])]
    assert found == pytest.approx(stored["ml_est"], abs=1e-7)
