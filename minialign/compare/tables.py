"""The tables of a comparison's file, and the methods that can be compared.

The comment above or behind a field is its help.
"""

from dataclasses import dataclass, field
from typing import Any

from minialign.models.names import DEFAULT


@dataclass(frozen=True)
class Kind:
    """A way to train: the command that does it and the rows it wants."""

    command: str
    # "demonstrations" or "pairs" of the file, "sampled" (the start policy's own answers, scored by
    # the proxy), "prompts" (the command samples by itself) or "" (nothing is trained)
    rows: str
    options: dict[str, Any] = field(default_factory=dict)


COMPARED = {
    "sft": Kind("sft", "demonstrations"),
    "best-of-n": Kind("best-of-n", ""),
    "expert": Kind("expert", "prompts"),
    "rso": Kind("rso", "prompts"),
    "slic": Kind("slic", "pairs"),
    "rrhf": Kind("rrhf", "sampled"),
    "conditional": Kind("conditional", "pairs"),
    "dpo": Kind("dpo", "pairs"),
    "kto": Kind("kto", "pairs"),
    "orpo": Kind("orpo", "pairs"),
    "simpo": Kind("simpo", "pairs"),
    "ppo": Kind("ppo", "prompts"),
    "rloo": Kind("ppo", "prompts", {"advantage": "rloo"}),
    "online-dpo": Kind("online-dpo", "prompts"),
}
ROWS = ("demonstrations", "pairs", "sampled", "prompts")


@dataclass(frozen=True)
class Top:
    """What stands above the first table."""

    model: str = DEFAULT  # a name of `minialign models list`, a hub id, a folder or a GGUF file
    methods: tuple[str, ...] = tuple(COMPARED)  # what is compared (default: all of them)
    seeds: tuple[int, ...] = (0,)  # each method is trained and asked once with each


@dataclass(frozen=True)
class Files:
    """``[data]``: files, relative to this one."""

    prompts: str = ""  # prompts that methods sample from
    heldout: str = ""  # prompts that answers are judged on; never trained on
    pairs: str = ""  # pairs for the methods that learn from pairs, and for the proxy's reward head
    # what the start policy imitates (default: the chosen answers of the pairs)
    demonstrations: str = ""
    heldout_limit: int = 0  # only the first n held-out prompts (0: all)


@dataclass(frozen=True)
class Scorers:
    """``[scorers]``: one that trains and another that judges."""

    proxy: str = "reward"  # what methods see: "reward" trains a head on the pairs, or any --scorer
    gold: str = ""  # what answers are judged by: any --scorer
    # let both be the same (the comparison then says nothing of over-optimization)
    allow_same: bool = False


@dataclass(frozen=True)
class Budget:
    """``[budget]``: what each method may use, sampling included; one of the two."""

    tokens: int = 0  # tokens read by training, written and scored
    minutes: float = 0.0  # minutes of training and sampling


@dataclass(frozen=True)
class Sampled:
    """``[sampled]``: the start policy's answers, for methods that learn from scored answers."""

    n: int = 4  # answers to each prompt
    prompts: int = 0  # only the first n prompts (0: all)


@dataclass(frozen=True)
class Answers:
    """``[sampling]``: how answers are drawn, in training and in judging."""

    temperature: float = 0.7  # the policies that are compared are those at this temperature
    # the fewest tokens that hold this much probability (the KL is of the policy without it)
    top_p: float = 1.0
    max_tokens: int = 48  # most tokens of an answer
    batch_size: int = 16  # answers written at once
    best_of: int = 16  # answers to each held-out prompt that best-of-n chooses from


TABLES: dict[str, type] = {
    "data": Files,
    "scorers": Scorers,
    "budget": Budget,
    "sampled": Sampled,
    "sampling": Answers,
}
# Tables of settings that go to commands as they are.
FREE = ("training", "start", "reward", "method")
