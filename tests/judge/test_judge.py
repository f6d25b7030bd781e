"""Judges: probabilities against the model's own logits, both orders, templates, what is kept."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from support.made_runs import make_adapter, make_reward
from support.places import ROOT
from support.verdicts import forbidden, kept_in

from minialign import formats
from minialign.engine import Engine
from minialign.engine.next_tokens import NextTokens
from minialign.errors import UserError
from minialign.judge import JudgeOptions
from minialign.judge import open as judges
from minialign.judge.ask import judge_comparisons, verdicts_to_pairs
from minialign.judge.judge import Reading, decide, orders_of_pair, orders_of_values
from minialign.judge.open import open_judge
from minialign.judge.plans import count_verdicts
from minialign.judge.templates import known_templates, read_template
from minialign.judge.verdict_files import verdict_of
from minialign.judge.verdict_tokens import find_verdict_tokens
from minialign.models.load import load
from minialign.records import Comparison, Pair, Prompted, to_json
from minialign.scoring.open import open_scorer


def asked(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


PAIRS = [
    Comparison(asked("the quick brown fox?"), "jumps over the lazy dog", "no", source="f:1"),
    Comparison(asked("yes?"), "yes", "the fox and the dog and the fox and the dog", source="f:2"),
    Comparison(asked("the dog " * 30), "quick", "lazy", source="f:3"),
    Comparison(asked("fox?"), "same", "same", source="f:4"),
    Comparison(asked("brown?"), "the brown fox " * 12, "over the lazy dog " * 9, source="f:5"),
]


def opened(spec, engine=None, **options):
    return open_judge(spec, JudgeOptions(**options), engine=engine)


def order(a: float, b: float, tie: float = 0.0) -> dict[str, float]:
    return {"a": a, "b": b, "tie": tie, "mass": 1.0}


@pytest.mark.parametrize(
    ("orders", "strict", "debiased"),
    [
        ([order(0.6, 0.4), order(0.7, 0.3)], "a", "a"),
        ([order(0.4, 0.6), order(0.3, 0.7)], "b", "b"),
        ([order(0.9, 0.1), order(0.4, 0.6)], "tie", "a"),  # first wins each time, a by more
        ([order(0.6, 0.4), order(0.1, 0.9)], "tie", "b"),
        ([order(0.9, 0.1), order(0.1, 0.9)], "tie", "tie"),
        ([order(0.5, 0.5), order(0.5, 0.5)], "tie", "tie"),
        ([order(0.5, 0.5), order(0.9, 0.1)], "tie", "a"),
        ([order(0.2, 0.3, 0.5), order(0.3, 0.2, 0.5)], "tie", "tie"),
        ([order(0.4, 0.2, 0.4), order(0.4, 0.2, 0.4)], "tie", "tie"),
        ([order(1.0, 0.0), order(0.0, 1.0)], "tie", "tie"),
        ([{"unparsed": "hm"}, order(1.0, 0.0)], "unparsed", "unparsed"),
        ([order(1.0, 0.0), {"unparsed": ""}], "unparsed", "unparsed"),
    ],
)
def test_the_choice_of_two_orders(orders, strict, debiased):
    assert decide(orders) == strict
    assert decide(orders, debias=True) == debiased
    swap = {"a": "b", "b": "a"}
    mirrored = [{swap.get(key, key): value for key, value in one.items()} for one in orders[::-1]]
    assert decide(mirrored) == swap.get(strict, strict)
    assert decide(mirrored, debias=True) == swap.get(debiased, debiased)


def test_shares_become_the_answers():
    first, second = Reading([0.7, 0.1, 0.2], 0.5), Reading([0.6, 0.3, 0.1], 0.25)
    assert orders_of_pair(first, second) == [
        {"a": 0.7, "b": 0.1, "tie": 0.2, "mass": 0.5},
        {"a": 0.3, "b": 0.6, "tie": 0.1, "mass": 0.25},
    ]
    assert orders_of_pair(Reading(None, 0.0, "hm"), Reading([1.0, 0.0]))[0] == {"unparsed": "hm"}
    (one, same) = orders_of_values(Reading([0.5, 0.5]), Reading([0.0, 1.0]), [1.0, 3.0])
    assert one == same
    assert (one["value_a"], one["value_b"]) == (2.0, 3.0)
    assert one["a"] == pytest.approx(1 / (1 + np.e), abs=1e-6)
    assert decide([one, same]) == "b"
    equal = orders_of_values(Reading([0.5, 0.5]), Reading([0.5, 0.5]), [1.0, 3.0])
    assert decide(equal) == decide(equal, debias=True) == "tie"


def table(model, ids: list[int]) -> np.ndarray:
    """(tokens, V) probabilities from whole logits."""
    logits = model.module(mx.array([ids]))[0].astype(mx.float32)
    return np.exp(np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True), np.float64))


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


class Letters:
    """A tokenizer of given pieces, longest first."""

    eos_ids = frozenset({0})

    def __init__(self, *pieces: str):
        self.pieces = pieces

    def encode(self, text: str) -> list[int]:
        ids = []
        while text:
            piece = max((p for p in self.pieces if text.startswith(p)), key=len)
            ids.append(self.pieces.index(piece))
            text = text[len(piece) :]
        return ids


def test_the_tokens_of_words():
    # the word with its space is a token of its own: both forms count
    both = find_verdict_tokens(Letters(":", " ", "A", "B", " A", " B"), ["A", "B"], ":")
    assert (both.lead, both.tail()) == ([], [])
    assert dict(zip(both.ids, both.owners, strict=True)) == {2: 0, 4: 0, 3: 1, 5: 1}
    # the space is a token: it belongs to the prompt
    apart = find_verdict_tokens(Letters(":", " ", "A", "B"), ["A", "B"], ":")
    assert (apart.tail(), apart.ids) == ([1], [2, 3])
    # what words share belongs to the prompt
    shared = find_verdict_tokens(Letters("Out", "(", "a", "b", ")"), ["Out(a)", "Out(b)"])
    assert (shared.tail(), shared.ids) == ([0, 1], [2, 3])
    # 10 goes on behind 1
    digits = find_verdict_tokens(Letters(*"0123456789 :"), ["1", "2", "10"], ":")
    assert digits.tail() == [10, 1]
    assert digits.fork == (0, 2, 0)
    assert digits.last == 2
    logps = np.log(np.array([[0.4, 0.2, 0.05], [0.1, 0.1, 0.25]]))
    reading = digits.read(logps, 3)
    assert reading.shares == pytest.approx([0.3 / 0.6, 0.2 / 0.6, 0.1 / 0.6])
    assert reading.mass == pytest.approx(0.6)
    # 10 as one token needs no fork
    assert find_verdict_tokens(Letters(*"123: ", "10"), ["1", "2", "10"], ":").fork is None
    with pytest.raises(UserError, match="cannot tell the word 'true'"):
        find_verdict_tokens(Letters(*"tieABru"), ["true", "tie", "A"], "")
    assert digits.read(np.full((2, 3), -np.inf), 3).shares is None


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


def test_the_built_in_templates(tiny_model, home):
    names = known_templates()
    assert next(iter(names)) == "pairwise"
    assert {"plain", "rules", "metrics", "own-reference", "reference", "criteria", "constitution",
            "score"} < set(names)  # fmt: skip
    for name in names:
        template = read_template(name)
        assert template.about
        shown = ("response",) if template.mode == "single" else ("first", "second")
        values = {key: f"<{key}>" for key in (*shown, "reference", "criteria")}
        if template.ask(asked("P")):
            values["notes"] = "<notes>"
        # both orders begin with the same text, up to the first answer
        text = template.messages(asked("P?"), **values)[-1]["content"]
        assert text.index("P?") < text.index(f"<{shown[0]}>")
        with_reason = template.messages(asked("P?"), explain=True, **values)[-1]["content"]
        assert with_reason != text
        verdict = next(judge_comparisons(
            opened(str(tiny_model), template=name, criteria="brief" if name in
                       ("criteria", "constitution", "score") else None),
            [replace(PAIRS[0], reference="fox")],
        ))  # fmt: skip
        assert verdict.choice in ("a", "b", "tie")


def test_a_conversation_is_shown_turn_by_turn(home):
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi {{ first }}"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Bye"},
    ]
    said = read_template().messages(turns, first="AAA {% x %}", second="BBB")[-1]["content"]
    assert "System: Be brief.\n\nUser: Hi {{ first }}\n\nAssistant: Hello\n\nUser: Bye" in said
    assert "AAA {% x %}" in said  # text of answers is never a template


GOOD = (
    "mode: pairwise\nwords: A, B\nanswer: V:\n\n--- user\n{{ prompt }}\n{{ first }} {{ second }}\n"
)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (GOOD.replace("mode:", "mod:"), 1, "did you mean 'mode'"),
        (GOOD.replace("pairwise", "pair"), 1, "mode 'pair'"),
        (GOOD.replace("A, B", "A"), 2, "words 'A'"),
        (GOOD.replace("A, B", "A, a"), 2, "words 'A, a'"),
        (GOOD.replace("pairwise", "single"), 2, "words 'A, B'"),
        (GOOD.replace("answer", "ask_tokens"), 3, "ask_tokens 'V:'"),
        (GOOD.replace("--- user", "--- usr"), 5, "section 'usr'"),
        (GOOD + "--- user\nx\n", 8, "section 'user' twice"),
        (GOOD + "{% if explain %}\n", 8, "endif"),
        (GOOD.replace("{{ prompt }}", "{{ prompt"), 7, ""),
        (GOOD + "{{ frist }}\n", 8, "'frist' is undefined"),
        (GOOD + "{{ prompt.__class__.__mro__ }}\n", 8, "unsafe"),
        (GOOD + "{{ 1 / 0 }}\n", 8, "division"),
        (GOOD.replace("{{ second }}", ""), 6, "does not show second"),
        (GOOD.partition("---")[0], 0, "no question"),
        ("\n# only a comment\nhello\n", 3, "'hello'"),
    ],
)
def test_a_wrong_template_is_named_with_its_line(home, tmp_path, text, line, said):
    file = tmp_path / "mine.txt"
    file.write_text(text)
    with pytest.raises(UserError) as error:
        read_template(str(file))
    assert f"{file}:{line}: " in str(error.value) or not line, str(error.value)
    assert said in str(error.value)
    assert error.value.hint


def test_templates_of_ones_own(home, tmp_path):
    with pytest.raises(UserError, match="did you mean 'rules'"):
        read_template("rulez")
    folder = home / "judges"
    folder.mkdir(parents=True)
    (folder / "mine.txt").write_text(GOOD)
    (folder / "rules.txt").write_text(GOOD)
    assert read_template("mine").words == ("A", "B")
    assert read_template("rules").answer == "V:"  # it wins over the one that comes along
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="UTF-8"):
        read_template(str(tmp_path / "bad.txt"))


def test_a_reference_and_criteria_are_asked_for(tiny_model, home, tmp_path):
    judge = opened(str(tiny_model), template="reference")
    with pytest.raises(UserError, match=r"f:1: .*reference\.txt:\d+: 'reference'") as error:
        list(judge_comparisons(judge, PAIRS[:1]))
    assert "a key" in error.value.hint
    with pytest.raises(UserError, match="no place for criteria"):
        opened(str(tiny_model), template="rules", criteria="x")
    judge = opened(str(tiny_model), template="criteria")
    with pytest.raises(UserError, match="'criteria' is undefined"):
        list(judge_comparisons(judge, PAIRS[:1]))
    rubric = tmp_path / "rubric.txt"
    rubric.write_text("1. foxes\n2. dogs\n")
    by_file = opened(str(tiny_model), criteria=str(rubric))
    by_text = opened(str(tiny_model), criteria="1. foxes\n2. dogs")
    assert by_file.template.name == "criteria"
    assert by_file.identity == by_text.identity
    assert by_file.identity != opened(str(tiny_model), criteria="1. cats").identity
    assert opened(str(tiny_model), criteria="be brief, " * 40).criteria  # no name of a file


def test_a_reason_comes_before_the_verdict(tiny_model, home):
    plain, explained = opened(str(tiny_model)), opened(str(tiny_model), explain=True)
    (before,) = judge_comparisons(plain, PAIRS[:1])
    (verdict,) = judge_comparisons(explained, PAIRS[:1])
    assert before.explanation == ""
    assert verdict.explanation
    assert before.orders != verdict.orders
    # the probabilities are those behind the reason
    model, template = load(str(tiny_model)), read_template()
    messages = template.messages(PAIRS[0].prompt, first=PAIRS[0].a, second=PAIRS[0].b, explain=True)
    memory = [json.loads(line) for line in _memory(home, explained).read_text().splitlines()]
    texts = [row["text"] for row in memory]
    head = model.tokenizer.render(messages, True)
    for text in texts:
        ids = [*head, *model.tokenizer.encode(f"{text}\n\nVerdict:"), *model.tokenizer.encode(" ")]
        found = table(model, ids)[-1]
        letters = np.array([found[model.tokenizer.encode(letter)[0]] for letter in "ABC"])
        if letters[0] / letters.sum() == pytest.approx(verdict.orders[0]["a"], abs=1e-4):
            break
    else:
        raise AssertionError("no reason leads to the first verdict")


def _memory(home: Path, judge) -> Path:
    return home / "cache" / "judge" / f"{judge.identity}.jsonl"


def test_notes_are_written_once_a_prompt(tiny_model, home, monkeypatch):
    judge = opened(str(tiny_model), template="metrics")
    written: list[int] = []
    real = judge.reader.write

    def write(questions, max_tokens, stop):
        written.append(len(questions))
        return real(questions, max_tokens, stop)

    monkeypatch.setattr(judge.reader, "write", write)
    more = [PAIRS[0], replace(PAIRS[0], b="other"), PAIRS[1]]
    assert len(list(judge_comparisons(judge, more))) == 3
    assert written == [2]  # two prompts
    assert len(list(judge_comparisons(judge, more))) == 3
    assert written == [2]


class Counting:
    """A reader that counts what it is asked."""

    def __init__(self, reader):
        self.reader = reader
        self.asked: list[str] = []

    def read(self, questions, explain, stop):
        for index, reading in self.reader.read(questions, explain, stop):
            self.asked.append(questions[index].messages[-1]["content"])
            yield index, reading


def counted(judge):
    return replace(judge, reader=Counting(judge.reader))


def test_asking_again_asks_nothing_twice(tiny_model, home, tmp_path):
    file = tmp_path / "verdicts.jsonl"
    judge = counted(opened(str(tiny_model)))
    first = list(judge_comparisons(judge, PAIRS, file=file))
    assert len(judge.reader.asked) == 8  # two orders; the same answer twice is not asked about
    assert [one.source for one in first] == [pair.source for pair in PAIRS]
    assert first[3].choice == "tie"
    again = list(judge_comparisons(judge, PAIRS, file=file))
    assert len(judge.reader.asked) == 8
    assert again == first
    assert kept_in(file) == first
    # another file, the answers the other way round, another way to decide: all known
    turned = [replace(pair, a=pair.b, b=pair.a) for pair in PAIRS]
    list(judge_comparisons(judge, turned, file=tmp_path / "other.jsonl"))
    list(judge_comparisons(replace(judge, debias=True), PAIRS))
    assert len(judge.reader.asked) == 8
    # the file alone is enough too
    _memory(home, judge).unlink()
    assert list(judge_comparisons(judge, PAIRS, file=file)) == first
    assert len(judge.reader.asked) == 8
    # another template is another judge
    other = counted(opened(str(tiny_model), template="plain"))
    mixed = list(judge_comparisons(other, PAIRS[:1], file=file))
    assert len(other.reader.asked) == 2
    assert len(kept_in(file)) == 6
    assert mixed[0].id != first[0].id


def test_what_was_asked_before_needs_no_model(tiny_model, home, tmp_path, monkeypatch):
    run = make_adapter(tmp_path / "run", tiny_model, 1)
    reward = f"reward:{make_reward(tmp_path / 'reward', tiny_model)}"
    specs = (str(tiny_model), str(run), reward)
    before = [list(judge_comparisons(opened(spec), PAIRS)) for spec in specs]
    monkeypatch.setattr(judges, "open_engine", forbidden)
    monkeypatch.setattr(judges, "run_scorer", forbidden)
    for spec, said in zip(specs, before, strict=True):
        again = list(judge_comparisons(opened(spec), PAIRS))
        assert [one.orders for one in again] == [one.orders for one in said]
        with pytest.raises(AssertionError, match="is opened"):
            list(judge_comparisons(opened(spec), [Comparison(asked("new?"), "one", "other")]))
    config = run / "adapter_config.json"
    settings = json.loads(config.read_text())
    settings["lora_parameters"]["scale"] *= 2
    config.write_text(json.dumps(settings))
    with pytest.raises(AssertionError, match="is opened"):  # it may say something else now
        list(judge_comparisons(opened(str(run)), PAIRS))


def test_rows_that_are_no_verdicts(tiny_model, home):
    (one,) = judge_comparisons(opened(str(tiny_model)), PAIRS[:1])
    row = to_json(one)
    assert verdict_of(row) == replace(one, source="")
    some = row["orders"][0]
    for wrong in (
        {"orders": [1, 2]}, {"orders": [{"a": 1}, {"a": 1}]}, {"orders": []}, {"orders": [some]},
        {"orders": [some, {"a": "x", "b": 0, "tie": 0}]}, {"a": 3}, {"id": None},
    ):  # fmt: skip
        assert verdict_of({**row, **wrong}) is None, wrong
    assert verdict_of({**row, "orders": [some, {"unparsed": "?"}]}) is not None
    assert verdict_of({key: value for key, value in row.items() if key != "judge"}) is None


def test_an_order_without_a_preference_names_nobody(tiny_model, home):
    (one,) = judge_comparisons(opened(str(tiny_model)), PAIRS[:1])
    said = count_verdicts(
        {"x": replace(one, choice="tie", orders=[order(0.5, 0.5), order(0.6, 0.4)])}, {}
    )
    assert said.first == (0.0, 1)  # with b first it preferred a
    assert said.conflicts == (1.0, 1)


def test_a_file_cut_by_a_kill_and_foreign_lines_are_no_harm(tiny_model, home, tmp_path):
    file = tmp_path / "verdicts.jsonl"
    judge = opened(str(tiny_model))
    first = list(judge_comparisons(judge, PAIRS[:3], file=file))
    data = file.read_bytes()
    file.write_bytes(b'{"note": 1}\nnonsense\n' + data[: len(data) - 40])
    assert len(list(judge_comparisons(judge, PAIRS[:3], file=file))) == 3
    assert [one.id for one in kept_in(file)] == [one.id for one in first]
    assert file.read_bytes().startswith(b'{"note": 1}\nnonsense\n')


def test_stopping_keeps_what_was_said(tiny_model, home, tmp_path):
    stop = threading.Event()
    judge = counted(opened(str(tiny_model)))
    file = tmp_path / "v.jsonl"
    found = []
    for verdict in judge_comparisons(judge, PAIRS, file=file, batch_size=1, stop=stop):
        found.append(verdict)
        if len(found) == 2:
            stop.set()
    assert len(found) == len(kept_in(file)) == 2
    assert len(list(judge_comparisons(judge, PAIRS, file=file))) == 5
    assert len(judge.reader.asked) == len(set(judge.reader.asked)) == 8


SCRIPT = """
import sys
from pathlib import Path
from minialign.judge.ask import judge_comparisons
from minialign.judge.open import open_judge
from minialign.records import Comparison
judge = open_judge(sys.argv[1])
asks = judge.reader.read
def read(questions, explain, stop):
    for index, reading in asks(questions, explain, stop):
        print("asked", flush=True)
        yield index, reading
judge.reader.read = read
words = "quick brown fox jumps over the lazy dog yes no".split()
pairs = [Comparison([{"role": "user", "content": f"{a} {b}?"}], a, b)
         for a in words for b in words[:4] if a != b]
print("all", len(pairs), flush=True)
for verdict in judge_comparisons(judge, pairs, file=Path(sys.argv[2]), batch_size=4):
    print("verdict", verdict.id, flush=True)
print("end", flush=True)
"""


def test_killed_and_resumed_nothing_is_lost_or_asked_twice(tiny_model, home, tmp_path):
    file = tmp_path / "verdicts.jsonl"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SCRIPT, str(tiny_model), str(file)]
    asked_in_all, told, ended = 0, set(), False
    for after in (5, 12, 10_000):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        seen = 0
        for line in process.stdout:
            word, *rest = line.split()
            asked_in_all += word == "asked"
            if word == "all":
                count = int(rest[0])
            if word == "verdict":
                told.add(rest[0])
                seen += 1
            ended = word == "end"
            if seen >= after:
                process.send_signal(signal.SIGKILL)
                break
        rest_of_it = process.stdout.read()
        asked_in_all += rest_of_it.count("asked\n")
        told |= {line.split()[1] for line in rest_of_it.splitlines() if line.startswith("verdict ")}
        process.wait()
        process.stdout.close()
        kept = {one.id for one in kept_in(file)}
        assert told <= kept  # each was on disk before it was told
    assert ended
    assert len(kept) == count
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(rows) == len({row["id"] for row in rows}) == count
    # of each kill at most the one question under way is asked again
    assert 2 * count <= asked_in_all <= 2 * count + 2


def test_verdicts_become_pairs(tiny_model, home, tmp_path):
    (one,) = judge_comparisons(opened(str(tiny_model)), PAIRS[:1])
    verdicts = [replace(one, choice=choice) for choice in ("a", "b", "tie", "unparsed")]
    assert verdicts_to_pairs(verdicts) == [
        Pair(one.prompt, one.a, one.b, source="f:1"), Pair(one.prompt, one.b, one.a, source="f:1"),
    ]  # fmt: skip
    assert verdicts_to_pairs([replace(one, choice="a", b=f"{one.a} ")]) == []
    # a file of verdicts is read as pairs as it is
    file = tmp_path / "v.jsonl"
    rows = [to_json(replace(v, id=str(i))) for i, v in enumerate(verdicts)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = formats.read(file)
    assert [(r.chosen, r.rejected) for r in read.records] == [(one.a, one.b), (one.b, one.a)]
    assert not read.problems


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
