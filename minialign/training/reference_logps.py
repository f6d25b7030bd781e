"""The reference's log-probs: computed once before training, kept on disk, never a second model.

One file for each model with its adapter; one line for each example, under a hash of its token ids
and masks (which hold the data, the template and the length limit). The next run on the same rows
computes nothing; a run that is killed on the way loses at most one batch.
"""

import hashlib
import json
from collections.abc import Iterator

import mlx.core as mx
import numpy as np

from minialign.durable import Journal
from minialign.home import folder
from minialign.learn.batch import Example, collate, index_batches
from minialign.learn.forward import response_logps
from minialign.learn.policy import Policy

TOKENS = 8192  # tokens in one batch; there is no gradient, so batches may be large


def example_key(example: Example) -> str:
    """A hash of everything the log-probs depend on besides the model."""
    text = json.dumps([example.prompt, example.responses, example.masks])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def reference_logps(
    policy: Policy, examples: list[Example], model_key: str
) -> Iterator[tuple[int, int, int]]:
    """Fill every ``example.meta["reference"]`` (k log-probs) from the cache or the model.

    Yields (examples done, examples in all, examples that were in the cache) as it goes.

    Args:
        policy: the model as it is before training.
        model_key: identifies the weights, adapter included.
    """
    name = hashlib.sha256(model_key.encode()).hexdigest()[:32]
    journal = Journal.resume(folder("cache/reference") / f"{name}.jsonl")
    known = {key: row["logps"] for key, row in journal.known("key").items() if "logps" in row}
    keys = [example_key(example) for example in examples]
    cached = sum(key in known for key in keys)
    done = 0
    longest = max(example.length for example in examples)
    rows = max(len(example.responses) for example in examples)
    size = max(1, TOKENS // (longest * rows))
    lengths = [example.length for example in examples]
    # Batches depend on the examples alone, not on what is cached: an interrupted computation that
    # goes on later gives the same numbers to the last bit.
    for indices in index_batches(lengths, size, 0, 0):
        if any(keys[i] not in known for i in indices):
            with policy.reading():
                sums, _ = response_logps(policy, collate([examples[i] for i in indices]))
            values = iter(np.array(sums).tolist())
            fresh: dict[str, list[float]] = {}
            for i in indices:
                logps = [next(values) for _ in examples[i].responses]
                if keys[i] not in known:
                    fresh.setdefault(keys[i], logps)
            journal.append(*({"key": key, "logps": logps} for key, logps in fresh.items()))
            known |= fresh
            mx.clear_cache()
        for i in indices:
            examples[i].meta["reference"] = known[keys[i]]
        done += len(indices)
        yield done, len(examples), cached
