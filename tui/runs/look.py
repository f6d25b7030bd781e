"""What the screen of runs reads: all runs, and of one or several the plots, log and answers."""

from dataclasses import dataclass, field

from minialign.runs import launch
from minialign.runs.summary import Sample, Summary
from minialign.runs.watch import Watch, charts, keys_of, samples_of

SMOOTHING = (0.0, 0.6, 0.9)


@dataclass
class Look:
    """What was seen at one look."""

    runs: list[Summary] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)  # metrics there are to plot
    chart: str = ""
    log: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)


class Looker:
    """Reads the folders of runs; holds what the plots shall show."""

    def __init__(self) -> None:
        self.watch = Watch()
        self.overlaid: list[str] = []  # runs whose lines stay on the plots
        self.metric: str | None = None  # None: as many as there is room for
        self.smoothing = 0.0

    def look(self, name: str | None, size: tuple[int, int], with_samples: bool) -> Look:
        """Look at all runs, and closely at ``name``. Runs in a thread."""
        seen = Look(self.watch.look())
        names = [*dict.fromkeys([*self.overlaid, *([name] if name else [])])]
        if not names or (name is None and seen.runs):
            return seen
        width, height = size
        seen.keys = keys_of(names)
        keys = seen.keys[: max(1, min(3, height // 14))]
        if self.metric is not None and self.metric in seen.keys:
            keys = [self.metric]
        seen.chart = charts(names, keys, width - 2, height, self.smoothing)
        seen.log = launch.tail(names[-1], 200)
        seen.samples = samples_of(names[-1]) if with_samples else []
        return seen

    def next_metric(self, keys: list[str]) -> bool:
        """Plot the next one; after the last the usual ones again. False when there is none."""
        at = keys.index(self.metric) + 1 if self.metric is not None and self.metric in keys else 0
        self.metric = keys[at] if at < len(keys) else None
        return bool(keys)

    def smooth_more(self) -> None:
        """Smooth the lines more; after the most not at all."""
        self.smoothing = SMOOTHING[(SMOOTHING.index(self.smoothing) + 1) % len(SMOOTHING)]

    def overlay(self, name: str) -> None:
        """Keep a run's lines on the plots, or no longer."""
        if name in self.overlaid:
            self.overlaid.remove(name)
        else:
            self.overlaid.append(name)
