"""The judge screen: verdicts as they come, disagreements first, overruling, stop and resume."""

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from support.scripted import SIZES, Models, drive, make_app, screen_text, shown, until
from support.scripted_judge import ScriptedJudge
from textual.widgets import DataTable, Select

from minialign import formats
from minialign.errors import UserError
from minialign.home import labels_file
from minialign.judge import plans
from minialign.judge.plans import LABELS, Plan, count_verdicts, last_votes
from minialign.judge.verdict_files import read_verdicts
from minialign.labels.votes import Votes
from minialign.records import Comparison, Vote
from minialign.runs import launch
from tui.judge.form import JudgeForm
from tui.judge.verdict import VerdictView
from tui.runs.form import RunForm
from tui.widgets.dialogs import ErrorDialog, Pick

ROWS = [
    {"prompt": f"question {n}", "chosen": f"good {n}" + " and more" * (n % 3),
     "rejected": f"bad {n} x"}
    for n in range(9)
]  # fmt: skip


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> ScriptedJudge:
    return ScriptedJudge().install(monkeypatch)


@pytest.fixture
def file(tmp_path: Path, home: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def voted(row: dict[str, str], choice: str, number: int = 0) -> Vote:
    prompt = [{"role": "user", "content": row["prompt"]}]
    key = plans.digest([prompt, *sorted([row["chosen"], row["rejected"]])])
    return Vote(key, prompt, row["chosen"], row["rejected"], choice)


def cells(screen, row: int) -> list[str]:
    return [cell.plain for cell in screen.query_one(DataTable).get_row_at(row)]


async def chosen(pilot, **values):
    """Fill the form in and start."""
    app = pilot.app
    await until(pilot, lambda: isinstance(app.screen, JudgeForm) and app.screen.abouts)
    await pilot.pause()
    for name, value in values.items():
        app.screen.query_one(f"#j-{name}").value = value
        await pilot.pause()
    await pilot.press("ctrl+s")


@pytest.mark.parametrize("size", SIZES)
def test_every_key(file, judge, size):
    for number, choice in ((0, "tie"), (1, "b"), (2, "tie")):
        Votes().add(voted(ROWS[number], choice))
    app = make_app(Models())

    async def script(pilot):
        await pilot.press("f4")
        screen = app.screen
        await until(pilot, lambda: "Nothing was judged yet" in screen_text(app))
        await pilot.press("s", "r", "a", "u", "enter", "d", "o")  # nothing to do, and no crash
        await until(pilot, lambda: app.screen is screen)
        await pilot.press("n")
        judge.go.clear()
        await chosen(pilot, judge="an endpoint …", url="http://localhost:1/v1", model="big",
                     pairs="a file …", file=str(file), explain=True)  # fmt: skip
        await until(pilot, lambda: app.screen is screen and screen.job is not None)
        await until(pilot, lambda: "● " in screen_text(app))
        assert screen.check_action("resume", ()) is False
        await pilot.press("n", "o")  # not while it runs
        await pilot.pause()
        await until(pilot, lambda: app.screen is screen)
        judge.go.set()
        await until(pilot, lambda: "✓ all judged" in screen_text(app))
        assert judge.asked[0]["url"] == "http://localhost:1/v1"
        assert judge.asked[0]["spec"] == "big"
        assert judge.asked[0]["explain"] is True
        await shown(pilot, "9 of 9", "A (chosen) wins", "agrees with you 1/3", "shown first wins",
                    "longer wins")  # fmt: skip
        # row 1 was voted b, the judge says the longer one, a: the opposite comes first
        assert cells(screen, 0)[0] == "≠"
        assert "question 1" in cells(screen, 0)[-1]
        assert [cells(screen, n)[0] for n in range(4)] == ["≠", "~", "=", " "]
        await pilot.press("home")
        before = len(Votes().all)
        await pilot.press("a")
        await until(pilot, lambda: cells(screen, 0)[0] != "≠")
        votes = Votes().all
        assert len(votes) == before  # the vote on this pair was replaced
        assert votes[-1].choice == "a"
        assert "overrules big" in votes[-1].note
        await pilot.press("u")
        await until(pilot, lambda: cells(screen, 0)[0] == "≠")
        assert last_votes(Votes().all)[votes[-1].comparison.key].choice == "b"
        screen.query_one(DataTable).move_cursor(row=8)
        last = screen.current
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, VerdictView))
        view = app.screen
        await until(pilot, lambda: "A first: " in screen_text(app))
        await until(pilot, lambda: last.prompt[0]["content"] in screen_text(app))
        sides = [view.query_one(f"#verdict-{side}").region for side in "ab"]
        assert sides[0].bottom <= sides[1].y if size[0] < 100 else sides[0].right <= sides[1].x
        await pilot.press("t")
        assert last_votes(Votes().all)[last.comparison.key].choice == "tie"
        await until(pilot, lambda: "you: a tie" in screen_text(app))
        await pilot.press("u", "b", "u")
        assert last.comparison.key not in last_votes(Votes().all)
        await pilot.press("down", "up", "pagedown", "pageup")
        screen.query_one(DataTable).move_cursor(row=0)
        await pilot.press("right")
        assert screen.query_one(DataTable).cursor_row == 1
        await pilot.press("p")
        assert screen.query_one(DataTable).cursor_row == 0
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is screen)
        await pilot.press("n")
        await chosen(pilot, judge="an endpoint …", url="http://localhost:1/v1", model="big",
                     pairs=LABELS, explain=False)  # fmt: skip
        await until(pilot, lambda: "3 of 3" in screen_text(app) and screen.job is None)
        await pilot.press("o")
        await until(pilot, lambda: isinstance(app.screen, Pick))
        await pilot.press(*file.name[:4], "enter")
        await until(pilot, lambda: app.screen is screen and "9 of 9" in screen_text(app))

    drive(app, script, size)


def test_stop_keeps_what_is_judged_and_resume_asks_nothing_twice(file, judge):
    judge.most = 3
    app = make_app(Models())

    async def script(pilot):
        await pilot.press("f4")
        screen = app.screen
        screen.begin(Plan("smollm2-135m-4bit", str(file)))
        await until(pilot, lambda: len(screen.verdicts) == 3)
        await pilot.press("s")
        await until(pilot, lambda: "stopped" in screen_text(app))
        assert len(read_verdicts(screen.plan.file)[0]) == judge.judged == 3
        judge.most = None
        await pilot.press("r")
        await until(pilot, lambda: "✓ all judged" in screen_text(app))
        assert judge.judged == 9

    drive(app, script)
    app = make_app(Models())

    async def again(pilot):
        await pilot.press("f4")
        await until(pilot, lambda: "✓ all judged" in screen_text(app))  # as it was left
        assert app.screen.check_action("resume", ()) is False

    drive(app, again)
    assert judge.judged == 9


@pytest.mark.parametrize("size", SIZES)
def test_the_verdicts_are_trained_on_and_the_users_votes_count_in_their_place(
    file, judge, size, monkeypatch
):
    asked = []

    def start(method, options):
        asked.append((method, options))
        raise UserError("not in this test", "")

    monkeypatch.setattr(launch, "start", start)
    Votes().add(voted(ROWS[1], "b"))  # the judge says a
    Votes().add(voted(ROWS[2], "tie"))  # and here too
    app = make_app(Models())

    async def script(pilot):
        await pilot.press("f4", "f")  # nothing yet
        screen = app.screen
        assert screen.check_action("train", ()) is False
        screen.begin(Plan("smollm2-135m-4bit", str(file)))
        await until(pilot, lambda: "✓ all judged" in screen_text(app))
        await until(pilot, lambda: "Train" in screen_text(app).splitlines()[-1])
        await pilot.press("f")
        await until(pilot, lambda: isinstance(app.screen, RunForm) and app.screen.query("#f-data"))
        assert app.screen.method == "dpo"
        assert app.screen.query_one("#f-data").value.endswith(".pairs.jsonl")
        await pilot.press("ctrl+s")
        await until(pilot, lambda: asked)

    drive(app, script, size)
    ((method, options),) = asked
    assert method == "dpo"
    read = formats.read(Path(options["data"][0]))
    assert read.problems == []
    pairs = {pair.prompt[0]["content"]: (pair.chosen, pair.rejected) for pair in read.records}
    assert pairs["question 1"] == ("bad 1 x", "good 1 and more")
    assert "question 2" not in pairs
    assert pairs["question 5"] == ("good 5 and more and more", "bad 5 x")
    (plan,) = plans.read_plans()  # the file of pairs is none
    verdicts = read_verdicts(plan.file)[0]
    undecided = {key: replace(one, choice="tie") for key, one in verdicts.items()}
    with pytest.raises(UserError, match="nothing to train on"):
        plans.write_pairs(plan, undecided, {})


def test_the_chat_is_answered_while_a_judge_is_busy(file, judge):
    judge.delay = 0.1
    file.write_text("".join(
        json.dumps({**ROWS[0], "prompt": f"question {n}"}) + "\n" for n in range(400)
    ))  # fmt: skip
    app = make_app(Models())

    async def script(pilot):
        await pilot.press("f4")
        screen = app.screen
        screen.begin(Plan("smollm2-135m-4bit", str(file)))
        await until(pilot, lambda: screen.verdicts)
        await pilot.press("f2")
        await pilot.press(*"hello", "enter")
        await until(pilot, lambda: "word5" in screen_text(app))
        assert judge.judged < 400
        judge.delay = 0.0
        await pilot.press("f4")
        await until(pilot, lambda: "✓ all judged" in screen_text(app))

    drive(app, script)


def test_the_judge_shares_the_model_that_is_loaded(file, judge):
    models = Models()
    app = make_app(models)

    async def script(pilot):
        await pilot.press("f4")
        app.screen.begin(Plan("llama-1b-4bit", str(file)))
        await until(pilot, lambda: "✓ all judged" in screen_text(app))

    drive(app, script)
    (which,) = models.loaded
    assert which.model == "llama-1b-4bit"
    assert judge.asked[0]["engine"] is models.loaded[which]


def test_errors_are_told_and_nothing_is_lost(file, judge):
    app = make_app(Models())

    async def script(pilot):
        await pilot.press("f4")
        screen = app.screen
        judge.fails = UserError("there is no judge 'x'", "did you mean 'y'?")
        screen.begin(Plan("x", str(file), url="http://localhost:1"))
        await until(pilot, lambda: isinstance(app.screen, ErrorDialog))
        await until(pilot, lambda: "did you mean" in screen_text(app))
        await pilot.press("c", "enter")
        judge.fails = None
        await pilot.press("r")
        await until(pilot, lambda: "✓ all judged" in screen_text(app))
        with open(screen.plan.file, "a") as out:
            out.write('{"prompt": "cut')
        file.unlink()  # the pairs vanish: the verdicts stay
        await screen._show(screen.plan)
        await until(pilot, lambda: isinstance(app.screen, ErrorDialog))
        await pilot.press("enter")
        await until(pilot, lambda: "9 of 9" in screen_text(app))

    drive(app, script)


@pytest.mark.parametrize("size", SIZES)
def test_the_form_says_what_is_missing(home, judge, size):
    app = make_app(Models())

    async def script(pilot):
        await pilot.press("f4", "n")
        await chosen(pilot)
        await until(pilot, lambda: "endpoint needs its address" in screen_text(app))
        form = app.screen
        form.query_one("#j-url").value, form.query_one("#j-model").value = "http://h", "m"
        await pilot.press("ctrl+s")
        await until(pilot, lambda: "no labels yet" in screen_text(app))
        form.query_one("#j-pairs", Select).value = "a file …"
        await pilot.press("ctrl+s")
        await until(pilot, lambda: "which file?" in screen_text(app))
        form.query_one("#j-file").value = "nowhere.jsonl"
        await pilot.press("ctrl+s")
        await until(pilot, lambda: "no such file" in screen_text(app))
        form.query_one("#j-template", Select).value = "metrics"
        await pilot.pause()
        await until(pilot, lambda: size[0] < 100 or "writes questions" in screen_text(app))
        await pilot.press("escape")
        assert app.screen is not form

    drive(app, script, size)


def test_what_verdicts_add_up_to(home):
    judge = ScriptedJudge()

    def said(a: str, b: str):
        return judge.verdict(Comparison([{"role": "user", "content": "q"}], a, b), "j", "t")

    long, even, odd = said("x" * 30, "y" * 10), said("xxxxx", "yyyyy"), said("nonsense", "ok")
    short = said("x", "y" * 30)
    votes = {long.comparison.key: voted({"prompt": "q", "chosen": long.b, "rejected": long.a}, "a")}
    found = count_verdicts({one.comparison.key: one for one in (long, even, odd, short)}, votes)
    assert (found.a, found.b, found.tie, found.unparsed) == (1, 1, 1, 1)
    assert found.rate[0] == pytest.approx(0.5)  # unreadable ones are neither won nor lost
    assert found.rate[1] < 0.5 < found.rate[2]
    assert found.first == (4 / 6, 6)  # the even pair went to whoever was first, twice
    assert found.conflicts == (1 / 3, 3)
    assert found.longer == (1.0, 2)
    assert found.agree == (0.0, 1)
    assert plans.measure_distance(long, votes[long.comparison.key]) == 2
    assert plans.measure_distance(even, None) is None


def test_plans_are_found_again_and_damaged_files_are_passed_over(home):
    one, other = Plan("m", "a.jsonl"), Plan("m", "a.jsonl", explain=True)
    assert one.file != other.file
    one.save()
    other.save()
    assert set(plans.read_plans()) == {one, other}
    one.file.with_suffix(".json").write_text('{"judge":')
    assert plans.read_plans() == [other]
    other.file.write_text('{"id": 1}\nnot json\n')
    assert read_verdicts(other.file) == ({}, 1)


def test_overruling_is_one_vote_a_pair(home):
    judge = ScriptedJudge()

    verdict = judge.verdict(Comparison([{"role": "user", "content": "q"}], "xx", "y"), "j", "t")
    votes = Votes()
    first = plans.overrule(votes, verdict, "b")
    second = plans.overrule(votes, verdict, "tie")
    assert Votes().all == [second]
    plans.take_back(votes, second, [first])
    assert Votes().all == votes.all == [first]
    assert len(labels_file().read_text().splitlines()) == 1
    assert threading.active_count() < 10
