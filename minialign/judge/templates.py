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
MODES = tuple(USUAL)
KEYS = ("mode", "about", "words", "answer", "ask_tokens")
SECTIONS = ("ask", "system", "user")


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
            line = next((f.lineno for f in reversed(frames) if f.filename == "<template>"), None)
            raise UserError(
                f"{self.file}:{line or self.lines[section]}: {reason}", _missing(str(reason))
            ) from None


def _missing(reason: str) -> str:
    if "'reference'" in reason:
        return 'this template needs a reference answer: a key "reference" in every row'
    if "'criteria'" in reason:
        return 'this template needs your criteria: --criteria "TEXT" or --criteria FILE'
    return (
        "known here: prompt, first, second (or response), explain, and, where they are given, "
        "notes, reference, criteria"
    )


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
        raise UserError(
            f"{file}:{reason.lineno}: {reason.message}",
            "Jinja: {{ name }}, {% if … %} … {% endif %}",
        ) from None


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
            raise UserError(
                f"there is no template {name!r}: {nearest(str(name), known)}",
                f"give a file, or put it into {own_folder()} as NAME.txt",
            )
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
    mode, line_number = settings.get("mode", ("pairwise", 0))
    if mode not in MODES:
        raise UserError(f"{file}:{line_number}: mode {mode!r}", f"known: {', '.join(MODES)}")
    template = Template(
        name=name,
        file=file,
        mode=mode,
        words=_read_words(file, mode, *settings.get("words", (USUAL[mode], 0))),
        answer=settings.get("answer", ("", 0))[0],
        about=settings.get("about", ("", 0))[0],
        ask_tokens=_read_ask_tokens(file, *settings.get("ask_tokens", ("256", 0))),
        sections={key: "\n".join(value).rstrip() for key, value in sections.items()},
        lines=lines,
        digest=hashlib.sha256(text.encode()).hexdigest()[:16],
    )
    _try(template)
    return template


def _read_words(file: Path, mode: str, value: str, line: int) -> tuple[str, ...]:
    words = tuple(word.strip() for word in value.split(","))
    if mode == "single":
        try:
            numbers = len(set(map(float, words))) == len(words) >= 2
        except ValueError:
            numbers = False
        if not numbers:
            raise UserError(f"{file}:{line}: words {value!r}", "scores, as numbers: 1, 2, 3, 4, 5")
    elif len(words) not in (2, 3) or "" in words or len({w.casefold() for w in words}) < len(words):
        raise UserError(
            f"{file}:{line}: words {value!r}",
            "first is better, second is better, and, if there are ties, a tie: A, B, C",
        )
    return words


def _read_ask_tokens(file: Path, value: str, line: int) -> int:
    if not value.isdecimal() or not 1 <= int(value) <= 4096:
        raise UserError(f"{file}:{line}: ask_tokens {value!r}", "a number from 1 to 4096")
    return int(value)


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
                raise UserError(
                    f"{template.file}:{template.lines['user']}: the question does not show {key}",
                    f"write {{{{ {key} }}}} where the text of the answer belongs",
                )
