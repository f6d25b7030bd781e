"""Download models from the Hugging Face hub into its own cache, which other programs share.

``huggingface_hub`` is the client: HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE
mean what they always mean, and an interrupted download goes on where it stopped. Only weights in
safetensors, JSON and tokenizer files are taken: no pickles, and no code of the model's. The client
takes half a second to import, so every function imports what it needs of it.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from threading import Event, Thread
from typing import Any

from minialign.errors import UserError
from minialign.models.layout import WANTED, need_space
from minialign.models.sources.partial_download import LARGE, fetch_blob
from minialign.models.weights_file import is_whole
from minialign.progress import Tell


@contextmanager
def _watch(
    folder: Path, label: str, total: int, progress: Tell | None
) -> Iterator[Callable[[], None]]:
    """Report the bytes in a cache folder, unfinished files included, while the block runs.

    huggingface_hub's own bars differ from version to version; they are switched off meanwhile.
    What ``progress`` raises, to stop the download, is raised again by the function that the block
    is given, and at its end.
    """
    from huggingface_hub import utils

    done = Event()
    stopped: list[BaseException] = []

    def check() -> None:
        if stopped:
            raise stopped[0]

    def watch() -> None:
        while progress and not done.wait(0.3):
            present = 0
            for file in folder.glob("*"):
                with suppress(OSError):  # renamed in this moment
                    present += file.stat().st_size
            try:
                progress(label, min(present, total), total)
            except BaseException as reason:
                stopped.append(reason)
                return

    quiet_before = utils.are_progress_bars_disabled()
    utils.disable_progress_bars()
    watcher = Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield check
        check()
    finally:
        done.set()
        watcher.join()
        if not quiet_before:
            utils.enable_progress_bars()


def endpoint() -> str:
    """The hub's address, without a slash behind it."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def is_hub_error(reason: Exception) -> bool:
    """Whether an error is the hub client's or the network's, and no bug here. The HTTP client's own
    errors (httpx, requests) differ between versions of the hub client."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    known = (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError)
    clients = ("httpx", "httpx2", "httpcore", "requests")
    return isinstance(reason, known) or type(reason).__module__.split(".")[0] in clients


def snapshot(hub_id: str, progress: Tell | None = None) -> Path:
    """Download ``ORG/REPO``; returns its folder in the cache, which is named by its commit.

    What is in the cache already is not downloaded again; offline, it is all there is.

    Raises:
        UserError: absent or gated, no network, offline and not in the cache, no safetensors in it,
            no space.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError

    if constants.HF_HUB_OFFLINE:
        if (cached := _in_cache(hub_id)) is not None:
            return cached
        raise UserError(
            f"{hub_id} is not in the Hugging Face cache, and HF_HUB_OFFLINE is set",
            "unset HF_HUB_OFFLINE to download it, or use a model that is here:"
            " minialign models list",
        )
    try:
        return _download(hub_id, progress)
    except Exception as reason:
        if not is_hub_error(reason):
            raise
        if not isinstance(reason, HfHubHTTPError) and (cached := _in_cache(hub_id)) is not None:
            return cached
        raise _explain(hub_id, reason) from None


def _download(hub_id: str, progress: Tell | None) -> Path:
    from huggingface_hub import HfApi, constants, snapshot_download, try_to_load_from_cache
    from huggingface_hub.utils import filter_repo_objects

    cache = Path(constants.HF_HUB_CACHE)
    info = HfApi(endpoint=endpoint()).model_info(hub_id, files_metadata=True)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
    _check_files(hub_id, list(sizes))
    wanted = {name: sizes[name] for name in filter_repo_objects(sizes, allow_patterns=list(WANTED))}
    total, commit = sum(wanted.values()), str(info.sha)

    def is_cached(name: str) -> bool:
        return isinstance(try_to_load_from_cache(hub_id, name, revision=commit), str)

    need_space(cache, sum(size for name, size in wanted.items() if not is_cached(name)))
    blobs = cache / f"models--{hub_id.replace('/', '--')}" / "blobs"
    with _watch(blobs, f"downloading {hub_id}", total, progress) as check:
        for name, size in wanted.items():
            if size > LARGE:
                fetch_blob(hub_id, name, commit, endpoint(), blobs, check)
        options: Any = {"allow_patterns": list(WANTED), "endpoint": endpoint(), "max_workers": 4}
        return Path(snapshot_download(hub_id, **options))


def _in_cache(hub_id: str) -> Path | None:
    """The folder of a model that is whole in the cache: main's, else the newest commit's.

    A program that downloaded a commit by its hash (``hf download --revision``, a pinned pipeline)
    left no name for it, so what ``refs/main`` says may be old, cut short or not there at all.
    """
    from huggingface_hub import constants, snapshot_download

    folder = Path(constants.HF_HUB_CACHE) / f"models--{hub_id.replace('/', '--')}" / "snapshots"
    commits = sorted(folder.glob("*"), key=lambda path: -path.stat().st_mtime)
    options: Any = {"allow_patterns": list(WANTED), "local_files_only": True}
    for revision in (None, *(path.name for path in commits)):
        with suppress(OSError, ValueError):  # absent, or cut short
            here = Path(snapshot_download(hub_id, revision=revision, **options))
            if is_whole(here):
                return here
    return None


def forget(hub_id: str) -> int:
    """Delete a model's files from the Hugging Face cache; returns the bytes freed."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        cache = scan_cache_dir()
    except CacheNotFound:
        return 0
    commits = [
        revision.commit_hash
        for repo in cache.repos
        if repo.repo_id == hub_id and repo.repo_type == "model"
        for revision in repo.revisions
    ]
    strategy = cache.delete_revisions(*commits)
    strategy.execute()
    return strategy.expected_freed_size


def _check_files(hub_id: str, names: list[str]) -> None:
    """Raise UserError unless the repository has what a model folder needs."""
    if any(fnmatch(name, "model*.safetensors") for name in names) and "config.json" in names:
        return
    endings = {Path(name).suffix for name in names}
    if ".gguf" in endings:
        fix = f"download one (hf download {hub_id} FILE.gguf), then: minialign models import FILE"
        raise UserError(f"{hub_id} has no config.json and model*.safetensors, but GGUF files", fix)
    if endings & {".bin", ".pt", ".pth"}:
        fix = "pickles are never read here: look for a safetensors version (mlx-community has many)"
        raise UserError(f"{hub_id} has its weights only as pickles (.bin), which can run code", fix)
    fix = "a language model in MLX or Hugging Face layout is needed"
    raise UserError(f"{hub_id} has no config.json and model*.safetensors", fix)


def _explain(hub_id: str, reason: Exception) -> UserError:
    from huggingface_hub import errors

    text = " ".join(str(reason).split())[:200]
    if isinstance(reason, errors.GatedRepoError):
        fix = f"accept them at {endpoint()}/{hub_id}, then log in (hf auth login, or HF_TOKEN=…)"
        return UserError(f"{hub_id} is gated: its owner asks you to accept its terms first", fix)
    if isinstance(reason, errors.RepositoryNotFoundError):
        fix = "check the spelling; for a private one log in (hf auth login, or HF_TOKEN=…)"
        return UserError(f"there is no {hub_id} on {endpoint()}, or it is private", fix)
    if isinstance(reason, errors.HFValidationError):
        return UserError(f"{hub_id!r} is no hub id: {text}", "a hub id is ORG/REPO")
    if isinstance(reason, OSError) and reason.errno == 28:
        fix = "make room and pull again: it goes on where it stopped"
        return UserError(f"the disk filled up while downloading {hub_id}", fix)
    if isinstance(reason, errors.HfHubHTTPError) and reason.response is not None:
        code = reason.response.status_code
        if code in (401, 403):
            said = f"{endpoint()} refuses {hub_id} ({code})"
            return UserError(said, "log in: hf auth login, or HF_TOKEN=…")
        if code >= 400:
            fix = "try again later: what is downloaded is kept"
            return UserError(f"{endpoint()} answered {code} for {hub_id}: {text}", fix)
    return UserError(
        f"{hub_id} could not be downloaded from {endpoint()}: {text}",
        "check the network (or set HF_ENDPOINT to a mirror) and pull again: it goes on where it"
        " stopped; smollm2-135m-4bit comes from the Python package index instead",
    )
