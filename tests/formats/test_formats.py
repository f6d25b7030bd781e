"""Every format's reader on real-looking rows, and every bad row told so that it can be mended."""

import json
from pathlib import Path

import pytest
from support.places import ROOT, written

from minialign import formats
from minialign.formats.kinds import answers_of, prompt_of
from minialign.formats.reading import read_row
from minialign.records import Demonstration, Pair, Prompted, Ranking, Rated

FIXTURES = ROOT / "tests" / "fixtures" / "formats"

# file: how many records, the end of the first one's prompt, its answers (the better one first)
READ = json.loads((FIXTURES / "expected.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", READ)
def test_each_format_is_read(name: str):
    expected = READ[name]
    read = formats.read(FIXTURES / name)
    assert read.problems == []
    assert list(read.format) == [name.split(".")[0]]
    assert len(read.records) == expected["records"]
    first = read.records[0]
    turns = prompt_of(first)
    assert (turns[-1]["content"] if turns else "") == expected["prompt"]
    assert answers_of(first) == expected["answers"]
    assert first.source.startswith(f"{FIXTURES / name}:")
    form = next(form for form in formats.FORMATS if form.name == name.split(".")[0])
    assert {type(record) for record in read.records} == {form.record}


def test_every_format_has_a_fixture_and_an_example_that_reads():
    assert {name.split(".")[0] for name in READ} == {form.name for form in formats.FORMATS}
    for form in formats.FORMATS:
        item = read_row(form.example, "x:1")
        assert (item.format, item.problem) == (form.name, None)
        assert isinstance(item.records[0], form.record)


def only(row: dict) -> object:
    """The one record of a row that reads."""
    item = read_row(row, "x:1")
    assert item.problem is None, item.problem
    (record,) = item.records
    return record


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict:
    return {"role": "assistant", "content": text}


def test_systems_and_several_turns_are_kept_in_order():
    rows = formats.read(FIXTURES / "messages.jsonl").records
    assert [turn["role"] for turn in rows[0].messages] == [
        "system", "user", "assistant", "user", "assistant",
    ]  # fmt: skip
    assert rows[1].messages[0]["content"] == "Übersetze: good morning ☀️"
    assert rows[2].messages[0] == {"role": "system", "content": "Answer in one line."}
    alpaca = formats.read(FIXTURES / "alpaca.json").records[2]
    assert [turn["content"] for turn in alpaca.messages] == [
        "Answer with figures.",
        "Name three rivers in France.",
        "The Loire, the Rhône and the Seine.",
        "And the longest of them?",
        "The Loire, at about 1,006 km.",
    ]


def test_a_system_column_goes_before_the_prompt():
    row = {"system": "Be brief.", "question": "Hi?", "chosen": "Yes.", "rejected": "No."}
    pair = only(row)
    assert pair.prompt == [{"role": "system", "content": "Be brief."}, user("Hi?")]


@pytest.mark.parametrize(
    "chosen",
    ["Yes.", [assistant("Yes.")], assistant("Yes."), {"from": "gpt", "value": "Yes."}],
)
def test_an_answer_may_be_a_text_or_a_message(chosen: object):
    assert only({"prompt": [user("Hi?")], "chosen": chosen, "rejected": "No."}) == Pair(
        [user("Hi?")], "Yes.", "No.", source="x:1"
    )


def test_conversations_that_repeat_the_prompt_are_told_from_it():
    """UltraFeedback-binarized: prompt, and chosen and rejected as whole conversations."""
    row = {
        "prompt": "Hi?",
        "messages": [user("Hi?"), assistant("Yes.")],
        "chosen": [user("Hi?"), assistant("Yes.")],
        "rejected": [user("Hi?"), assistant("No.")],
        "score_chosen": 8.0,
        "score_rejected": 5.0,
    }
    assert only(row) == Pair([user("Hi?")], "Yes.", "No.", source="x:1")


def test_margins():
    pairs = formats.read(FIXTURES / "pairs.csv").records
    assert [pair.margin for pair in pairs] == [1.5, None]


def test_a_prompt_that_is_an_open_transcript_becomes_turns():
    row = {
        "prompt": "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Tea?\n\nAssistant:",
        "chosen": " Yes.",
        "rejected": " No.",
    }
    assert only(row).prompt == [user("Hi"), assistant("Hello."), user("Tea?")]
    # A text that only mentions these words is a text.
    talk = "Human: and Assistant: are words"
    assert only({"prompt": talk}).prompt == [user(talk)]


def test_transcripts_with_two_turns_of_one_side():
    second = formats.read(FIXTURES / "hh-rlhf.jsonl").records[1]
    assert second.prompt == [
        user("Good film?"), assistant("Hm.\n\nLet me think."), user("Take your time."),
    ]  # fmt: skip
    assert (second.chosen, second.rejected) == ('"Local Hero".', "No idea.")


def test_transcripts_that_part_early_are_reported():
    row = {
        "chosen": "\n\nHuman: Hi\n\nAssistant: A\n\nHuman: B\n\nAssistant: C",
        "rejected": "\n\nHuman: Hi\n\nAssistant: X",
    }
    problem = read_row(row, "x:7").problem
    assert problem.source == "x:7"
    assert "part at turn 2" in problem.found
    assert "'chosen' has 3 turns left" in problem.found


def test_identical_transcripts_give_a_pair_that_is_counted_later():
    same = "\n\nHuman: Hi\n\nAssistant: A"
    assert only({"chosen": same, "rejected": same}) == Pair([user("Hi")], "A", "A", source="x:1")


def test_shp_and_tldr_pick_the_labelled_side():
    shp = formats.read(FIXTURES / "shp.jsonl").records
    assert shp[1].chosen == "Too little time: let it double."


def test_ranks_are_turned_round():
    ranking = formats.read(FIXTURES / "rankings.jsonl").records[1]
    assert ranking.scores == [-2.0, -1.0]
    assert answers_of(ranking)[0].startswith("In early spring")


def test_trees_give_a_ranking_for_each_turn_with_its_path():
    read = formats.read(FIXTURES / "oasst.jsonl")
    deep = read.records[1]
    assert [turn["role"] for turn in deep.prompt] == ["user", "assistant", "user"]
    assert deep.scores == [-1.0, 0.0, -2.0]
    assert read.unused == {"a deleted reply": 1}
    pairs, unused = formats.as_kind(read.records, Pair)
    assert (len(pairs), unused) == (1 + 3, 0)


def test_votes_last_word_edits_and_ties():
    read = formats.read(FIXTURES / "votes.jsonl")
    got = [(pair.chosen, pair.rejected) for pair in read.records]
    assert got == [
        ("Trout.", "Fish."),
        ("Trout.", "A fish!"),
        ("A bird is an animal with feathers.", "Robin."),
        ("Basalt.", "Stone."),
    ]
    assert read.unused == {"a vote replaced by a later one of its id": 1, "a tie": 1}


def test_ratings_in_all_their_spellings():
    good = [record.good for record in formats.read(FIXTURES / "ratings.jsonl").records]
    assert good == [True, False, True]
    for value, expected in ((1.0, True), (-1, False), ("desirable", True), ("False", False)):
        assert only({"prompt": "a", "response": "b", "label": value}).good is expected


def test_prompts_keep_their_other_columns():
    rows = formats.read(FIXTURES / "prompts.jsonl").records
    assert [row.extra for row in rows] == [
        {"id": "koala_0"}, {"dataset": "own"}, {"ground_truth": "144"},
    ]  # fmt: skip
    turns = formats.read(FIXTURES / "questions.jsonl").records[0]
    assert turns.extra["turns"] == ["Describe a harbour at dawn.", "Now without adjectives."]
    task = formats.read(FIXTURES / "self-instruct.jsonl").records[1]
    assert task.extra["output"] == "minute"


def test_a_conversation_that_ends_with_the_user_is_a_prompt():
    assert only({"messages": [assistant("Hello, I am here."), user("Hi")]}) == Prompted(
        [assistant("Hello, I am here."), user("Hi")], source="x:1"
    )


@pytest.mark.parametrize("text", ['["a", "b"] sort this', "[{1, 2}] is a set", "[]", '[{"a": 1}]'])
def test_a_prompt_that_looks_like_a_list_is_a_text(text: str):
    assert only({"prompt": text, "completion": "x"}).messages[0]["content"] == text


def test_nan_and_null_are_absent():
    nan = float("nan")
    alpaca = {"instruction": "Do.", "input": nan, "output": "Done.", "system": None, "label": nan}
    assert only(alpaca) == Demonstration([user("Do."), assistant("Done.")], source="x:1")
    assert only({"prompt": "a", "score": nan}).extra == {"score": None}


def test_a_row_with_half_of_a_pair_is_not_a_prompt():
    for row in ({"prompt": "a", "chosen": "b"}, {"prompt": "a", "rejectd": "b"}):
        problem = read_row(row, "x:1").problem
        assert problem is not None
        assert "'pairs'" in problem.expected


def test_columns_renamed():
    row = {"q": "Hi?", "better": "Yes.", "worse": "No.", "id": 3}
    problem = read_row(row, "x:1").problem
    assert problem.fix.count("--map") >= 2
    assert "chosen=better" in problem.fix
    mapping = {"prompt": "q", "chosen": "better", "rejected": "worse"}
    assert read_row(row, "x:1", mapping).records == [
        Pair([user("Hi?")], "Yes.", "No.", source="x:1")
    ]
    # rows that have our name already are left as they are
    ours = {"prompt": "a", "chosen": "b", "rejected": "c"}
    assert read_row(ours, "x:1", mapping).problem is None
    missing = read_row({"q": "Hi?", "bettr": "Yes."}, "x:1", mapping).problem
    assert missing.found == "no column 'better'"
    assert missing.fix == "did you mean 'bettr'?"


def test_every_bad_row_names_its_line_what_was_expected_and_the_fix():
    read = formats.read(FIXTURES / "bad.jsonl")
    assert [record.chosen for record in read.records] == ["Lake Como."]
    found = {int(p.source.rpartition(":")[2]): p for p in read.problems}
    words = {
        2: ("broken JSON at column 63", "one JSON object", "cut off"),
        3: ("choosen", "'pairs'", "--map chosen=choosen"),
        4: ("a list of 2", "an object", "one object"),
        5: ("the number 5 in 'chosen'", "a text", '"5"'),
        7: ("an empty text in 'prompt'", "a prompt", "write the prompt"),
        8: ("\"maybe\" in 'label'", "true or false", '"label": true'),
        9: ("NaN in 'scores'", "a finite number", "finite number"),
        10: ("2 responses and 1 scores", "as many", "complete"),
        11: ('the role "usr" in turn 1', "system, user or assistant", "'user'"),
        12: ("a tool call in turn 2", "system, user and assistant", "take the row out"),
        13: ("'prompt' stands twice", "one JSON object", "keep one"),
        14: ("not UTF-8", "UTF-8 text", "iconv"),
        15: ("no prompt", "a prompt column", "add the prompt"),
        16: ("the keys a", "known format", "minialign data formats"),
    }
    assert found.keys() == words.keys()
    for line, (seen, expected, fix) in words.items():
        problem = found[line]
        assert seen in problem.found, problem
        assert expected in problem.expected, problem
        assert fix in problem.fix, problem
        assert problem.row is not None


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ({"messages": []}, "an empty list"),
        ({"messages": "hello"}, '"hello" in'),
        ({"messages": ["a", 5]}, '"a" as turn 1'),
        ({"messages": [user("a"), {"role": "tool", "content": "b"}]}, "a tool call in turn 2"),
        ({"messages": [user("a"), assistant("b")], "tools": [{"name": "f"}]}, "a list of tools"),
        ({"messages": [{"role": "system", "content": "x"}]}, "a system message alone"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "parts of type image"),
        ({"prompt": [assistant("a")], "chosen": "b", "rejected": "c"}, "ends with assistant"),
        ({"prompt": "a", "chosen": [user("b")], "rejected": "c"}, "a turn of the user"),
        ({"prompt": "a", "chosen": [assistant("b")] * 2, "rejected": "c"}, "a list of 2"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "margin": "big"}, '"big" in \'margin\''),
        ({"prompt": "a", "responses": ["b"], "scores": [1]}, "a list of 1 in 'responses'"),
        ({"prompt": "a", "responses": ["b", "c"]}, "the keys prompt, responses"),
        ({"prompt": "a", "a": "b", "b": "c", "choice": "first"}, '"first" in \'choice\''),
        ({"history": "a", "human_ref_A": "b", "human_ref_B": "c", "labels": 2}, "the number 2"),
        ({"info": {}, "summaries": [], "choice": 0}, "in 'info'"),
        ({"instruction": "a", "completions": [{"response": "b"}, {"response": "c"}]}, "null in"),
        ({"instruction": "a", "output": "b", "history": ["q"]}, '"q" as turn 1 of \'history\''),
        ({"text": " "}, "an empty text"),
        ({"turns": []}, "a list of 0 in 'turns'"),
        ({"conversations": [user("a")], "label": True}, "ends with a turn of the user"),
        ({}, "the keys (none)"),
    ],
)  # fmt: skip
def test_bad_values(row: dict, found: str):
    item = read_row(row, "x:1")
    assert item.records == []
    assert found in item.problem.found


def test_a_tie_gives_no_pair_and_says_so():
    item = read_row({"input": "a", "output_1": "b", "output_2": "c", "preference": 1.5}, "x:1")
    assert (item.records, [part.reason for part in item.unused]) == ([], ["a tie"])


def test_a_file_may_mix_formats(tmp_path: Path):
    rows = [
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        {"prompt": "a", "completion": "b", "label": True},
        {"prompt": "a", "responses": ["b", "c"], "scores": [1, 2]},
    ]
    path = tmp_path / "mixed.jsonl"
    written(path, rows)
    read = formats.read(path)
    assert [type(record) for record in read.records] == [Pair, Rated, Ranking]
    assert read.format == {"pairs": 1, "ratings": 1, "rankings": 1}
