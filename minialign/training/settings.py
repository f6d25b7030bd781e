"""What every training run can be told, whatever its method: one dataclass, read by all faces."""

import os
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

from minialign.errors import UserError
from minialign.models.adapter import CONFIG, Lora
from minialign.rewards.spec import with_whole_path


@dataclass(frozen=True)
class Settings:
    """Settings of a training run; mlx-lm's names where it has one."""

    # a name of `minialign models list`, a hub id, a folder or a GGUF file
    model: str = "smollm2-135m-4bit"
    # files, folders or hub data sets to train on; none: the pairs you labelled here
    data: tuple[str, ...] = ()
    # rename columns: chosen=better
    map: tuple[str, ...] = ()
    # go on past bad rows; they are counted and kept in FILE.bad.jsonl
    skip_bad: bool = False
    # files to evaluate on, never trained on
    eval_data: tuple[str, ...] = ()
    # the share of the data held out for evaluation when there is no --eval-data
    eval_split: float = 0.1
    # start from this run or adapter; it is then the reference too
    adapter: str | None = None
    # another run or adapter as the reference
    reference_adapter: str | None = None
    # folder of the run (default: under the home, by --name)
    out: str | None = None
    # name of the run (default: METHOD-1, METHOD-2, …)
    name: str | None = None
    # low-rank updates, plain or weight-decomposed
    fine_tune_type: Literal["lora", "dora"] = "lora"
    # adapt the last n blocks (-1: all)
    num_layers: int = -1
    # rank of the updates
    rank: int = 8
    # factor on the updates, alpha / rank
    scale: float = 2.0
    # rank-stabilised: the factor is alpha / sqrt(rank)
    rslora: bool = False
    # dropout before the updates
    dropout: float = 0.0
    # module names within a block, self_attn.q_proj … (default: every linear layer)
    keys: tuple[str, ...] | None = None
    # examples in a batch
    batch_size: int = 4
    # batches summed into one update, weighted by their tokens or examples
    grad_accumulation_steps: int = 1
    # passes over the data (a part of one is fine)
    epochs: float = 1.0
    # number of updates, instead of --epochs
    iters: int | None = None
    # finish when this many minutes of training and sampling are used, instead of --epochs (0: none)
    max_minutes: float = 0.0
    # finish when this many tokens were read, written or scored, instead of --epochs (0: none)
    max_tokens: int = 0
    # most tokens of a prompt with one response
    max_seq_length: int = 1024
    # peak learning rate
    learning_rate: float = 1e-4
    # how the learning rate falls after the warm-up
    lr_schedule: Literal["cosine", "linear", "constant"] = "cosine"
    # updates of linear warm-up (a number below 1: share of all updates)
    warmup: float = 0.1
    # AdamW's decay rates of its two averages
    betas: tuple[float, ...] = (0.9, 0.999)
    # AdamW's decoupled weight decay
    weight_decay: float = 0.0
    # largest gradient norm (0: do not clip)
    grad_clip: float = 1.0
    # recompute activations block by block: slower, far less memory
    grad_checkpoint: bool = False
    # compute a prompt once for all its responses where that pays
    share_prompts: bool = True
    # log every n updates
    steps_per_report: int = 1
    # evaluate every n updates, and at the end (0: only at start and end)
    steps_per_eval: int = 0
    # checkpoint every n updates, and at the end
    save_every: int = 50
    # stop after n evaluations without a better loss, keep the best (0: never)
    patience: int = 0
    # which weights the run ends with
    select: Literal["last", "best"] = "last"
    # seed of the data order, the adapter's start and dropout
    seed: int = 0
    # refuse to start above this many GB (default: what is free)
    memory_limit: float | None = None

    def lora(self) -> Lora:
        """The adapter these settings ask for."""
        shape = self.rank, self.scale, self.dropout, self.num_layers, self.keys, self.rslora
        return Lora(self.fine_tune_type, *shape)


def with_whole_paths(settings: Settings, config: Any) -> tuple[Settings, Any]:
    """Settings and a method's config with absolute paths, so that a run can be resumed from any
    folder. What is not here (a name, a hub id) stays as it is."""

    def whole(path: str, part: str = "") -> str:
        there = (Path(path).expanduser() / part).exists()
        return os.path.abspath(Path(path).expanduser()) if there else path

    is_path = settings.model.startswith((".", "~")) or "/" in settings.model
    other = settings.reference_adapter
    settings = replace(
        settings,
        model=whole(settings.model) if is_path else settings.model,
        data=tuple(whole(path) for path in settings.data),
        eval_data=tuple(whole(path) for path in settings.eval_data),
        adapter=settings.adapter and whole(settings.adapter, CONFIG),
        reference_adapter=other and whole(other, CONFIG),
        out=settings.out and os.path.abspath(Path(settings.out).expanduser()),
    )
    return settings, _whole_config(config)


def _whole_config(config: Any) -> Any:
    """A method's config with absolute paths in ``mix``, ``*_data`` and ``scorer``."""
    whole: dict[str, Any] = {}
    for name, value in vars(config).items():
        if is_dataclass(value):
            whole[name] = _whole_config(value)
        elif name == "scorer" and isinstance(value, str):
            whole[name] = with_whole_path(value)
        elif (name == "mix" or name.endswith("_data")) and isinstance(value, tuple):
            whole[name] = tuple(os.path.abspath(Path(path).expanduser()) for path in value)
    return replace(config, **whole)


LOWEST = (
    (1, "rank batch_size grad_accumulation_steps"),
    (16, "max_seq_length"),
    (1, "save_every steps_per_report"),
    (0, "steps_per_eval patience warmup weight_decay grad_clip max_minutes max_tokens seed"),
    (1, "iters"),
)


def check(settings: Settings) -> None:
    """Raise a UserError for a value that no run can use."""
    for low, names in LOWEST:
        for name in names.split():
            value = getattr(settings, name)
            if value is not None and value < low:
                raise UserError(f"{name} = {value}", f"it must be at least {low}")
    if settings.iters is None and settings.epochs <= 0:
        raise UserError(f"epochs = {settings.epochs}", "it must be above 0")
    for name in ("learning_rate", "scale", "memory_limit"):
        value = getattr(settings, name)
        if value is not None and value <= 0:
            raise UserError(f"{name} = {value}", "it must be above 0")
    if settings.seed >= 2**63:
        raise UserError(f"seed = {settings.seed}", "it must be below 2^63")
    if settings.out is not None and settings.name is not None:
        raise UserError("--out and --name both say where the run goes", "leave one of them out")
    if settings.num_layers == 0 or settings.num_layers < -1:
        raise UserError(f"num_layers = {settings.num_layers}", "-1 is all, n the last n blocks")
    for name in ("dropout", "eval_split"):
        if not 0 <= getattr(settings, name) < 1:
            raise UserError(f"{name} = {getattr(settings, name)}", "0 <= it < 1")
    if len(settings.betas) != 2 or not all(0 <= beta < 1 for beta in settings.betas):
        raise UserError(f"betas = {settings.betas}", "two numbers, each 0 <= it < 1")
    if settings.patience and not settings.steps_per_eval:
        raise UserError("patience needs evaluations to wait for", "--steps-per-eval 20")
    if settings.reference_adapter and settings.adapter == settings.reference_adapter:
        said = "--reference-adapter is the adapter that training starts from already"
        raise UserError(said, "leave --reference-adapter out")
