"""The formats that can be read, told apart by the keys of a row: the first that fits counts."""

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import Any

from minialign.formats import demonstrations, preferences
from minialign.formats.fields import LABEL, PROMPT, RESPONSE, TURNS, Row, absent
from minialign.records import Demonstration, Pair, Prompted, Ranking, Rated


@dataclass(frozen=True)
class Format:
    """How rows of one shape are recognised and read."""

    name: str
    keys: tuple[str, ...]  # all needed; "a|b" is either
    record: type
    example: Row
    note: str
    read: Callable[[Row], list[Any]]  # records and Unused; raises BadRow
    when: Callable[[Row], bool] = lambda row: True  # of rows that have the keys


@cache
def _like_answer(key: str) -> list[str]:
    return get_close_matches(key.lower(), ANSWERS, n=1, cutoff=0.8)


def _no_answer(row: Row) -> bool:
    """Whether no key looks like an answer's: else it is a mistyped row of another format."""
    return not any(map(_like_answer, row))


ANSWERS = ("chosen", "rejected", "completion", "response", "responses", "answer", "output")
_TURNS, _PROMPT, _RESPONSE, _LABEL = map("|".join, (TURNS, PROMPT, RESPONSE, LABEL))
_ASK = "Which planet is the largest?"
_TURN, _REPLY = {"role": "user", "content": _ASK}, {"role": "assistant", "content": "Jupiter."}
_LARGEST = {"instruction": "Name the planet.", "input": "the largest"}

# fmt: off
FORMATS: list[Format] = [
    Format("oasst", ("prompt",), Ranking,
        {"prompt": {"text": _ASK, "role": "prompter", "replies": [
            {"text": "Jupiter.", "role": "assistant", "rank": 0, "replies": []},
            {"text": "Saturn.", "role": "assistant", "rank": 1, "replies": []}]}},
        "Open Assistant trees: a ranking for each turn with ranked replies (rank 0 is best)",
        preferences.tree, lambda row: isinstance(row["prompt"], dict)),
    Format("votes", ("prompt", "a", "b", "choice"), Pair,
        {"id": "v1", "prompt": _ASK, "a": "Jupiter.", "b": "Mars.", "choice": "a"},
        "minialign's own labels; the last vote of an id counts; ties and skips give no pair",
        preferences.vote),
    Format("shp", ("history", "human_ref_A", "human_ref_B", "labels"), Pair,
        {"history": _ASK, "human_ref_A": "Jupiter.", "human_ref_B": "Mars.", "labels": 1},
        "Stanford Human Preferences; labels 1 prefers A", preferences.shp),
    Format("tldr", ("info", "summaries", "choice"), Pair,
        {"info": {"subreddit": "r/space", "title": "Planets", "post": "I looked at Jupiter."},
         "summaries": [{"text": "Looked at Jupiter."}, {"text": "A post."}], "choice": 0},
        "OpenAI's TL;DR comparisons; choice 0 is the first summary", preferences.tldr),
    Format("ultrafeedback", ("instruction", "completions"), Ranking,
        {"instruction": _ASK, "completions": [
            {"response": "Jupiter.", "fine-grained_score": 4.5},
            {"response": "Mars.", "fine-grained_score": 1.25}]},
        "several completions with fine-grained_score, overall_score or score",
        preferences.ultrafeedback),
    Format("alpacafarm", ("instruction|input", "output_1", "output_2", "preference|label"), Pair,
        {"instruction": _ASK, "input": "", "output_1": "Jupiter.", "output_2": "Mars.",
         "preference": 1},
        "AlpacaFarm and LLMBar; 1 or 2 is better", preferences.alpaca_farm),
    Format("rankings", (_PROMPT, "responses", "scores|ranks"), Ranking,
        {"prompt": _ASK, "responses": ["Jupiter.", "Saturn.", "Mars."], "scores": [3, 2, 1]},
        "scores: higher is better; ranks: lower is better", preferences.ranking),
    Format("alpaca-pairs", ("instruction", "chosen", "rejected"), Pair,
        _LARGEST | {"chosen": "Jupiter.", "rejected": "Mars."},
        "LLaMA-Factory's DPO rows in Alpaca's form", preferences.instruction_pair),
    Format("pairs", ("prompt|question|query", "chosen", "rejected"), Pair,
        {"prompt": _ASK, "chosen": "Jupiter.", "rejected": "Mars."},
        "texts or messages; optional system and margin", preferences.pair),
    Format("sharegpt-pairs", (_TURNS, "chosen", "rejected"), Pair,
        {"conversations": [{"from": "human", "value": _ASK}],
         "chosen": {"from": "gpt", "value": "Jupiter."},
         "rejected": {"from": "gpt", "value": "Mars."}},
        "LLaMA-Factory's DPO rows: turns, and two answers to the last",
        preferences.conversation_pair),
    Format("hh-rlhf", ("chosen", "rejected"), Pair,
        {"chosen": f"\n\nHuman: {_ASK}\n\nAssistant: Jupiter.",
         "rejected": f"\n\nHuman: {_ASK}\n\nAssistant: Mars."},
        "whole transcripts; the prompt is what both share", preferences.transcript_pair,
        lambda row: isinstance(row["chosen"], str) and isinstance(row["rejected"], str)),
    Format("implicit-pairs", ("chosen", "rejected"), Pair,
        {"chosen": [_TURN, _REPLY],
         "rejected": [_TURN, {"role": "assistant", "content": "Mars."}]},
        "whole conversations; the prompt is what both share", preferences.implicit_pair),
    Format("sharegpt-ratings", (_TURNS, _LABEL), Rated,
        {"messages": [_TURN, _REPLY], "label": True},
        "LLaMA-Factory's KTO rows: the last turn is rated", demonstrations.rated_conversation),
    Format("alpaca-ratings", ("instruction", "output|response", _LABEL), Rated,
        _LARGEST | {"output": "Jupiter.", "kto_tag": True},
        "LLaMA-Factory's KTO rows in Alpaca's form", demonstrations.rated_instruction),
    Format("ratings", (_PROMPT, _RESPONSE, _LABEL), Rated,
        {"prompt": _ASK, "completion": "Jupiter.", "label": True},
        "true/false, 1/0, good/bad, up/down", demonstrations.rating),
    Format("messages", ("messages",), Demonstration,
        {"messages": [{"role": "system", "content": "Answer briefly."}, _TURN, _REPLY]},
        "OpenAI and mlx-lm chat rows, any number of turns; ends with the user: a prompt alone",
        demonstrations.conversation),
    Format("sharegpt", ("conversations|conversation",), Demonstration,
        {"conversations": [{"from": "human", "value": _ASK}, {"from": "gpt", "value": "Jupiter."}]},
        "turns with from and value; optional system",
        demonstrations.conversation, lambda row: not _is_list_of_texts(row)),
    Format("lima", ("conversations|conversation",), Demonstration,
        {"conversations": [_ASK, "Jupiter."], "source": "stackexchange"},
        "turns as texts, the user's first", demonstrations.conversation),
    Format("alpaca", ("instruction", "output"), Demonstration,
        _LARGEST | {"output": "Jupiter."},
        "input, system and history may be absent", demonstrations.instruction),
    Format("dolly", ("instruction", "response"), Demonstration,
        {"instruction": _ASK, "context": "Jupiter is larger than Saturn.",
         "response": "Jupiter.", "category": "closed_qa"},
        "context may be absent", demonstrations.instruction),
    Format("completions", (_PROMPT, _RESPONSE), Demonstration,
        {"prompt": _ASK, "completion": "Jupiter."},
        "also question/answer (GSM8K), prompt/response, …; optional system",
        demonstrations.completion),
    Format("text", ("text",), Demonstration,
        {"text": "Jupiter is the largest planet."},
        "plain text without a template, trained on whole", demonstrations.text),
    Format("questions", ("turns",), Prompted,
        {"question_id": 81, "category": "writing", "turns": [_ASK, "And the smallest?"]},
        "MT-bench and Vicuna questions: the first turn", demonstrations.first_turn),
    Format("self-instruct", ("instruction", "instances"), Prompted,
        {"instruction": "Name the planet.",
         "instances": [{"input": "the largest", "output": "Jupiter."}]},
        "a prompt for each instance", demonstrations.tasks),
    Format("prompts", (_PROMPT,), Prompted,
        {"prompt": _ASK},
        "prompts to sample from; other columns are kept beside them",
        demonstrations.prompt, _no_answer),
]
# fmt: on


def _is_list_of_texts(row: Row) -> bool:
    turns = row.get("conversations", row.get("conversation"))
    return isinstance(turns, list) and bool(turns) and all(isinstance(t, str) for t in turns)


@cache
def _candidates(keys: frozenset[str]) -> list[Format]:
    return [f for f in FORMATS if all(keys.intersection(key.split("|")) for key in f.keys)]


def format_of(row: Row) -> Format | None:
    """The first format that fits the row."""
    present = frozenset(key for key, value in row.items() if not absent(value))
    return next((form for form in _candidates(present) if form.when(row)), None)
