"""An engine on the tiny model, and prompts."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.engines import TEXTS

from minialign.engine import Engine
from minialign.models.load import Model, load


@pytest.fixture(scope="module")
def tiny(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINIALIGN_HOME", str(tmp_path_factory.mktemp("home")))
        yield load(str(tiny_model))


@pytest.fixture
def engine(tiny: Model) -> Engine:
    return Engine(tiny)


@pytest.fixture
def prompts(tiny: Model) -> list[list[int]]:
    return [tiny.tokenizer.encode(text) for text in TEXTS]
