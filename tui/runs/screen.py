"""F5: training runs: what they do, how they went; start, stop and resume them."""

import asyncio
from textwrap import wrap

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.widgets import Static
from textual.widgets.option_list import Option

from minialign.engine.mlx_thread import ModelChoice
from minialign.errors import UserError
from minialign.run_folder import Run, remove_run
from minialign.runs import launch
from minialign.runs.summary import Summary
from tui.runs.look import Look, Looker
from tui.runs.texts import describe, line_of, list_answers
from tui.widgets.app_screen import AppScreen, bind, key, scroll_keys
from tui.widgets.dialogs import Sure
from tui.widgets.named_list import NamedList
from tui.widgets.text import plain, printable

EVERY = 1.5  # seconds between two looks
ANSWERS = "Plots, or the answers that were drawn while it trained"
NOTHING = """\
No runs yet.

n   start one: a form of the method's settings
F3  label pairs first; a run without data trains on your votes"""


class RunsScreen(AppScreen):
    """All runs, and one of them closely."""

    MODE = "runs"
    SCROLLED = "#samples, #plots"
    BINDINGS = bind(
        key("n", "new", "New", "run-new", "Start a training run"),
        key("s", "stop", "Stop", "run-stop", "Stop this run; it saves"),
        key("r", "resume", "Resume", "run-resume", "Go on with this run"),
        key("c", "chat", "Chat", "run-chat", "Chat with this run's adapter"),
        key("m", "metric", "Metric", "run-metric", "Plot another metric"),
        key("l", "view('log')", "Log", "run-log", "Plots, or the log"),
        key("v", "view('samples')", "Answers", "run-samples", ANSWERS),
        key("z", "smooth", "Smooth", "run-smooth", "Smooth the training lines", show=False),
        key("space", "overlay", "Overlay", "run-overlay", "Keep this run's lines on the plots"),
        key("delete", "remove", "Delete", "run-delete", "Delete this run's folder", show=False),
        *scroll_keys({"shift+down": 3, "shift+up": -3}),
    )

    def __init__(self) -> None:
        super().__init__()
        self.list = NamedList("list")
        self.looker = Looker()
        self.seen = Look()
        self.view = "plots"  # or "log", "samples"
        self.launched: list[launch.Launched] = []
        self._wanted: str | None = None  # a run to highlight as soon as it is there

    def body(self) -> ComposeResult:
        with Horizontal(id="runs"):
            yield self.list
            with Vertical(id="closely"):
                yield plain(id="about")
                with VerticalScroll(id="plots", can_focus=False):
                    yield plain(id="chart")
                with VerticalScroll(id="samples", can_focus=False):
                    yield plain(id="answered")
                yield plain(id="log")
        yield plain(NOTHING, id="no-runs")

    def on_mount(self) -> None:
        self.query_one("#log").border_title = "log"
        self.list.focus()
        self.set_interval(EVERY, self.look)

    def on_screen_resume(self) -> None:
        self.look()

    def on_resize(self) -> None:
        if self.seen.runs:
            self.call_after_refresh(self.look)

    @property
    def current(self) -> Summary | None:
        """The run that is highlighted."""
        name = self.list.current
        return next((run for run in self.seen.runs if run.name == name), None)

    @on(NamedList.OptionHighlighted)
    def show_current(self) -> None:
        self.look()
        self.refresh_bindings()

    @work(group="look", exclusive=True)
    async def look(self) -> None:
        """Read what changed, in a thread, and draw it."""
        if not self.is_current and self.seen.runs:
            self._check_launched()
            return
        name = self.current.name if self.current else None
        size, with_samples = self.query_one("#plots").size, self.view == "samples"
        seen = await asyncio.to_thread(self.looker.look, name, size, with_samples)
        if not self.is_attached:
            return  # the app has ended meanwhile
        first = not self.seen.runs
        before = self._list_possible()
        self.seen = seen
        self._draw(name)
        if self._list_possible() != before:
            self.refresh_bindings()
        self._check_launched()
        if first and seen.runs:
            self.call_after_refresh(self.look)

    def _list_possible(self) -> list[bool | None]:
        """Which keys the highlighted run has."""
        return [self.check_action(name, ()) for name in ("stop", "resume", "chat", "overlay")]

    def _draw(self, name: str | None) -> None:
        runs, looker, wanted = self.seen.runs, self.looker, self.list.current
        self.query_one("#runs").display = bool(runs)
        self.query_one("#no-runs").display = not runs
        if any(run.name == self._wanted for run in runs):  # it was just started
            wanted, self._wanted = self._wanted, None
        lines = [Option(line_of(run, run.name in looker.overlaid), id=run.name) for run in runs]
        self.list.fill(lines, wanted)
        current = self.current
        if current is None or current.name != name:
            return
        self.query_one("#about", Static).update(describe(current, looker.smoothing))
        chart = self.seen.chart
        drawn = Text.from_ansi(chart, no_wrap=True) if chart else Text(self._say_no_step(current))
        self.query_one("#chart", Static).update(drawn)
        self.query_one("#plots").display = self.view == "plots"
        self.query_one("#samples").display = self.view == "samples"
        if self.view == "samples":
            self.query_one("#answered", Static).update(list_answers(self.seen.samples))
        self._draw_log()

    def _draw_log(self) -> None:
        """The last lines; with ``l`` they are whole and fill the screen."""
        log, large = self.query_one("#log", Static), self.view == "log"
        log.display = large or bool(self.has_class("-high") and self.seen.log)
        log.set_class(large, "large")
        rows = max(1, (self.size.height - 8) if large else 6)
        lines = [printable(line) for line in self.seen.log[-rows:]]
        if large:
            lines = [part for line in lines for part in wrap(line, max(20, log.size.width))][-rows:]
        log.update("\n".join(lines or ["This run was not started from here: it has no log."]))

    def _say_no_step(self, run: Summary) -> str:
        """In place of the plots: what the run says before its first step."""
        if run.status == "broken":
            return ""
        width = max(20, self.query_one("#plots").size.width - 2)
        said = [part for line in self.seen.log[-8:] for part in wrap(printable(line), width)]
        return "\n".join(["No step was logged yet.", *(["", *said] if said else [])])

    def _check_launched(self) -> None:
        """Tell of a process that ended without making a run, or failed."""
        for one in list(self.launched):
            if (code := one.code) is None:
                continue
            self.launched.remove(one)
            if code == 0:
                self.notify(f"{one.name} is finished: c chats with it", timeout=6)
            elif code in (130, -2):
                self.notify(f"{one.name} stopped; r goes on with it", timeout=6)
            else:
                said = [line for line in one.said().splitlines() if line.strip()][-6:]
                problem = "\n".join(said) or f"it ended with code {code}"
                self.services.show_error(UserError(f"{one.name}: {problem}", str(one.log)))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Only what this run can."""
        run = self.current if self.is_mounted else None
        if run is None:
            needs_run = ["stop", "resume", "chat", "metric", "view", "smooth", "overlay", "remove"]
            return action not in needs_run
        can = {
            "stop": run.status == "running",
            "resume": run.status in ("stopped", "interrupted", "failed", "new"),
            "chat": run.step > 0 and run.method != "reward" and run.status != "broken",
        }
        return can.get(action, True)

    @work(group="dialog", exclusive=True)
    async def action_new(self, method: str = "dpo", data: tuple[str, ...] = ()) -> None:
        """Start a run from a form."""
        from tui.runs.form import RunForm, load_methods

        await asyncio.to_thread(load_methods)
        given = await self.app.push_screen_wait(RunForm(self.services.choice, method, data))
        if given is None:
            return
        started = launch.start(*given)
        self.launched.append(started)
        self._wanted = started.name
        self.notify(f"{started.name} begins; it goes on when the app is closed", timeout=5)
        await asyncio.sleep(1.0)
        self.look()

    def action_stop(self) -> None:
        if (run := self.current) is not None:
            launch.stop(Run.open(run.name))
            self.notify(f"{run.name} stops after this step, and saves", timeout=4)

    def action_resume(self) -> None:
        if (run := self.current) is not None:
            self.launched.append(launch.resume(Run.open(run.name)))
            self.notify(f"{run.name} goes on", timeout=4)

    def action_chat(self) -> None:
        """Chat with the run's adapter, as it is on disk now."""
        if (run := self.current) is None:
            return
        if not (Run.open(run.name).path / "adapters.safetensors").exists():
            problem = f"run {run.name} has no adapter yet"
            raise UserError(problem, "it is there after its first save")
        choice = ModelChoice(run.model, run.name)
        self.services.model_thread.forget(choice)
        self.services.chat_with(choice)

    def action_metric(self) -> None:
        """The next metric; after the last the usual ones again."""
        if self.looker.next_metric(self.seen.keys):
            self.view = "log"
            self.action_view("log")

    def action_smooth(self) -> None:
        self.looker.smooth_more()
        self.look()

    def action_view(self, view: str) -> None:
        """The log or the answers in place of the plots; again: the plots."""
        self.view = "plots" if self.view == view else view
        self.query_one("#samples").scroll_home(animate=False)
        self.query_one("#plots").display = self.view == "plots"  # it has a size when it is drawn
        self.call_after_refresh(self.look)

    def action_overlay(self) -> None:
        if (run := self.current) is not None:
            self.looker.overlay(run.name)
            self.look()

    @work(group="dialog", exclusive=True)
    async def action_remove(self) -> None:
        """Delete the run's folder."""
        if (run := self.current) is None:
            return
        sure = Sure(f"Delete the run {run.name}?", "Its adapter and checkpoints go with it.")
        if await self.app.push_screen_wait(sure):
            remove_run(Run.open(run.name))
            self.look()
