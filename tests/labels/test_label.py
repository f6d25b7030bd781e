"""A sitting of votes: their sides, undo, the order of pairs, and that no vote is lost."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.places import ROOT

from minialign import formats
from minialign.durable import Journal
from minialign.errors import UserError
from minialign.home import labels_file
from minialign.labels.items import Waiting, read_items
from minialign.labels.sitting import REPEAT_EVERY, Labelling
from minialign.labels.tally import tally
from minialign.labels.votes import Votes, rate
from minialign.records import Comparison, Pair, Rated


def pairs(count: int) -> list[Comparison]:
    return [
        Comparison([{"role": "user", "content": f"question {n}"}], f"good {n}", f"bad {n}")
        for n in range(count)
    ]


def fill(sitting: Labelling) -> Comparison | None:
    while sitting.wants():
        assert sitting.take() is None
    return sitting.show()


def test_each_choice_becomes_what_training_reads(home):
    sitting = Labelling(Votes(), pairs(6), seed=0)
    shown = []
    for choice in ("a", "b", "tie", "both_bad", "skip"):
        shown.append(fill(sitting))
        sitting.vote(choice)
    shown.append(fill(sitting))
    sitting.vote("both_bad", edited="better", note="too long")
    read = formats.read(labels_file())
    assert (read.problems, read.format) == ([], {"votes": 6})
    found = [(r.chosen, r.rejected) for r in read.records if isinstance(r, Pair)]
    assert found == [
        (shown[0].a, shown[0].b), (shown[1].b, shown[1].a),
        ("better", shown[5].a), ("better", shown[5].b),
    ]  # fmt: skip
    counts = tally(Votes().all)
    assert (counts.votes, counts.pairs, counts.edited, counts.both_bad) == (6, 3, 1, 1)
    assert Votes().all[-1].note == "too long"


def test_sides_are_drawn_at_random_and_a_session_goes_on_where_it_was(home):
    sitting = Labelling(Votes(), pairs(40), seed=1)
    goods = 0
    for _ in range(20):
        goods += fill(sitting).a.startswith("good")
        sitting.vote("a")
    assert 4 <= goods <= 16
    again = Labelling(Votes(), pairs(40), seed=2)
    left = {pair.key for pair in pairs(40)} - {v.id.partition(".")[0] for v in Votes().all}
    assert again.left == len(left)
    assert fill(again).key in left


def test_undo_any_number_also_of_earlier_sittings(home):
    sitting = Labelling(Votes(), pairs(5), seed=0)
    before = []
    for _ in range(4):
        before.append(fill(sitting))
        sitting.vote("a")
    sitting = Labelling(Votes(), pairs(5), seed=3)
    fill(sitting)
    for expected in reversed(before):
        assert sitting.undo().choice == "a"
        assert sitting.show() == expected
    assert sitting.undo() is None
    assert labels_file().read_text() == ""
    assert sitting.left == 5
    sitting.vote("b")
    assert [vote.choice for vote in Votes().all] == ["b"]


def test_old_pairs_come_again_with_swapped_sides_and_agreement_is_counted(home):
    sitting = Labelling(Votes(), pairs(60), seed=0)
    seen: dict[str, Comparison] = {}
    repeats = 0
    for _ in range(3 * REPEAT_EVERY + 5):
        pair = fill(sitting)
        if pair.again:
            repeats += 1
            assert (pair.a, pair.b) == (seen[pair.key].b, seen[pair.key].a)
        else:
            seen[pair.key] = pair
        better = "a" if pair.a.startswith("good") else "b"
        worse = "b" if better == "a" else "a"
        sitting.vote(worse if pair.again and repeats == 1 else better)
    counts = tally(Votes().all)
    assert repeats >= 2
    assert (counts.again, counts.same) == (repeats, repeats - 1)


def test_a_vote_that_cannot_be_written_is_not_counted(home, monkeypatch):
    sitting = Labelling(Votes(), pairs(2), seed=0)
    pair = fill(sitting)
    sitting.vote("a")
    second = fill(sitting)
    before = labels_file().read_bytes()
    full = OSError(28, "No space left on device")
    monkeypatch.setattr(os, "fsync", lambda number: (_ for _ in ()).throw(full))
    with pytest.raises(UserError, match="No space left"):
        sitting.vote("b")
    assert labels_file().read_bytes() == before
    assert sitting.current == second != pair
    monkeypatch.undo()
    os.environ["MINIALIGN_HOME"] = str(home)
    sitting.vote("b")
    assert [vote.choice for vote in Votes().all] == ["a", "b"]


def test_lines_that_do_not_read_stay_and_a_cut_line_is_set_aside(home):
    home.mkdir()
    good = {"id": "1", "prompt": [{"role": "user", "content": "q"}], "a": "x", "b": "y"}
    whole = json.dumps({**good, "choice": "a"})
    labels_file().write_text(f"not json\n{whole}\n[1]\n{whole[:40]}")
    votes = Votes()
    assert (len(votes.all), votes.unreadable) == (1, 3)
    sitting = Labelling(votes, pairs(1), seed=0)
    fill(sitting)
    sitting.vote("b")
    lines = labels_file().read_text().splitlines()
    assert lines[:3] == ["not json", whole, "[1]"]
    assert json.loads(lines[3])["choice"] == "b"
    assert Path(f"{labels_file()}.cut").read_text() == whole[:40] + "\n"
    sitting.undo()
    assert labels_file().read_text().splitlines() == lines[:3]


def test_another_programs_vote_survives_an_undo(home):
    first, second = Votes(), Votes()
    one, two = Labelling(first, pairs(1), seed=0), Labelling(second, pairs(2)[1:], seed=0)
    fill(one)
    one.vote("a")
    fill(two)
    two.vote("b")
    one.undo()
    assert [vote.choice for vote in Votes().all] == ["b"]


def test_two_programs_write_whole_lines(home):
    def write(name: str) -> None:
        lines = Journal.open(home / "both.jsonl")
        for number in range(50):
            lines.append({"name": name, "number": number, "text": "x" * 5000})

    threads = [threading.Thread(target=write, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = Journal.open(home / "both.jsonl")
    assert (len(found.rows), found.bad) == (100, [])


def test_thumbs_are_ratings_that_training_reads(home):
    prompt = [{"role": "user", "content": "q"}]
    rate(prompt, "answer", True)
    rate(prompt, "other", False)
    rate(prompt, "answer", False)
    rate(prompt, "other", None)
    records = formats.read(home / "ratings.jsonl").records
    assert [(r.response, r.good) for r in records if isinstance(r, Rated)] == [("answer", False)]


@pytest.mark.parametrize("reason", ["length", "cancelled", "stop", "stop_string", None])
def test_a_thumb_on_a_cut_answer_says_that_it_was(home, reason):
    rate([{"role": "user", "content": "q"}], "answer", True, reason)
    (row,) = Journal.open(home / "ratings.jsonl").rows
    cut = [reason] if reason in ("length", "cancelled") else None
    assert row.get("finish_reasons") == cut
    assert formats.read(home / "ratings.jsonl").records[0].finish_reasons == cut
    rate([{"role": "user", "content": "q"}], "answer", None, reason)
    assert (home / "ratings.jsonl").read_text() == ""


def test_pairs_set_aside_in_the_chat_come_first_until_they_have_a_vote(home):
    Waiting().add(pairs(9)[8])
    sitting = Labelling(Votes(), pairs(3), Waiting().pairs(), seed=0)
    assert fill(sitting).key == pairs(9)[8].key
    sitting.vote("a")
    assert Labelling(Votes(), pairs(3), Waiting().pairs()).left == 3


def test_pairs_come_the_least_sure_first_as_far_as_that_is_known(home):
    known = pairs(5)
    sitting = Labelling(Votes(), known, seed=0, least_sure_first=True)
    assert fill(sitting).key == known[0].key  # nobody said anything yet
    for number, sure in ((1, 0.9), (2, 0.1), (3, 0.5)):
        sitting.learn(known[number].key, sure)
    order = []
    for _ in range(5):
        order.append(fill(sitting).key)
        sitting.vote("a")
    assert order == [known[number].key for number in (0, 2, 3, 1, 4)]


def test_a_sitting_that_is_opened_anew_goes_on_with_what_is_shown(home):
    def prompt(text: str):
        return [{"role": "user", "content": text}]

    asked = [prompt("one"), prompt("two"), prompt("three")]
    first = Labelling(Votes(), [*asked, *pairs(3)], seed=0)
    written = [Comparison(first.take(), f"x{n}", f"y{n}") for n in range(2)]
    for pair in written:
        first.offer(pair)
    shown = first.show()
    second = Labelling(Votes(), [*asked, *pairs(3)], seed=5, least_sure_first=True)
    second.go_on_from(first)
    assert second.current is shown
    assert written[1].key in [pair.key for pair in second.pairs()]  # not to be written again
    assert second.left == 6
    seen = []
    for _ in range(6):
        pair = second.current or fill_with(second)
        seen.append(pair.key)
        second.vote("a")
    assert len(set(seen)) == 6
    assert seen[:2] == [pair.key for pair in written]
    assert second.left == 0
    turned = Labelling(Votes(), [prompt("four"), prompt("five"), prompt("six")], seed=0)
    six = Comparison(prompt("six"), "x", "y")
    early = Labelling(Votes(), [prompt("six"), prompt("four")], seed=0)
    early.take()
    early.offer(six)
    turned.go_on_from(early)  # another order: what is written already waits for its turn
    order = []
    for _ in range(3):
        order.append(fill_with(turned).prompt[0]["content"])
        turned.vote("a")
    assert order == ["four", "five", "six"]
    other = Labelling(Votes(), pairs(9)[4:], seed=0)
    last = Labelling(Votes(), pairs(2), seed=0)
    assert fill(other) is not None
    last.go_on_from(other)  # of another file
    assert last.current is None
    again = Labelling(Votes(), pairs(9)[4:], seed=9)
    again.go_on_from(other)
    assert again.current is other.current
    assert again.current not in again.pairs()
    assert again.left == 5


def test_nothing_overtakes_a_prompt_that_is_being_answered(home):
    asked = [[{"role": "user", "content": text}] for text in ("one", "two")]
    sitting = Labelling(Votes(), [*asked, *pairs(1)], seed=0)
    seen = []
    for prompt in asked:
        assert sitting.take() == prompt
        assert not sitting.wants()
        sitting.offer(None, prompt)  # stopped: it is the next one again
        assert sitting.take() == prompt
        sitting.offer(Comparison(prompt, "some", "other"))
    while (pair := fill(sitting)) is not None:
        seen.append(pair.prompt[0]["content"])
        sitting.vote("a")
    assert seen == ["one", "two", "question 0"]


def test_pairs_from_the_chat_are_shown_next_in_their_order(home):
    sitting = Labelling(Votes(), pairs(3), seed=0)
    fill(sitting)
    sitting.add_first(pairs(9)[7:])
    seen = []
    while (pair := fill(sitting)) is not None:
        seen.append(pair.prompt[0]["content"])
        sitting.vote("a")
    assert seen == [f"question {n}" for n in (0, 7, 8, 1, 2)]


def fill_with(sitting: Labelling) -> Comparison:
    """As ``fill``, with answers to the prompts."""
    while sitting.wants():
        if (prompt := sitting.take()) is not None:
            sitting.offer(Comparison(prompt, "some", "other"))
    found = sitting.show()
    assert found is not None
    return found


@pytest.mark.parametrize("choice", ["a", "b"])
def test_a_vote_on_sampled_pairs_keeps_which_answer_was_cut(home, tmp_path, choice):
    """Whichever side it is shown on; undo shows the pair with its mark again."""
    file = tmp_path / "unlabelled.jsonl"
    row = {"chosen": "whole.", "rejected": "cut off in", "finish_reasons": ["stop", "length"]}
    file.write_text("".join(json.dumps({"prompt": f"q {n}", **row}) + "\n" for n in range(6)))
    sitting = Labelling(Votes(), read_items(file), seed=0)
    sides = set()
    for _ in range(6):
        pair = fill(sitting)
        sides.add(pair.a)
        sitting.vote(choice)
        sitting.undo()
        assert sitting.current == pair
        sitting.vote(choice)
    assert len(sides) == 2
    records = formats.read(home / "labels.jsonl").records
    assert {record.chosen for record in records} == sides
    for record in records:
        ends = {record.chosen: record.finish_reasons[0], record.rejected: record.finish_reasons[1]}
        assert ends == {"whole.": "stop", "cut off in": "length"}


VOTER = """
import sys, time
from minialign.records import Comparison
from minialign.labels.sitting import Labelling
from minialign.labels.votes import Votes
votes = Votes()
prompts = [[{"role": "user", "content": f"q {n}"}] for n in range(5000)]
items = [Comparison(prompt, "a" * 3000, f"b {n}") for n, prompt in enumerate(prompts)]
sitting = Labelling(votes, items)
print("open", len(votes.all), flush=True)
while True:
    while sitting.wants():
        sitting.take()
    pair = sitting.show()
    vote = sitting.vote("a")
    print("kept", vote.id, flush=True)
"""


def test_a_kill_at_any_moment_loses_no_vote(home):
    kept: list[str] = []
    for number in (1, 2, 3, 5):  # votes until the kill: the next one is being written by then
        voter = subprocess.Popen(
            [sys.executable, "-c", VOTER], stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert voter.stdout is not None
        assert voter.stdout.readline().startswith("open")
        for _ in range(number):
            kept.append(voter.stdout.readline().split()[1])
        voter.send_signal(signal.SIGKILL)
        lines = [line for line in voter.stdout if line.endswith("\n")]  # the last may be cut
        kept += [line.split()[1] for line in lines if line.startswith("kept")]
        voter.wait()
        voter.stdout.close()
    there = [vote.id for vote in Votes().all]
    assert len(kept) >= 11
    assert set(kept) <= set(there)
    assert len(set(there)) == len(there)
    assert Votes().unreadable == 0
    assert formats.read(labels_file()).problems == []
