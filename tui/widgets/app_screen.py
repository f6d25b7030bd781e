"""What every screen of the app has: the line at the top, the keys at the bottom, its help."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen

from tui.services import Services, services_of
from tui.widgets.bar import Keys, TopBar


def bind(*keys: BindingType) -> list[BindingType]:
    """The keys of a screen or a widget."""
    return list(keys)


def key(keys: str, action: str, label: str, id: str, tooltip: str = "", **options: Any) -> Binding:
    """A key that the user's config can change by its ``id``."""
    return Binding(keys, action, label, id=id, tooltip=tooltip, **options)


def scroll_keys(lines: dict[str, int], action: str = "scroll") -> list[Binding]:
    """Keys: by how many lines they scroll; the line at the bottom does not name them."""
    return [Binding(keys, f"{action}({by})", show=False) for keys, by in lines.items()]


SCROLL_KEYS = scroll_keys({"down": 2, "up": -2, "pagedown,space": 10, "pageup": -10})


class AppScreen(Screen[None]):
    """A screen with ``body`` between the two lines; ``MODE`` is its name in the app."""

    MODE: ClassVar[str]
    SCROLLED: ClassVar[str] = ""  # what its keys scroll
    HELP_ALSO: ClassVar[tuple[type, ...]] = ()  # whose keys it names too

    @property
    def services(self) -> Services:
        """The app."""
        return services_of(self)

    def compose(self) -> ComposeResult:
        yield TopBar(self.MODE)
        yield from self.body()
        yield Keys()

    def body(self) -> ComposeResult:
        """What stands between the line at the top and the keys."""
        raise NotImplementedError

    def on_screen_resume(self) -> None:
        self.show_model()

    def show_model(self) -> None:
        """Name the model that answers, at the right end of the top line."""
        self.query_one(TopBar).tell(self.services.choice.label)

    def model_changed(self) -> None:
        """Another model answers from now on."""
        self.show_model()

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Tell what goes wrong inside; the app goes on after it."""
        try:
            yield
        except Exception as error:
            self.services.show_error(error)

    def action_scroll(self, by: int, selector: str = "") -> None:
        """Move what is shown of these by some lines."""
        for widget in self.query(selector or self.SCROLLED):
            if widget.display:
                widget.scroll_relative(y=by, animate=False)
