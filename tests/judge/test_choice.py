"""Two orders become a choice, and words become tokens: by hand, without a model."""

import numpy as np
import pytest
from support.judging import order

from minialign.errors import UserError
from minialign.judge.judge import Reading, decide, orders_of_pair, orders_of_values
from minialign.judge.verdict_tokens import find_verdict_tokens


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
