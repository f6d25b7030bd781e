"""What a judge says: the model's own probabilities, in both orders, by a run and a reward head."""

import json
import time
from dataclasses import replace

import numpy as np
import pytest
from support.judging import PAIRS, asked, opened, table
from support.made_runs import make_adapter, make_reward

from minialign.engine import Engine
from minialign.engine.next_tokens import NextTokens
from minialign.errors import UserError
from minialign.judge.ask import judge_comparisons
from minialign.judge.judge import decide
from minialign.judge.templates import read_template
from minialign.models.load import load
from minialign.records import Comparison, Prompted
from minialign.scoring.open import open_scorer


def test_the_verdict_is_the_models_own_probability(tiny_model, home):
    judge = opened(str(tiny_model))
    model = load(str(tiny_model))
    (verdict,) = judge_comparisons(judge, PAIRS[:1])
    template = read_template("pairwise")
    one = PAIRS[0]
    for said, first, second, names in (
        (verdict.orders[0], one.a, one.b, "ab"),
        (verdict.orders[1], one.b, one.a, "ba"),
    ):
        messages = template.messages(one.prompt, first=first, second=second)
        text = model.tokenizer.render_text(messages, True) + "Verdict: "
        found = table(model, model.tokenizer.encode(text))[-1]
        letters = [found[model.tokenizer.encode(letter)[0]] for letter in "ABC"]
        shares = np.array(letters) / sum(letters)
        assert said["mass"] == pytest.approx(sum(letters), abs=2e-6)
        assert [said[names[0]], said[names[1]], said["tie"]] == pytest.approx(shares, abs=1e-5)
    assert verdict.choice == decide(verdict.orders)
    assert (verdict.judge, verdict.template) == (str(tiny_model), "pairwise")


def test_scores_of_several_tokens_by_hand(tiny_model, home):
    judge = opened(str(tiny_model), template="score")
    model = load(str(tiny_model))
    (verdict,) = judge_comparisons(judge, PAIRS[:1])
    template, tokens = read_template("score"), model.tokenizer
    for text, key in ((PAIRS[0].a, "value_a"), (PAIRS[0].b, "value_b")):
        messages = template.messages(PAIRS[0].prompt, response=text)
        ids = tokens.encode(tokens.render_text(messages, True) + "Score: 1")
        found = table(model, ids)
        one, zero = tokens.encode("1")[0], tokens.encode("0")[0]
        p = {n: found[-2][tokens.encode(str(n))[0]] for n in range(1, 10)}
        p[10] = found[-2][one] * found[-1][zero]
        p[1] -= p[10]
        expected = sum(n * p[n] for n in p) / sum(p.values())
        assert verdict.orders[0][key] == pytest.approx(expected, abs=1e-4)
    assert verdict.orders[0] == verdict.orders[1]
    assert verdict.choice in ("a", "b")


def test_a_verdict_does_not_change_with_its_batch(tiny_model, home):
    judge = replace(opened(str(tiny_model)), identity="")  # nothing is remembered
    alone = [next(judge_comparisons(judge, [pair])) for pair in PAIRS]
    for size in (1, 2, 16):
        for pairs in (PAIRS, PAIRS[::-1]):
            found = {one.source: one for one in judge_comparisons(judge, pairs, batch_size=size)}
            for one in alone:
                same = found[one.source]
                assert same.choice == one.choice
                for left, right in zip(one.orders, same.orders, strict=True):
                    assert left == pytest.approx(right, abs=2e-5)


@pytest.mark.parametrize("template", ["pairwise", "score", "rules"])
@pytest.mark.parametrize("debias", [False, True])
def test_reversed_answers_give_exactly_reversed_verdicts(tiny_model, home, template, debias):
    judge = replace(opened(str(tiny_model), template=template, debias=debias), identity="")
    swap = {"a": "b", "b": "a"}
    turned = [replace(pair, a=pair.b, b=pair.a) for pair in PAIRS]
    for one, other in zip(
        judge_comparisons(judge, PAIRS), judge_comparisons(judge, turned), strict=True
    ):
        assert other.choice == swap.get(one.choice, one.choice)
        first, second = other.orders
        for mirrored, was in ((first, one.orders[1]), (second, one.orders[0])):
            assert mirrored["a"] == pytest.approx(was["b"], abs=2e-6)
            assert mirrored["b"] == pytest.approx(was["a"], abs=2e-6)


def test_next_tokens_are_those_of_each_prompt_alone(tiny_model):
    engine = Engine(load(str(tiny_model)))
    random = np.random.default_rng(0)

    def ids(n: int) -> list[int]:
        return random.integers(3, 320, n).tolist()

    head, question = ids(40), ids(60)
    groups = [
        [head + question + ids(7), head + question + ids(31)],
        [head + ids(5)],
        [head + ids(300), head + ids(290)],  # more than a pass
        [head + question + ids(2), head + question + ids(2)],
    ]
    reader = NextTokens(engine)
    wanted = [5, 7, 300]
    for together in (groups, groups[:1], [[ids(9)], [ids(4)]], groups[::-1]):
        for last in (1, 2):
            for index, found in reader.logps(together, wanted, last):
                for one, prompt in zip(found, together[index], strict=True):
                    expected = np.log(table(engine.model, prompt)[-last:, wanted])
                    np.testing.assert_allclose(one, expected, atol=2e-4)
    assert reader.computed < reader.needed  # the head and the questions were not computed again


def test_what_is_kept_is_forgotten_when_the_weights_change(tiny_model):
    engine = Engine(load(str(tiny_model)))
    reader = NextTokens(engine)
    prompts = [[list(range(3, 60))], [[*range(3, 50), 7, 8]]]
    before = dict(reader.logps(prompts, [5]))
    norm = engine.model.module.model.layers[0].input_layernorm
    norm.weight = norm.weight * 3
    after = dict(reader.logps(prompts, [5]))
    fresh = dict(NextTokens(engine).logps(prompts, [5]))
    assert abs(before[0] - after[0]).max() > 1e-3
    np.testing.assert_allclose(after[0], fresh[0], atol=1e-5)


def test_a_run_judges_as_its_model_with_its_adapter(tiny_model, home, tmp_path):
    run = make_adapter(tmp_path / "run", tiny_model, 1)
    bare, tuned = opened(str(tiny_model)), opened(str(run))
    both = opened(str(tiny_model), adapter=str(run))
    assert tuned.identity == both.identity != bare.identity
    (a,), (b,) = judge_comparisons(bare, PAIRS[:1]), judge_comparisons(tuned, PAIRS[:1])
    assert a.orders != b.orders
    # an engine that holds the same is the same judge
    engine = Engine(load(str(tiny_model), run))
    assert opened("x", engine=engine).identity == tuned.identity
    with pytest.raises(UserError):
        opened("no-such-model-or-run")


def test_a_reward_head_judges(tiny_model, home, tmp_path):
    run = make_reward(tmp_path / "reward", tiny_model)
    judge = opened(f"reward:{run}")
    (verdict, *_) = judge_comparisons(judge, PAIRS)
    scores = open_scorer(f"reward:{run}").score(Prompted(PAIRS[0].prompt), [PAIRS[0].a, PAIRS[0].b])
    said = verdict.orders[0]
    assert [said["value_a"], said["value_b"]] == pytest.approx(scores, abs=1e-4)
    assert verdict.choice == ("a" if scores[0] > scores[1] else "b")
    assert said["a"] == pytest.approx(1 / (1 + np.exp(scores[1] - scores[0])), abs=1e-4)
    with pytest.raises(UserError, match="reads no template"):
        opened(f"reward:{run}", template="rules")


def test_what_does_not_fit_is_unparsed_and_said_so(tiny_model, home):
    long = Comparison(asked("fox?"), "the lazy dog " * 900, "no")
    for template in ("pairwise", "metrics", "score"):
        found = list(
            judge_comparisons(opened(str(tiny_model), template=template), [long, PAIRS[0]])
        )
        assert [one.choice == "unparsed" for one in found] == [True, False]
        assert "the model reads at most 2,048" in found[0].orders[0]["unparsed"]


def test_judges_as_scorers(tiny_model, home):
    engine = Engine(load(str(tiny_model)))
    prompt = Prompted(asked("fox?"))
    texts = ["the fox", "no", "the lazy dog", "no"]
    for spec in (f"judge:{tiny_model}", f"judge:{tiny_model}@plain", "judge:self"):
        scores = open_scorer(spec, engine=engine).score(prompt, texts)
        assert scores[1] == scores[3]
        assert all(0 < score < 1 for score in scores)
        assert sum(scores[:3]) == pytest.approx(1.5)  # each of three matches gives one
    (verdict,) = judge_comparisons(
        opened(str(tiny_model)), [Comparison(asked("fox?"), "the fox", "no")]
    )
    share = np.mean([one["a"] + one["tie"] / 2 for one in verdict.orders])
    two = open_scorer(f"judge:{tiny_model}").score(prompt, texts[:2])
    assert two == pytest.approx([share, 1 - share], abs=1e-5)
    assert open_scorer(f"judge:{tiny_model}").score(prompt, ["no"]) == [0.5]
    scores = open_scorer(f"judge:{tiny_model}@score").score(prompt, texts)
    assert all(1 < score < 10 for score in scores)
    alone = open_scorer(f"judge:{tiny_model}@score")
    assert alone.score(prompt, texts[:1]) == pytest.approx(scores[:1])
    long = "the lazy dog " * 900  # nobody can read it
    assert alone.score(prompt, [*texts[:2], long]) == [*scores[:2], min(scores[:2])]
    with pytest.raises(UserError, match="judge:self needs"):
        open_scorer("judge:self")


def test_a_model_that_judges_itself_in_training_is_asked_again(tiny_model, home):
    engine = Engine(load(str(tiny_model)))
    scorer = open_scorer("judge:self", engine=engine)
    prompt, texts = Prompted(asked("fox?")), ["the fox", "no"]
    before = scorer.score(prompt, texts)
    norm = engine.model.module.model.norm
    norm.weight = norm.weight * 0.1
    assert scorer.score(prompt, texts) != before
    norm.weight = norm.weight / 0.1
    assert scorer.score(prompt, texts) == pytest.approx(before, abs=1e-4)


@pytest.mark.slow
@pytest.mark.model
def test_the_embedded_model_judges(embedded_model, home, data):
    rows = json.loads((data / "llmbar" / "LLMBar_Natural.json").read_text())[:12]
    pairs = [Comparison(asked(row["input"]), row["output_1"], row["output_2"]) for row in rows]
    judge = opened(str(embedded_model))
    start = time.monotonic()
    verdicts = list(judge_comparisons(judge, pairs))
    assert time.monotonic() - start < 120
    masses = [order["mass"] for one in verdicts for order in one.orders]
    assert np.mean(masses) > 0.5  # it says what the template asks it to say
    digits = opened(str(embedded_model), template="score")
    scored = list(judge_comparisons(digits, pairs[:3]))
    assert all(1 < one.orders[0]["value_a"] < 10 for one in scored)
    assert scored[0].orders[0]["mass"] > 0.5
    explained = opened(str(embedded_model), explain=True)
    (verdict,) = judge_comparisons(explained, pairs[:1])
    assert len(verdict.explanation.split()) > 5
