"""Data sets of the Hugging Face hub by id: ``ORG/NAME``, ``ORG/NAME/FOLDER``, ``ORG/NAME/FILE``.

Only data files (JSON, CSV, Parquet) are taken, into the hub's own cache; no code of a data set is
run. ``@REVISION`` behind the id picks a branch, tag or commit.
"""

import re
from difflib import get_close_matches
from pathlib import Path

from minialign.errors import UserError
from minialign.formats.containers import ENDINGS, ending
from minialign.models.layout import need_space
from minialign.models.sources.hub import endpoint, is_hub_error
from minialign.progress import Tell

_ID = re.compile(r"(?:hub:)?([\w.-]+/[\w.-]+?)(/[^@]+)?(?:@([\w./-]+))?")
_NO_DATA = ("dataset_infos.json", "dataset_dict.json", "state.json")


def _parse(spec: str) -> tuple[str, str, str | None]:
    """(ORG/NAME, path inside or "", revision); UserError when it is a path to nothing."""
    match = _ID.fullmatch(spec)
    local = Path(spec).expanduser()
    named_file = ending(local) in ENDINGS and spec.count("/") < 2
    if not match or named_file or (local.parent.is_dir() and local.parent != Path(".")):
        near = [path.name for path in local.parent.glob("*")] if local.parent.is_dir() else []
        close = get_close_matches(local.name, near, n=1, cutoff=0.6)
        hint = "check the path; a data set of the hub is ORG/NAME"
        hint = f"did you mean {close[0]!r}?" if close else hint
        raise UserError(f"{spec}: there is no such file or folder", hint)
    return match[1], (match[2] or "").strip("/"), match[3]


def check_spec(spec: str) -> None:
    """Raise a UserError for a path to nothing; whether the hub has a data set is not asked."""
    if not Path(spec).expanduser().exists():
        _parse(spec)


def _choose(spec: str, inside: str, files: list[str]) -> tuple[str, list[str]]:
    """(the file or folder that holds the data, the files to download)."""
    visible = [Path(name) for name in sorted(files) if Path(name).name[:1] != "."]
    known = [path for path in visible if ending(path) in ENDINGS and path.name not in _NO_DATA]
    data = [path.as_posix() for path in known]
    if inside in data:
        return inside, [inside]
    if inside:
        data = [name for name in data if name.startswith(f"{inside}/")]
    if not data:
        hint = f"it has: {', '.join(sorted(files)[:8])}" if files else "it has no files"
        raise UserError(f"{spec}: no data files there ({', '.join(ENDINGS)})", hint)
    folders = sorted({str(Path(name).parent) for name in data})
    if len(folders) > 1:
        base = spec.split("@")[0].removesuffix(f"/{inside}")
        choices = [base if folder == "." else f"{base}/{folder}" for folder in folders]
        hint = f"name one: {'  '.join(choices[:12])}"
        raise UserError(f"{spec} has data in {len(folders)} folders", hint)
    return folders[0], data


def fetch_dataset(spec: str, progress: Tell | None = None) -> Path:
    """Download a data set (what is in the cache already is not); returns its file or folder.

    Raises:
        UserError: no such path, id or file; gated; no network; no space.
    """
    hub_id, inside, revision = _parse(spec)
    from huggingface_hub import HfApi, constants, snapshot_download

    if constants.HF_HUB_OFFLINE:
        return _in_cache(spec, hub_id, inside, revision)
    try:
        hub = HfApi(endpoint=endpoint())
        info = hub.dataset_info(hub_id, revision=revision, files_metadata=True)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
        place, files = _choose(spec, inside, list(sizes))
        total = sum(sizes[name] for name in files)
        need_space(Path(constants.HF_HUB_CACHE), total)
        if progress:
            progress(f"downloading {hub_id}", 0, total)
        folder = snapshot_download(
            hub_id,
            repo_type="dataset",
            revision=revision,  # not the commit: so the cache knows the name when offline
            allow_patterns=files,
            endpoint=endpoint(),
        )
        if progress:
            progress(f"downloading {hub_id}", total, total)
    except Exception as reason:
        if isinstance(reason, UserError) or not is_hub_error(reason):
            raise
        raise _explain(spec, hub_id, reason) from None
    return Path(folder) / place


def _in_cache(spec: str, hub_id: str, inside: str, revision: str | None) -> Path:
    """The place of a data set that was downloaded before."""
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE) / f"datasets--{hub_id.replace('/', '--')}"
    named = cache / "refs" / (revision or "main")
    commit = named.read_text().strip() if named.is_file() else revision
    folder = cache / "snapshots" / (commit or "none")
    if not folder.is_dir():
        problem = f"{spec}: no such file here, and not in the Hugging Face cache"
        hint = "check the path, or unset HF_HUB_OFFLINE to download it"
        raise UserError(f"{problem} (HF_HUB_OFFLINE is set)", hint)
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return folder / _choose(spec, inside, files)[0]


def _explain(spec: str, hub_id: str, reason: Exception) -> UserError:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    text = " ".join(str(reason).split())[:200]
    if isinstance(reason, GatedRepoError):
        fix = f"accept them at {endpoint()}/datasets/{hub_id}, then: hf auth login, or HF_TOKEN=…"
        return UserError(f"{hub_id} is gated: its owner asks you to accept its terms first", fix)
    said = f"{spec}: no such file here, and"
    if isinstance(reason, RepositoryNotFoundError):
        fix = "check the spelling; for a private data set log in (hf auth login, or HF_TOKEN=…)"
        return UserError(f"{said} no data set {hub_id} on {endpoint()}", fix)
    fix = "check the path or the network; HF_ENDPOINT may name a mirror"
    return UserError(f"{said} the hub could not be asked ({text})", fix)
