"""Readers of preferences: pairs, rankings, votes; each gives records, or says why none."""

from typing import Any

from minialign.formats import fields, transcripts
from minialign.formats.fields import PROMPT, TURNS, Row
from minialign.formats.problems import BadRow, Unused, bad_value, describe
from minialign.records import Message, Pair, Prompt, Ranking, noted

Given = list[Any]  # records and ``Unused``


def pair(row: Row) -> Given:
    """prompt, chosen, rejected; answers as texts, or as messages that may repeat the prompt."""
    sides = [row["chosen"], row["rejected"]]
    if all(isinstance(side, list) and len(side) > 1 for side in sides):
        return implicit_pair(row)
    return _two_answers(fields.prompt(row), row)


def _two_answers(prompt: Prompt, row: Row) -> Given:
    answers = fields.response(row, "chosen"), fields.response(row, "rejected")
    return [Pair(prompt, *answers, fields.optional_number(row, "margin"))]


def implicit_pair(row: Row) -> Given:
    """chosen and rejected as whole conversations (messages); the prompt is what they share."""
    return _two_conversations(row, [fields.messages(row, key) for key in ("chosen", "rejected")])


def _two_conversations(row: Row, sides: list[list[Message]]) -> Given:
    prompt, chosen, rejected = transcripts.shared_prompt(*sides)
    prompt = fields.with_system(row, fields.check_prompt(prompt, "chosen"))
    return [Pair(prompt, chosen, rejected, fields.optional_number(row, "margin"))]


def transcript_pair(row: Row) -> Given:
    """HH-RLHF: chosen and rejected as whole transcripts."""
    sides = []
    for key in ("chosen", "rejected"):
        value = fields.text(row, key)
        if not transcripts.is_transcript(value):
            expected = "a prompt column, or a transcript: Human: … Assistant: …"
            fix = "add the prompt (if a column holds it: --map prompt=COLUMN)"
            raise BadRow(f"{describe(value)} in {key!r}, and no prompt", expected, fix)
        sides.append(transcripts.turns(value))
    return _two_conversations(row, sides)


def conversation_pair(row: Row) -> Given:
    """ShareGPT turns and two answers to the last one (LLaMA-Factory's DPO rows)."""
    turns = fields.with_system(row, fields.messages(row, *TURNS))
    return _two_answers(fields.check_prompt(turns, fields.key_of(row, TURNS)), row)


def instruction_pair(row: Row) -> Given:
    """An Alpaca row with two answers (LLaMA-Factory's DPO rows)."""
    return _two_answers(fields.instruction(row), row)


def _pick(prompt: Prompt, answers: list[str], winner: int) -> Given:
    return [Pair(prompt, answers[winner], answers[1 - winner])]


def shp(row: Row) -> Given:
    """Stanford Human Preferences: a Reddit post and two comments; labels 1 prefers A."""
    prompt = fields.prompt(row, "history")
    answers = [fields.text(row, "human_ref_B"), fields.text(row, "human_ref_A")]
    return _pick(prompt, answers, fields.choice(row, "labels", 0))


def tldr(row: Row) -> Given:
    """OpenAI's summary comparisons (Stiennon et al. 2020): a post or article, two summaries."""
    info = row["info"]
    if not isinstance(info, dict) or fields.absent(info.get("post", info.get("article"))):
        fix = "give the text that was summarised"
        raise bad_value(info, "info", "an object with post or article", fix)
    parts = [(name.upper(), fields.optional_text(info, name)) for name in ("subreddit", "title")]
    parts.append(("POST" if "post" in info else "ARTICLE", fields.text(info, "post", "article")))
    content = "\n\n".join(f"{name}: {text}" for name, text in parts if text) + "\n\nTL;DR:"
    summaries = fields.as_list(row["summaries"], "summaries")
    if len(summaries) != 2 or not all(isinstance(summary, dict) for summary in summaries):
        raise bad_value(summaries, "summaries", "two objects with a text each", "take the row out")
    answers = [fields.text(summary, "text").strip() for summary in summaries]
    prompt = [{"role": "user", "content": content}]
    return _pick(prompt, answers, fields.choice(row, "choice", 0))


def alpaca_farm(row: Row) -> Given:
    """AlpacaFarm's and LLMBar's rows: output_1, output_2, and which one is better."""
    alone = fields.absent(row.get("instruction"))
    prompt = fields.prompt(row, "input") if alone else fields.instruction(row)
    answers = [fields.text(row, "output_1"), fields.text(row, "output_2")]
    key = fields.key_of(row, ("preference", "label"))
    if fields.number(row[key], key) in (0, 1.5):
        return [Unused("a tie")]
    return _pick(prompt, answers, fields.choice(row, key, 1))


def ranking(row: Row) -> Given:
    """responses with scores (higher is better) or ranks (lower is better)."""
    prompt = fields.prompt(row, *PROMPT)
    responses = [
        fields.response({"responses": value}, "responses")
        for value in fields.as_list(row["responses"], "responses")
    ]
    key, sign = ("scores", 1.0) if not fields.absent(row.get("scores")) else ("ranks", -1.0)
    values = [fields.number(value, key) for value in fields.as_list(row[key], key)]
    if len(responses) < 2:
        fix = "take the row out, or use {prompt, completion}"
        raise bad_value(responses, "responses", "two or more answers", fix)
    if len(values) != len(responses):
        said = f"{len(responses)} responses and {len(values)} {key}"
        raise BadRow(said, f"as many {key} as responses", f"complete {key!r}")
    return [Ranking(prompt, responses, [sign * value for value in values])]


def ultrafeedback(row: Row) -> Given:
    """UltraFeedback (Cui et al. 2023): several models' completions with a score each.

    The mean of the fine-grained scores counts where there is one: the published overall scores
    have 10 for some answers that their critique gives 1.
    """
    completions = fields.as_list(row["completions"], "completions")
    if len(completions) < 2 or not all(isinstance(item, dict) for item in completions):
        expected = "two or more objects with response and score"
        raise bad_value(completions, "completions", expected, "take the row out")
    keys = ("fine-grained_score", "overall_score", "score")
    scores = []
    for item in completions:
        key = fields.key_of(item, keys)
        scores.append(fields.number(item.get(key), key))
    responses = [fields.text(item, "response") for item in completions]
    return [Ranking(fields.instruction(row), responses, scores)]


def vote(row: Row) -> Given:
    """A person's vote, as minialign writes it; an edited text beats what was shown."""
    prompt = fields.prompt(row, "prompt")
    shown = {"a": fields.text(row, "a"), "b": fields.text(row, "b")}
    edited = fields.optional_text(row, "edited")
    choice = row["choice"]
    if choice == "unparsed":
        return [Unused("a judge's verdict that could not be read")]
    if choice not in ("a", "b", "tie", "both_bad", "skip"):
        raise bad_value(choice, "choice", "a, b, tie, both_bad or skip", "write one of these")
    if choice == "skip":
        return [Unused("a skipped vote")]
    ends = {side: _end(row.get(f"{side}_from")) for side in shown}
    if choice in shown:
        loser = "b" if choice == "a" else "a"
        reasons = noted([None if edited else ends[choice], ends[loser]])
        return [Pair(prompt, edited or shown[choice], shown[loser], finish_reasons=reasons)]
    if edited:
        sides = {shown[side]: side for side in ("b", "a")}
        return [
            Pair(prompt, edited, shown[side], finish_reasons=noted([None, ends[side]]))
            for side in sorted(sides.values())
        ]
    return [Unused("a tie" if choice == "tie" else "both answers bad")]


def _end(origin: Any) -> str | None:
    """The finish reason that an answer's origin (``a_from``, ``b_from``) holds, if any."""
    reason = origin.get("finish_reason") if isinstance(origin, dict) else None
    return reason if isinstance(reason, str) else None


def tree(row: Row) -> Given:
    """Open Assistant (Köpf et al. 2023): a ranking for each turn with ranked replies."""
    rankings: Given = []
    unranked = deleted = 0
    stack: list[tuple[dict[str, Any], list[Message]]] = [(row["prompt"], [])]
    while stack:
        node, before = stack.pop()
        said = fields.text(node, "text")
        turn = fields.message({"role": node.get("role"), "content": said}, "tree", len(before) + 1)
        path = [*before, turn]
        everything = fields.as_list(node.get("replies") or [], "replies")
        if not all(isinstance(reply, dict) for reply in everything):
            expected = "objects with text and role"
            raise BadRow("'replies' that are not objects", expected, "take the tree out")
        replies = [reply for reply in everything if not reply.get("deleted")]
        deleted += len(everything) - len(replies)
        ranked = [reply for reply in replies if not fields.absent(reply.get("rank"))]
        if len(ranked) >= 2 and turn["role"] == "user":
            scores = [-fields.number(reply["rank"], "rank") for reply in ranked]
            rankings.append(Ranking(path, [fields.text(reply, "text") for reply in ranked], scores))
        else:
            ranked = []
        if turn["role"] == "user":
            unranked += len(replies) - len(ranked)
        stack.extend((reply, path) for reply in reversed(replies))
    left_out = [("an answer without a rank", unranked), ("a deleted reply", deleted)]
    return [*rankings, *[Unused(reason, count) for reason, count in left_out if count]]
