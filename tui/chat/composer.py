"""Where a question is written: Enter sends, Shift-Enter or Ctrl-J begins a new line."""

from textual import events
from textual.containers import VerticalScroll
from textual.message import Message
from textual.widgets import TextArea


class Composer(TextArea):
    """A text area that grows with its text."""

    def __init__(self) -> None:
        super().__init__(id="composer", placeholder="Ask something…", compact=True)
        self.highlight_cursor_line = False

    class Sent(Message):
        """Enter was pressed."""

        def __init__(self, text: str):
            super().__init__()
            self.text = text

    class Left(Message):
        """The cursor went up out of the text."""

    async def _on_key(self, event: events.Key) -> None:
        if event.key == "enter":
            self.post_message(self.Sent(self.text))
        elif event.key in ("shift+enter", "alt+enter", "ctrl+j"):
            self.insert("\n")
        elif event.key == "up" and self.cursor_location[0] == 0 and not self.text:
            self.post_message(self.Left())
        else:
            await super()._on_key(event)
            return
        event.stop()
        event.prevent_default()

    def action_cursor_page_up(self) -> None:
        """The page keys are for the answers, also while a question is written."""
        self.screen.query_one("#talk", VerticalScroll).action_page_up()

    def action_cursor_page_down(self) -> None:
        self.screen.query_one("#talk", VerticalScroll).action_page_down()
