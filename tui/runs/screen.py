"""F5: training runs: what they do, how they went; start, stop and resume them."""

import asyncio
import time
from dataclasses import dataclass, field
from textwrap import wrap
from typing import Any, ClassVar

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import Screen
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from minialign.engine.mlx_thread import Which
from minialign.errors import UserError
from minialign.run_folder import Run, remove_run
from minialign.runs import launch
from minialign.runs.summary import Sample, Summary
from minialign.runs.watch import Watch, charts, keys_of, samples_of
from tui.chat.bubble import printable
from tui.widgets.bar import Keys, TopBar
from tui.widgets.dialogs import Sure

EVERY = 1.5  # seconds between two looks
MARKS = {"running": "●", "finished": "✓", "stopped": "■", "failed": "✗", "interrupted": "!",
         "new": "○", "broken": "?"}  # fmt: skip
COLOURS = {"running": "$success", "failed": "$error", "broken": "$error",
           "interrupted": "$warning"}  # fmt: skip
SMOOTHING = (0.0, 0.6, 0.9)
SAMPLES = 100  # that are shown
NOTHING = """\
No runs yet.

n   start one: a form of the method's settings
F3  label pairs first; a run without data trains on your votes"""


@dataclass
class Look:
    """What was seen at one look."""

    runs: list[Summary]
    keys: list[str] = field(default_factory=list)
    chart: str = ""
    log: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)


class RunsScreen(Screen[None]):
    """All runs, and one of them closely."""

    HELP_TITLE = "Runs"
    HELP_TEXT = (
        "Every training run is a process of its own: closing the app ends none. A stopped run "
        "keeps its checkpoint and can go on. ● running, ✓ finished, ■ stopped, ✗ failed, ! died."
    )
    HELP_KEYS = (
        ("The list", (
            ("up,down", "Another run"), ("space", "Overlay: keep this run's lines on the plots"),
            ("n", "New: start a run from a form"), ("s", "Stop it: it saves, then ends"),
            ("r", "Resume one that was stopped or died"), ("c", "Chat with its adapter"),
            ("delete", "Delete its folder (asks first)"),
        )),
        ("The plots", (
            ("m", "Another metric"), ("z", "Smooth: not, a little, much"),
            ("l", "Plots, or the log"), ("v", "Plots, or its answers over time"),
            ("shift+up,shift+down", "Scroll"),
        )),
    )  # fmt: skip
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "new", "New", id="run-new", tooltip="Start a training run"),
        Binding("s", "stop", "Stop", id="run-stop", tooltip="Stop this run; it saves"),
        Binding("r", "resume", "Resume", id="run-resume", tooltip="Go on with this run"),
        Binding("c", "chat", "Chat", id="run-chat", tooltip="Chat with this run's adapter"),
        Binding("m", "metric", "Metric", id="run-metric", tooltip="Plot another metric"),
        Binding("l", "view('log')", "Log", id="run-log", tooltip="Plots, or the log"),
        Binding("v", "view('samples')", "Answers", id="run-samples",
                tooltip="Plots, or the answers that were drawn while it trained"),
        Binding("z", "smooth", "Smooth", id="run-smooth", show=False,
                tooltip="Smooth the training lines"),
        Binding("space", "overlay", "Overlay", id="run-overlay",
                tooltip="Keep this run's lines on the plots"),
        Binding("delete", "remove", "Delete", id="run-delete", show=False,
                tooltip="Delete this run's folder"),
        Binding("shift+down", "scroll(3)", show=False),
        Binding("shift+up", "scroll(-3)", show=False),
    ]  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.watch_runs = Watch()
        self.seen = Look([])
        self.overlaid: list[str] = []
        self.metric: str | None = None
        self.smoothing = 0
        self.view = "plots"  # or "log", "samples"
        self.launched: list[launch.Launched] = []
        self._wanted: str | None = None  # a run to highlight as soon as it is there

    def compose(self) -> ComposeResult:
        yield TopBar("runs")
        with Horizontal(id="runs"):
            yield OptionList(id="list", markup=False)
            with Vertical(id="closely"):
                yield Static("", id="about", markup=False)
                with VerticalScroll(id="plots", can_focus=False):
                    yield Static("", id="chart", markup=False)
                with VerticalScroll(id="samples", can_focus=False):
                    yield Static("", id="answered", markup=False)
                yield Static("", id="log", markup=False)
        yield Static(NOTHING, id="no-runs", markup=False)
        yield Keys()

    def on_mount(self) -> None:
        self.query_one(TopBar).tell(self.app.which.label)  # type: ignore[attr-defined]
        self.query_one("#no-runs").display = False
        self.query_one("#log").border_title = "log"
        self.query_one(OptionList).focus()
        self.set_interval(EVERY, self.look)
        self.look()

    def model_changed(self) -> None:
        self.query_one(TopBar).tell(self.app.which.label)  # type: ignore[attr-defined]

    def on_screen_resume(self) -> None:
        self.look()

    def on_resize(self) -> None:
        if self.seen.runs:
            self.call_after_refresh(self.look)

    # ------------------------------------------------------------------ looking

    @property
    def current(self) -> Summary | None:
        """The run that is highlighted."""
        at = self.query_one(OptionList).highlighted
        runs = self.seen.runs
        return runs[at] if at is not None and at < len(runs) else None

    @on(OptionList.OptionHighlighted)
    def moved(self) -> None:
        self.look()
        self.refresh_bindings()

    @work(group="look", exclusive=True)
    async def look(self) -> None:
        """Read what changed, in a thread, and draw it."""
        if not self.is_current and self.seen.runs:
            self._check_launched()
            return
        current = self.current
        name = current.name if current else None
        names = [*dict.fromkeys([*self.overlaid, *([name] if name else [])])]
        view = self.view
        width, height = self.query_one("#plots").size

        def read() -> Look:
            found = Look(self.watch_runs.look())
            if name is None and found.runs:
                return found
            if names:
                found.keys = keys_of(names)
                keys = self._keys(found.keys, height)
                found.chart = charts(names, keys, width - 2, height, SMOOTHING[self.smoothing])
                found.log = launch.tail(names[-1], 200)
                found.samples = samples_of(names[-1]) if view == "samples" else []
            return found

        seen = await asyncio.to_thread(read)
        if not self.is_attached:
            return  # the app has ended meanwhile
        first = not self.seen.runs
        could = self._can()
        self.seen = seen
        self._draw(name)
        if self._can() != could:
            self.refresh_bindings()
        self._check_launched()
        if first and seen.runs:
            self.call_after_refresh(self.look)

    def _can(self) -> list[bool | None]:
        """Which keys the highlighted run has."""
        return [self.check_action(name, ()) for name in ("stop", "resume", "chat", "overlay")]

    def _keys(self, known: list[str], height: int) -> list[str]:
        """Which metrics are drawn: the chosen one, or as many as there is room for."""
        if self.metric in known:
            return [self.metric]  # type: ignore[list-item]
        return known[: max(1, min(3, height // 14))]

    def _draw(self, name: str | None) -> None:
        listed = self.query_one(OptionList)
        runs = self.seen.runs
        self.query_one("#runs").display = bool(runs)
        self.query_one("#no-runs").display = not runs
        options = [Option(_line(run, run.name in self.overlaid), id=run.name) for run in runs]
        if [option.id for option in listed.options] == [option.id for option in options]:
            for index, option in enumerate(options):
                listed.replace_option_prompt_at_index(index, option.prompt)
        else:
            listed.clear_options()
            listed.add_options(options)
            names = [run.name for run in runs]
            wanted = self._wanted if self._wanted in names else name
            if runs:
                listed.highlighted = names.index(wanted) if wanted in names else 0
            if self._wanted in names:
                self._wanted = None
        if runs and listed.highlighted is None:
            listed.highlighted = 0
        current = self.current
        if current is None or current.name != name:
            return
        self.query_one("#about", Static).update(_about(current, self.metric, self.smoothing))
        self.query_one("#chart", Static).update(
            Text.from_ansi(self.seen.chart, no_wrap=True) if self.seen.chart
            else Text(self._before_the_first_step(current))
        )  # fmt: skip
        log = self.query_one("#log", Static)
        large = self.view == "log"
        log.display = large or bool(self.has_class("-high") and self.seen.log)
        self.query_one("#plots").display = self.view == "plots"
        self.query_one("#samples").display = self.view == "samples"
        if self.view == "samples":
            self.query_one("#answered", Static).update(_answers(self.seen.samples))
        log.set_class(large, "large")
        rows = max(1, (self.size.height - 8) if large else 6)
        lines = [printable(line) for line in self.seen.log[-rows:]]
        if large:  # whole lines, where there is room
            lines = [part for line in lines for part in wrap(line, max(20, log.size.width))][-rows:]
        log.update("\n".join(lines or ["This run was not started from here: it has no log."]))

    def _before_the_first_step(self, run: Summary) -> str:
        """In place of the plots: what the run says meanwhile."""
        if run.status == "broken":
            return ""
        width = max(20, self.query_one("#plots").size.width - 2)
        said = [part for line in self.seen.log[-8:] for part in wrap(printable(line), width)]
        return "\n".join(["No step was logged yet.", *(["", *said] if said else [])])

    def _check_launched(self) -> None:
        """Tell of a process that ended without making a run, or failed."""
        for one in list(self.launched):
            code = one.code
            if code is None:
                continue
            self.launched.remove(one)
            if code == 0:
                self.notify(f"{one.name} is finished: c chats with it", timeout=6)
            elif code in (130, -2):
                self.notify(f"{one.name} stopped; r goes on with it", timeout=6)
            else:
                said = [line for line in one.said().splitlines() if line.strip()][-6:]
                problem = "\n".join(said) or f"it ended with code {code}"
                self.app.show_error(UserError(f"{one.name}: {problem}", str(one.log)))  # type: ignore[attr-defined]

    # ------------------------------------------------------------------ keys

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Only what this run can."""
        run = self.current if self.is_mounted else None
        if action == "new":
            return True
        if run is None:
            return action not in ("stop", "resume", "chat", "metric", "view", "smooth", "overlay",
                                  "remove")  # fmt: skip
        if action == "stop":
            return run.status == "running"
        if action == "resume":
            return run.status in ("stopped", "interrupted", "failed", "new")
        if action == "chat":
            return run.step > 0 and run.method != "reward" and run.status != "broken"
        return True

    @work(group="dialog", exclusive=True)
    async def action_new(self, method: str = "dpo", data: tuple[str, ...] = ()) -> None:
        """Start a run from a form."""
        from tui.runs.form import RunForm, load_methods

        await asyncio.to_thread(load_methods)
        found = await self.app.push_screen_wait(RunForm(self.app.which, method, data))  # type: ignore[attr-defined]
        if found is None:
            return
        method, options = found
        started = launch.start(method, options)
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
            raise UserError(
                f"run {run.name} has no adapter yet", "it is there after its first save"
            )
        which = Which(run.model, run.name)

        def forget(engines: Any, ticket: Any) -> Any:
            engines.forget(which)
            yield True

        self.app.lane.submit(forget)  # type: ignore[attr-defined]
        self.app.chat_with(which)  # type: ignore[attr-defined]

    def action_metric(self) -> None:
        """The next metric; after the last the usual ones again."""
        keys = self.seen.keys
        if keys:
            at = keys.index(self.metric) + 1 if self.metric in keys else 0  # type: ignore[arg-type]
            self.metric = keys[at] if at < len(keys) else None
            self.view = "log"
            self.action_view("log")

    def action_smooth(self) -> None:
        self.smoothing = (self.smoothing + 1) % len(SMOOTHING)
        self.look()

    def action_view(self, view: str) -> None:
        """The log or the answers in place of the plots; again: the plots."""
        self.view = "plots" if self.view == view else view
        self.query_one("#samples").scroll_home(animate=False)
        self.query_one("#plots").display = self.view == "plots"  # it has a size when it is drawn
        self.call_after_refresh(self.look)

    def action_scroll(self, by: int) -> None:
        self.query_one("#samples" if self.view == "samples" else "#plots").scroll_relative(
            y=by, animate=False
        )

    def action_overlay(self) -> None:
        if (run := self.current) is not None:
            if run.name in self.overlaid:
                self.overlaid.remove(run.name)
            else:
                self.overlaid.append(run.name)
            self.look()

    @work(group="dialog", exclusive=True)
    async def action_remove(self) -> None:
        """Delete the run's folder."""
        run = self.current
        if run is not None and await self.app.push_screen_wait(
            Sure(f"Delete the run {run.name}?", "Its adapter and checkpoints go with it.")
        ):
            remove_run(Run.open(run.name))
            self.look()


def _line(run: Summary, overlaid: bool) -> Content:
    mark = MARKS.get(run.status, "?")
    steps = f"{run.step}/{run.total}" if run.total else str(run.step or "")
    figure = (
        f"r {run.reward:.2f}"
        if run.reward is not None
        else f"{100 * run.eval_accuracy:.0f} %"
        if run.eval_accuracy is not None
        else (f"{run.loss:.3f}" if run.loss is not None else "")
    )
    return Content.assemble(
        (f"{mark} ", COLOURS.get(run.status, "$text-muted")),
        ("◆" if overlaid else " ", "$accent"),
        f"{run.name[:20]:<16} ",
        (f"{steps:>7} {figure:>6}", "$text-muted"),
    )


def _answers(samples: list[Sample]) -> Content:
    """The newest first, one step after the other."""
    if not samples:
        return Content("This run kept no answers; ppo does.")
    parts: list[Any] = []
    for at, sample in enumerate(reversed(samples[-SAMPLES:])):
        facts = [f"step {sample.step}"]
        if sample.reward is not None:
            facts.append(f"reward {sample.reward:.3g}")
        if sample.kl is not None:
            facts.append(f"kl {sample.kl:.3g}")
        parts += ["\n" if at else "", (" · ".join(facts) + "\n", "bold $primary"),
                  (" ".join(printable(sample.prompt).split())[:300] + "\n", "$text-muted"),
                  printable(sample.response.strip()) + "\n"]  # fmt: skip
    return Content.assemble(*parts)


def _about(run: Summary, metric: str | None, smoothing: int) -> Content:
    parts = [
        f"{run.method} on {run.model}",
        run.status + (f": {run.message}" if run.message else ""),
    ]
    if run.total:
        parts.append(f"step {run.step} of {run.total}")
    if run.reward is not None:
        parts.append(f"reward {run.reward:.3g}")
    elif run.loss is not None:
        parts.append(f"loss {run.loss:.4f}")
    if run.eval_accuracy is not None:
        parts.append(f"held-out accuracy {100 * run.eval_accuracy:.0f} %")
    if smoothing:
        parts.append(f"smoothed {SMOOTHING[smoothing]}")
    age = time.strftime("%d %b %H:%M", time.localtime(time.time() - run.age))
    return Content.assemble((run.name, "bold"), "  ", " · ".join([*parts, age]))
