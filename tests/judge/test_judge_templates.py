"""What a judge is asked: the built-in templates, one's own, mistakes, reasons and notes."""

import json
from dataclasses import replace

import numpy as np
import pytest
from support.judging import PAIRS, asked, memory_of, opened, table

from minialign.errors import UserError
from minialign.judge.ask import judge_comparisons
from minialign.judge.templates import known_templates, read_template
from minialign.models.load import load


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
    memory = [json.loads(line) for line in memory_of(home, explained).read_text().splitlines()]
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
