"""A Hugging Face hub on the loopback: enough of its API for ``huggingface_hub`` to download."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What the server offers, and what it was asked."""

    repositories: dict[str, dict[str, bytes]]  # "ORG/REPO": {file: contents}
    gated: set[str] = field(default_factory=set)
    token: str = ""  # needed for everything, if set
    budget: int | None = None  # bytes of files it still sends before it cuts every connection
    url: str = ""
    requests: list[str] = field(default_factory=list)  # "METHOD path [Range]"
    etags: dict[bytes, str] = field(default_factory=dict)  # wrong hashes, by contents
    status: int = 0  # answer everything with this, if set
    held: Event | None = None  # the second half of a file waits for it

    def take(self, wanted: int) -> int:
        if self.budget is None:
            return wanted
        given = min(wanted, self.budget)
        self.budget -= given
        return given


def files_of(folder: Path) -> dict[str, bytes]:
    """A model folder as a repository."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Run the hub until the block ends; ``hub.url`` is its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def reply(self, code: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(code)
            for key, value in headers.items():
                self.send_header(key.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def repository(self, name: str) -> dict[str, bytes] | None:
            if hub.status:
                self.reply(hub.status, b"{}")
            elif name in hub.gated:
                self.reply(403, b"{}", X_Error_Code="GatedRepo", X_Error_Message="gated")
            elif hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
                self.reply(401, b"{}", X_Error_Code="RepoNotFound", X_Error_Message="no")
            elif name not in hub.repositories:
                self.reply(404, b"{}", X_Error_Code="RepoNotFound", X_Error_Message="no")
            else:
                return hub.repositories[name]
            return None

        def do_GET(self) -> None:
            wanted = self.headers.get("Range", "")
            hub.requests.append(f"{self.command} {self.path} {wanted}".strip())
            path = self.path.split("?")[0]
            if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/.*)?", path):
                files = self.repository(found[1])
                if files is not None:
                    self.describe(found[1], found[2] or "", files)
            elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
                files = self.repository(found[1])
                if files is not None and found[2] not in files:
                    self.reply(404, b"", X_Error_Code="EntryNotFound")
                elif files is not None:
                    self.send_file(files[found[2]], wanted)
            else:
                self.reply(404)

        do_HEAD = do_GET

        def describe(self, name: str, rest: str, files: dict[str, bytes]) -> None:
            if rest.startswith("/tree/"):
                entries = [
                    {
                        "type": "file",
                        "path": path,
                        "size": len(data),
                        "oid": hashlib.sha1(data).hexdigest(),
                    }
                    for path, data in files.items()
                ]
                self.reply(200, json.dumps(entries).encode())
                return
            body = {
                "id": name,
                "modelId": name,
                "sha": COMMIT,
                "private": False,
                "siblings": [{"rfilename": path, "size": len(files[path])} for path in files],
            }
            self.reply(200, json.dumps(body).encode(), Content_Type="application/json")

        def send_file(self, data: bytes, wanted: str) -> None:
            start = 0
            if ranged := re.fullmatch(r"bytes=(\d+)-(\d*)", wanted):
                start = int(ranged[1])
            body = data[start:]
            self.send_response(206 if wanted else 200)
            if wanted:
                end = len(data) - 1
                self.send_header("Content-Range", f"bytes {start}-{end}/{len(data)}")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Accept-Ranges", "bytes")
            etag = hub.etags.get(data) or hashlib.sha256(data).hexdigest()
            self.send_header("ETag", f'"{etag}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if self.command != "HEAD":
                given = hub.take(len(body))
                half = given // 2 if hub.held else 0
                self.wfile.write(body[:half])
                if hub.held:
                    hub.held.wait(60)
                self.wfile.write(body[half:given])
                if given < len(body):
                    self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
