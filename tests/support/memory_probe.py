"""Training runs in a process of their own, with the figures of their memory as JSON lines.

``python memory_probe.py CASE``; CASE is JSON: "method", "prompt" and "response" (how many tokens
the rows have that are made here), and the run's settings.
"""

import json
import sys
import tempfile
from pathlib import Path

import mlx.core as mx

from minialign.methods import METHODS
from minialign.models.sources.fetch import ensure
from minialign.models.tokens.tokenizer import Tokenizer
from minialign.training import memory
from minialign.training.settings import Settings
from minialign.training.start import start


def row(method: str, prompt: str, response: str) -> dict:
    """A row of the file that the method reads."""
    if method == "sft":
        return {"prompt": prompt, "response": response}
    return {"prompt": prompt, "chosen": response, "rejected": f"9{response}"}


def measured(model: str, method: str, prompt: int, response: int, **changes) -> dict:
    """Bytes: the estimate, what the process had resident at most, and MLX's arrays."""
    folder = Path(tempfile.mkdtemp())
    data = folder / "rows.jsonl"
    changes |= {"out": str(folder / "run"), "eval_split": 0.2}
    settings = Settings(model=model, data=(str(data),), **changes)
    each = len(Tokenizer.load(ensure(model)).encode(" x" * 64)) // 64
    lines = [
        row(method, f"{i}" + " x" * (prompt // each), f"{i}" + " x" * (response // each))
        for i in range(5 * settings.batch_size)  # whole batches, one of them held out
    ]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    run, events = start(METHODS[method], settings, METHODS[method].config())
    estimate = [e.values["memory_estimate"] for e in events if "memory_estimate" in e.values]
    arrays = json.loads((run.path / "summary.json").read_text(encoding="utf-8"))["peak_memory"]
    return {"estimate": estimate[0], "resident": memory.peak(), "arrays": arrays}


if __name__ == "__main__":
    assert mx.default_device().type == mx.DeviceType.cpu
    print(json.dumps(measured(**json.loads(sys.argv[1]))))
