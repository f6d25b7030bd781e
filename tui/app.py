"""The app: its screens, its keys, what it remembers, and how errors are told."""

import asyncio
import time
from collections.abc import Iterable
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, cast

from textual.app import App, SystemCommand
from textual.binding import Binding
from textual.screen import Screen
from textual.theme import Theme
from textual.worker import WorkerFailed

from minialign.engine.mlx_thread import ModelChoice, ModelThread
from minialign.errors import UserError
from minialign.home import settings
from tui.chat.bubble import Bubble
from tui.chat.screen import ChatScreen
from tui.preferences import Preferences
from tui.widgets.app_screen import AppScreen, bind
from tui.widgets.bar import PLACES
from tui.widgets.dialogs import Dialog, ErrorDialog

if TYPE_CHECKING:
    from tui.label.screen import LabelScreen
    from tui.runs.screen import RunsScreen

THEMES = (
    Theme(
        name="minialign",
        primary="#7aa2f7", secondary="#bb9af7", accent="#e0af68", foreground="#d5d9e8",
        background="#15171f", surface="#1b1e29", panel="#242837", success="#9ece6a",
        warning="#e0af68", error="#f7768e", dark=True,
    ),
    Theme(
        name="minialign-light",
        primary="#2f5bd0", secondary="#7a3fc4", accent="#9a5b00", foreground="#22252e",
        background="#f6f5f1", surface="#eeece6", panel="#e2dfd6", success="#3c7a1e",
        warning="#9a5b00", error="#b3213a", dark=False,
    ),
)  # fmt: skip


def open_screen(mode: str) -> AppScreen:
    """A screen by its room's name, imported when it is first shown: the first frame comes soon."""
    screen = getattr(import_module(f"tui.{mode}.screen"), f"{mode.title()}Screen")
    return cast(AppScreen, screen())


class MinialignApp(App[None]):
    """Chat, label and train in the terminal.

    Args:
        model_thread: the thread that owns the models.
        choice: the model to begin with; the remembered one by default.
        label_source: begin with labelling this file.
        theme: the theme to use and to remember.
    """

    TITLE = "minialign"
    CSS_PATH = "app.tcss"
    MODES: ClassVar[dict[str, Any]] = {one.name: partial(open_screen, one.name) for one in PLACES}
    MODES["chat"] = ChatScreen
    DEFAULT_MODE = "chat"
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS = [(0, "-low"), (32, "-high")]  # noqa: RUF012
    BINDINGS = bind(
        Binding("f1", "help", "Help", id="help", priority=True),
        *(
            Binding(one.key, f"go('{one.name}')", one.short, id=one.name, show=False, priority=True)
            for one in PLACES
        ),
        Binding("ctrl+q", "quit", "Quit", id="quit", priority=True),
        Binding("question_mark", "help", show=False),  # where no text is written
    )

    def __init__(
        self,
        model_thread: ModelThread,
        *,
        choice: ModelChoice | None = None,
        label_source: str | None = None,
        theme: str | None = None,
    ):
        self.began = time.perf_counter()
        super().__init__()
        self.model_thread = model_thread
        self.preferences = Preferences.load()
        self.choice = choice or ModelChoice(self.preferences.model, self.preferences.adapter)
        if label_source:
            self.preferences.label_source, self.preferences.place = label_source, "label"
        if self.preferences.still:
            self.animation_level = "none"
        for each in THEMES:
            self.register_theme(each)
        wanted = theme or self.preferences.theme
        self.wrong_theme = wanted if wanted not in self.available_themes else None
        self.theme = "minialign" if self.wrong_theme else wanted

    def on_mount(self) -> None:
        """After the first frame: keys of the user's config, the model, the welcome."""
        remember = self.preferences.keep
        self.theme_changed_signal.subscribe(self, lambda theme: remember(theme=theme.name))
        try:
            keys = settings().get("tui", {}).get("keys", {})
            self.set_keymap({str(name): str(key) for name, key in keys.items()})
        except AttributeError:
            problem = "config.toml: tui.keys is not a table"
            self.show_error(UserError(problem, '[tui.keys]\nhelp = "f12"'))
        except UserError as error:
            self.show_error(error)
        if self.wrong_theme:
            problem = f"there is no theme {self.wrong_theme!r}"
            self.show_error(UserError(problem, "Ctrl-P, then Theme, lists them"))
        if self.preferences.place != "chat" and self.preferences.place in self.MODES:
            self.action_go(self.preferences.place)

    def choose(self, choice: ModelChoice) -> None:
        """Make a model the one that answers, and remember it."""
        self.choice = choice
        self.preferences.keep(model=choice.model, adapter=choice.adapter)
        for stack in self._screen_stacks.values():
            for screen in stack[:1]:
                if isinstance(screen, AppScreen):
                    screen.model_changed()

    def action_go(self, mode: str) -> None:
        """Show another screen, unless a dialog waits for an answer; the welcome does not."""
        if isinstance(self.screen, Dialog) and self.screen.gives_way:
            self.screen.dismiss(None)
            self.call_after_refresh(self.action_go, mode)
        elif self.screen.is_modal:
            self.bell()
        else:
            self.switch_mode(mode)
            self.preferences.place = mode
            self.run_worker(asyncio.to_thread(self.preferences.save), group="preferences")

    def chat_with(self, choice: ModelChoice) -> None:
        """Choose a model, and write to it."""
        self.choose(choice)
        self.action_go("chat")
        self.call_after_refresh(lambda: self.screen.query("#composer").focus())

    def train(self, method: str, data: str) -> None:
        """The form of a run, with this file in it."""
        self.action_go("runs")
        self.call_later(lambda: cast("RunsScreen", self.screen).action_new(method, (data,)))

    def label_from(self, file: str) -> None:
        """Label what a file holds."""
        self.preferences.label_source = file
        self.action_go("label")
        self.call_later(lambda: cast("LabelScreen", self.screen).open_source(file))

    def action_still(self) -> None:
        """Animations off, or on again; TEXTUAL_ANIMATIONS=none has them off from the start."""
        self.preferences.keep(still=not self.preferences.still)
        self.animation_level = "none" if self.preferences.still else "full"
        self.notify(f"Animations {'off' if self.preferences.still else 'on'}", timeout=2)

    def notify(self, message: str, **options: Any) -> None:  # type: ignore[override]
        """A passing message; it may quote a model or a path, so it is never markup."""
        super().notify(message, **{**options, "markup": False})

    def action_help(self) -> None:
        """What can be done on this screen."""
        from tui.widgets.help import HelpScreen

        if isinstance(self.screen, HelpScreen):
            self.pop_screen()
        elif isinstance(self.screen, AppScreen):
            self.push_screen(HelpScreen(self.screen))

    def show_error(self, error: BaseException) -> None:
        """Tell an error in a dialog; the app goes on."""
        self.push_screen(ErrorDialog(error))

    async def run_action(self, *arguments: Any, **options: Any) -> bool:
        """A key's action; when it fails that is told, and ends nothing."""
        try:
            return await super().run_action(*arguments, **options)
        except Exception as error:
            self.show_error(error)
            return True

    def _handle_exception(self, error: Exception) -> None:
        """What a user can mend is a dialog, and so is whatever a worker failed with."""
        if isinstance(error, WorkerFailed | UserError):
            self.show_error(error.error if isinstance(error, WorkerFailed) else error)
        else:
            super()._handle_exception(error)

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """Every action of every screen, for the command palette."""
        for mode in PLACES:
            about = f"{mode.about} ({mode.key.upper()})"
            yield SystemCommand(mode.title, about, partial(self.action_go, mode.name))
        yield SystemCommand("Help", "The keys of this screen (F1)", self.action_help)
        yield SystemCommand("Theme", "Colours; they are remembered", self.action_change_theme)
        yield SystemCommand("Animations", "Off, or on again; remembered", self.action_still)
        yield SystemCommand("Quit", "Leave; training runs go on (Ctrl-Q)", self.action_quit)
        seen = set()
        for key in screen.active_bindings.values():
            binding, node = key.binding, key.node
            ours = binding.id and (node is screen or isinstance(node, Bubble))
            if not ours or not binding.description or binding.action in seen:
                continue
            seen.add(binding.action)
            act = partial(self.call_later, self.run_action, binding.action, node)
            about = f"{binding.tooltip or binding.description} ({self.get_key_display(binding)})"
            yield SystemCommand(binding.description, about, act)
