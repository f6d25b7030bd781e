"""Writing answers, in tokens a second, with the prompts' time left out: greedy, from 16 tokens on.

The sides are minialign's engine (sampling and detokenizing included), llama.cpp on the GGUF that
the weights come from (its decode call and an argmax; one answer at a time), and PyTorch's
``generate`` in float32. All answers are equally long. ``--threads`` is what each may use.
"""

import time

import numpy as np
from measuring import arguments, report
from prepare import gguf, hf


def prompts(rows: int) -> list[list[int]]:
    """Random token ids, the same for every side."""
    return np.random.default_rng(0).integers(100, 1000, (rows, 16)).tolist()


def minialign(given) -> None:
    """Our engine."""
    from dataclasses import replace

    from minialign.engine import Engine
    from minialign.machine.bench import Endless, decode_rate
    from minialign.models.load import load

    model = load(given.model)
    engine = Engine(replace(model, tokenizer=Endless(model.tokenizer)))
    for batch in given.batches:
        decode_rate(engine, prompts(batch), 4)
        report(f"decode {batch}", decode_rate(engine, prompts(batch), given.tokens), "tokens/s")


def llama(given) -> None:
    """llama.cpp, one answer."""
    import llama_cpp

    model = llama_cpp.Llama(
        model_path=str(given.gguf or gguf(given.model)),
        n_ctx=512,
        n_threads=given.threads,
        n_threads_batch=given.threads,
        verbose=False,
    )
    rates = []
    for _ in range(2):
        model.reset()
        model.eval(prompts(1)[0])
        start = time.perf_counter()
        for _ in range(given.tokens):
            # Logits as the library holds them, without copying them.
            logits = np.ctypeslib.as_array(
                llama_cpp.llama_get_logits(model.ctx), shape=(model.n_vocab(),)
            )
            model.eval([int(logits.argmax())])
        rates.append(given.tokens / (time.perf_counter() - start))
    report("decode 1", max(rates), "tokens/s")


def pytorch(given) -> None:
    """PyTorch's ``generate`` of transformers."""
    import torch
    from transformers import AutoModelForCausalLM, StoppingCriteria, StoppingCriteriaList

    torch.set_num_threads(given.threads)
    model = AutoModelForCausalLM.from_pretrained(hf(given.model), dtype=torch.float32).eval()

    class Clock(StoppingCriteria):
        def __init__(self):
            self.times: list[float] = []

        def __call__(self, ids, scores, **kwargs):
            self.times.append(time.perf_counter())
            return torch.zeros(ids.shape[0], dtype=torch.bool)

    for batch in given.batches:
        for tokens in (4, given.tokens):
            clock = Clock()
            ids = torch.tensor(prompts(batch))
            with torch.inference_mode():
                model.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    do_sample=False,
                    min_new_tokens=tokens,
                    max_new_tokens=tokens,
                    stopping_criteria=StoppingCriteriaList([clock]),
                )
        times = clock.times
        rate = batch * (len(times) - 1) / (times[-1] - times[0])
        report(f"decode {batch}", rate, "tokens/s")


def main() -> None:
    """Measure one side."""
    import os

    parser = arguments(__doc__, ["minialign", "llama", "pytorch"])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16], metavar="N")
    parser.add_argument("--tokens", type=int, default=64, help="of each answer (64)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--gguf", help="llama: this file (default: the model's own)")
    given = parser.parse_args()
    os.environ["MINIALIGN_THREADS"] = str(given.threads)
    {"minialign": minialign, "llama": llama, "pytorch": pytorch}[given.side](given)


if __name__ == "__main__":
    main()
