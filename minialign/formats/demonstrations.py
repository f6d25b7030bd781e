"""Readers of what the assistant should say, of single ratings, and of prompts alone."""

from typing import Any

from minialign.formats import fields
from minialign.formats.fields import TURNS, Row
from minialign.formats.problems import BadRow, bad_value
from minialign.records import Demonstration, Message, Prompted, Rated, Record


def conversation(row: Row) -> list[Record]:
    """Turns that end with the assistant's; those that end with the user's are a prompt alone."""
    turns = fields.with_system(row, fields.messages(row, *TURNS))
    if not fields.absent(row.get("tools")) and row["tools"]:
        raise BadRow("a list of tools", "turns without tools", "take out 'tools' and their calls")
    if turns[-1]["role"] == "user":
        return [Prompted(fields.check_prompt(turns, fields.key_of(row, TURNS)))]
    if turns[-1]["role"] == "system":
        alone, fix = (
            "a conversation of a system message alone",
            "add the turns, or take the row out",
        )
        raise BadRow(alone, "a user's and an assistant's turn", fix)
    return [Demonstration(turns)]


def _demonstrate(prompt: list[Message], response: str) -> list[Record]:
    return [Demonstration([*prompt, {"role": "assistant", "content": response}])]


def completion(row: Row) -> list[Record]:
    """A prompt and its answer, under any of their usual names."""
    return _demonstrate(fields.prompt(row), fields.response(row))


def instruction(row: Row) -> list[Record]:
    """Alpaca's and Dolly's rows: instruction, perhaps some input or context, and the answer."""
    return _demonstrate(fields.instruction(row), fields.response(row, "output", "response"))


def text(row: Row) -> list[Record]:
    """Plain text, trained on whole."""
    content = fields.text(row, "text")
    if not content.strip():
        raise BadRow("an empty text", "some text", "take the row out")
    return [Demonstration([{"role": "text", "content": content}])]


def rating(row: Row) -> list[Record]:
    """A prompt, one answer, and a thumb."""
    return [Rated(fields.prompt(row), fields.response(row), fields.label(row))]


def rated_conversation(row: Row) -> list[Record]:
    """A conversation whose last turn is rated (LLaMA-Factory's KTO rows)."""
    turns = fields.with_system(row, fields.messages(row, *TURNS))
    if turns[-1]["role"] != "assistant":
        ending = f"a conversation that ends with a turn of the {turns[-1]['role']}"
        expected = "an assistant's last turn, which the label rates"
        raise BadRow(ending, expected, "add the answer, or take the row out")
    prompt = fields.check_prompt(turns[:-1], fields.key_of(row, TURNS))
    return [Rated(prompt, turns[-1]["content"], fields.label(row))]


def rated_instruction(row: Row) -> list[Record]:
    """An Alpaca row with a thumb (LLaMA-Factory's KTO rows)."""
    answer = fields.response(row, "output", "response")
    return [Rated(fields.instruction(row), answer, fields.label(row))]


def _plain(value: Any) -> Any:
    """A value of another column, as JSON can hold it: NaN is null."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if fields.absent(value):
        return None
    return value if isinstance(value, str | int | float | bool) else str(value)


def _others(row: Row, *used: str) -> dict[str, Any]:
    others = {key: _plain(value) for key, value in row.items() if key not in used}
    if set(others) == {"extra"} and isinstance(others["extra"], dict):
        return others["extra"]  # our own rows
    return others


def prompt(row: Row) -> list[Record]:
    """A prompt alone; the other columns (a reference answer…) are kept beside it."""
    key = fields.key_of(row, fields.PROMPT)
    if key == "instruction":
        used = ("instruction", "input", "context", "system", "history")
        return [Prompted(fields.instruction(row), extra=_others(row, *used))]
    return [Prompted(fields.prompt(row), extra=_others(row, key, "system"))]


def first_turn(row: Row) -> list[Record]:
    """The first question of an MT-bench row; the later ones are kept beside it."""
    turns = fields.as_list(row.get("turns"), "turns")
    if not turns or not all(isinstance(turn, str) for turn in turns):
        expected = "a list of the user's questions"
        raise bad_value(row["turns"], "turns", expected, 'write "turns": ["…"]')
    content = fields.check_text(turns[0], "turns")
    question = fields.check_prompt([{"role": "user", "content": content}], "turns")
    return [Prompted(fields.with_system(row, question), extra=_others(row, "system"))]


def tasks(row: Row) -> list[Record]:
    """A self-instruct task: one prompt for each of its instances."""
    instances = fields.as_list(row.get("instances"), "instances")
    if not instances or not all(isinstance(instance, dict) for instance in instances):
        expected = "a list of objects with input and output"
        fix = 'write "instances": [{"input": "", "output": "…"}]'
        raise bad_value(row["instances"], "instances", expected, fix)
    others = _others(row, "instruction", "instances")
    return [
        Prompted(
            fields.instruction({**row, "input": instance.get("input")}),
            extra={**others, "output": _plain(instance.get("output"))},
        )
        for instance in instances
    ]
