"""The values inside a row: texts, messages, prompts, labels, numbers; each is checked when read.

Functions take the row and the key (or several keys that mean the same, of which the first one
present counts), and raises ``BadRow`` when the value is not what the record needs.
"""

import json
import math
from typing import Any

from minialign.errors import nearest
from minialign.formats import transcripts
from minialign.formats.problems import TO_UTF8, BadRow, bad_value, describe
from minialign.records import Message, Prompt, noted

Row = dict[str, Any]

PROMPT = ("prompt", "question", "query", "instruction")
RESPONSE = ("completion", "response", "answer", "output")
TURNS = ("messages", "conversations", "conversation")
LABEL = ("label", "good", "kto_tag")

ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "bot", "chatgpt", "model"), "assistant"),
}
TOOLS = ("tool", "function", "function_call", "observation", "ipython")
GOOD = {
    **dict.fromkeys(("1", "true", "good", "yes", "up", "desirable"), True),
    **dict.fromkeys(("0", "false", "bad", "no", "down", "-1", "undesirable"), False),
}


def absent(value: Any) -> bool:
    """null, and the NaN that data frames write where a cell has nothing."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def key_of(row: Row, keys: tuple[str, ...]) -> str:
    """The first of ``keys`` that the row has; the first of all when it has none."""
    return next((key for key in keys if not absent(row.get(key))), keys[0])


def check_text(value: Any, key: str) -> str:
    """``value``, which must be a text that can be written as UTF-8; it may be empty."""
    if not isinstance(value, str):
        fix = f"put the text in quotes: {json.dumps(str(value))}"
        if absent(value):
            fix = "write the text, or take the row out"
        elif isinstance(value, list | dict):
            fix = "give the text alone"
        raise bad_value(value, key, "a text", fix)
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            said = f"bytes that are not UTF-8 (or half a surrogate pair) in {key!r}"
            raise BadRow(said, "UTF-8 text", TO_UTF8) from None
    return value


def text(row: Row, *keys: str) -> str:
    """A text; it may be empty (an empty response is counted later, not refused)."""
    key = key_of(row, keys)
    return check_text(row.get(key), key)


def optional_text(row: Row, *keys: str) -> str:
    """A text, or "" where there is none."""
    key = key_of(row, keys)
    return "" if absent(row.get(key)) else check_text(row[key], key)


def number(value: Any, key: str) -> float:
    """A finite number; a text that reads as one (CSV) counts."""
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError
        result = float(value)
    except ValueError:
        raise bad_value(value, key, "a number", f"give {key!r} a number") from None
    if not math.isfinite(result):
        fix = "put a finite number there, or take the row out"
        raise bad_value(value, key, "a finite number", fix)
    return result


def optional_number(row: Row, key: str) -> float | None:
    """A finite number, or None where there is none."""
    return None if absent(row.get(key)) or row[key] == "" else number(row[key], key)


def label(row: Row) -> bool:
    """A thumb: true/false, 1/0, 1/-1, good/bad, up/down, desirable/undesirable."""
    key = key_of(row, LABEL)
    value = row.get(key)
    word = str(int(value) if isinstance(value, bool | float) and value == value else value)
    if isinstance(value, list | dict) or word.strip().lower() not in GOOD:
        raise bad_value(value, key, "true or false", f'write "{key}": true')
    return GOOD[word.strip().lower()]


def choice(row: Row, key: str, first: int) -> int:
    """Which of two: 0 or 1, written as ``first`` and ``first + 1``."""
    value = number(row.get(key), key)
    if value not in (first, first + 1):
        expected = f"{first} or {first + 1}"
        raise bad_value(row[key], key, expected, f"write {expected}")
    return int(value) - first


def as_list(value: Any, key: str) -> list[Any]:
    """A list; a text that holds one as JSON (a cell of a CSV) counts."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError as reason:
            said = f"{describe(value)} in {key!r} ({reason})"
            fix = "write the cell as JSON, with double quotes"
            raise BadRow(said, "a list, in JSON where the file has only text cells", fix) from None
    if not isinstance(value, list):
        raise bad_value(value, key, "a list", f"give {key!r} a list: [ … ]")
    return value


def message(value: Any, key: str, place: int) -> Message:
    """One turn: ``{"role", "content"}`` or ShareGPT's ``{"from", "value"}``."""
    where = f"turn {place} of {key!r}"
    if not isinstance(value, dict):
        fix = 'write {"role": "user", "content": "…"}'
        raise BadRow(f"{describe(value)} as {where}", "an object with role and content", fix)
    role = value.get("role", value.get("from"))
    content = value.get("content", value.get("value"))
    if value.get("tool_calls") or role in TOOLS:
        fix = "take the row out: tools are not trained here"
        raise BadRow(f"a tool call in {where}", "turns of system, user and assistant", fix)
    if isinstance(content, list):  # OpenAI's parts
        parts = [part for part in content if isinstance(part, dict) and part.get("type") == "text"]
        if len(parts) != len(content):
            kinds = sorted({str(p.get("type") if isinstance(p, dict) else p) for p in content})
            said = f"parts of type {', '.join(kinds)} in {where}"
            raise BadRow(said, "text alone", "take out what is not text")
        content = "".join(check_text(part.get("text"), f"content of {where}") for part in parts)
    if not isinstance(role, str) or role.strip().lower() not in (*ROLES, "text"):
        hint = nearest(str(role), {"system", "user", "assistant"})
        raise BadRow(f"the role {describe(role)} in {where}", "system, user or assistant", hint)
    role = role.strip().lower()
    return {"role": ROLES.get(role, role), "content": check_text(content, f"content of {where}")}


def messages(row: Row, *keys: str) -> list[Message]:
    """One or more turns; a plain list of texts (LIMA) is user and assistant in turn."""
    key = key_of(row, keys)
    values = as_list(row.get(key), key)
    if not values:
        raise BadRow(f"an empty list in {key!r}", "at least one turn", "take the row out")
    if all(isinstance(value, str) for value in values):
        sides = ("user", "assistant")
        return [
            {"role": sides[i % 2], "content": check_text(value, f"turn {i + 1} of {key!r}")}
            for i, value in enumerate(values)
        ]
    turns = [message(value, key, place) for place, value in enumerate(values, 1)]
    if any(turn["role"] == "text" for turn in turns) and len(turns) > 1:
        said = f'the role "text" among other turns in {key!r}'
        raise BadRow(said, "one text, or turns", 'use {"text": "…"} for plain text')
    return turns


def check_prompt(turns: list[Message], key: str) -> Prompt:
    """``turns``, if they can be answered: the last one is the user's and says something."""
    if not turns or turns[-1]["role"] != "user":
        last = turns[-1]["role"] if turns else "nothing"
        said, expected = f"{key!r} that ends with {last}", "a prompt that ends with the user's turn"
        raise BadRow(said, expected, "let the prompt end with a user message")
    if not turns[-1]["content"].strip():
        fix = "write the prompt, or take the row out"
        raise BadRow(f"an empty text in {key!r}", "a prompt", fix)
    return turns


def prompt(row: Row, *keys: str) -> Prompt:
    """A prompt: a text (one user message, or an HH-RLHF transcript), or messages.

    The row's ``system`` column, where it has one, goes first.
    """
    key = key_of(row, keys or PROMPT)
    value = row.get(key)
    if isinstance(value, str) and not _holds_messages(value):
        check_text(value, key)
        turns = transcripts.open_prompt(value) or [{"role": "user", "content": value}]
    else:
        turns = messages(row, key)
    return with_system(row, check_prompt(turns, key))


def _holds_messages(value: str) -> bool:
    """Whether a text cell is a list of messages written as JSON; any other text is a prompt."""
    if not value.lstrip().startswith("[{"):
        return False
    try:
        first = json.loads(value)[0]
    except ValueError:
        return False
    return isinstance(first, dict) and ("role" in first or "from" in first)


def with_system(row: Row, turns: list[Message]) -> list[Message]:
    """``turns`` behind the row's ``system`` text, if it has one and they have none."""
    system = optional_text(row, "system")
    if not system.strip() or turns[0]["role"] == "system":
        return turns
    return [{"role": "system", "content": system}, *turns]


def instruction(row: Row) -> Prompt:
    """Alpaca's and Dolly's prompt: the instruction, then a blank line and its input or context."""
    task = text(row, "instruction")
    context = optional_text(row, "input", "context")
    if context.strip().lower() in ("", "<noinput>", "noinput"):
        context = ""
    content = "\n\n".join(part for part in (task, context) if part.strip())
    history: list[Message] = []
    for place, pair in enumerate(as_list(row.get("history") or [], "history"), 1):
        if not isinstance(pair, list) or len(pair) != 2:
            said = f"{describe(pair)} as turn {place} of 'history'"
            raise BadRow(said, "a list of [question, answer]", "write both texts in a list")
        for role, part in zip(("user", "assistant"), pair, strict=True):
            history.append({"role": role, "content": check_text(part, "history")})
    turns = check_prompt([*history, {"role": "user", "content": content}], "instruction")
    return with_system(row, turns)


def response(row: Row, *keys: str) -> str:
    """An answer: a text, one assistant message, or a list of just that."""
    key = key_of(row, keys or RESPONSE)
    value = row.get(key)
    if isinstance(value, list):
        if len(value) != 1:
            fix = "leave the prompt's turns to the prompt"
            raise bad_value(value, key, "one assistant message", fix)
        value = value[0]
    if not isinstance(value, dict):
        return check_text(value, key)
    turn = message(value, key, 1)
    if turn["role"] != "assistant":
        said = f"a turn of the {turn['role']} in {key!r}"
        raise BadRow(said, "a turn of the assistant", 'its role must be "assistant"')
    return turn["content"]


def finish_reasons(row: Row, count: int) -> list[str] | None:
    """How each of the row's ``count`` answers ended, by ``finish_reasons`` or, for a single one,
    ``finish_reason``. None where all ended by themselves or the row does not say.
    """
    given = row.get("finish_reasons", [row.get("finish_reason")])
    known = isinstance(given, list) and all(isinstance(reason, str) for reason in given)
    return noted(given) if known and len(given) == count else None
