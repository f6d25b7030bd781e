"""n answers to one prompt in one batch, against n single generations, in seconds.

The prompt has 128 tokens and each answer 128 new ones. ``--side batch`` reads the prompt once and
writes all answers at once; ``--side single`` starts from nothing each time, as a program does that
asks n times. ``prompt_tokens`` is how many prompt tokens were computed, as the engine counts them.
"""

import time
from dataclasses import replace

from measuring import arguments, report

from minialign.engine import Engine, Sampling
from minialign.machine.bench import Endless, random_ids
from minialign.models.load import load


def main() -> None:
    """Measure one side."""
    parser = arguments(__doc__, ["batch", "single"])
    parser.add_argument("-n", type=int, default=16, help="answers (16)")
    parser.add_argument("--prompt", type=int, default=128, help="tokens of the prompt (128)")
    parser.add_argument("--tokens", type=int, default=128, help="tokens of each answer (128)")
    given = parser.parse_args()
    model = load(given.model)
    engine = Engine(replace(model, tokenizer=Endless(model.tokenizer)))
    (prompt,) = random_ids(1000, 1, given.prompt)
    wanted = Sampling(temperature=1.0, max_tokens=given.tokens)
    list(engine.stream(prompt, Sampling(max_tokens=2)))  # warm up
    engine.forget()
    read = {"tokens": 0}

    def on_prefill(done: int, total: int) -> None:
        if done == total:
            read["tokens"] += total

    start = time.perf_counter()
    if given.side == "batch":
        answers = engine.generate(
            [prompt], wanted, n=given.n, batch_size=given.n, on_prefill=on_prefill
        )
        written = sum(len(answer.ids) for answer in answers)
    else:
        written = 0
        for seed in range(given.n):
            engine.forget()
            written += len(list(engine.stream(prompt, wanted, seed, on_prefill)))
    seconds = time.perf_counter() - start
    assert written == given.n * given.tokens
    report(f"best of {given.n}", seconds, "s", prompt_tokens=read["tokens"], written=written)


if __name__ == "__main__":
    main()
