"""Best-of-n: the estimator and the sampler against exact enumeration; the commands."""

import itertools
import json
import math
import random
from collections import Counter

import mlx.core as mx
import numpy as np
import pytest

from minialign import formats
from minialign.cli import main
from minialign.data.prompts import prompt_ids
from minialign.engine import Engine, Sampling
from minialign.models.load import load
from minialign.records import Pair, Prompted, Ranking
from minialign.rewards.scorer import Scorer
from minialign.samples.best_of_n import (
    curve,
    expected_best,
    kl_bound,
    score_group,
    summary,
    weights,
)
from minialign.samples.groups import sample_groups

# ---- the estimator ----------------------------------------------------------------------------


def test_the_estimator_is_the_mean_over_all_subsets():
    chance = random.Random(0)
    for count in (1, 2, 5, 7):
        scores = [chance.choice([0, 1, 2, 3.5]) for _ in range(count)]  # with ties
        gold = [chance.random() for _ in range(count)]
        for n in range(1, count + 1):
            subsets = list(itertools.combinations(range(count), n))
            best = np.mean([max(scores[i] for i in subset) for subset in subsets])
            assert expected_best(scores, n) == pytest.approx(best)
            chosen = []
            for subset in subsets:  # ties are broken at random
                top = [i for i in subset if scores[i] == max(scores[j] for j in subset)]
                chosen.append(np.mean([gold[i] for i in top]))
            if len(set(scores)) == count or n == 1:
                assert expected_best(scores, n, gold) == pytest.approx(np.mean(chosen))
            assert weights(count, n).sum() == pytest.approx(1)


def test_kl_by_hand_and_by_enumeration():
    assert kl_bound(1) == 0
    assert kl_bound(2) == pytest.approx(math.log(2) - 0.5)
    # many equally likely responses without ties: the best of n has density n F^(n - 1)
    size, n = 20000, 5
    share = np.diff((np.arange(size + 1) / size) ** n)
    assert (share * np.log(share * size + 1e-300)).sum() == pytest.approx(kl_bound(n), abs=1e-3)


def test_the_curve_has_means_and_standard_errors():
    points = curve([[0, 1, 2], [3, 3, 3]], [[5, 6, 7], [1, 1, 1]])
    assert [point.n for point in points] == [1, 2, 3]
    assert points[0].proxy == pytest.approx(2.0)
    assert points[2].proxy == pytest.approx(2.5)
    assert points[2].gold == pytest.approx(4.0)
    assert points[2].proxy_error == pytest.approx(np.std([2, 3], ddof=1) / math.sqrt(2))
    (alone,) = curve([[4.0]])
    assert (alone.n, alone.kl, alone.proxy, alone.proxy_error, alone.gold) == (1, 0, 4, 0, None)
    with pytest.raises(ValueError):
        expected_best([], 1)


# ---- the sampler on a toy vocabulary ----------------------------------------------------------

TOY = Sampling(temperature=1.0, top_k=3, max_tokens=2)


@pytest.fixture(scope="module")
def engine(tiny_model):
    return Engine(load(str(tiny_model)))


def enumerated(engine, prompt):
    """{ids: probability} of all answers of two tokens, each one of the three likeliest."""

    def three(ids):
        logits = np.array(engine.model.module(mx.array([ids]))[0, -1], np.float64)
        top = np.argsort(-logits)[:3]
        shares = np.exp(logits[top] - logits[top].max())
        return zip(top.tolist(), shares / shares.sum(), strict=True)

    found = {}
    for first, p in three(prompt):
        if first in engine.tokenizer.eos_ids:
            found[first,] = p
            continue
        for second, q in three([*prompt, first]):
            found[first, second] = p * q
    assert sum(found.values()) == pytest.approx(1)
    return found


def test_best_of_n_equals_exact_enumeration_on_a_toy_vocabulary(engine):
    asked = Prompted([{"role": "user", "content": "quick fox"}])
    chances = enumerated(engine, prompt_ids(asked, engine.tokenizer))
    count = 1200
    (group,) = sample_groups(engine, [asked], count, TOY, seed=5, batch_size=256)
    seen = Counter(tuple(sample.ids) for sample in group.samples)
    assert set(seen) <= set(chances)
    statistic = sum((seen[ids] - count * p) ** 2 / (count * p) for ids, p in chances.items())
    assert statistic < 26.1  # chi-square, 8 degrees of freedom, 0.1 %
    # a score for each answer; best-of-n exactly: sum of s (F(s)^n - F(s-)^n)
    worth = {ids: float(rank * rank) for rank, ids in enumerate(sorted(chances))}
    ascending = sorted(chances, key=worth.__getitem__)
    cumulated = np.cumsum([chances[ids] for ids in ascending])
    scores = [worth[tuple(sample.ids)] for sample in group.samples]
    for n in (1, 2, 4, 8):
        shares = np.diff(np.concatenate([[0], cumulated**n]))
        exact = float(sum(share * worth[i] for share, i in zip(shares, ascending, strict=True)))
        # the standard error from parts of the sample
        parts = [expected_best(scores[at : at + 100], n) for at in range(0, count, 100)]
        error = np.std(parts, ddof=1) / math.sqrt(len(parts))
        assert abs(expected_best(scores, n) - exact) < 4 * error + 1e-9


def test_a_group_does_not_depend_on_the_batch_or_on_other_prompts(engine):
    asked = [Prompted([{"role": "user", "content": text}]) for text in ("fox", "dog yes", "lazy")]
    sampling = Sampling(temperature=1.0, max_tokens=6)
    every = {group.index: group for group in sample_groups(engine, asked, 3, sampling, 7, 16)}
    assert sorted(every) == [0, 1, 2]
    assert [sample.sample_index for sample in every[1].samples] == [0, 1, 2]
    (one,) = sample_groups(engine, asked, 3, sampling, 7, 2, skip=frozenset({0, 2}))
    assert one.texts == every[1].texts


# ---- the task and the commands ----------------------------------------------------------------


def length_of_ids(prompt, responses):
    return [float(len(response)) for response in responses]


def test_rows_hold_every_candidate_and_the_best(engine):
    asked = [Prompted([{"role": "user", "content": f"fox {i}"}], extra={"k": i}) for i in range(3)]
    scorer, gold = Scorer("long", length_of_ids), Scorer("zero", lambda p, r: [0.0] * len(r))
    sampling = Sampling(temperature=1.0, max_tokens=8)
    groups = sample_groups(engine, asked, 4, sampling)
    rows = [score_group(group, scorer, gold, {"model": "m"}) for group in groups]
    for row in rows:
        assert len(row["responses"]) == len(row["scores"]) == len(row["seeds"]) == 4
        assert row["best"] == max(row["responses"], key=len)
        assert row["best"] == row["responses"][row["best_index"]]
        assert (row["gold_scores"], row["extra"]["k"]) == ([0.0] * 4, row["prompt_index"])
    report = summary(rows)
    assert (report["prompts"], report["n"]) == (3, 4)
    assert (report["scorer"], report["gold"]) == ("long", "zero")
    best = np.mean([max(row["scores"]) for row in rows])
    assert report["points"][-1]["proxy"] == pytest.approx(best)
    assert report["points"][0]["proxy"] == pytest.approx(np.mean([row["scores"] for row in rows]))


@pytest.fixture
def prompts(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("quick fox\nlazy\u2028\x85dog\nyes\n")
    return file


def command(name, prompts, tiny_model, *flags):
    return main([
        name, str(prompts), "--model", str(tiny_model), "--max-tokens", "6", "--temp", "1",
        *flags,
    ])  # fmt: skip


def test_the_command_writes_rows_a_table_and_a_picture(prompts, tiny_model, home, tmp_path, capsys):
    out, plot = tmp_path / "best.jsonl", tmp_path / "best.svg"
    flags = ["--n", "3", "--scorer", "length", "--gold", "regex:o", "-o", str(out)]
    assert command("best-of-n", prompts, tiny_model, *flags, "--plot", str(plot)) == 0
    shown = capsys.readouterr()
    assert "KL at most" in shown.out
    assert "length" in shown.out
    assert "regex:o" in shown.out
    assert "best of 3: length" in shown.err
    assert plot.read_text().lstrip().startswith("<?xml")
    assert [type(record) for record in formats.read(out).records] == [Ranking] * 3
    # resumed after a kill: what is there stays, the rest is as it would have been
    whole = out.read_text().split("\n")[:-1]
    out.write_text(whole[0] + "\n" + whole[1][:20])
    assert command("best-of-n", prompts, tiny_model, *flags, "--resume", "--json") == 0
    shown = capsys.readouterr()
    assert "1 of 3 prompts" in shown.err
    report = json.loads(shown.out)
    assert (report["prompts"], report["n"]) == (3, 3)
    rows = [json.loads(line) for line in out.read_text().split("\n")[:-1]]
    assert {row["prompt_index"]: row for row in rows} == {
        row["prompt_index"]: row for row in map(json.loads, whole)
    }
    for other in (["--scorer", "regex:x"], ["--seed", "9"], ["--n", "2"]):
        assert command("best-of-n", prompts, tiny_model, *flags, "--resume", *other) == 2
        assert "not of these prompts" in capsys.readouterr().err


def test_rows_go_to_stdout_and_one_sample_is_the_best_of_one(prompts, tiny_model, home, capsys):
    flags = ["--n", "1", "--scorer", "length", "--limit", "2"]
    assert command("best-of-n", prompts, tiny_model, *flags) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.split("\n")[:-1]]
    assert len(rows) == 2
    assert all(row["best"] == row["responses"][0] for row in rows)


def test_a_prompt_that_the_model_cannot_read_is_named_by_its_line(
    tiny_model, home, tmp_path, capsys
):
    file = tmp_path / "long.txt"
    file.write_text("fox\n" + "dog " * 3000 + "\nfox\n")
    assert command("best-of-n", file, tiny_model, "--n", "2", "--scorer", "length") == 2
    said = capsys.readouterr().err
    assert f"{file}:2: " in said
    assert "reads at most 2,048" in said


def test_samples_become_rankings_and_pairs(prompts, tiny_model, home, tmp_path, capsys):
    out = tmp_path / "rankings.jsonl"
    assert (
        command("sample", prompts, tiny_model, "--n", "3", "--scorer", "length", "-o", str(out))
        == 0
    )
    rankings = formats.read(out).records
    assert [type(record) for record in rankings] == [Ranking] * 3
    assert all(len(row.responses) == 3 for row in rankings)
    assert "minialign rrhf" in capsys.readouterr().err
    flags = ["--n", "3", "--to", "pairs"]
    assert command("sample", prompts, tiny_model, *flags, "--scorer", "length") == 0
    pairs = [json.loads(line) for line in capsys.readouterr().out.split("\n")[:-1]]
    by_prompt = {row.prompt[0]["content"]: row for row in rankings}
    for pair in pairs:
        row = by_prompt[pair["prompt"][0]["content"]]
        scores = dict(zip(row.responses, row.scores, strict=True))
        assert scores[pair["chosen"]] == max(row.scores)
        assert scores[pair["rejected"]] == min(row.scores)
        assert pair["margin"] == max(row.scores) - min(row.scores) > 0
    assert command("sample", prompts, tiny_model, *flags, "-o", str(tmp_path / "p.jsonl")) == 0
    assert "minialign label" in capsys.readouterr().err
    records = formats.read(tmp_path / "p.jsonl").records
    assert [type(record) for record in records] == [Pair] * 3
    training = ["--model", str(tiny_model), "--data", str(tmp_path / "p.jsonl")]
    for method in ("dpo", "reward", "sft"):
        assert main([method, *training]) == 2
        said = capsys.readouterr().err
        assert "p.jsonl:1: an unlabelled pair" in said
        assert f"minialign label {tmp_path / 'p.jsonl'}" in said
    assert command("sample", prompts, tiny_model, *flags, "--scorer", "regex:zzz") == 0
    assert "3 prompts left out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "flags", "said"),
    [
        ("best-of-n", ["--n", "0", "--scorer", "length"], "n is 0"),
        ("best-of-n", ["--scorer", "lenght"], "did you mean 'length'"),
        ("best-of-n", ["--scorer", "length", "--resume"], "--resume needs"),
        ("best-of-n", ["--scorer", "length", "--plot", "x.txt"], "not a picture's name"),
        ("best-of-n", ["--scorer", "length", "--limit", "0"], "--limit"),
        ("best-of-n", ["--scorer", "exact", "--n", "1"], "no reference answer"),
        ("best-of-n", ["--scorer", "length", "--temp", "0"], "times the same"),
        ("best-of-n", ["--scorer", "length", "-o", "nowhere/x.jsonl"], "cannot write"),
        ("sample", ["--n", "1", "--scorer", "length"], "2 answers or more"),
        ("sample", [], "rankings need a scorer"),
    ],
)
def test_bad_input(name, flags, said, prompts, tiny_model, home, capsys):
    assert command(name, prompts, tiny_model, *flags) == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert shown.out == ""
