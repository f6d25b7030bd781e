"""Control text: a few plain words in the prompt that say what kind of answer is wanted.

A model trained with ``conditional`` saw "good" words before good answers and others before bad
ones. The good words are stored beside its adapter (``control.json``), so that whoever asks it later
puts them there too, without knowing.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from minialign.errors import UserError
from minialign.records import Message

FILE = "control.json"


@dataclass(frozen=True)
class Control:
    """Words for one kind of answer and where they stand: before the last user message ("user"), or
    in the system message ("system")."""

    text: str
    place: str = "user"

    def apply(self, messages: list[Message]) -> list[Message]:
        """The messages with the control text in its place; unchanged without such a place."""
        turns = [i for i, message in enumerate(messages) if message["role"] == self.place]
        if turns:
            at = turns[-1]
            content = f"{self.text}\n{messages[at]['content']}"
            return [*messages[:at], {**messages[at], "content": content}, *messages[at + 1 :]]
        if self.place == "system":
            return [{"role": "system", "content": self.text}, *messages]
        return messages


class Controlled:
    """A tokenizer that puts a control text into all messages that it renders."""

    def __init__(self, tokenizer: Any, control: Control):
        self.tokenizer = tokenizer
        self.control = control

    def render_text(self, messages: list[Message], add_generation_prompt: bool) -> str:
        """The chat template's text for these messages with the control text in them."""
        return self.tokenizer.render_text(self.control.apply(messages), add_generation_prompt)

    def render(self, messages: list[Message], add_generation_prompt: bool) -> list[int]:
        """Ids of that text."""
        return self.tokenizer.render(self.control.apply(messages), add_generation_prompt)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)


def to_text(control: Control) -> str:
    """What ``control.json`` holds."""
    return json.dumps(asdict(control), ensure_ascii=False, indent=2) + "\n"


def read(folder: Path) -> Control | None:
    """The control text of an adapter's folder; None when it has none.

    Raises:
        UserError: when the file is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        control = Control(str(values["text"]), str(values["place"]))
    except (OSError, ValueError, KeyError, TypeError) as reason:
        raise UserError(f"{path}: {reason!r}", 'expected {"text": …, "place": "user"}') from None
    if control.place not in ("user", "system"):
        raise UserError(f"{path}: place = {control.place!r}", "it is user or system")
    return control
