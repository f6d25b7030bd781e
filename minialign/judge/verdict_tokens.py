"""A verdict's words in a model's tokens: which tokens, coming next, begin which word.

A word may begin with several tokens ("A" and " A"): their probabilities add up. A token that begins
two words says nothing yet, except where one word goes on behind another ("1" and "10" where digits
are single tokens): then the next token is read too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from minialign.errors import UserError
from minialign.judge.judge import Reading
from minialign.learn.batch import TokenizerLike

Forms = list[list[int]]  # token ids


@dataclass(frozen=True)
class VerdictTokens:
    """``lead`` goes to the prompt's end. ``ids`` are all tokens that are read, ``owners`` the word
    each begins. With a fork, its first token also goes to the prompt's end, and two positions are
    read: ``fork`` is (short word, long word, the token that leads from one to the other)."""

    lead: list[int]
    ids: list[int]
    owners: list[int]
    fork: tuple[int, int, int] | None = None
    forked: int = -1  # the fork's first token

    @property
    def last(self) -> int:
        """How many positions are read."""
        return 1 if self.fork is None else 2

    def tail(self) -> list[int]:
        """What the prompt ends with."""
        return self.lead if self.fork is None else [*self.lead, self.forked]

    def wanted(self) -> list[int]:
        """The tokens to be read."""
        return self.ids if self.fork is None else [*self.ids, self.fork[2]]

    def read(self, logps: np.ndarray, words: int, text: str = "") -> Reading:
        """Read the shares of the words from log-probs (last, wanted)."""
        shares = np.zeros(words)
        next_ = np.exp(logps[0, : len(self.ids)])
        np.add.at(shares, self.owners, next_)
        if self.fork is not None:
            short, long, _ = self.fork
            through = next_[self.ids.index(self.forked)]
            goes_on = float(np.exp(logps[1, -1]))
            shares[short] -= through * goes_on
            shares[long] += through * goes_on
        mass = float(shares.sum())
        if not mass > 0:  # also when the model's numbers are none
            return Reading(None, 0.0, "no probability on any verdict")
        return Reading((shares / mass).tolist(), mass, text)


def find_verdict_tokens(
    tokenizer: TokenizerLike, words: Sequence[str], answer: str = "", where: str = "the template"
) -> VerdictTokens:
    """Find the tokens of a template's words, read right behind ``answer``, with a space or without.

    Raises:
        UserError: when a word cannot be told from the others by its first token.
    """
    together = _forms(tokenizer, words, answer, "")
    spaced = _forms(tokenizer, words, answer, " ") if answer else together
    lead: list[int] = []
    variants = [[one, other] for one, other in zip(together, spaced, strict=True)]
    for forms in (spaced, together):
        # What all words begin with, as the space before digits, belongs to the prompt.
        if shared := _count_shared(forms):
            lead, variants = forms[0][:shared], [[form[shared:]] for form in forms]
            break
    begins: dict[int, set[int]] = {}
    for index, forms in enumerate(variants):
        for form in filter(None, forms):
            begins.setdefault(form[0], set()).add(index)
    owners = {token: min(indices) for token, indices in begins.items() if len(indices) == 1}
    fork, forked = None, -1
    for token, indices in begins.items():
        if len(indices) == 2 and fork is None and (fork := _fork(token, indices, variants)):
            forked, owners[token] = token, fork[0]
    known = {*owners.values(), *(fork or ())[:2]}
    if lost := [word for index, word in enumerate(words) if index not in known]:
        raise UserError(
            f"{where}: this model's tokens cannot tell the word {lost[0]!r} from the others",
            "choose words that begin differently, as A, B, C do",
        )
    ids = sorted(owners)
    return VerdictTokens(lead, ids, [owners[token] for token in ids], fork, forked)


def _forms(tokenizer: TokenizerLike, words: Sequence[str], answer: str, gap: str) -> Forms:
    """Each word's tokens behind the answer's beginning; [] where they melt into it."""
    base = tokenizer.encode(answer) if answer else []
    whole = [tokenizer.encode(answer + gap + word) for word in words]
    return [ids[len(base) :] if ids[: len(base)] == base else [] for ids in whole]


def _count_shared(forms: Forms) -> int:
    """How many tokens all forms begin with, each keeping one of its own."""
    count = 0
    while all(len(form) > count + 1 for form in forms) and len({f[count] for f in forms}) == 1:
        count += 1
    return count


def _fork(token: int, indices: set[int], variants: list[Forms]) -> tuple[int, int, int] | None:
    """(short word, long word, second token) where one word is this token, and one goes on then."""
    for short, long in permutations(sorted(indices)):
        if [token] in variants[short]:
            for form in variants[long]:
                if form[0] == token and len(form) > 1:
                    return short, long, form[1]
    return None
