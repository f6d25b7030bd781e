"""``minialign`` as a process that stops at a known place, however busy the machine is.

``python paced.py hold ROWS FILE …`` waits after so many lines of a run's metrics until FILE is
there; ``python paced.py kill ROWS SECONDS …`` is killed (SIGKILL) so long after them.
"""

import os
import signal
import sys
import threading
import time
from typing import Any

from minialign.cli import main
from minialign.run_folder import Run


def paced(how: str, rows: int, what: str) -> None:
    """From now on the metrics of a run are logged as the module says."""
    log, logged = Run.log, 0

    def counting(*arguments: Any) -> None:
        nonlocal logged
        log(*arguments)
        logged += 1
        if how == "kill" and logged == rows:
            threading.Timer(float(what), os.kill, (os.getpid(), signal.SIGKILL)).start()
        while how == "hold" and logged >= rows and not os.path.exists(what):
            time.sleep(0.01)

    Run.log = counting  # type: ignore[method-assign, assignment]  # it is patched


if __name__ == "__main__":
    paced(sys.argv[1], int(sys.argv[2]), sys.argv[3])
    sys.exit(main(sys.argv[4:]))
