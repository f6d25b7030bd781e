"""Judge prompts: text files with a few settings on top and sections behind ``--- NAME`` lines.

    mode: pairwise            # or single: one answer alone gets a score
    about: one line for the list of templates
    words: A, B, C            # first is better, second is better, and (optional) a tie; or scores
    answer: Verdict:          # what a local model's answer begins with; the word comes right behind

    --- ask                   # optional: asked once a prompt, its answer is {{ notes }} below
    --- system                # optional
    --- user                  # the question

Sections are Jinja (in a sandbox) over ``prompt``, ``first`` and ``second`` or ``response``,
``notes``, ``explain``, and, where they are given, ``reference`` and ``criteria``.
"""

import hashlib
import traceback
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from minialign.errors import UserError, nearest
from minialign.home import home
from minialign.records import Message, Prompt

DEFAULT = "pairwise"
BUILT_IN = Path(__file__).parent / "templates"
USUAL = {"pairwise": "A, B", "single": "1, 2, 3, 4, 5, 6, 7, 8, 9, 10"}  # words of each mode
KEYS = ("mode", "about", "words", "answer", "ask_tokens")
SECTIONS = ("ask", "system", "user")
MISSING = {
    "'reference'": 'this template needs a reference answer: a key "reference" in every row',
    "'criteria'": 'this template needs your criteria: --criteria "TEXT" or --criteria FILE',
}
KNOWN = (
    "known here: prompt, first, second (or response), explain, and, where they are given, "
    "notes, reference, criteria"
)


@dataclass(frozen=True)
class Template:
    """A judge prompt that was read and tried."""

    name: str  # of a built-in one or one of the user's; else its file
    file: Path
    mode: str
    words: tuple[str, ...]
    answer: str
    about: str
    ask_tokens: int  # most tokens of ``notes``
    sections: dict[str, str] = field(repr=False)
    lines: dict[str, int] = field(repr=False)  # where each section begins in the file
    digest: str = ""

    @property
    def scale(self) -> list[float]:
        """The numbers that the words of a single-answer template stand for."""
        return [float(word) for word in self.words]

    def ask(self, prompt: Prompt) -> list[Message] | None:
        """Write the question that is asked before; None when there is none."""
        if "ask" not in self.sections:
            return None
        return [{"role": "user", "content": self._render("ask", {"prompt": as_text(prompt)})}]

    def messages(self, prompt: Prompt, **values: Any) -> list[Message]:
        """Write the question itself.

        Raises:
            UserError: when the template fails on it, with its line.
        """
        values = {"prompt": as_text(prompt), "explain": False} | {
            name: value for name, value in values.items() if value is not None
        }
        user: Message = {"role": "user", "content": self._render("user", values)}
        if "system" not in self.sections:
            return [user]
        return [{"role": "system", "content": self._render("system", values)}, user]

    def _render(self, section: str, values: dict[str, Any]) -> str:
        import jinja2

        compiled = _compiled(self.file, self.sections[section], self.lines[section])
        try:
            return compiled.render(**values).strip()
        except (jinja2.TemplateError, ArithmeticError, TypeError, ValueError) as reason:
            frames = traceback.extract_tb(reason.__traceback__)
            lines = [frame.lineno for frame in frames if frame.filename == "<template>"]
            line = [self.lines[section], *filter(None, lines)][-1]
            hint = next((hint for name, hint in MISSING.items() if name in str(reason)), KNOWN)
            raise UserError(f"{self.file}:{line}: {reason}", hint) from None


@lru_cache(maxsize=64)
def _compiled(file: Path, source: str, line: int) -> Any:
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    try:
        # Empty lines before it, so that Jinja's line numbers are the file's.
        return environment.from_string("\n" * (line - 1) + source)
    except jinja2.TemplateSyntaxError as reason:
        problem = f"{file}:{reason.lineno}: {reason.message}"
        raise UserError(problem, "Jinja: {{ name }}, {% if … %} … {% endif %}") from None


def as_text(prompt: Prompt) -> str:
    """A prompt as a judge reads it: a single request as it is, a conversation turn by turn."""
    if len(prompt) == 1 and prompt[0]["role"] == "user":
        return prompt[0]["content"]
    return "\n\n".join(f"{turn['role'].capitalize()}: {turn['content']}" for turn in prompt)


def own_folder() -> Path:
    """Where the user's templates are found by name."""
    return home() / "judges"


def known_templates() -> dict[str, Path]:
    """Find the files of templates by name: those that come along and the user's own, which win."""
    files = [*sorted(BUILT_IN.glob("*.txt")), *sorted(own_folder().glob("*.txt"))]
    names = {file.stem: file for file in files}
    return {DEFAULT: names.pop(DEFAULT), **names}


def read_template(name: str | None = None) -> Template:
    """Read a template by its name, or by its file.

    Raises:
        UserError: there is none, or it is wrong, with the file and the line.
    """
    known = known_templates()
    file = known.get(name or DEFAULT)
    if file is None:
        file = Path(str(name)).expanduser()
        if not file.is_file():
            problem = f"there is no template {name!r}: {nearest(str(name), known)}"
            raise UserError(problem, f"give a file, or put it into {own_folder()} as NAME.txt")
        name = str(file)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as reason:
        raise UserError(f"{file}: {reason}", "a template is a text file (UTF-8)") from None
    return _parse(name or DEFAULT, file, text)


def _parse(name: str, file: Path, text: str) -> Template:
    settings: dict[str, tuple[str, int]] = {}
    sections: dict[str, list[str]] = {}
    lines: dict[str, int] = {}
    current: list[str] | None = None
    for number, line in enumerate(text.split("\n"), 1):
        if line.startswith("--- "):
            section = line[4:].strip()
            if section not in SECTIONS or section in sections:
                twice = " twice" if section in sections else ""
                problem = f"{file}:{number}: section {section!r}{twice}"
                raise UserError(problem, f"known: {', '.join(SECTIONS)}, each once")
            sections[section] = current = []
            lines[section] = number + 1
        elif current is not None:
            current.append(line)
        elif line.strip() and not line.startswith("#"):
            key, colon, value = line.partition(":")
            if not colon or key.strip() not in KEYS:
                hint = f"{nearest(key.strip(), KEYS)}; NAME: VALUE, then --- user"
                raise UserError(f"{file}:{number}: {line.strip()!r}", hint)
            settings[key.strip()] = value.strip(), number
    if not "\n".join(sections.get("user", [])).strip():
        raise UserError(f"{file}: it has no question", "write one behind a line --- user")
    mode, number = settings.get("mode", ("pairwise", 0))
    if mode not in USUAL:
        raise UserError(f"{file}:{number}: mode {mode!r}", f"known: {', '.join(USUAL)}")
    words = _read_words(file, mode, *settings.get("words", (USUAL[mode], 0)))
    answer, about = (settings.get(key, ("", 0))[0] for key in ("answer", "about"))
    most, number = settings.get("ask_tokens", ("256", 0))
    if not most.isdecimal() or not 1 <= int(most) <= 4096:
        raise UserError(f"{file}:{number}: ask_tokens {most!r}", "a number from 1 to 4096")
    whole = {key: "\n".join(value).rstrip() for key, value in sections.items()}
    stamp = hashlib.sha256(text.encode()).hexdigest()[:16]
    template = Template(name, file, mode, words, answer, about, int(most), whole, lines, stamp)
    _try(template)
    return template


def _read_words(file: Path, mode: str, value: str, line: int) -> tuple[str, ...]:
    words = tuple(word.strip() for word in value.split(","))
    if mode == "single":
        hint = "scores, as numbers: 1, 2, 3, 4, 5"
        sound = False
        with suppress(ValueError):
            sound = len(set(map(float, words))) == len(words) >= 2
    else:
        hint = "first is better, second is better, and, if there are ties, a tie: A, B, C"
        sound = len({word.casefold() for word in words}) == len(words) in (2, 3)
    if not sound or "" in words:
        raise UserError(f"{file}:{line}: words {value!r}", hint)
    return words


def _try(template: Template) -> None:
    """Render everything once, so that mistakes show before a model is loaded."""
    prompt = [{"role": "user", "content": "«prompt»"}]
    shown = ("response",) if template.mode == "single" else ("first", "second")
    values = {key: f"«{key}»" for key in (*shown, "reference", "criteria")}
    if template.ask(prompt) is not None:
        values["notes"] = "«notes»"
    for explain in (False, True):
        said = template.messages(prompt, explain=explain, **values)[-1]["content"]
        for key in shown:
            if f"«{key}»" not in said:
                where = f"{template.file}:{template.lines['user']}"
                hint = f"write {{{{ {key} }}}} where the text of the answer belongs"
                raise UserError(f"{where}: the question does not show {key}", hint)
