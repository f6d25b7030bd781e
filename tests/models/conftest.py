"""Models to import: a GGUF file and a folder in full precision."""

from pathlib import Path

import pytest
from support.model_home import BPE
from support.tiny_gguf import write_tiny_gguf


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "Tiny Model.Q4_0.gguf"
    write_tiny_gguf(path, BPE, kind="Q4_0")
    return path
