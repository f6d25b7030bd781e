"""From the model thread to the app's loop: work whose items are awaited."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from minialign.engine.mlx_thread import Cancelled, ModelThread, Work
from minialign.progress import Progress

Told = Callable[[Progress], None]


def share_of(progress: Progress, otherwise: str) -> str:
    """ " 40 %"; or something else, when nobody knows."""
    return f" {100 * progress.done // progress.total} %" if progress.total else otherwise


class Job:
    """Work on a model thread; iterate over it for its items. Create it inside the app's loop.

    Args:
        ahead: made in advance: whatever somebody waits for goes first.
        on_progress: is told how far it is, between the items.
    """

    def __init__(
        self,
        thread: ModelThread,
        work: Work,
        *,
        ahead: bool = False,
        on_progress: Told | None = None,
    ):
        self._items: asyncio.Queue[tuple[bool, Any]] = asyncio.Queue()
        self._on_progress = on_progress
        loop = asyncio.get_running_loop()

        def tell(more: bool, item: Any) -> None:
            with contextlib.suppress(RuntimeError):  # the app has ended
                loop.call_soon_threadsafe(self._items.put_nowait, (more, item))

        self.cancelled = False
        self.ticket = thread.submit(work, lambda item: tell(True, item), ahead=ahead)
        self.ticket.future.add_done_callback(lambda future: tell(False, None))

    def cancel(self) -> None:
        """Stop at once: no further item is given out."""
        if not self.cancelled:
            self.cancelled = True
            self.ticket.cancel()
            self._items.put_nowait((False, None))

    async def __aiter__(self) -> AsyncIterator[Any]:
        """The items as they come; raises the work's error. A cancelled job just ends."""
        while not self.cancelled:
            more, item = await self._items.get()
            if self.cancelled:
                return
            if not more:
                error = self.ticket.future.exception()
                if error is not None and not isinstance(error, Cancelled):
                    raise error
                return
            if not isinstance(item, Progress):
                yield item
            elif self._on_progress is not None:
                self._on_progress(item)

    async def result(self) -> Any:
        """The last item; None when cancelled."""
        last = None
        async for item in self:
            last = item
        return last
