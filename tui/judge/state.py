"""What the screen of the judge knows: a plan, its verdicts, and the user's votes on these pairs."""

import time
from dataclasses import dataclass, field
from pathlib import Path

from rich.text import Text

from minialign.errors import UserError
from minialign.judge import plans
from minialign.judge.plans import Plan
from minialign.judge.verdict_files import read_verdicts
from minialign.labels.votes import Votes
from minialign.records import Comparison, Verdict, Vote
from tui.widgets.text import printable


@dataclass
class Judged:
    """A plan with all that was said of its pairs; without a plan: nothing yet."""

    plan: Plan | None = None
    pairs: list[Comparison] = field(default_factory=list)
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    unreadable: int = 0  # lines of its file
    error: UserError | None = None  # why there are no pairs
    votes: Votes | None = None
    opinions: dict[str, Vote] = field(default_factory=dict)  # the last vote on each pair
    overruled: list[tuple[str, Vote, list[Vote]]] = field(default_factory=list)
    began: tuple[float, int] = (0.0, 0)  # when, and how many verdicts there were then

    @staticmethod
    def read(plan: Plan) -> "Judged":
        """What there is of a plan; also when its pairs have vanished. Runs in a thread."""
        judged = Judged(plan)
        try:
            judged.pairs = plans.read_planned(plan)
        except UserError as error:
            judged.error = error
        judged.verdicts, judged.unreadable = read_verdicts(plan.file)
        judged.read_votes()
        return judged

    def read_votes(self) -> None:
        """Votes that were given elsewhere meanwhile. Runs in a thread."""
        votes = Votes()
        self.votes, self.opinions = votes, plans.last_votes(votes.all)

    @property
    def total(self) -> int:
        """How many pairs there are to judge."""
        return len(self.pairs) or len(self.verdicts)

    @property
    def left(self) -> int:
        """How many of them are not judged."""
        return sum(pair.key not in self.verdicts for pair in self.pairs)

    def add(self, verdict: Verdict) -> None:
        """A verdict that came; the pace counts from the first."""
        if not self.began[0]:
            self.began = time.monotonic(), len(self.verdicts)
        self.verdicts[verdict.comparison.key] = verdict

    def overrule(self, verdict: Verdict, choice: str) -> None:
        """The user's own vote on a pair, in place of those before."""
        if self.votes is None:
            return
        key = verdict.comparison.key
        before = [vote for vote in self.votes.all if vote.comparison.key == key]
        self.opinions[key] = plans.overrule(self.votes, verdict, choice)
        self.overruled.append((key, self.opinions[key], before))

    def undo(self) -> bool:
        """Take the last vote given here back; what it replaced is there again."""
        if not self.overruled or self.votes is None:
            return False
        key, vote, before = self.overruled.pop()
        plans.take_back(self.votes, vote, before)
        self.opinions = {**self.opinions, **plans.last_votes(before)}
        if not before:
            self.opinions.pop(key, None)
        return True

    def describe(self, progress: str | None) -> Text:
        """Three lines: how far it is, who wins, how biased the judge is.

        Args:
            progress: what is being done; None when no judge is at work.
        """
        plan, standing = self.plan, plans.count_verdicts(self.verdicts, self.opinions)
        if plan is None:
            return Text()
        ours = plan.pairs == plans.LABELS
        how = [plan.template or "", *(w for w in ("explain", "debias") if getattr(plan, w))]
        asked = f" ({', '.join(how).strip(', ')})" if any(how) else ""
        on_pairs = f" on {'your labels' if ours else Path(plan.pairs).name}{asked}   "
        text = Text(overflow="ellipsis", no_wrap=True)
        text.append(printable(plan.judge), style="bold")
        text.append(printable(on_pairs) + " · ".join(self._pace(standing.judged, progress)) + "\n")
        if standing.rate is not None:
            mean, low, high = (100 * share for share in standing.rate)
            wins = f"{'A' if ours else 'A (chosen)'} wins {mean:.0f} % ({low:.0f} to {high:.0f})"
            text.append(wins, style="bold")
            text.append(f" · {standing.a}:{standing.b}, ties {standing.tie}")
        else:
            text.append("no verdict yet")
        if standing.agree:
            share, count = standing.agree
            text.append(f" · agrees with you {round(share * count)}/{count}")
        shares = {
            "shown first wins": standing.first,
            "orders disagree": standing.conflicts,
            "longer wins": standing.longer,
        }
        biases = [f"{what} {100 * one[0]:.0f} %" for what, one in shares.items() if one is not None]
        if standing.unparsed:
            biases.append(f"unreadable {standing.unparsed}")
        return text.append("\n" + " · ".join(biases))

    def _pace(self, judged: int, progress: str | None) -> list[str]:
        """How many are judged, and how long the rest takes."""
        counted = f"{judged} of {self.total}"
        if progress is None:
            return [counted, "✓ all judged" if judged >= self.total else "■ stopped: r goes on"]
        parts = [counted, f"● {progress or 'judging'}"]
        began, before = self.began
        if began and judged > before:
            each = (time.monotonic() - began) / (judged - before)
            parts += [f"{each:.1f} s a pair", f"≈ {duration(each * (self.total - judged))}"]
        return parts


def duration(seconds: float) -> str:
    """ "40 s", "3 min", "1 h 20 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
