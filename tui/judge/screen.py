"""F4: a judge compares pairs; its verdicts, its biases, and where it differs from the user.

Judging runs on the model thread, two pairs at a time, behind everything that somebody waits for: a
chat's answer comes in between. A judge at an endpoint computes nothing here and has a thread of its
own. Every verdict is in its file before it is shown, so closing the app loses none; ``r`` goes on.
"""

import asyncio
import threading
from functools import partial

from textual import on, work
from textual.app import ComposeResult
from textual.widgets import DataTable, Static

from minialign.engine.mlx_thread import ModelThread
from minialign.judge import plans
from minialign.judge.plans import Plan
from minialign.progress import Progress
from minialign.records import Verdict
from tui.judge.state import Judged
from tui.judge.table import SAID, VerdictTable
from tui.judge.verdict import VerdictView
from tui.model_job import Job
from tui.model_work import judge_pairs
from tui.widgets.app_screen import AppScreen, bind, key
from tui.widgets.dialogs import Choice, pick_from
from tui.widgets.text import plain

EVERY = 0.4  # seconds between two drawings while verdicts come
NOTHING = """\
Nothing was judged yet.

n   choose a judge and pairs: a file, or those you labelled
F3  label pairs first: then you see how far to trust the judge"""


class JudgeScreen(AppScreen):
    """One judging: how it stands, and its verdicts in a table."""

    MODE = "judge"
    BINDINGS = bind(
        key("n", "new", "New", "judge-new", "Choose a judge and pairs"),
        key("s", "stop", "Stop", "judge-stop", "Stop judging; it is kept"),
        key("r", "resume", "Resume", "judge-resume", "Judge the rest"),
        key("o", "open", "Open", "judge-open", "An earlier judging"),
        key("d,enter", "details", "Details", "judge-details", "Both answers"),
        key("a", "overrule('a')", "A", "judge-a", "Overrule: A is better"),
        key("b", "overrule('b')", "B", "judge-b", "Overrule: B is better"),
        key("t", "overrule('tie')", "Tie", "judge-tie", "Overrule: a tie"),
        key("u", "undo", "Undo", "judge-undo", "Take your last vote here back"),
        key("f", "train", "Train", "judge-train", "Train on the verdicts"),
    )

    def __init__(self) -> None:
        super().__init__()
        self.table = VerdictTable()
        self.job: Job | None = None
        self.stop = threading.Event()
        self.progress = ""
        self._changed = False
        self._net: ModelThread | None = None

    def body(self) -> ComposeResult:
        yield plain(id="standing")
        yield self.table
        yield plain(NOTHING, id="no-verdicts")

    def on_mount(self) -> None:
        self.set_interval(EVERY, self._tick)
        self._begin()

    def on_screen_resume(self) -> None:
        if self.judged.plan is not None:
            self._read_votes()

    def on_unmount(self) -> None:
        self.stop.set()
        if self._net is not None:
            self._net.close(0.0)

    @property
    def judged(self) -> Judged:
        """What is known of the judging that is shown."""
        return self.table.judged

    @work(group="open", exclusive=True)
    async def _begin(self) -> None:
        known = await asyncio.to_thread(plans.read_plans)
        if known and self.judged.plan is None:
            await self.show(known[0])

    async def show(self, plan: Plan) -> Judged:
        """Show what there is of a judging."""
        judged = await asyncio.to_thread(Judged.read, plan)
        self.table.show(judged)
        if judged.error is not None:
            self.services.show_error(judged.error)
        if bad := judged.unreadable:
            told = f"{bad} lines of {plan.file.name} are no verdicts; they stay as they are"
            self.notify(told, severity="warning")
        self._draw()
        self.table.focus()
        return judged

    @work(group="reread", exclusive=True)
    async def _read_votes(self) -> None:
        """Votes that were given on another screen meanwhile."""
        await asyncio.to_thread(self.judged.read_votes)
        self._changed = True

    @work(group="judging", exclusive=True)
    async def begin(self, plan: Plan) -> None:
        """Judge what is not judged yet."""
        judged = await self.show(plan)
        if not judged.pairs:
            return
        plan.save()
        if not judged.left:
            self.notify("All of these pairs are judged")
            return
        thread = self.services.model_thread
        if plan.url:
            thread = self._net = self._net or ModelThread()
        self.stop = threading.Event()
        self.progress, judged.began = "", (0.0, len(judged.verdicts))
        work_ = partial(judge_pairs, plan, judged.pairs, self.stop)
        self.job = job = Job(thread, work_, ahead=True, on_progress=self._tell_progress)
        self._draw()
        with self.telling():  # what is judged is kept
            async for verdict in job:
                if isinstance(verdict, Verdict):
                    judged.add(verdict)
                    self._tell_progress(Progress("", 0, 0))
        if self.job is job:
            self.job = None
            self._draw()

    def _tell_progress(self, progress: Progress) -> None:
        self.progress, self._changed = progress.what, True

    def _tick(self) -> None:
        if self._changed and self.is_current:
            self._draw(False)

    def _draw(self, keys: bool = True) -> None:
        """Draw it; whether other ``keys`` can be used now is for the caller to know."""
        self._changed = False
        there = self.judged.plan is not None
        self.table.display = self.query_one("#standing").display = there
        self.query_one("#no-verdicts").display = not there
        if there:
            self.table.draw()
            standing = self.judged.describe(None if self.job is None else self.progress)
            self.query_one("#standing", Static).update(standing)
        if keys:
            self.refresh_bindings()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Only what can be done now."""
        judged = self.judged
        rest = judged.plan is not None and len(judged.verdicts) < judged.total
        can = {
            "stop": self.job is not None,
            "resume": rest and self.job is None,
            "undo": bool(judged.overruled),
            **dict.fromkeys(("details", "overrule", "train"), bool(judged.verdicts)),
        }
        return can.get(action, True)

    def _is_busy(self) -> bool:
        if self.job is not None:
            self.notify("s stops this judging first", severity="warning")
        return self.job is not None

    @work(group="dialog", exclusive=True)
    async def action_new(self) -> None:
        """Choose a judge and pairs."""
        from tui.judge.form import JudgeForm

        if self._is_busy():
            return
        plan = await self.app.push_screen_wait(JudgeForm(self.judged.plan))
        if plan is not None:
            self.begin(plan)

    def action_stop(self) -> None:
        if self.job is not None:
            self.stop.set()
            self.job.cancel()

    def action_resume(self) -> None:
        if self.judged.plan is not None and self.job is None:
            self.begin(self.judged.plan)

    @work(group="dialog", exclusive=True)
    async def action_open(self) -> None:
        """An earlier judging."""
        known = await asyncio.to_thread(plans.read_plans)
        if self._is_busy():
            return
        if not known:
            self.notify("Nothing was judged yet: n begins")
            return
        listed = [Choice(one, f"{one.judge} on {one.pairs}", one.template or "") for one in known]
        pick = pick_from("Which judging?", listed, self.judged.plan)
        plan = await self.app.push_screen_wait(pick)
        if plan is not None:
            await self.show(plan)

    @on(DataTable.RowSelected)
    def action_details(self) -> None:
        """Both answers of the highlighted verdict."""
        if self.table.current is not None and self.app.screen is self:
            view = VerdictView(self.table, self.action_overrule, self.action_undo)
            self.app.push_screen(view)

    def action_overrule(self, choice: str) -> None:
        """The user's own vote on the highlighted pair."""
        if (verdict := self.table.current) is not None and self.judged.votes is not None:
            self.judged.overrule(verdict, choice)
            self.notify(f"Your vote: {SAID[choice]}; u takes it back", timeout=3)
            self._draw()

    def action_undo(self) -> None:
        """Take the last vote given here back; what it replaced is there again."""
        if self.judged.undo():
            self.notify("Taken back", timeout=2)
            self._draw()

    @work(group="train", exclusive=True)
    async def action_train(self) -> None:
        """The form of a run, with the pairs that the verdicts give in it."""
        plan, judged = self.judged.plan, self.judged
        if plan is not None:
            verdicts, opinions = dict(judged.verdicts), dict(judged.opinions)
            path = await asyncio.to_thread(plans.write_pairs, plan, verdicts, opinions)
            self.services.train("dpo", str(path))
