"""Records made from one another, written and read back, counted, measured."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minialign import formats
from minialign.formats.findings import Findings, Prompts, drop_found
from minialign.formats.kinds import as_kind, fingerprint, opening_of, row_of
from minialign.formats.measures import Measures
from minialign.formats.reading import read_row
from minialign.records import Demonstration, Pair, Prompted, Ranking, Rated


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict:
    return {"role": "assistant", "content": text}


P = [user("Name a lake.")]
PAIR = Pair(P, "Como.", "A lake is water.", source="f:1")
RANKING = Ranking(P, ["b", "a", "c", "a2"], [1.0, 2.0, 0.0, 2.0], source="f:2")


def test_rankings_to_pairs():
    pairs, unused = as_kind([RANKING], Pair)
    assert unused == 0
    # five, not six: the two best are equal
    assert [(pair.chosen, pair.rejected) for pair in pairs] == [
        ("a", "b"), ("a", "c"), ("a2", "b"), ("a2", "c"), ("b", "c"),
    ]  # fmt: skip
    assert {pair.source for pair in pairs} == {"f:2"}


def test_to_demonstrations():
    rated = [Rated(P, "good one", True), Rated(P, "bad one", False)]
    got, unused = as_kind([PAIR, RANKING, *rated, Prompted(P)], Demonstration)
    assert [row.messages[-1]["content"] for row in got] == ["Como.", "a", "good one"]
    assert unused == 2
    assert got[0].messages[:-1] == P


def test_to_ratings_rankings_and_prompts():
    got, unused = as_kind([PAIR, RANKING], Rated)
    assert ([(row.response, row.good) for row in got], unused) == (
        [("Como.", True), ("A lake is water.", False)], 1,
    )  # fmt: skip
    assert as_kind([PAIR], Ranking)[0][0].scores == [1.0, 0.0]
    text = Demonstration([{"role": "text", "content": "x"}])
    chat = Demonstration([*P, assistant("Como.")])
    got, unused = as_kind([PAIR, RANKING, text, chat], Prompted)
    assert ([row.prompt for row in got], unused) == ([P, P, P], 1)


# Texts that a reader takes as they are: not blank, and no transcript.
texts = st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=30).filter(
    lambda text: text.strip() and "Human:" not in text
)
answers = st.text(st.characters(blacklist_categories=["Cs"]), max_size=30)
prompts = st.builds(
    lambda system, before, last: [
        *([{"role": "system", "content": system}] if system else []),
        *[turn for pair in before for turn in (user(pair[0]), assistant(pair[1]))],
        user(last),
    ],
    st.none() | texts,
    st.lists(st.tuples(texts, texts), max_size=2),
    texts,
)
numbers = st.floats(-1e6, 1e6).map(lambda value: round(value, 3))
extras = st.dictionaries(
    st.sampled_from(["id", "category", "reference"]), texts | st.integers(), max_size=2
)
records = st.one_of(
    st.builds(lambda p, a: Demonstration([*p, assistant(a)]), prompts, answers),
    texts.map(lambda text: Demonstration([{"role": "text", "content": text}])),
    st.builds(Pair, prompts, answers, answers, st.none() | numbers),
    st.builds(
        lambda p, scored: Ranking(p, [a for a, _ in scored], [s for _, s in scored]),
        prompts,
        st.lists(st.tuples(answers, numbers), min_size=2, max_size=4),
    ),
    st.builds(Rated, prompts, answers, st.booleans()),
    st.builds(lambda p, extra: Prompted(p, extra=extra), prompts, extras),
)


@given(records)
def test_what_is_written_reads_back_the_same(record):
    row = json.loads(json.dumps(row_of(record)))
    item = read_row(row, record.source)
    assert item.problem is None
    assert item.records == [record]


@given(st.lists(records, max_size=6), st.sampled_from(list(formats.KINDS.values())))
def test_nothing_is_lost_in_a_conversion(batch, kind):
    got, unused = as_kind(batch, kind)
    assert all(type(row) is kind for row in got)
    ties = sum(len(set(row.scores)) == 1 for row in batch if isinstance(row, Ranking))
    assert len(got) + unused >= len(batch)
    same = [row for row in batch if type(row) is kind]
    assert [row for row in got if row in same] == [row for row in got if row in same]
    assert sum(row in got for row in same) == len(same)
    if kind is Pair:
        assert unused == ties + sum(not isinstance(row, Pair | Ranking) for row in batch)


def test_findings_are_counted_and_dropped_only_when_asked():
    same = Pair(P, "x", "x", source="f:1")
    empty = Pair(P, "x", " \n", source="f:2")
    turned = Pair(P, "A lake is water.", "Como.", source="f:4")
    batch = [same, empty, PAIR, turned, Pair(P, "Como.", "A lake is water.", source="f:5")]
    findings = Findings()
    assert drop_found(batch, set(), findings) == batch
    assert findings.counts == {"identical": 1, "empty": 1, "duplicates": 1, "reversed": 1}
    assert findings.places["duplicates"] == ["f:5"]
    assert findings.places["reversed"] == ["f:4"]
    assert drop_found(batch, {"empty", "identical"}, Findings()) == batch[2:]
    assert drop_found(batch, {"duplicates", "reversed"}, Findings()) == [same, empty, PAIR]


def test_a_source_does_not_make_a_record_another():
    assert fingerprint(Rated(P, "a", True, "f:1")) == fingerprint(Rated(P, "a", True, "g:9"))
    assert fingerprint(Rated(P, "a", True)) != fingerprint(Rated(P, "a", False))


def test_shared_prompts():
    first, second = Prompts(), Prompts()
    first.add(PAIR)
    first.add(Rated([user("Other")], "x", True, source="f:2"))
    second.add(Demonstration([user(" Name a lake. "), assistant("Garda.")], source="g:3"))
    assert first.shared(second) == [("f:1", "g:3")]


def test_openings_group_conversations():
    short = Pair([user("Hi")], "a", "b")
    long = Pair([user("Hi"), assistant("Hello"), user("Tea?")], "a", "b")
    chat = Demonstration([user("Hi"), assistant("Hello")])
    assert opening_of(short) == opening_of(long) == opening_of(chat) == [user("Hi")]


def test_measures_by_hand():
    batch = [
        Pair(P, "aa bb", "a"),
        Pair(P, "a", "aa bb c"),
        Pair(P, "a", "b"),
        Pair(
            [{"role": "system", "content": "s"}, user("q"), assistant("r"), user("t")], "abc", "a"
        ),
    ]
    measures = Measures(lambda prompt, answers: (10, [len(answer) for answer in answers]))
    for pair in batch:
        measures.add(pair)
    report = measures.report()
    assert report["kinds"] == {"pairs": 4}
    assert report["user_turns"] == {"1": 3, "2": 1}
    assert report["with_system"] == 1
    assert report["lengths"]["chosen"]["characters"] == {
        "mean": 2.5, "median": 2.0, "p95": 5, "max": 5, "total": 10,
    }  # fmt: skip
    assert report["lengths"]["rejected"]["words"]["max"] == 3
    assert report["lengths"]["prompt"]["tokens"]["total"] == 40
    longer = report["longer_wins"]
    assert longer["share"] == 2.5 / 4  # a tie in length is half a win
    assert report["shorter_wins"]["share"] == pytest.approx(1 - longer["share"])
    assert longer["low"] < longer["share"] < longer["high"]
    assert report["shorter_wins"]["low"] == pytest.approx(1 - longer["high"])
    assert report["same_length"] == 1
    assert not any(math.isnan(value) for value in longer.values())
