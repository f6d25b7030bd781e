"""Pulling from a hub, in a process of its own as a user does it, against a hub on the loopback."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from support.fake_hub import COMMIT, Hub, files_of, serve
from support.processes import wait_until
from support.tiny import make_tiny_model

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def full_precision(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("full"), bits=None)


@pytest.fixture
def hub(tiny_model: Path, full_precision: Path) -> Iterator[Hub]:
    extra = {"pytorch_model.bin": b"pickle", "modeling.py": b"import os", "README.md": b"#"}
    repositories = {
        "org/tiny": files_of(tiny_model) | extra,
        "org/full": files_of(full_precision),
        "org/pickles": {"config.json": b"{}", "pytorch_model.bin": b"x"},
        "org/ggufs": {"m.gguf": b"x", "README.md": b""},
        "org/empty": {"README.md": b""},
    }
    with serve(Hub(repositories, gated={"org/gated"})) as running:
        yield running


@pytest.fixture
def user(tmp_path: Path, hub: Hub) -> dict[str, str]:
    """The environment of a user of that hub."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    return kept | {
        "MINIALIGN_HOME": str(tmp_path / "home"),
        "HF_HOME": str(tmp_path / "hf"),
        "HF_ENDPOINT": hub.url,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DOWNLOAD_TIMEOUT": "5",
        "PYTHONPATH": str(ROOT),
        "NO_PROXY": "127.0.0.1",
    }


# ``minialign models …`` for each line of stdin. A process for each environment, for the client of
# the hub reads it on import; not for each command, for the import is most of the work.
COMMANDS = """
import contextlib, io, json, sys
from minialign.cli import main
for line in sys.stdin:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["models", *json.loads(line)])
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""


class Done(NamedTuple):
    """What a command gave."""

    returncode: int
    stdout: str
    stderr: str


Models = Callable[..., Done]


@pytest.fixture
def models() -> Iterator[Models]:
    """``minialign models …`` as a user of this environment."""
    running: dict[str, subprocess.Popen[str]] = {}

    def call(user: dict[str, str], *arguments: str) -> Done:
        key = json.dumps(user)
        if key not in running:
            running[key] = subprocess.Popen(
                [sys.executable, "-c", COMMANDS], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, text=True, env=user,
            )  # fmt: skip
        process = running[key]
        assert process.stdin is not None
        assert process.stdout is not None
        print(json.dumps(arguments), file=process.stdin, flush=True)
        line = process.stdout.readline()
        assert line.startswith("["), line + process.stdout.read()
        return Done(*json.loads(line))

    yield call
    for process in running.values():
        process.communicate()


def test_pull_keeps_the_weights_in_the_hub_cache(
    models: Models, user: dict[str, str], hub: Hub
) -> None:
    done = models(user, "pull", "org/tiny", "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    path = Path(facts["path"])
    assert path == Path(user["HF_HOME"]) / "hub/models--org--tiny/snapshots" / COMMIT
    assert facts["revision"] == COMMIT
    assert facts["bits"] == 4
    taken = {file.name for file in path.iterdir()}
    assert "model.safetensors" in taken
    assert not taken & {"pytorch_model.bin", "modeling.py", "README.md"}
    entry = Path(user["MINIALIGN_HOME"]) / "models" / "org--tiny"
    assert [file.name for file in entry.iterdir()] == ["minialign.json"]  # nothing twice
    hub.requests.clear()
    assert models(user, "pull", "org/tiny").returncode == 0
    assert hub.requests == []  # it is here already
    listed = [json.loads(line) for line in models(user, "list", "--json").stdout.splitlines()]
    assert [row["name"] for row in listed if row["installed"]] == ["org/tiny"]


def test_killed_download_goes_on_where_it_stopped(
    models: Models, user: dict[str, str], hub: Hub
) -> None:
    """SIGKILL in the middle of the weights; the next pull asks for the rest only."""
    header = b'{"w":{"dtype":"U8","shape":[32000000],"data_offsets":[0,32000000]}}'
    weights = len(header).to_bytes(8, "little") + header + os.urandom(32_000_000)
    hub.repositories["org/tiny"]["model.safetensors"] = weights
    hub.budget = 25_000_000  # then the server falls silent
    blobs = Path(user["HF_HOME"]) / "hub/models--org--tiny/blobs"

    def partly_written() -> bool:
        return any(file.stat().st_size > 5_000_000 for file in blobs.glob("*incomplete"))

    command = [sys.executable, "-m", "minialign", "models", "pull", "org/tiny"]
    with subprocess.Popen(command, env=user, stderr=subprocess.DEVNULL) as process:
        wait_until(process, lambda: not hub.budget and partly_written())
        process.kill()
    assert hub.budget == 0
    assert not (Path(user["MINIALIGN_HOME"]) / "models" / "org--tiny").exists()
    hub.budget = None
    hub.requests.clear()
    done = models(user, "pull", "org/tiny")
    assert done.returncode == 0, done.stderr
    starts = [int(found[1]) for line in hub.requests if (found := re.search(r"bytes=(\d+)-", line))]
    assert [start for start in starts if start > 5_000_000], hub.requests
    path = Path(json.loads(models(user, "info", "org/tiny", "--json").stdout)["path"])
    for name in ("model.safetensors", "tokenizer.json"):
        assert (path / name).read_bytes() == hub.repositories["org/tiny"][name]
    assert not list(blobs.glob("*incomplete"))


def test_a_damaged_download_is_thrown_away(models: Models, user: dict[str, str], hub: Hub) -> None:
    """The contents must have the hash that the hub announces."""
    weights = b"\0" * 12_000_000
    hub.repositories["org/tiny"]["model.safetensors"] = weights
    hub.etags[weights] = "a" * 64
    failed = models(user, "pull", "org/tiny")
    assert failed.returncode == 2
    assert "arrived damaged" in failed.stderr
    assert not list((Path(user["HF_HOME"]) / "hub").rglob("*incomplete"))


def test_offline_uses_the_cache_and_says_what_is_not_in_it(
    models: Models, user: dict[str, str], hub: Hub
) -> None:
    offline = user | {"HF_HUB_OFFLINE": "1"}
    missing = models(offline, "pull", "org/tiny")
    assert missing.returncode == 2
    assert "HF_HUB_OFFLINE is set" in missing.stderr
    assert hub.requests == []
    assert models(user, "pull", "org/tiny").returncode == 0
    assert models(user, "rm", "org/tiny").returncode == 0  # the cache keeps it
    hub.requests.clear()
    assert models(offline, "pull", "org/tiny").returncode == 0
    assert models(user | {"HF_ENDPOINT": "http://127.0.0.1:9"}, "rm", "org/tiny").returncode == 0
    again = models(user | {"HF_ENDPOINT": "http://127.0.0.1:9"}, "pull", "org/tiny")
    assert again.returncode == 0, again.stderr  # no network, but it is in the cache
    assert hub.requests == []


def test_offline_finds_what_was_downloaded_by_commit(
    models: Models, user: dict[str, str], hub: Hub
) -> None:
    """Another program's download of a commit leaves no refs/main; a later partial one no model."""
    code = (
        "import sys; from huggingface_hub import snapshot_download;"
        "snapshot_download('org/tiny', revision=sys.argv[1], endpoint=sys.argv[2])"
    )
    subprocess.run([sys.executable, "-c", code, COMMIT, hub.url], env=user, check=True, timeout=300)
    cached = Path(user["HF_HOME"]) / "hub/models--org--tiny"
    assert not (cached / "refs/main").exists()
    (cached / "snapshots" / ("f" * 40)).mkdir()  # newer, and empty
    hub.requests.clear()
    done = models(user | {"HF_HUB_OFFLINE": "1"}, "pull", "org/tiny", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["revision"] == COMMIT
    assert hub.requests == []
    assert models(user, "rm", "org/tiny").returncode == 0
    (cached / "snapshots" / COMMIT / "model.safetensors").unlink()
    failed = models(user | {"HF_HUB_OFFLINE": "1"}, "pull", "org/tiny")
    assert failed.returncode == 2
    assert "not in the Hugging Face cache" in failed.stderr


def test_rm_cache_deletes_the_files(models: Models, user: dict[str, str]) -> None:
    assert models(user, "pull", "org/tiny").returncode == 0
    removed = models(user, "rm", "org/tiny", "--cache", "--json")
    assert json.loads(removed.stdout)["cache_bytes_freed"] > 10_000
    assert not (Path(user["HF_HOME"]) / "hub/models--org--tiny/snapshots").exists()


REFUSED = [
    ("org/absent", "there is no org/absent", "check the spelling"),
    ("org/gated", "org/gated is gated", "accept them at"),
    ("org/pickles", "only as pickles", "safetensors version"),
    ("org/ggufs", "GGUF files", "models import"),
    ("org/empty", "no config.json", "MLX or Hugging Face layout"),
    ("smollm2-360", "did you mean 'smollm2-360m'", "hub id"),
    ("./nothing", "no such folder", "models list"),
]


def test_what_cannot_be_pulled_says_why(models: Models, user: dict[str, str]) -> None:
    for name, text, hint in REFUSED:
        failed = models(user, "pull", name)
        assert failed.returncode == 2
        assert text in failed.stderr
        assert hint in failed.stderr
        assert failed.stdout == ""


def test_a_private_hub_needs_the_token(models: Models, user: dict[str, str], hub: Hub) -> None:
    hub.token = "secret"
    assert "HF_TOKEN" in models(user, "pull", "org/tiny").stderr
    assert models(user | {"HF_TOKEN": "secret"}, "pull", "org/tiny").returncode == 0


def test_no_network_and_a_broken_hub(models: Models, user: dict[str, str], hub: Hub) -> None:
    failed = models(user | {"HF_ENDPOINT": "http://127.0.0.1:9"}, "pull", "org/tiny")
    assert failed.returncode == 2
    assert "could not be downloaded from http://127.0.0.1:9" in failed.stderr
    hub.status = 500
    failed = models(user, "pull", "org/tiny")
    assert failed.returncode == 2
    assert "500" in failed.stderr


def test_a_users_name_with_bits_is_quantized_on_pull(models: Models, user: dict[str, str]) -> None:
    home = Path(user["MINIALIGN_HOME"])
    home.mkdir(parents=True)
    (home / "config.toml").write_text('[models.mine]\nsource = "hub:org/full"\nbits = 4\n')
    done = models(user, "pull", "mine", "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["bits"] == 4
    assert facts["path"] == str(home / "models" / "mine")
    assert facts["revision"] == COMMIT
