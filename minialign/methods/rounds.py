"""What the methods of rounds share: how candidates are sampled and scored.

In each round the model answers prompts, a scorer says what each answer is worth, the method selects
rows of them, and another method trains on these. The loop itself is ``training.rounds``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from minialign.errors import UserError
from minialign.methods.method import Method, Rounds, require
from minialign.records import Prompted
from minialign.rewards.spec import parse
from minialign.sampling import Sampling

# settings of a training run that rounds have no use for
UNUSED = ("map", "skip_bad", "reference_adapter", "steps_per_eval", "patience")


@dataclass(frozen=True)
class RoundSettings:
    """What every round-based method can be told: how candidates are sampled and scored."""

    # reward:RUN, dpo:RUN, judge:MODEL, judge:self, exact, ifeval, regex:…, length, python:FILE.py:f
    scorer: str = ""
    # candidates of each prompt, all written and scored: twice as many cost twice
    n: int = 8
    # rounds (default: 3, rso 1; with --max-tokens or --max-minutes as many as these allow)
    rounds: int | None = None
    # prompts of a round, the next ones in each (0: all in every round)
    prompts_per_round: int = 0
    # answers to each held-out prompt, before the first and after every round
    heldout_n: int = 4
    # a system prompt
    system: str | None = None
    # candidates written at once
    rollout_batch: int = 16
    # most tokens of a candidate
    response_length: int = 128
    # 0 takes the most likely token
    temperature: float = 0.7
    # the fewest tokens that hold this much probability
    top_p: float = 1.0
    # the k most likely tokens; 0: all
    top_k: int = 0
    # tokens at least this likely, relative to the most likely one
    min_p: float = 0.0
    # divides the logits of tokens already generated
    repetition_penalty: float = 1.0
    # texts that end a candidate, which is cut before them
    stop: tuple[str, ...] = ()
    # subtracted from the score of a candidate that did not end in time; one selected even so is
    # learned as far as it goes, without an end
    eos_penalty: float = 0.0

    def sampling(self) -> Sampling:
        """How candidates are drawn."""
        cuts = self.top_p, self.top_k, self.min_p, self.repetition_penalty
        return Sampling(self.temperature, *cuts, self.response_length, self.stop)


def round_method(
    name: str, config: type, check: Callable[[Any], None], rounds: Rounds, **more: Any
) -> Method:
    """A method of rounds: its loss is that of the method with which they train."""
    return Method(
        name,
        config,
        record=Prompted,
        loss=lambda config: rounds.trains.loss(rounds.train_config(config)),
        unit=rounds.trains.unit,
        needs="prompts, and a scorer",
        check=check,
        unused=UNUSED,
        rounds=rounds,
        **more,
    )


def check_plan(plan: RoundSettings, method: str) -> None:
    """Raise a UserError for settings of a round that make no sense."""
    if not plan.scorer:
        raise UserError(f"{method} needs a scorer", "--scorer length, reward:RUN, exact, …")
    parse(plan.scorer)
    for name in ("n", "rounds", "heldout_n", "rollout_batch"):
        value = getattr(plan, name)
        if value is not None and value < 1:
            raise UserError(f"{name} = {value}", "it must be 1 or more")
    if plan.prompts_per_round < 0:
        raise UserError(f"prompts_per_round = {plan.prompts_per_round}", "0 is all of them")
    require(plan, from_0=("eos_penalty",))
    if plan.sampling().greedy and (plan.n > 1 or plan.heldout_n > 1):
        raise UserError("candidates at temperature 0 are all the same", "--temperature 0.7")
