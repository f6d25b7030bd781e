"""What training keeps of the memory it has freed, and what it gives back."""

import pytest

from minialign import cpu
from minialign.cpu import memory


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """What glibc is asked for; on every machine, and without doing it."""
    asked: list[tuple] = []
    monkeypatch.setattr(memory, "_glibc", lambda *call: asked.append(call))
    monkeypatch.setattr(memory, "_returns", False)
    monkeypatch.setattr(memory, "on_cpu", lambda: True)
    return asked


def test_a_step_finds_what_the_last_one_freed(calls: list[tuple]) -> None:
    with cpu.training_memory(lean=False) as tidy:
        assert [(function, size) for function, _, size in calls] == [
            ("mallopt", 32 << 20),
            ("mallopt", 2**31 - 1),
        ]
        tidy()
    assert len(calls) == 2


def test_lean_training_gives_back_at_once(calls: list[tuple]) -> None:
    with cpu.training_memory(lean=True) as tidy:
        assert [(function, size) for function, _, size in calls] == [("mallopt", 1 << 20)] * 2
        tidy()
    assert calls[2:] == [("malloc_trim", 0)]


def test_memory_that_goes_back_is_not_kept_later(calls: list[tuple]) -> None:
    cpu.return_memory()
    with cpu.training_memory(lean=False):
        assert len(calls) == 2
