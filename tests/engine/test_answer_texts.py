"""The text of an answer: stop strings, halves of characters, and why it ended."""

from typing import Any

import numpy as np
import pytest

from minialign.engine import Engine, Request, Sampling
from minialign.models.load import Model


def scripted(tiny: Model, ids: list[int]) -> Engine:
    """An engine of a model that says these ids whatever it reads, then the end token."""
    engine = Engine(tiny)
    script = [*ids, min(tiny.tokenizer.eos_ids)]

    class Says:
        most, length, said = 1, 0, 0

        @property
        def lengths(self) -> list[int]:
            return [self.length]

        def advance(self, tokens: np.ndarray) -> np.ndarray:
            self.length += tokens.shape[1]
            logits = np.full((1, 320), -10.0, np.float32)
            logits[0, script[self.said]] = 10.0
            self.said += 1
            return logits

        def fan_out(self, lengths: Any, width: int) -> "Says":
            return Says()

        def assemble(self, parts: Any) -> "Says":
            return parts[0][0]

        def truncate(self, length: int) -> int:
            return 0

    engine._root = engine._batch_root = Says()  # type: ignore[misc]
    return engine


@pytest.mark.parametrize(
    ("text", "stop", "wanted"),
    [
        ("the quick brown fox", ("brown",), "the quick "),
        ("the quick brown fox", ("fox", "quick b"), "the "),
        ("yes\nno\nyes", ("\n",), "yes"),
        ("aaaab", ("aab",), "aa"),
        ("one two", ("two three",), "one two"),  # held back, then given after all
        ("one 🦊🦊 two", ("🦊 ",), "one 🦊"),
        ("one", ("one",), ""),
    ],
)
def test_stop_strings_straddle_tokens(tiny, text, stop, wanted):
    ids = tiny.tokenizer.encode(text)
    assert len(ids) > 2
    sampling = Sampling(temperature=0, stop=stop)
    pieces = list(scripted(tiny, ids).stream([1], sampling))
    assert "".join(piece.text for piece in pieces) == wanted
    cut = wanted != text
    assert pieces[-1].finish_reason == ("stop_string" if cut else "stop")
    assert all(piece.finish_reason is None for piece in pieces[:-1])


def test_streamed_text_never_has_half_a_character(tiny):
    text = "naïve 👩‍👩‍👧 日本語 🇫🇷 e\u0301 ok"
    ids = tiny.tokenizer.encode(text)
    shown = [piece.text for piece in scripted(tiny, ids).stream([1], Sampling(temperature=0))]
    assert "".join(shown) == text
    assert not any("\ufffd" in part for part in shown)
    cut = list(scripted(tiny, ids).stream([1], Sampling(temperature=0, max_tokens=len(ids) - 9)))
    assert cut[-1].finish_reason == "length"
    assert not any("\ufffd" in piece.text for piece in cut[:-1])


@pytest.mark.parametrize("cut", range(7))  # the last ones are in the middle of a character
def test_a_text_made_at_the_end_is_the_streamed_one(tiny, cut):
    ids = tiny.tokenizer.encode("naïve 👩‍👩‍👧 日本語 ok")
    for stop in ((), ("never said",)):  # a stop string needs the text piece by piece
        sampling = Sampling(temperature=0, max_tokens=len(ids) + 1 - cut, stop=stop)
        shown = [piece.text for piece in scripted(tiny, ids).stream([1], sampling)]
        (whole,) = scripted(tiny, ids).complete([Request((1,))], sampling)
        assert whole.text == "".join(shown)
        assert whole.finish_reason == ("length" if cut else "stop")
        assert (cut > 4) == whole.text.endswith("\ufffd")


def test_end_token_and_finish_reasons_are_kept(tiny):
    ids = tiny.tokenizer.encode("yes no")
    end = min(tiny.tokenizer.eos_ids)
    (stopped,) = scripted(tiny, ids).complete([Request((1,))], Sampling(temperature=0))
    assert (stopped.ids, stopped.text, stopped.finish_reason) == ([*ids, end], "yes no", "stop")
    (cut,) = scripted(tiny, ids).complete([Request((1,))], Sampling(temperature=0, max_tokens=2))
    assert (cut.ids, cut.finish_reason) == (ids[:2], "length")
