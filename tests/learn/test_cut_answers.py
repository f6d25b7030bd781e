"""No end of turn is trained behind an answer that was cut before it ended: its tokens by hand, the
mark through files, conversions and samplers, every method's examples."""

import json
from dataclasses import replace

import pytest
from support.places import written as write

from minialign import formats
from minialign.engine import Completion
from minialign.formats.findings import Findings
from minialign.formats.kinds import as_kind, row_of
from minialign.learn.batch import encode
from minialign.methods import METHODS
from minialign.methods.winners import above, best_and_worst, pair, top
from minialign.models.tokens.tokenizer import Tokenizer
from minialign.records import Demonstration, Pair, Prompted, Ranking, Rated, noted
from minialign.rewards.scorer import Scorer
from minialign.samples import groups
from minialign.training.reference_logps import example_key

P = [{"role": "user", "content": "hi"}]
END = "<|im_end|>"
LONG = ["length"]
LLAMA_2 = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' + "
    "message['content'].strip() + ' [/INST]' }}{% else %}{{ ' ' + message['content'].strip() + ' "
    "<|im_end|>' }}{% endif %}{% endfor %}"
)


def said(*texts):
    sides = ("user", "assistant")
    return [{"role": sides[i % 2], "content": text} for i, text in enumerate(texts)]


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return Tokenizer.load(tiny_model)


@pytest.fixture(scope="module")
def llama_2(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama-2")
    for file in tiny_model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": LLAMA_2}))
    return Tokenizer.load(folder)


def trained(example, tokenizer):
    """The text of each response, its trained stretches in brackets."""
    texts = []
    for ids, mask in zip(example.responses, example.masks, strict=True):
        pieces = [tokenizer.decode([i], skip_special=False) for i in ids]
        text = "".join(f"[{p}]" if on else p for p, on in zip(pieces, mask, strict=True))
        texts.append(text.replace("][", ""))
    return texts


# record -> the trained stretches of its responses
TABLE = [
    (Demonstration(said("hi", "yes no")), [f"[yes no{END}]"]),
    (Demonstration(said("hi", "yes no"), "", LONG), ["[yes no]"]),
    (Demonstration(said("hi", "yes no"), "", ["cancelled"]), ["[yes no]"]),
    (Demonstration(said("hi", "yes no"), "", ["stop_string"]), [f"[yes no{END}]"]),
    # the earlier turns of a conversation ended
    (
        Demonstration(said("hi", "a", "b", "c"), "", LONG),
        [f"[a{END}]\n<|im_start|>user\nb{END}\n<|im_start|>assistant\n[c]"],
    ),
    (Pair(P, "yes", "no"), [f"[yes{END}]", f"[no{END}]"]),
    (Pair(P, "yes", "no", None, "", ["length", "stop"]), ["[yes]", f"[no{END}]"]),
    (Pair(P, "yes", "no", None, "", ["stop", "length"]), [f"[yes{END}]", "[no]"]),
    (Pair(P, "yes", "no", None, "", ["length", "length"]), ["[yes]", "[no]"]),
    (
        Ranking(P, ["a", "b", "c"], [3, 2, 1], "", ["stop", "length", "stop_string"]),
        [f"[a{END}]", "[b]", f"[c{END}]"],
    ),
    (Rated(P, "yes\n", False, "", LONG), ["[yes\n]"]),
    # without an end there would be nothing of it
    (Rated(P, "", True, "", LONG), [f"[{END}]"]),
]


@pytest.mark.parametrize(("record", "expected"), TABLE)
def test_the_trained_tokens_of_a_cut_answer_by_hand(record, expected, tokenizer):
    assert trained(encode(record, tokenizer, 500), tokenizer) == expected


def test_a_cut_answer_has_the_ids_of_the_whole_one_but_its_end(tokenizer):
    for text in ("yes", "the quick fox 🦊", "\n\nfox, and", "a <tag", "x "):
        whole = encode(Rated(P, text, True), tokenizer, 500)
        cut = encode(Rated(P, text, True, "", LONG), tokenizer, 500)
        assert cut.prompt == whole.prompt
        assert cut.responses == [whole.responses[0][:-1]]
        assert whole.responses[0][-1] in tokenizer.eos_ids
        assert example_key(cut) != example_key(whole)  # no reference is taken for the other's


def test_what_a_template_writes_before_the_end_is_no_answer(llama_2):
    """Llama 2's has a space before and one behind, and strips the answer."""
    for text in ("yes", "yes\n"):
        whole = encode(Rated(P, text, True), llama_2, 500)
        cut = encode(Rated(P, text, True, "", LONG), llama_2, 500)
        assert trained(whole, llama_2) == [f"[ yes {END}]"]
        assert trained(cut, llama_2) == ["[ yes]"]
        turns = encode(Demonstration(said("hi", text), "", LONG), llama_2, 500)
        assert turns.responses == cut.responses


# ---- files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("record", [record for record, _ in TABLE])
def test_the_mark_is_written_and_read_and_nothing_else_is(record, tmp_path):
    record = replace(record, finish_reasons=noted(record.finish_reasons or []))
    file = write(tmp_path / "rows.jsonl", [row_of(record)])
    (found,) = formats.read(file).records
    assert replace(found, source="") == record
    assert ("finish_reasons" in row_of(record)) == bool(record.finish_reasons)


def reasons(row):
    (record,) = formats.read_row(row, "f:1").records
    return record.finish_reasons


def test_rows_of_samples_say_it_and_other_rows_end(tmp_path):
    ranking = {"prompt": "hi", "responses": ["a", "b"], "scores": [1, 0]}
    rows = [
        ({"prompt": "hi", "response": "a", "finish_reason": "length"}, LONG),
        ({"prompt": "hi", "response": "a", "finish_reason": "stop"}, None),
        ({"messages": said("hi", "a"), "finish_reasons": ["length"]}, LONG),
        (ranking | {"finish_reasons": ["stop", "length"]}, ["stop", "length"]),
        (ranking | {"finish_reasons": ["stop", "stop_string"]}, None),
        # rows that do not say it of each answer are no samples of ours
        (ranking, None),
        (ranking | {"finish_reasons": ["length"]}, None),
        (ranking | {"finish_reasons": [None, "length"]}, None),
        (ranking | {"finish_reasons": "length"}, None),
        (ranking | {"finish_reason": "length"}, None),
        ({"prompt": "hi", "response": "a", "finish_reason": {"length": 1}}, None),
        ({"prompt": "hi", "response": "a", "cut": True}, None),
    ]
    file = write(tmp_path / "rows.jsonl", [row for row, _ in rows])
    found = formats.read(file)
    assert not found.problems
    assert [one.finish_reasons for one in found.records] == [expected for _, expected in rows]


def test_a_vote_knows_it_from_where_its_answers_came(tmp_path):
    vote = {"prompt": "hi", "a": "x", "b": "y", "choice": "a"}
    cut, whole = {"finish_reason": "length"}, {"finish_reason": "stop"}
    rows = [
        vote | {"a_from": whole, "b_from": cut},
        vote | {"a_from": cut, "b_from": whole, "choice": "b"},
        vote | {"a_from": cut, "b_from": whole, "edited": "z"},
        vote | {"a_from": cut, "b_from": whole, "edited": "z", "choice": "both_bad"},
        vote,
    ]
    found = formats.read(write(tmp_path / "votes.jsonl", rows)).records
    assert [(one.chosen, one.rejected, one.finish_reasons) for one in found] == [
        ("x", "y", ["stop", "length"]),
        ("y", "x", ["stop", "length"]),
        ("z", "y", None),
        ("z", "x", ["stop", "length"]),
        ("z", "y", None),
        ("x", "y", None),
    ]


# ---- from one kind to another -----------------------------------------------------------------

RANKING = Ranking(P, ["a", "b", "c"], [1.0, 3.0, 2.0], "f:1", ["stop", "length", "stop"])


def test_each_answer_keeps_its_own_end():
    pairs, _ = as_kind([RANKING], Pair)
    assert [(one.chosen, one.rejected, one.finish_reasons) for one in pairs] == [
        ("b", "c", ["length", "stop"]), ("b", "a", ["length", "stop"]), ("c", "a", None),
    ]  # fmt: skip
    assert [one.finish_reasons for one in as_kind(pairs, Rated)[0]] == [
        LONG,
        None,
        LONG,
        *[None] * 3,
    ]
    assert [one.finish_reasons for one in as_kind(pairs, Ranking)[0]] == [
        one.finish_reasons for one in pairs
    ]
    several = [RANKING, *pairs, Rated(P, "x", True, "", LONG)]
    found, _ = as_kind(several, Demonstration)
    assert [one.finish_reasons for one in found] == [LONG, LONG, LONG, None, LONG]
    assert as_kind([RANKING], Prompted)[0] == [Prompted(P, "f:1")]
    assert top(RANKING)[0].finish_reasons == LONG
    assert [one.finish_reasons for one in above(RANKING, 1.0)] == [None, LONG, None]
    assert best_and_worst(RANKING)[0].finish_reasons == ["length", "stop"]
    assert pair(RANKING, 2, 1).finish_reasons == ["stop", "length"]
    assert pair(RANKING, 2, 0).finish_reasons is None


def test_a_cut_answer_is_no_duplicate_of_a_whole_one():
    seen, whole = Findings(), Rated(P, "a", True)
    assert seen.of(whole) == seen.of(replace(whole, finish_reasons=LONG)) == set()
    assert seen.of(replace(whole, source="f:2")) == {"duplicates"}


# ---- samples ----------------------------------------------------------------------------------


def group(*answers):
    made = [Completion(0, i, [5], text, end, i) for i, (text, end) in enumerate(answers)]
    return groups.Group(0, Prompted(P), made)


def test_rankings_and_pairs_of_samples_say_which_were_cut():
    longer = Scorer("long", lambda prompt, texts: [float(len(text)) for text in texts])
    drawn = group(("a", "stop"), ("bbb", "length"), ("cc", "stop"), ("a", "length"))
    row = groups.rank(drawn, longer)
    assert row["responses"] == ["a", "bbb", "cc"]
    assert row["finish_reasons"] == ["stop", "length", "stop"]
    made = groups.pair_best_and_worst(drawn, longer)
    assert (made["chosen"], made["rejected"]) == ("bbb", "a")
    assert made["finish_reasons"] == ["length", "stop"]
    two = group(("a", "stop"), ("b", "length"))
    orders = [groups.pair_at_random(two, seed) for seed in range(8)]
    assert len({row["chosen"] for row in orders}) == 2
    for row in orders:
        ends = dict(zip((row["chosen"], row["rejected"]), row["finish_reasons"], strict=True))
        assert ends == {"a": "stop", "b": "length"}
    ended = group(("a", "stop"), ("bb", "stop_string"))
    for row in (
        groups.rank(ended, longer), groups.pair_best_and_worst(ended, longer),
        groups.pair_at_random(ended, 0),
    ):  # fmt: skip
        assert "finish_reasons" not in row


# ---- methods ----------------------------------------------------------------------------------

OTHER = Ranking(said("ho"), ["d", "e"], [2.0, 1.0], "f:2", ["stop", "length"])
# settings -> the responses of each example, "." where one ends
EXAMPLES = [
    ("sft", {}, ["b"], ["d."]),
    ("rrhf", {}, ["a.", "b", "c."], ["d.", "e"]),
    ("dpo", {}, ["b", "c."], ["b", "a."], ["c.", "a."], ["d.", "e"]),
    ("simpo", {}, ["b", "c."], ["b", "a."], ["c.", "a."], ["d.", "e"]),
    ("slic", {"sft_data": ("texts.jsonl",)},
     ["b", "c.", "z"], ["b", "a.", "z"], ["c.", "a.", "z"], ["d.", "e", "d."]),
    ("slic", {"sft_data": ("others.jsonl",)},
     ["b", "c.", "b"], ["b", "a.", "b"], ["c.", "a.", "c."], ["d.", "e", "y."]),
    # the other one is the answer to the next row with another prompt
    ("kto", {}, ["b", "d."], ["c.", "d."], ["b", "d."], ["a.", "d."], ["c.", "d."], ["a.", "d."],
     ["d.", "b"], ["e", "b"]),
    ("conditional", {}, ["b"], ["c."], ["b"], ["a."], ["c."], ["a."], ["d."], ["e"]),
    ("conditional", {"quantiles": 2}, ["a."], ["b"], ["c."], ["d."], ["e"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "settings", "expected"), [(a, b, c) for a, b, *c in EXAMPLES])
def test_every_method_trains_no_end_of_a_cut_answer(
    name, settings, expected, tokenizer, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "texts.jsonl", [{"prompt": "hi", "response": "z", "finish_reason": "length"}])
    write(tmp_path / "others.jsonl", [{"prompt": "ho", "response": "y"}])
    method = METHODS[name]
    config = method.config(**settings)
    kind = method.other_record(config) or method.record
    rows = as_kind([RANKING, OTHER], kind)[0]
    if kind is Rated:
        rows = as_kind(as_kind([RANKING, OTHER], Pair)[0], Rated)[0]
    coded = method.encode(rows, tokenizer, 500, config)
    found = [
        [text[1:-1].replace(END, ".") for text in trained(example, tokenizer)] for example in coded
    ]
    assert found == expected
