"""Readers of preferences: pairs, rankings, votes; each gives records, or says why none."""

from itertools import combinations
from typing import Any

from minialign.formats import fields, transcripts
from minialign.formats.fields import PROMPT, TURNS, Row
from minialign.formats.problems import BadRow, Unused, described
from minialign.records import Message, Pair, Prompt, Ranking, noted, reasons_of

Found = list[Any]  # records and ``Unused``


def pair(row: Row) -> Found:
    """prompt, chosen, rejected; answers as texts, or as messages that may repeat the prompt."""
    margin = fields.optional_number(row, "margin")
    sides = [row["chosen"], row["rejected"]]
    if all(isinstance(side, list) and len(side) > 1 for side in sides):
        return implicit_pair(row)
    prompt = fields.prompt(row)
    return [Pair(prompt, fields.response(row, "chosen"), fields.response(row, "rejected"), margin)]


def implicit_pair(row: Row) -> Found:
    """chosen and rejected as whole conversations (messages); the prompt is what they share."""
    margin = fields.optional_number(row, "margin")
    prompt, chosen, rejected = transcripts.shared_prompt(
        fields.messages(row, "chosen"), fields.messages(row, "rejected")
    )
    prompt = fields.with_system(row, fields.checked_prompt(prompt, "chosen"))
    return [Pair(prompt, chosen, rejected, margin)]


def transcript_pair(row: Row) -> Found:
    """HH-RLHF: chosen and rejected as whole transcripts."""
    sides = []
    for key in ("chosen", "rejected"):
        value = fields.text(row, key)
        if not transcripts.is_transcript(value):
            raise BadRow(f"{described(value)} in {key!r}, and no prompt",
                         "a prompt column, or a transcript: Human: … Assistant: …",
                         "add the prompt (if a column holds it: --map prompt=COLUMN)")  # fmt: skip
        sides.append(transcripts.turns(value))
    prompt, chosen, rejected = transcripts.shared_prompt(*sides)
    prompt = fields.with_system(row, fields.checked_prompt(prompt, "chosen"))
    return [Pair(prompt, chosen, rejected, fields.optional_number(row, "margin"))]


def conversation_pair(row: Row) -> Found:
    """ShareGPT turns and two answers to the last one (LLaMA-Factory's DPO rows)."""
    turns = fields.with_system(row, fields.messages(row, *TURNS))
    prompt = fields.checked_prompt(turns, fields.key_of(row, TURNS))
    return [Pair(prompt, fields.response(row, "chosen"), fields.response(row, "rejected"),
                 fields.optional_number(row, "margin"))]  # fmt: skip


def instruction_pair(row: Row) -> Found:
    """An Alpaca row with two answers (LLaMA-Factory's DPO rows)."""
    prompt = fields.instruction(row)
    return [Pair(prompt, fields.response(row, "chosen"), fields.response(row, "rejected"),
                 fields.optional_number(row, "margin"))]  # fmt: skip


def _picked(prompt: Prompt, answers: list[str], winner: int) -> Found:
    return [Pair(prompt, answers[winner], answers[1 - winner])]


def shp(row: Row) -> Found:
    """Stanford Human Preferences: a Reddit post and two comments; labels 1 prefers A."""
    prompt = fields.prompt(row, "history")
    answers = [fields.text(row, "human_ref_B"), fields.text(row, "human_ref_A")]
    return _picked(prompt, answers, fields.choice(row, "labels", 0))


def tldr(row: Row) -> Found:
    """OpenAI's summary comparisons (Stiennon et al. 2020): a post or article, two summaries."""
    info = row["info"]
    if not isinstance(info, dict) or fields.absent(info.get("post", info.get("article"))):
        raise BadRow(f"{described(info)} in 'info'", "an object with post or article",
                     "give the text that was summarised")  # fmt: skip
    parts = [(name.upper(), fields.optional_text(info, name)) for name in ("subreddit", "title")]
    parts.append(("POST" if "post" in info else "ARTICLE", fields.text(info, "post", "article")))
    content = "\n\n".join(f"{name}: {text}" for name, text in parts if text) + "\n\nTL;DR:"
    summaries = fields.listed(row["summaries"], "summaries")
    if len(summaries) != 2 or not all(isinstance(summary, dict) for summary in summaries):
        raise BadRow(f"{described(summaries)} in 'summaries'", "two objects with a text each",
                     "take the row out")  # fmt: skip
    answers = [fields.text(summary, "text").strip() for summary in summaries]
    prompt = [{"role": "user", "content": content}]
    return _picked(prompt, answers, fields.choice(row, "choice", 0))


def alpaca_farm(row: Row) -> Found:
    """AlpacaFarm's and LLMBar's rows: output_1, output_2, and which one is better."""
    prompt = (
        fields.prompt(row, "input")
        if fields.absent(row.get("instruction"))
        else fields.instruction(row)
    )
    answers = [fields.text(row, "output_1"), fields.text(row, "output_2")]
    key = fields.key_of(row, ("preference", "label"))
    if fields.number(row[key], key) in (0, 1.5):
        return [Unused("a tie")]
    return _picked(prompt, answers, fields.choice(row, key, 1))


def ranking(row: Row) -> Found:
    """responses with scores (higher is better) or ranks (lower is better)."""
    prompt = fields.prompt(row, *PROMPT)
    responses = [
        fields.response({"responses": value}, "responses")
        for value in fields.listed(row["responses"], "responses")
    ]
    key, sign = ("scores", 1.0) if not fields.absent(row.get("scores")) else ("ranks", -1.0)
    values = [fields.number(value, key) for value in fields.listed(row[key], key)]
    if len(responses) < 2:
        raise BadRow(f"{described(responses)} in 'responses'", "two or more answers",
                     "take the row out, or use {prompt, completion}")  # fmt: skip
    if len(values) != len(responses):
        raise BadRow(f"{len(responses)} responses and {len(values)} {key}",
                     f"as many {key} as responses", f"complete {key!r}")  # fmt: skip
    return [Ranking(prompt, responses, [sign * value for value in values])]


def ultrafeedback(row: Row) -> Found:
    """UltraFeedback (Cui et al. 2023): several models' completions with a score each.

    The mean of the fine-grained scores counts where there is one: the published overall scores
    have 10 for some answers that their critique gives 1.
    """
    completions = fields.listed(row["completions"], "completions")
    if len(completions) < 2 or not all(isinstance(item, dict) for item in completions):
        raise BadRow(f"{described(completions)} in 'completions'",
                     "two or more objects with response and score", "take the row out")  # fmt: skip
    keys = ("fine-grained_score", "overall_score", "score")
    scores = []
    for item in completions:
        key = fields.key_of(item, keys)
        scores.append(fields.number(item.get(key), key))
    responses = [fields.text(item, "response") for item in completions]
    return [Ranking(fields.instruction(row), responses, scores)]


def vote(row: Row) -> Found:
    """A person's vote, as minialign writes it; an edited text beats what was shown."""
    prompt = fields.prompt(row, "prompt")
    shown = {"a": fields.text(row, "a"), "b": fields.text(row, "b")}
    edited = fields.optional_text(row, "edited")
    choice = row["choice"]
    if choice == "unparsed":
        return [Unused("a judge's verdict that could not be read")]
    if choice not in ("a", "b", "tie", "both_bad", "skip"):
        raise BadRow(f"{described(choice)} in 'choice'", "a, b, tie, both_bad or skip",
                     "write one of these")  # fmt: skip
    if choice == "skip":
        return [Unused("a skipped vote")]
    ends = {side: _end(row.get(f"{side}_from")) for side in shown}
    if choice in shown:
        loser = "b" if choice == "a" else "a"
        reasons = noted([None if edited else ends[choice], ends[loser]])
        return [Pair(prompt, edited or shown[choice], shown[loser], finish_reasons=reasons)]
    if edited:
        sides = {shown[side]: side for side in ("b", "a")}
        return [Pair(prompt, edited, shown[side], finish_reasons=noted([None, ends[side]]))
                for side in sorted(sides.values())]  # fmt: skip
    return [Unused("a tie" if choice == "tie" else "both answers bad")]


def _end(origin: Any) -> str | None:
    """The finish reason in where an answer came from, if it is kept there."""
    reason = origin.get("finish_reason") if isinstance(origin, dict) else None
    return reason if isinstance(reason, str) else None


def tree(row: Row) -> Found:
    """Open Assistant (Köpf et al. 2023): a ranking for each turn with ranked replies."""
    found: Found = []
    unranked = deleted = 0
    stack: list[tuple[dict[str, Any], list[Message]]] = [(row["prompt"], [])]
    while stack:
        node, before = stack.pop()
        said = fields.text(node, "text")
        turn = fields.message({"role": node.get("role"), "content": said}, "tree", len(before) + 1)
        path = [*before, turn]
        everything = fields.listed(node.get("replies") or [], "replies")
        if not all(isinstance(reply, dict) for reply in everything):
            raise BadRow("'replies' that are not objects", "objects with text and role",
                         "take the tree out")  # fmt: skip
        replies = [reply for reply in everything if not reply.get("deleted")]
        deleted += len(everything) - len(replies)
        ranked = [reply for reply in replies if not fields.absent(reply.get("rank"))]
        if len(ranked) >= 2 and turn["role"] == "user":
            scores = [-fields.number(reply["rank"], "rank") for reply in ranked]
            found.append(Ranking(path, [fields.text(reply, "text") for reply in ranked], scores))
        else:
            ranked = []
        if turn["role"] == "user":
            unranked += len(replies) - len(ranked)
        stack.extend((reply, path) for reply in reversed(replies))
    left_out = [("an answer without a rank", unranked), ("a deleted reply", deleted)]
    return [*found, *[Unused(reason, count) for reason, count in left_out if count]]


def pairs_of(ranking: Ranking) -> list[Pair]:
    """Every two answers of a ranking whose scores differ, the better one chosen."""
    order = sorted(range(len(ranking.scores)), key=lambda i: -ranking.scores[i])
    return [
        Pair(
            ranking.prompt, ranking.responses[i], ranking.responses[j], source=ranking.source,
            finish_reasons=reasons_of(ranking, i, j),
        )
        for i, j in combinations(order, 2)
        if ranking.scores[i] > ranking.scores[j]
    ]  # fmt: skip
