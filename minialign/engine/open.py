"""From a name to an engine: a model, with the adapter of a run if one is named."""

from pathlib import Path

from minialign.durable import read_object
from minialign.engine import Engine
from minialign.models.adapter import CONFIG, resolve_adapter
from minialign.models.load import load
from minialign.models.names import DEFAULT
from minialign.models.sources.fetch import ensure
from minialign.progress import Tell


def base_of(adapter: str | Path | None) -> str | None:
    """The model that an adapter says it was trained on; None when it does not say."""
    if adapter is None:
        return None
    try:
        return read_object(resolve_adapter(adapter) / CONFIG).get("model")
    except (OSError, ValueError):
        return None  # load_adapter says what is wrong with it


def open_engine(
    model: str | None = None, adapter: str | Path | None = None, progress: Tell | None = None
) -> Engine:
    """An engine for a model, by default the adapter's base or the embedded one. An adapter's
    control text, if it has one, goes into every prompt that its tokenizer renders.

    Raises:
        UserError: when there is no such model or adapter, or they do not fit together.
    """
    name = model or base_of(adapter) or DEFAULT
    ensure(name, progress)
    return Engine(load(name, adapter))


def origin_of(engine: Engine, adapter: str | Path | None) -> dict[str, str]:
    """What the rows of an engine's answers say of it."""
    return {"model": engine.model.name, **({"adapter": str(adapter)} if adapter else {})}
