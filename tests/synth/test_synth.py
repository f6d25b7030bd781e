"""Data made by models: the pure parts, and the four use cases with a writer that follows a script.

What a scripted writer gives depends on what it is asked and on the seed alone, as with a model.
"""

import random
from dataclasses import replace

import pytest
from support.places import written

from minialign import formats
from minialign.data.prompts import as_prompts
from minialign.errors import UserError
from minialign.formats import as_kind
from minialign.formats.kinds import answers_of
from minialign.records import Demonstration, Pair, Prompted, Verdict
from minialign.synth import answers, instructions
from minialign.synth import make as synth
from minialign.synth.instructions import Pool
from minialign.synth.make import Dropped, Row
from minialign.synth.similarity import most_similar, rouge_l, words
from minialign.synth.text_model import RememberingModel, TextJournal, TextModel, Written
from minialign.synth.texts import TEXTS, read_text

# ---- similarity -------------------------------------------------------------------------------


def lcs(a, b):
    """The length of the longest common subsequence, by its recurrence."""
    row = [0] * (len(b) + 1)
    for x in a:
        last = 0
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], last + 1 if x == y else max(row[j], row[j - 1])
    return row[-1]


def test_rouge_l_by_hand_and_by_its_recurrence():
    police = words("police killed the gunman")  # the example of Lin (2004), section 3
    assert rouge_l(police, words("Police kill the gunman!")) == pytest.approx(3 / 4)
    assert rouge_l(police, words("the gunman kill police")) == pytest.approx(2 / 4)
    chance = random.Random(0)
    for _ in range(200):
        a, b = (chance.choices(["the", "fox", "and", "dog"], k=chance.randint(1, 30)) for _ in "ab")
        assert rouge_l(a, b) == pytest.approx(2 * lcs(a, b) / (len(a) + len(b)))
    assert rouge_l([], police) == rouge_l([], []) == 0
    assert words("Don't SHOUT: größer, 日本!") == ["don", "t", "shout", "grösser", "日本"]
    known = [words("plant a tree"), words("write a poem about rain"), []]
    assert most_similar(words("Write a poem about snow"), known, 0.7) == (1, pytest.approx(0.8))
    assert most_similar(words("Write a poem about snow"), known, 0.81) is None


# ---- instructions -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "cut", "found", "last"),
    [
        (" Plan it.\n10. Bake bread.\n11) Sing", False, ["Plan it.", "Bake bread.", "Sing"], ""),
        (" Plan it.\n10. Bake br", True, ["Plan it."], "Bake br"),
        ("1. **Plan it.**\n\n**2.** Bake\n   bread.", False, ["Plan it.", "Bake bread."], ""),
        ('1. "Plan it."\n\nHere are more:\n\n2. Bake.', False, ["Plan it.", "Bake."], ""),
        ("Task 3: Plan 2024.\nTask 4: Bake.", False, ["Plan 2024.", "Bake."], ""),
        ("", False, [], ""), ("\n9.\n10.", True, [], ""), ("the first", True, [], "the first"),
    ],
)  # fmt: skip
def test_numbered_lists(text, cut, found, last):
    assert instructions.parse(text, cut) == (found, last)


def test_what_is_shown_is_six_of_people_and_two_of_the_model():
    seeds, made = [f"seed {n}" for n in range(9)], [f"made {n}" for n in range(9)]
    for number in range(20):
        shown = instructions.draw(seeds, made, random.Random(number))
        assert len(set(shown)) == 8
        assert sum(one.startswith("made") for one in shown) == 2
    assert len(instructions.draw(seeds, [], random.Random(0))) == 8
    assert instructions.draw(["only  one"], [], random.Random(0)) == ["only one"]
    assert instructions.opening(["a", "b"]) == "1. a\n2. b\n3."
    assert not instructions.is_showable("two\nlines")
    assert not instructions.is_showable(" ")
    assert not instructions.is_showable("word " * 61)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Plan a trip.", "shorter than 4 words"), ("word " * 12, "longer than 11 words"),
        ("Describe the photographs in detail.", "has a word to avoid"),
        ("Roadmaps are no maps of words.", "has a word to avoid"),
        ("Mapping is not to be avoided.", None),
        ("(Plan a trip to the sea.)", "begins with a sign"),
        ("Summarise the following text in a sentence.", "needs a text that is not there"),
        ("Translate this sentence into French: I am here.", None),
        ("What are the rights given by law to tenants?", None),
        ("Write a poem about the RAIN", "ROUGE-L with a seed or an earlier one is 0.7 or more"),
        ("Schreibe ein Gedicht über den Regen", None), ("雨について詩を 書いて ください ね", None),
    ],
)  # fmt: skip
def test_why_an_instruction_is_left_out(text, reason):
    pool = Pool(["Write a poem about rain."], ["photo*", "maps"], longest=11)
    assert pool.add(text) == reason
    assert pool.made == ([] if reason else [text])
    assert pool.add(text) == (reason or "ROUGE-L with a seed or an earlier one is 0.7 or more")


# ---- answers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "finish", "reason"),
    [
        ("It scatters blue light.", "stop", None), ("  \n", "stop", "empty"),
        ("It scatters", "length", answers.CUT),
        ("", "too long", "the prompt is too long for the model"),
        ("elf, Elf, elf, elf elf", "stop", "repeats itself"),
        ("I love my cafe and my gym. " * 5, "stop", "repeats itself"),
        ("Why is the sky so blue", "stop", "repeats the prompt"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_an_answer(text, finish, reason):
    prompt = [{"role": "user", "content": "Why is the sky so blue?"}]
    assert answers.find_fault(prompt, text, finish) == reason
    if reason == answers.CUT:
        assert answers.find_fault(prompt, text, finish, keep_cut=True) is None


def test_announcements_are_taken_away():
    for first in ("Here is the revised answer:", "**Revised version:**", "Sure! Here's my answer:"):
        assert answers.strip_preface(f"{first}\n\nBoil it.") == "Boil it."
    for text in ("Here are two ways: boil it, bake it.", "Answer the door:\nit is open", "Sure:\n"):
        expected = "it is open" if text.startswith("Answer") else text.strip()
        assert answers.strip_preface(text) == expected
    assert answers.hardly_differ("Boil it now.", " boil it, now")
    assert not answers.hardly_differ("Boil it now.", "Bake it now.")


# ---- texts ------------------------------------------------------------------------------------


def test_the_built_in_texts_and_a_users_own(tmp_path):
    for name, (_, needs) in TEXTS.items():
        text = read_text(name)
        assert text.lines
        assert text.origin.startswith("built-in ")
        assert all(field in text.content for field in needs)
    file = tmp_path / "mine.txt"
    file.write_text("# comment\nList {count} tasks {as JSON}.\n")
    mine = read_text("instructions", file)
    assert mine.lines == ["List {count} tasks {as JSON}."]
    assert mine.fill(count=3).endswith("List 3 tasks {as JSON}.")
    assert mine.origin.startswith(f"{file} ")
    for content, said in (("List tasks.", "{count} is nowhere in it"), ("# no\n", "it is empty")):
        file.write_text(content)
        with pytest.raises(UserError, match=said):
            read_text("instructions", file)
    file.write_bytes(b"\xff")
    for path in (file, tmp_path / "absent"):
        with pytest.raises(UserError, match=str(path)):
            read_text("critique", path)
    with pytest.raises(UserError, match="did you mean 'critique'"):
        read_text("critic")


# ---- the use cases ----------------------------------------------------------------------------

TOPICS = ["bread", "rain", "trains", "bees", "chess", "money", "songs", "paint", "sleep", "tea"]
WORDS = [*TOPICS, "child", "old", "write", "how", "name", "plan", "green", "letter", "seven", "why"]


class Killed(BaseException):
    """SIGKILL, for a test."""


class Script:
    """Writes by a rule; remembers what it was asked, and can die after a number of texts."""

    def __init__(self, lives=None, rule=None):
        self.asked, self.lives, self.rule = [], lives, rule or self.text

    def __call__(self, asks, batch_size):
        for place in reversed(range(len(asks))):  # not in the order of the asks
            if self.lives is not None and len(self.asked) == self.lives:
                raise Killed
            self.asked.append(asks[place].key)
            yield place, self.rule(asks[place])

    @staticmethod
    def text(ask):
        chance = random.Random(ask.key)
        said = ask.prompt[-1]["content"]
        if ask.opening:
            lines = [" ".join(chance.sample(WORDS, 8)) for _ in range(5)]
            lines.append(f"Name five great books about {chance.choice(TOPICS)}.")
            return Written("\n".join(f"{n}. {line}" for n, line in enumerate(lines, 9)), "stop", 40)
        if "principle in mind" in said:
            return Written("It is too long, and it does not begin with what was asked.", "stop", 9)
        if chance.random() < 0.2:
            return Written("never ending", "length", 5)
        answer = " ".join(chance.sample(TOPICS, 6))
        return Written(f"About {answer}\u2028{chance.random()}.", "stop", 9)


SEEDS = as_prompts([f"Explain {topic} to a child of six." for topic in ("glue", "iron", "salt")])
ASKED = as_prompts([f"What is the use of {topic}?" for topic in TOPICS])


def judged(pairs):
    """The answer whose text is greater wins; a few are ties or unparsed."""
    for pair in pairs:
        choice = "a" if pair.a > pair.b else "b"
        if "tea" in pair.prompt[-1]["content"]:
            choice = "tie"
        if "bees" in pair.prompt[-1]["content"]:
            choice = "unparsed"
        origins = {"a_from": pair.a_from, "b_from": pair.b_from}
        yield Verdict("v", pair.prompt, pair.a, pair.b, choice, [], "scripted", "plain", **origins)


USES = {
    "self-instruct": lambda model, count=7, **more: synth.self_instruct(
        model, SEEDS, Pool([one.prompt[-1]["content"] for one in SEEDS]),
        read_text("instructions"), count, **more,
    ),
    "respond": lambda model, **more: synth.respond(model, ASKED, 2, **more),
    "prefer": lambda model, **more: synth.prefer(model, ASKED, judged, **more),
    "critique": lambda model, **more: synth.critique(
        model, ASKED, *map(read_text, ("constitution", "critique", "revision")), **more
    ),
}  # fmt: skip


def made(use, output, script, seed=0, **more):
    """Runs a use case into a file; its events."""
    writer = TextModel(script, {"model": "scripted"}, {"model": "scripted"})
    journal = TextJournal(synth.file_beside(output, "journal"), {"seed": seed})
    model = RememberingModel(writer, journal, seed)
    return list(synth.write_rows(USES[use](model, **more), output))


@pytest.mark.parametrize("use", USES)
def test_killed_anywhere_it_goes_on_to_the_same_file(use, tmp_path):
    """No text is written twice; the output and what was left out are the same to the byte."""
    whole, script = tmp_path / "whole.jsonl", Script()
    events = made(use, whole, script)
    total = len(script.asked)
    assert len(set(script.asked)) == total
    rows = [one for one in events if isinstance(one, Row)]
    assert rows
    assert any(isinstance(one, Dropped) for one in events)
    for lives in (1, total // 3, total // 2, total - 1):
        part, dead = tmp_path / f"{lives}.jsonl", Script(lives)
        with pytest.raises(Killed):
            made(use, part, dead)
        before = part.read_bytes()
        assert whole.read_bytes().startswith(before)
        part.write_bytes(before[:-4])  # the last row cut short
        again = Script()
        made(use, part, again)
        assert sorted(dead.asked + again.asked) == sorted(script.asked)
        assert part.read_bytes() == whole.read_bytes()
        dropped = [synth.file_beside(one, "dropped").read_bytes() for one in (whole, part)]
        assert dropped[0] == dropped[1]
    idle = Script(lives=0)
    assert len(made(use, whole, idle)) >= len(rows)  # asks nothing
    other = tmp_path / "other.jsonl"
    made(use, other, Script(), seed=1)
    assert other.read_bytes() != whole.read_bytes()


@pytest.mark.parametrize("use", USES)
def test_the_output_is_training_data_that_says_where_it_is_from(use, tmp_path):
    output = tmp_path / "out.jsonl"
    rows = [one.values for one in made(use, output, Script()) if isinstance(one, Row)]
    read = formats.read(output)
    assert read.problems == []
    kind = Pair if use in ("prefer", "critique") else Demonstration
    assert [type(one) for one in read.records] == [kind] * len(rows)
    for row in rows:
        assert row["origin"]["model"] == "scripted"
        assert row["origin"]["made_by"] == f"synth {use}"
        assert row["origin"]["seed"] == 0
    again = {"prefer": "judge", "critique": "principle", "self-instruct": "template"}.get(use)
    assert again is None or again in rows[0]["origin"]


@pytest.mark.parametrize("use", USES)
def test_a_cut_answer_that_is_kept_is_marked(use, tmp_path):
    def rule(ask):
        found = Script.text(ask)
        if found.text.startswith(("About", "never")) and ask.key[0] in "02468ace":
            return Written(f"{ask.key} goes on and", "length")
        return replace(found, finish_reason="stop")

    output = tmp_path / "out.jsonl"
    made(use, output, Script(rule=rule), keep_cut=True)
    ends = set()
    for record in formats.read(output).records:
        texts = answers_of(record)
        reasons = ["length" if text.endswith("goes on and") else "stop" for text in texts]
        assert record.finish_reasons == (reasons if "length" in reasons else None)
        ends.update(enumerate(reasons))
    assert ends == {(i, end) for i in range(len(texts)) for end in ("stop", "length")}


def test_a_finished_file_of_instructions_can_be_made_longer(tmp_path):
    short, long = Script(), Script()
    made("self-instruct", tmp_path / "a.jsonl", short, count=5)
    made("self-instruct", tmp_path / "b.jsonl", long, count=9)
    five = (tmp_path / "a.jsonl").read_bytes()
    assert five.count(b"\n") == 5
    assert (tmp_path / "b.jsonl").read_bytes().startswith(five)
    more = Script()
    made("self-instruct", tmp_path / "a.jsonl", more, count=9)
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    assert set(more.asked) == set(long.asked) - set(short.asked)


def test_new_instructions_differ_from_all_before(tmp_path):
    events = made("self-instruct", tmp_path / "a.jsonl", Script(), count=12)
    rows = [one.values["prompt"] for one in events if isinstance(one, Row)]
    known = [one.prompt[-1]["content"] for one in SEEDS]
    for text in rows:
        assert most_similar(words(text), [words(one) for one in known], 0.7) is None
        known.append(text)
    reasons = {one.reason for one in events if isinstance(one, Dropped)}
    assert reasons == {
        f"answer: {answers.CUT}",
        "ROUGE-L with a seed or an earlier one is 0.7 or more",
    }


def test_instructions_alone_and_the_end_of_new_ones(tmp_path):
    writer = TextModel(Script(), {}, {})
    model = RememberingModel(writer, TextJournal(tmp_path / "j.jsonl", {}))
    pool = Pool([])
    found = synth.self_instruct(model, SEEDS, pool, read_text("instructions"), 3, answered=False)
    rows = [one.values for one in found if isinstance(one, Row)]
    assert [set(row) for row in rows] == [{"prompt", "origin"}] * 3
    written(tmp_path / "rows.jsonl", rows)
    assert len(as_kind(formats.read(tmp_path / "rows.jsonl").records, Prompted)[0]) == 3
    same = TextModel(Script(rule=lambda ask: Written("1. Write a song about tea.", "stop")), {}, {})
    model = RememberingModel(same, TextJournal(tmp_path / "same.jsonl", {}))
    again = synth.self_instruct(model, SEEDS, pool, read_text("instructions"), 2, answered=False)
    with pytest.raises(UserError, match="nothing new; 1 of 2 rows are written"):
        list(again)
    with pytest.raises(UserError, match="none of the 1 seeds"):
        list(synth.self_instruct(model, as_prompts(["a\nb"]), pool, read_text("instructions"), 1))


def test_pairs_are_in_the_judges_order(tmp_path):
    events = made("prefer", tmp_path / "a.jsonl", Script())
    rows = [one.values for one in events if isinstance(one, Row)]
    assert rows
    assert all(row["chosen"] > row["rejected"] for row in rows)
    reasons = {one.text: one.reason for one in events if isinstance(one, Dropped)}
    assert len(reasons) + len(rows) == len(ASKED)
    said = [reasons.get("What is the use of tea?"), reasons.get("What is the use of bees?")]
    assert {"a tie", "no verdict in what the judge said"} & set(said)


def test_a_revision_is_chosen_over_its_answer(tmp_path):
    """The conversation that leads to it, its principle, and why others are left out."""
    seen = {}

    def rule(ask):
        said = ask.prompt[-1]["content"]
        seen.setdefault(len(ask.prompt), []).append(ask.prompt)
        topic = ask.prompt[0]["content"].split()[-1]
        if len(ask.prompt) == 1:
            return Written("" if "of rain" in said else f"First {topic} and so on.", "stop")
        if len(ask.prompt) == 3:
            return Written("" if "chess" in topic else f"The {topic} is missing here.", "stop")
        if "bees" in topic:
            return Written("First bees and so on.", "stop")
        if "tea" in topic:
            return Written("The tea is missing here.", "stop")
        return Written(f"Here is the new answer:\n\nOnly {topic}.", "stop")

    events = made("critique", tmp_path / "a.jsonl", Script(rule=rule))
    rows = [one.values for one in events if isinstance(one, Row)]
    reasons = [one.reason for one in events if isinstance(one, Dropped)]
    assert sorted(reasons) == ["answer: empty", "critique: empty", "the revision changes nothing",
                               "the revision is the critique"]  # fmt: skip
    assert len(rows) == len(ASKED) - 4
    principles = read_text("constitution").lines
    for row in rows:
        topic = row["prompt"][0]["content"].split()[-1]
        assert (row["chosen"], row["rejected"]) == (f"Only {topic}.", f"First {topic} and so on.")
        assert row["origin"]["critique"] == f"The {topic} is missing here."
        assert row["origin"]["principle"] in principles
    assert len({row["origin"]["principle"] for row in rows}) > 1
    last = seen[5][0]
    assert [turn["role"] for turn in last] == ["user", "assistant"] * 2 + ["user"]
    assert any(one in last[2]["content"] for one in principles)


def test_a_file_of_other_rows_is_not_gone_on_with(tmp_path):
    output = tmp_path / "out.jsonl"
    made("respond", output, Script())
    lines = output.read_bytes().splitlines(keepends=True)
    output.write_bytes(lines[0] + b'{"prompt": "mine"}\n')
    with pytest.raises(UserError, match=r"out\.jsonl:2: not the row"):
        made("respond", output, Script())
    assert output.read_bytes() == lines[0] + b'{"prompt": "mine"}\n'
    with pytest.raises(UserError, match="begun with seed = 0, now 1"):
        made("respond", output, Script(), seed=1)
    journal = synth.file_beside(output, "journal")
    journal.write_text('{"settings": {"seed": 0}}\n{"key": "x", "words": 3}\n')
    with pytest.raises(UserError, match="synth did not write it"):
        made("respond", output, Script())
    with open(output, "ab") as held:
        import fcntl

        fcntl.flock(held, fcntl.LOCK_EX)
        journal.unlink()
        with pytest.raises(UserError, match="another process is writing it"):
            made("respond", output, Script())
