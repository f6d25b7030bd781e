"""Which models, runs and reward heads there are to choose from. Read in a thread."""

from minialign.engine.mlx_thread import ModelChoice
from minialign.run_folder import Run, list_runs


def list_models() -> list[tuple[ModelChoice, str, bool]]:
    """(model and adapter, a note, whether it is here) of all that can answer."""
    from minialign.models.library import installed
    from minialign.models.names import DEFAULT, catalog

    here = {entry.name for entry in installed()}
    models = [
        (ModelChoice(name), "", True)
        for name in sorted(here, key=lambda name: (name != DEFAULT, name))
    ]
    for run in _runs_with("adapters.safetensors"):
        try:
            config = run.config
        except Exception:  # a damaged run is told on its own screen
            continue
        if config.get("method") != "reward":
            choice = ModelChoice(str(config.get("model")), run.name)
            models.append((choice, f"{config.get('method', '?')} run", True))
    for name, named in catalog().items():
        if name not in here:
            note = f"fetches {named.disk_bytes / 1e6:,.0f} MB first"
            models.append((ModelChoice(name), note, False))
    return models


def list_reward_heads() -> list[str]:
    """The names of the runs that trained one, the newest first."""
    return [run.name for run in _runs_with("reward_head.safetensors")]


def _runs_with(file: str) -> list[Run]:
    return [run for run in reversed(list_runs()) if (run.path / file).exists()]
