"""An answer while it is written: what came so far, how fast, how it ended."""

import time
from typing import Any

from minialign.engine.mlx_thread import Which
from tui import work
from tui.chat.bubble import Bubble
from tui.chat.transcript import ENDS
from tui.job import Job


class Side:
    """One of the answers being written."""

    def __init__(self, which: Which, bubble: Bubble, job: Job):
        self.which, self.bubble, self.job = which, bubble, job
        self.tokens, self.since = 0, 0.0
        self.seed, self.reason = 0, "cancelled"
        self.progress = ""
        self.error: Exception | None = None

    async def follow(self) -> None:
        """Show the pieces as they come; an error is kept in ``error``."""
        try:
            async for item in self.job:
                if isinstance(item, work.Progress):
                    share = f" {100 * item.done // item.total} %" if item.total else " …"
                    self.progress = item.what + share
                    continue
                self.progress = ""
                self.since = self.since or time.monotonic()
                self.tokens += 1
                self.seed = item.seed
                self.reason = item.reason or self.reason
                if item.text:
                    await self.bubble.add(item.text)
        except Exception as error:  # told in a dialog; the app goes on
            self.error = error
        if self.bubble.is_mounted:
            await self.bubble.end(ENDS.get(self.reason, ""))

    def told(self) -> str:
        """For the status line: what is loaded or read, then tokens and pace."""
        if self.progress or not self.tokens:
            return self.progress or "…"
        pace = self.tokens / max(time.monotonic() - self.since, 1e-3)
        return f"{self.tokens} tokens, {pace:.0f}/s"

    def origin(self, attempts: int) -> dict[str, Any]:
        """Where the answer came from, as it is kept with it."""
        origin: dict[str, Any] = {"model": self.which.model or self.which.label}
        if self.which.adapter:
            origin["adapter"] = self.which.adapter
        return {**origin, "seed": self.seed, "attempts": attempts, "finish_reason": self.reason}
