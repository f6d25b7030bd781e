"""Data sets by hub id, fetched by the real client from a stub of the hub on loopback."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import NamedTuple
from urllib.parse import unquote, urlparse

import pytest
from support.places import ROOT

SHA = "0123456789abcdef0123456789abcdef01234567"
ROW = json.dumps({"prompt": "A?", "chosen": "Yes.", "rejected": "No."}).encode() + b"\n"
REPOS = {
    "acme/lakes": {
        "README.md": b"# Lakes\n",
        "train.jsonl": ROW * 3,
        "valid.jsonl": ROW.replace(b"A?", b"B?"),
        "loader.py": b"raise SystemExit('never run')\n",
    },
    "acme/many": {"easy/train.jsonl": ROW, "hard/train.jsonl": ROW * 2},
    "acme/model": {"model.safetensors": b"x"},
}


class Hub(BaseHTTPRequestHandler):
    """The few answers that huggingface_hub needs to list and download a data set."""

    protocol_version = "HTTP/1.1"
    asked: list[str] = []  # noqa: RUF012

    def answer(self, code: int, body: bytes, **headers: str) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        path = unquote(urlparse(self.path).path)
        Hub.asked.append(f"{self.command} {path}")
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "datasets"]:
            repo = "/".join(parts[2:4])
            if repo in REPOS and "tree" in parts:
                tree = [
                    {"type": "file", "path": n, "size": len(d), "oid": f"{abs(hash(d)):040x}"}
                    for n, d in REPOS[repo].items()
                ]
                return self.answer(200, json.dumps(tree).encode(), Content_Type="application/json")
            if repo in REPOS:
                files = [{"rfilename": n, "size": len(d)} for n, d in REPOS[repo].items()]
                body = json.dumps({"id": repo, "sha": SHA, "siblings": files}).encode()
                return self.answer(200, body, Content_Type="application/json")
            if repo == "acme/gated":
                return self.answer(403, b"{}", X_Error_Code="GatedRepo")
            return self.answer(404, b"{}", X_Error_Code="RepoNotFound")
        repo, name = "/".join(parts[1:3]), "/".join(parts[5:])
        data = REPOS.get(repo, {}).get(name)
        if data is None:
            return self.answer(404, b"", X_Error_Code="EntryNotFound")
        return self.answer(200, data, ETag=f'"{abs(hash(data)):x}"', X_Repo_Commit=SHA)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


# A process of its own: where the hub is is read when its client is imported. One for several data
# sets, for the import takes a second.
CHECKS = """
import contextlib, io, json, sys
from minialign.cli import main
told = []
for spec in sys.argv[1:]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["data", "check", "--json", spec])
    told.append((code, out.getvalue(), err.getvalue()))
print(json.dumps(told))
"""


class Checked(NamedTuple):
    """What ``minialign data check`` of one data set gave."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def check(tmp_path_factory: pytest.TempPathFactory, hub: str):
    """``minialign data check --json`` of each, in a process that takes the stub for the hub."""
    folder = tmp_path_factory.mktemp("hub")

    def call(*specs: str, **extra: str) -> list[Checked]:
        environment = {k: v for k, v in os.environ.items() if not k.upper().endswith("_PROXY")} | {
            "PYTHONPATH": str(ROOT), "HF_HOME": str(folder / "hf"), "HF_ENDPOINT": hub,
            "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
            "MINIALIGN_HOME": str(folder / "home"), **extra,
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", CHECKS, *specs],
            capture_output=True, text=True, env=environment, cwd=folder, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return [Checked(*one) for one in json.loads(done.stdout)]

    return call


def test_a_data_set_by_id_then_offline(check):
    Hub.asked.clear()
    (done,) = check("acme/lakes")
    assert done.code == 0, done.err
    files = json.loads(done.out)["files"]
    assert [(Path(file["file"]).name, file["rows"]) for file in files] == [
        ("train.jsonl", 3), ("valid.jsonl", 1),
    ]  # fmt: skip
    assert not any("loader.py" in line or "README" in line for line in Hub.asked)
    Hub.asked.clear()
    again, absent = check("hub:acme/lakes", "acme/other", HF_HUB_OFFLINE="1")
    assert again.code == 0, again.err
    assert absent.code == 2
    assert "HF_HUB_OFFLINE" in absent.err
    assert Hub.asked == []


def test_one_file_or_folder_of_a_data_set(check):
    one, many, hard = check("acme/lakes/valid.jsonl@main", "acme/many", "acme/many/hard")
    assert [file["rows"] for file in json.loads(one.out)["files"]] == [1]
    assert many.code == 2
    assert "acme/many/easy  acme/many/hard" in many.err
    assert [file["rows"] for file in json.loads(hard.out)["files"]] == [2]


def test_what_the_hub_does_not_have(check):
    said = {
        "acme/nothing": "no data set acme/nothing",
        "acme/gated": "is gated",
        "acme/model": "no data files there",
        "acme/lakes/deep": "no data files there",
    }
    for spec, done in zip(said, check(*said), strict=True):
        assert done.code == 2
        assert said[spec] in done.err


def test_no_hub_at_all(check):
    (done,) = check("acme/other", HF_ENDPOINT="http://127.0.0.1:1")
    assert done.code == 2
    assert "could not be asked" in done.err
