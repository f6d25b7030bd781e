"""``minialign doctor``: every line says ok, note or problem, and what to do; no secret is shown."""

import importlib.util
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from minialign.cli import main
from minialign.machine import hardware


@pytest.fixture
def report(home: Path, capsys):
    """Run the command; returns a function that gives (exit code, checks by name)."""

    def run() -> tuple[int, dict[str, dict]]:
        code = main(["doctor", "--json"])
        checks = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert {check["status"] for check in checks} <= {"ok", "note", "problem"}
        return code, {check["name"]: check for check in checks}

    return run


def test_this_machine_can_train_and_every_check_is_made(report):
    code, checks = report()
    assert code == 0
    assert {name for name, check in checks.items() if check["status"] == "problem"} == set()
    assert set(checks) == {
        "minialign", "system", "chip", "memory", "mlx", "mlx-lm", "matmul", "kernels", "compiler",
        "home", "settings", "models", "hub", "pyarrow", "matplotlib",
    }  # fmt: skip
    assert not [check for check in checks.values() if "could not be checked" in check["found"]]
    assert checks["matmul"]["data"]["gflops"] > 0.1
    assert checks["memory"]["data"]["total"] > 1e9
    assert checks["chip"]["data"]["cores"] >= 1
    assert checks["models"]["status"] == "note"  # an empty home
    assert "models pull" in checks["models"]["fix"]


def test_the_report_for_people_has_a_word_on_each_line(home: Path, capsys):
    assert main(["doctor"]) == 0
    out, err = capsys.readouterr()
    for line in out.splitlines():
        assert line.split()[0] in ("ok", "note", "problem", "→")
    assert "\x1b" not in out  # colours only on a terminal
    assert err.strip()
    assert not home.exists()  # looking makes nothing


def test_the_matmul_is_measured_in_half_a_second():
    import time

    hardware.gemm_gflops(0.01)
    for _ in range(10):  # the machine may be busy
        start = time.perf_counter()
        assert hardware.gemm_gflops(0.3) > 0.1
        if (took := time.perf_counter() - start) < 0.5 * 4:
            break
    assert took < 0.5 * 4


def test_without_an_optimized_blas_it_says_what_to_install(home: Path):
    if sys.platform != "linux":
        pytest.skip("macOS has its own")
    environment = {**os.environ, "MINIALIGN_BLAS": "0", "MINIALIGN_HOME": str(home)}
    command = [sys.executable, "-m", "minialign", "doctor", "--json"]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert result.returncode == 0  # slow, but possible
    checks = {row["name"]: row for row in map(json.loads, result.stdout.splitlines())}
    assert checks["matmul"]["status"] == "note"
    assert "pip install scipy-openblas32" in checks["matmul"]["fix"]


def test_a_token_is_reported_but_never_shown(report, monkeypatch, tmp_path: Path, capsys):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert report()[1]["hub"]["data"]["token"] is False
    (tmp_path / "token").write_text("hf_secretsecret")
    assert report()[1]["hub"]["data"]["token"] is True
    (tmp_path / "token").unlink()
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecret")
    monkeypatch.setenv(
        "HF_ENDPOINT", "https://{}:{}@mirror.example/hf".format("me", "secretsecret")
    )
    _, checks = report()
    assert checks["hub"]["data"]["token"] is True
    assert "https://…@mirror.example/hf" in checks["hub"]["found"]
    assert "secretsecret" not in json.dumps(checks)


def test_offline_mode_and_odd_settings_are_noted(report, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("MINIALIGN_THREADS", "two")
    code, checks = report()
    assert code == 0
    assert checks["hub"]["status"] == "note"
    assert "unset HF_HUB_OFFLINE" in checks["hub"]["fix"]
    assert checks["chip"]["status"] == "note"
    assert "'two' is ignored" in checks["chip"]["found"]


def test_a_home_that_cannot_be_one_is_a_problem(report, monkeypatch, tmp_path: Path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MINIALIGN_HOME", str(tmp_path / "file" / "home"))
    code, checks = report()
    assert code == 1
    assert checks["home"]["status"] == "problem"
    assert "MINIALIGN_HOME" in checks["home"]["fix"]


def test_damaged_settings_are_a_problem_with_their_place(report, home: Path):
    home.mkdir()
    (home / "config.toml").write_text("[models\n")
    code, checks = report()
    assert code == 1
    assert checks["settings"]["status"] == "problem"
    assert "line 1" in checks["settings"]["found"]


def test_a_full_disk_and_little_memory_are_said(report, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 10**6))
    monkeypatch.setattr(hardware, "memory", lambda: (8 * 10**9, 10**8))
    code, checks = report()
    assert code == 0
    assert checks["home"]["status"] == "note"
    assert checks["memory"]["status"] == "note"
    assert "close other programs" in checks["memory"]["fix"]
    monkeypatch.setattr(hardware, "memory", lambda: (2 * 10**8, 10**8))
    code, checks = report()
    assert code == 1
    assert checks["memory"]["status"] == "problem"


def test_what_is_optional_says_what_it_is_for(report, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "pyarrow" else real(name, *a)
    )
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    code, checks = report()
    assert code == 0
    assert checks["pyarrow"]["status"] == "note"
    assert "Parquet" in checks["pyarrow"]["found"]
    assert checks["pyarrow"]["fix"] == "pip install 'minialign[parquet]'"
    assert checks["compiler"]["status"] == "note"


def test_a_check_that_breaks_does_not_break_the_others(report, monkeypatch):
    def broken() -> tuple[int, int]:
        raise RuntimeError("no such file")

    monkeypatch.setattr(hardware, "memory", broken)
    code, checks = report()
    assert code == 0
    assert checks["memory"]["status"] == "note"
    assert "no such file" in checks["memory"]["found"]
    assert checks["matmul"]["data"]["gflops"] > 0.1


def test_training_without_mlx_is_impossible(report, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlx.core", None)
    code, checks = report()
    assert code == 1
    assert checks["mlx"]["status"] == "problem"
    assert "pip install" in checks["mlx"]["fix"]


def test_memory_is_what_the_system_says_and_a_containers_limit_counts(monkeypatch):
    total, free = hardware.memory()
    assert 0 < free <= total
    limits = {
        "/sys/fs/cgroup/memory.max": "1000000000",
        "/sys/fs/cgroup/memory.current": "400000000",
    }
    real = Path.read_text
    monkeypatch.setattr(
        Path, "read_text", lambda self, **options: limits.get(str(self)) or real(self, **options)
    )
    total, free = hardware.memory()
    assert total == 10**9
    assert 0 < free <= 6 * 10**8


def test_a_processes_most_memory_is_in_bytes_on_linux_and_on_macos(monkeypatch):
    usage = resource.getrusage(resource.RUSAGE_SELF)
    monkeypatch.setattr(sys, "platform", "linux")
    assert hardware.most_resident(usage) == 1024 * usage.ru_maxrss
    monkeypatch.setattr(sys, "platform", "darwin")
    assert hardware.most_resident(usage) == usage.ru_maxrss
    assert hardware.peak() > 1e6
