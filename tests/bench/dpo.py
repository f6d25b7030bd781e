"""DPO training, in pairs a second: batches of 4, at most 512 tokens, LoRA rank 8 on every layer.

The sides are minialign and TRL with PEFT, on the same weights and token ids in the same batches;
both compute the reference's log-probs once, before training. The first batch warms up, the others
count; the time of the reference is reported beside them. TRL runs with the settings that were
fastest on a CPU: float32, no gradient checkpointing (``--checkpoint`` turns it on), rows of like
length together. ``losses`` are those of each step, a check that both sides do the same.

    python tests/bench/dpo.py --side minialign --data pairs.jsonl
    python tests/bench/dpo.py --side trl --data pairs.jsonl

What minialign owes to what: ``--no-kernels``, ``--no-share-prompts``, ``--full-logits``, and
``--no-cache`` (the reference computed again in every step).
"""

import os
import tempfile
import time

from measuring import arguments, report
from prepare import hf, pairs


def _rate(batches: list[list[dict]], seconds: list[float]) -> float:
    """Pairs a second of all batches but the first."""
    return sum(map(len, batches[1:])) / sum(seconds[1:])


def minialign(given, batches: list[list[dict]]) -> None:
    """Our own training, by the code that every run uses."""
    if given.no_kernels:
        os.environ["MINIALIGN_NATIVE"] = "0"
    import mlx.core as mx

    from minialign.learn.batch import Batch, Example, collate
    from minialign.learn.checkpointing import checkpoint_layers
    from minialign.learn.fit import Updates, adamw, fit, joined
    from minialign.learn.forward import response_logps
    from minialign.learn.policy import make_policy
    from minialign.methods import METHODS
    from minialign.models.adapter import Lora, adapter_off, attach
    from minialign.models.load import load
    from minialign.training.reference_logps import reference_logps

    model = load(given.model)
    policy = make_policy(model)
    policy.share_prompts = not given.no_share_prompts
    rows = [[_example(pair) for pair in batch] for batch in batches]
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        home, os.environ["MINIALIGN_HOME"] = os.environ.get("MINIALIGN_HOME"), folder
        for _ in reference_logps(policy, [row for batch in rows for row in batch], "bench"):
            pass
        os.environ.pop("MINIALIGN_HOME")
        if home is not None:
            os.environ["MINIALIGN_HOME"] = home
    reference = time.perf_counter() - start
    if given.full_logits:
        _full_logits()
    attach(model.module, Lora(rank=given.rank, scale=2.0))
    if given.checkpoint:
        checkpoint_layers(model.module)

    def collated(examples: list[Example]) -> Batch:
        batch = collate(examples)
        if given.no_cache:
            with adapter_off(model.module):
                with policy.reading():
                    values = mx.stop_gradient(response_logps(policy, batch)[0])
                mx.eval(values)
            batch.extra["reference"] = values
        else:
            batch.extra["reference"] = mx.array(
                [logp for example in examples for logp in example.meta["reference"]]
            )
        return batch

    method = METHODS["dpo"]
    optimizer = adamw((0.9, 0.999), 0.0)
    optimizer.init(joined(policy.trainable.trainable_parameters()))
    steps = fit(
        policy,
        method.loss(method.config()),
        ([collated(batch)] for batch in rows),
        optimizer,
        Updates(lambda step: 1e-5, method.weight, last=len(rows)),
    )
    seconds, losses, start = [], [], time.perf_counter()
    for step in steps:
        seconds.append(time.perf_counter() - start)  # with making the batch
        losses.append(step.loss)
        start = time.perf_counter()
    _report(given, batches, seconds, losses, reference, shared=policy.counts.shared)


def _example(pair: dict):
    from minialign.learn.batch import Example

    responses = [pair["chosen_ids"], pair["rejected_ids"]]
    return Example(pair["prompt_ids"], responses, [[1] * len(ids) for ids in responses])


def _full_logits() -> None:
    """Put the usual way in place of selected log-probs: all logits of all response positions."""
    import mlx.core as mx

    from minialign.learn import forward

    def token_logps(policy, batch):
        predicting, _ = forward.response_hidden(policy, batch)
        logits = policy.head(predicting).astype(mx.float32)
        picked = mx.take_along_axis(logits, batch.responses[..., None], axis=-1)[..., 0]
        logps = (picked - mx.logsumexp(logits, axis=-1)) * batch.mask
        owners = mx.broadcast_to(mx.arange(logps.shape[0])[:, None], logps.shape)
        return logps.reshape(-1), owners.reshape(-1)

    forward.token_logps = token_logps


def trl(given, batches: list[list[dict]]) -> None:
    """Train on these pairs in TRL's DPOTrainer."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerCallback
    from trl import DPOConfig, DPOTrainer

    class Clock(TrainerCallback):
        def __init__(self):
            self.seconds, self.losses, self.start = [], [], 0.0

        def on_step_begin(self, *args, **kwargs):
            self.start = time.perf_counter()

        def on_step_end(self, *args, **kwargs):
            self.seconds.append(time.perf_counter() - self.start)

        def on_log(self, args, state, control, logs=None, **kwargs):
            if logs and "loss" in logs:
                self.losses.append(float(logs["loss"]))

    class Timed(DPOTrainer):
        reference = 0.0

        def _precompute_ref_logps(self, *args, **kwargs):
            start = time.perf_counter()
            result = super()._precompute_ref_logps(*args, **kwargs)
            self.reference = time.perf_counter() - start
            return result

    folder = hf(given.model)
    rows = [pair for batch in batches for pair in batch]
    texts = [{name: pair[name] for name in ("prompt", "chosen", "rejected")} for pair in rows]
    clock = Clock()
    with tempfile.TemporaryDirectory() as out:
        trainer = Timed(
            model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
            args=DPOConfig(
                output_dir=out,
                per_device_train_batch_size=given.batch,
                num_train_epochs=1,
                max_length=given.max_length,
                learning_rate=1e-5,
                lr_scheduler_type="constant",
                beta=0.1,
                precompute_ref_log_probs=not given.no_cache,
                precompute_ref_batch_size=2 * given.batch,
                gradient_checkpointing=given.checkpoint,
                train_sampling_strategy="sequential",
                bf16=False,
                use_cpu=True,
                dataloader_pin_memory=False,
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_list(texts),
            processing_class=AutoTokenizer.from_pretrained(folder),
            peft_config=LoraConfig(
                r=given.rank,
                lora_alpha=2 * given.rank,
                target_modules="all-linear",
                task_type="CAUSAL_LM",
            ),
            callbacks=[clock],
        )
        trainer.remove_callback(PrinterCallback)  # stdout is for results
        _check_ids(trainer.train_dataset, rows)
        trainer.train()
    _report(given, batches, clock.seconds, clock.losses, trainer.reference)


def _check_ids(dataset, rows: list[dict]) -> None:
    for ours, theirs in zip(rows, dataset, strict=True):
        for name in ("prompt_ids", "chosen_ids", "rejected_ids"):
            if list(theirs[name]) != ours[name]:
                raise SystemExit(f"TRL tokenizes a pair's {name} differently: no fair comparison")


def _report(given, batches, seconds, losses, reference, **details) -> None:
    rows = [pair for batch in batches for pair in batch]
    tokens = sum(
        2 * len(pair["prompt_ids"]) + len(pair["chosen_ids"]) + len(pair["rejected_ids"])
        for pair in rows
    )
    report(
        "dpo", _rate(batches, seconds), "pairs/s",
        seconds=seconds, losses=losses, reference_seconds=reference, pairs=len(rows), tokens=tokens,
        **details,
    )  # fmt: skip


def main() -> None:
    """Measure one side."""
    parser = arguments(__doc__, ["minialign", "trl"])
    parser.add_argument("--data", required=True, help="pairs in any format that minialign reads")
    parser.add_argument("-n", type=int, default=12, help="the first n pairs that fit (12)")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--checkpoint", action="store_true", help="recompute activations")
    parser.add_argument("--no-cache", action="store_true", help="the reference in every step")
    parser.add_argument("--no-kernels", action="store_true", help="minialign: MLX's own")
    parser.add_argument("--no-share-prompts", action="store_true", help="minialign: no sharing")
    parser.add_argument("--full-logits", action="store_true", help="minialign: hold all logits")
    given = parser.parse_args()
    if given.n < 2 * given.batch:
        parser.error("-n must be at least twice --batch: the first batch warms up")
    batches = pairs(given.model, given.data, given.n, given.batch, given.max_length)
    {"minialign": minialign, "trl": trl}[given.side](given, batches)


if __name__ == "__main__":
    main()
