"""Texts as they are, without acting on the terminal; and Markdown that is fast."""

import re
from collections.abc import Sequence
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.rules_core import StateCore
from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll
from textual.widgets import Label, Markdown, Static

from minialign.records import Message

WORDS = {"a": "A is better", "b": "B is better", "tie": "a tie", "both_bad": "both bad"}
# Control characters would act on the terminal; line and paragraph separators, and the marks that
# turn the direction of what follows, would move what stands beside the text.
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """The text without what would act on the terminal or on its neighbours."""
    return CONTROL.sub("�", text).replace("\t", "    ")


def one_line(text: str) -> str:
    """The text without its line ends."""
    return " ".join(printable(text).split())


def cut(text: str, most: int) -> str:
    """At most so many letters of it."""
    return text if len(text) <= most else text[: most - 1] + "…"


def prompt_text(prompt: Sequence[Message]) -> str:
    """A prompt as it is shown: of several turns, each with its role."""
    if len(prompt) == 1:
        return printable(prompt[0]["content"])
    return "\n".join(f"{turn['role']}: {printable(turn['content'])}" for turn in prompt)


def plain(text: str = "", classes: str | None = None, id: str | None = None) -> Static:
    """Text that is no markup."""
    return Static(text, classes=classes, id=id, markup=False)


def label(text: str = "", classes: str | None = None, id: str | None = None) -> Label:
    """Text as wide as it is, that is no markup."""
    return Label(text, classes=classes, id=id, markup=False)


def markdown(text: str = "", **options: Any) -> Markdown:
    """Text of a model; its links open nothing."""
    return Markdown(text or None, open_links=False, parser_factory=markdown_parser, **options)


def markdown_parser() -> MarkdownIt:
    """Markdown with tables; looking for bare links costs 20 times the rest of it, at each token."""
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    parser.core.ruler.push("plain_code", _name_plain_code)
    return parser


def _name_plain_code(state: StateCore) -> None:
    """Code that names no language is text: guessing one loads every lexer, which is most of a
    second at the start and a stop in the middle of an answer."""
    for token in state.tokens:
        if token.type in ("fence", "code_block") and not token.info.strip():
            token.info = "text"


class AnswerPane(Vertical):
    """One of two answers: a frame with a title, and a text that scrolls."""

    def __init__(self, id: str):
        super().__init__(classes="answer", id=id)

    def compose(self) -> ComposeResult:
        with VerticalScroll(can_focus=False):
            yield markdown()

    async def show(self, title: str, text: str) -> None:
        """Another answer, from its beginning."""
        self.border_title, self.border_subtitle = title, f"{len(text.split())} words"
        self.query_one(VerticalScroll).scroll_home(animate=False)
        await self.query_one(Markdown).update(printable(text))
