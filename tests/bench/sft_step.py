"""One LoRA fine-tuning step, 4 x 256 tokens, rank 8 on every linear layer, all tokens trained.

The sides are minialign and PyTorch with PEFT (float32, SDPA, AdamW), on the same weights and the
same random tokens. The first step warms up; the best of the others counts. ``loss`` is that of the
first step, where both adapters still change nothing: it must be the same.
"""

import itertools
import time

import numpy as np
from measuring import arguments, report
from prepare import hf


def tokens(rows: int, width: int) -> list[list[int]]:
    """Random token ids, the same for every side."""
    return np.random.default_rng(0).integers(100, 300, (rows, width)).tolist()


def minialign(given) -> None:
    """Our own step, by the code that every run uses."""
    from minialign.learn.batch import Example, collate
    from minialign.learn.checkpointing import checkpoint_layers
    from minialign.learn.fit import Updates, adamw, fit, joined
    from minialign.learn.policy import make_policy
    from minialign.methods import METHODS
    from minialign.models.adapter import Lora, attach
    from minialign.models.load import load

    model = load(given.model)
    policy = make_policy(model)
    attach(model.module, Lora(rank=given.rank, scale=2.0))
    if given.checkpoint:
        checkpoint_layers(model.module)
    method = METHODS["sft"]
    rows = tokens(given.rows, given.width)
    batch = collate([Example(row[:1], [row[1:]], [[1] * (len(row) - 1)]) for row in rows])
    optimizer = adamw((0.9, 0.999), 0.0)
    optimizer.init(joined(policy.trainable.trainable_parameters()))
    steps = fit(
        policy,
        method.loss(method.config()),
        itertools.repeat([batch]),
        optimizer,
        Updates(lambda step: 1e-4, method.weight, last=given.steps + 1),
    )
    done = list(steps)
    report("sft step", min(step.seconds for step in done[1:]), "s/step", loss=done[0].loss)


def pytorch(given) -> None:
    """Time that step in PyTorch with PEFT."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(hf(given.model), dtype=torch.float32)
    wanted = LoraConfig(r=given.rank, lora_alpha=2 * given.rank, target_modules="all-linear")
    model = get_peft_model(model, wanted).train()
    if given.checkpoint:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-4, weight_decay=0.0)
    ids = torch.tensor(tokens(given.rows, given.width))
    seconds, losses = [], []
    for _ in range(given.steps + 1):
        start = time.perf_counter()
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - start)
        losses.append(loss.item())
    report("sft step", min(seconds[1:]), "s/step", loss=losses[0])


def main() -> None:
    """Measure one side."""
    parser = arguments(__doc__, ["minialign", "pytorch"])
    parser.add_argument("--checkpoint", action="store_true", help="recompute activations")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--width", type=int, default=256, help="tokens a row (256)")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--steps", type=int, default=2, help="timed steps after the first (2)")
    given = parser.parse_args()
    {"minialign": minialign, "pytorch": pytorch}[given.side](given)


if __name__ == "__main__":
    main()
