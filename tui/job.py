"""From the lane's thread to the app's loop: a job whose items are awaited."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from minialign.engine.mlx_thread import Cancelled, Lane, Work


class Job:
    """Work on the lane; iterate over it for its items. Create it inside the app's loop."""

    def __init__(self, lane: Lane, work: Work, *, ahead: bool = False):
        self._items: asyncio.Queue[tuple[bool, Any]] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def tell(more: bool, item: Any) -> None:
            with contextlib.suppress(RuntimeError):  # the app has ended
                loop.call_soon_threadsafe(self._items.put_nowait, (more, item))

        self.cancelled = False
        self.ticket = lane.submit(work, lambda item: tell(True, item), ahead=ahead)
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
            if more:
                yield item
                continue
            error = self.ticket.future.exception()
            if error is not None and not isinstance(error, Cancelled):
                raise error
            return

    async def result(self) -> Any:
        """The last item; None when cancelled."""
        last = None
        async for item in self:
            last = item
        return last
