"""How much a run may use, whatever it uses it for: tokens and minutes, sampling counted alike.

Tokens are those that training's forward passes read, padding left out, and those that sampling
writes or scores. Minutes are those of training steps and sampling; loading, evaluation and the
reference's log-probs, which are computed once and kept, are not among them.
"""

from collections.abc import Iterator, Sequence

from minialign.learn.batch import Example, endless
from minialign.training.settings import Settings


def spent(settings: Settings, tokens: float, seconds: float) -> str:
    """Which limit is reached, in words; "" when there is more to use."""
    if settings.max_tokens and tokens >= settings.max_tokens:
        return f"{tokens:,.0f} of {settings.max_tokens:,} tokens used"
    if settings.max_minutes and seconds >= 60 * settings.max_minutes:
        return f"{seconds / 60:.1f} of {settings.max_minutes:g} minutes used"
    return ""


def order_of(examples: Sequence[Example], settings: Settings) -> Iterator[list[int]]:
    """The batches of a run, one after the other, as indices of its examples."""
    return endless([example.length for example in examples], settings.batch_size, settings.seed)


def steps_within(examples: Sequence[Example], settings: Settings, most: int) -> int:
    """The updates, at most ``most``, that reach ``max_tokens``: known before the first, since the
    order of the data is, so that the schedule has its end and resuming changes nothing."""
    order = order_of(examples, settings)
    tokens = 0
    for step in range(most):
        if tokens >= settings.max_tokens:
            return step
        for _ in range(settings.grad_accumulation_steps):
            tokens += sum(examples[i].tokens for i in next(order))
    return most


def steps_ahead(settings: Settings, step: int, seconds: float, total: int) -> int:
    """How many updates there will be in all, as it looks before update ``step``: as many as the
    minutes allow at the pace so far (a guess of 100 before the first)."""
    if not settings.max_minutes:
        return total
    allowed = (step - 1) * 60 * settings.max_minutes / seconds if seconds else 100
    return min(total, max(step, round(allowed)))


READS = {"reward": 1, "dpo": 2}  # forward passes of these scorers over a candidate


def tokens_read(scorer: str, n: int, prompt: int, written: int) -> int:
    """About how many tokens a scorer reads of a prompt's n candidates, ``written`` tokens in all;
    of a judge's questions without the words of its template."""
    kind = scorer.partition(":")[0]
    if kind == "judge":  # every two of them, in both orders
        return n * (n - 1) * prompt + 2 * (n - 1) * written
    return READS.get(kind, 0) * (n * prompt + written)
