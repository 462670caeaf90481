"""A checkpoint from a stranger runs no code."""

import enum
import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint import FileSystemWriter, save
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING

from reprise.errors import UserError
from reprise.training.checkpoint import read_tensors
from reprise.training.checkpoint_reader import CheckpointReader


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "step"
    content = {"model": {"w": torch.arange(6.0).reshape(2, 3), "half": torch.ones(3, dtype=torch.bfloat16)}, "lr": 0.25}
    save(content, storage_writer=FileSystemWriter(folder), no_dist=True)
    return folder


def empty() -> dict:
    return {"model": {"w": torch.zeros(2, 3), "half": torch.zeros(3, dtype=torch.bfloat16)}, "lr": 0.0}


def test_tensors_and_numbers_are_read(checkpoint: Path) -> None:
    tensors = empty()
    read_tensors(checkpoint, tensors, alone=True)
    assert tensors["model"]["w"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert tensors["lr"] == 0.25


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_code_in_the_description_does_not_run(checkpoint: Path, tmp_path: Path, protocol: int) -> None:
    (checkpoint / ".metadata").write_bytes(pickle.dumps(Bomb(tmp_path / "bomb"), protocol))
    with pytest.raises(UserError, match=r"not read: it names (posix|os|nt)\.mkdir"):
        read_tensors(checkpoint, empty(), alone=True)
    assert not (tmp_path / "bomb").exists()


@pytest.mark.parametrize(
    "module,name", [("builtins", "eval"), ("torch", "load"), ("torch.hub", "load"), ("os", "system")]
)
def test_only_descriptions_of_tensors_are_unpickled(checkpoint: Path, module: str, name: str) -> None:
    (checkpoint / ".metadata").write_bytes(f"c{module}\n{name}\n(S'1'\ntR.".encode())
    with pytest.raises(UserError, match=f"it names {module}.{name}"):
        read_tensors(checkpoint, empty(), alone=True)


def as_debian_12(member: enum.Enum, protocol: int) -> tuple:
    """`Enum.__reduce_ex__` of Python 3.11.2."""
    return getattr, (member.__class__, member._name_)


@pytest.mark.parametrize("protocol", [4, 5])
def test_enums_as_debian_12_pickles_them_are_read(checkpoint: Path, monkeypatch, protocol: int) -> None:
    metadata = CheckpointReader(checkpoint).read_metadata()
    monkeypatch.setattr(_MEM_FORMAT_ENCODING, "__reduce_ex__", as_debian_12)
    content = pickle.dumps(metadata, protocol)
    assert b"getattr" in content
    (checkpoint / ".metadata").write_bytes(content)
    read = CheckpointReader(checkpoint).read_metadata()
    assert read.state_dict_metadata == metadata.state_dict_metadata


def test_getattr_reads_nothing_but_a_member_of_that_enum(checkpoint: Path) -> None:
    enum_class = "ctorch.distributed.checkpoint.metadata\n_MEM_FORMAT_ENCODING\n"
    for kind, name in (("ctorch\nSize\n", "count"), (enum_class, "__subclasses__"), (enum_class, "mro")):
        (checkpoint / ".metadata").write_bytes(f"cbuiltins\ngetattr\n({kind}S'{name}'\ntR.".encode())
        with pytest.raises(UserError, match="is not read"):
            read_tensors(checkpoint, empty(), alone=True)


def test_code_beside_the_tensors_does_not_run(tmp_path: Path) -> None:
    folder = tmp_path / "step"
    save({"model": {}, "lr": Bomb(tmp_path / "bomb")}, storage_writer=FileSystemWriter(folder), no_dist=True)
    with pytest.raises(UserError, match="does not fit"):
        read_tensors(folder, {"model": {}, "lr": 0.0}, alone=True)
    assert not (tmp_path / "bomb").exists()


def test_files_outside_the_folder_are_not_read(checkpoint: Path) -> None:
    metadata = CheckpointReader(checkpoint).read_metadata()
    for entry in metadata.storage_data.values():
        entry.relative_path = "../secret"
    (checkpoint / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(UserError, match=r"it names the file \.\./secret"):
        read_tensors(checkpoint, empty(), alone=True)


@pytest.mark.parametrize("content", [b"", b"\x80", b"garbage", pickle.dumps({"a": 1}), json.dumps({}).encode()])
def test_a_damaged_description_is_one_message(checkpoint: Path, content: bytes) -> None:
    (checkpoint / ".metadata").write_bytes(content)
    with pytest.raises(UserError, match="does not describe tensors"):
        read_tensors(checkpoint, empty(), alone=True)
