"""Download a large file of the hub so that a killed download goes on where it stopped.

huggingface_hub (1.0 and later) throws a partial file away when its process ends. So the weights
are fetched here first, with its own functions, into the place in its cache where it looks for
them; ``snapshot_download`` then finds them there. A partial file carries the hash of the contents
in its name, and the result is checked against it.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlparse

from minialign.errors import UserError
from minialign.models.layout import sha256

LARGE = 10_000_000  # bytes; smaller files are left to snapshot_download
Check = Callable[[], None]  # raises when the download is no longer wanted


class _Checked:
    """A file that asks before each write whether the download is still wanted."""

    def __init__(self, stream: BinaryIO, check: Check):
        self.stream, self.check = stream, check

    def write(self, data: bytes) -> int:
        self.check()
        return self.stream.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def fetch_blob(
    hub_id: str, name: str, revision: str, endpoint: str, blobs: Path, check: Check = lambda: None
) -> None:
    """Bring one file of a repository into ``blobs``, the cache's folder of contents by hash. What
    ``check`` raises ends it; what has arrived is kept.

    Raises:
        UserError: what arrived is not what the hub announced.
        Exception: the hub client's own errors.
    """
    from filelock import lock_descriptor  # with the hub's client half a second of imports
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    url = hf_hub_url(hub_id, name, revision=revision, endpoint=endpoint)
    headers = build_hf_headers()
    metadata = get_hf_file_metadata(url)
    etag, size = metadata.etag, metadata.size
    if not etag or not size or not re.fullmatch(r"[0-9a-f]{40,64}", etag):
        return  # nothing to check against: snapshot_download does it its own way
    if (blobs / etag).exists():
        return
    if urlparse(url).netloc != urlparse(metadata.location).netloc:
        headers.pop("authorization", None)  # a content network of somebody else's
    blobs.mkdir(parents=True, exist_ok=True)
    partial = blobs / f"{etag}.minialign.incomplete"
    with partial.open("ab") as stream:
        lock_descriptor(stream.fileno())  # another process may be at it: wait, then look again
        if (blobs / etag).exists():
            partial.unlink(missing_ok=True)
            return
        done = partial.stat().st_size if partial.exists() else 0
        if done > size:
            stream.truncate(0)
            done = 0
        checked: Any = _Checked(stream, check)
        http_get(metadata.location, checked, resume_size=done, headers=headers, expected_size=size)
        stream.flush()
        if len(etag) == 64 and (digest := sha256(partial)) != etag:
            partial.unlink()
            said = f"{hub_id}: {name} arrived damaged: its SHA-256 is {digest}, expected {etag}"
            raise UserError(said, "pull again: the damaged file is thrown away")
        partial.replace(blobs / etag)
