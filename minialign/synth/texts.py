"""The texts that shape made data, each a file that a user can print, edit and give back."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from minialign import durable
from minialign.errors import UserError, nearest

FOLDER = Path(__file__).parent / "builtin"

# name: (what it is for, the fields it must have)
TEXTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "instructions": ("asks for new instructions (self-instruct)", ("{count}",)),
    "avoid": ("words that no new instruction may have (self-instruct)", ()),
    "constitution": ("the principles, one a line (critique)", ()),
    "critique": ("asks for a critique by a principle (critique)", ("{principle}",)),
    "revision": ("asks for the answer again (critique)", ()),
}


@dataclass(frozen=True)
class Text:
    """A text and where it is from."""

    content: str
    origin: str  # "built-in" or the file, with eight digits of its hash

    @property
    def lines(self) -> list[str]:
        """The lines that say something; # starts a comment."""
        lines = (line.strip() for line in self.content.splitlines())
        return [line for line in lines if line and not line.startswith("#")]

    def fill(self, **values: object) -> str:
        """Replace each {name} of the text; other braces stay as they are."""
        content = self.content.strip()
        for name, value in values.items():
            content = content.replace(f"{{{name}}}", str(value))
        return content


def read_text(name: str, path: str | Path | None = None) -> Text:
    """The built-in text of that name, or the user's own in its place.

    Raises:
        UserError: for an unknown name, an unreadable or empty file, or a missing field.
    """
    if name not in TEXTS:
        raise UserError(f"there is no text {name!r}", nearest(name, TEXTS))
    file = Path(path).expanduser() if path else FOLDER / f"{name}.txt"
    hint = f"minialign synth texts {name} prints the built-in one"
    content = durable.read_text(file, hint)
    digest = hashlib.sha256(content.encode()).hexdigest()[:8]
    text = Text(content, f"{file if path else 'built-in'} {digest}")
    if not text.lines:
        raise UserError(f"{file}: it is empty", hint)
    for field in TEXTS[name][1]:
        if field not in content:
            raise UserError(f"{file}: {field} is nowhere in it", f"put it in; {hint}")
    return text
