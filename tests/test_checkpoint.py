import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ddpm.training.checkpoint import Checkpoint

TENSORS = {"weights": torch.arange(5.0), "generator": torch.arange(7, dtype=torch.uint8)}
PROGRESS = {"step": 3, "loss": 0.1 + 0.2}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return Checkpoint.of(tmp_path / "checkpoints", {"lr": 0.1})


def test_what_is_saved_comes_back_to_the_bit(checkpoint: Checkpoint) -> None:
    assert checkpoint.load() is None
    checkpoint.save(TENSORS, {"step": 1})
    checkpoint.save(TENSORS, PROGRESS)
    saved = checkpoint.load()
    assert saved is not None
    tensors, progress = saved
    assert progress == PROGRESS
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)
    assert list(checkpoint.path.parent.iterdir()) == [checkpoint.path]
    checkpoint.remove()
    assert checkpoint.load() is None
    checkpoint.remove()


def test_tensors_that_share_memory_or_need_gradients_can_be_saved(checkpoint: Checkpoint) -> None:
    vector = torch.arange(6.0)
    weights = torch.nn.Parameter(torch.ones(2))
    checkpoint.save({"left": vector[:3], "all": vector, "weights": weights}, PROGRESS)
    saved = checkpoint.load()
    assert saved is not None
    assert saved[0]["left"].tolist() == [0, 1, 2]
    assert saved[0]["all"].tolist() == [0, 1, 2, 3, 4, 5]
    assert saved[0]["weights"].tolist() == [1, 1]


def test_other_work_has_another_name(checkpoint: Checkpoint) -> None:
    checkpoint.save(TENSORS, PROGRESS)
    folder = checkpoint.path.parent
    assert Checkpoint.of(folder, {"lr": 0.2}).load() is None
    assert Checkpoint.of(folder, {"lr": 0.1, "seed": 0}).load() is None
    assert Checkpoint.of(folder, {"lr": 0.1}) == checkpoint


def test_the_order_of_what_determines_the_work_is_no_matter(tmp_path: Path) -> None:
    first = Checkpoint.of(tmp_path, {"a": {"b": 1, "c": 2}, "d": 3})
    assert first == Checkpoint.of(tmp_path, {"d": 3, "a": {"c": 2, "b": 1}})


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda content: content[:-1],
    "half": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "text": lambda content: b"not a checkpoint",
    "pickle": lambda content: pickle.dumps(TENSORS),
    "header": lambda content: (2**62).to_bytes(8, "little") + content[8:],
}


def note(checkpoint: Checkpoint, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that is printed about a checkpoint that cannot be used."""
    assert checkpoint.load() is None
    printed = capsys.readouterr().out
    assert printed.startswith(f"note: {checkpoint.path} ")
    assert printed.endswith("; training starts from the beginning\n")
    assert printed.count("\n") == 1
    return printed


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_ignored_with_a_note(
    checkpoint: Checkpoint, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    checkpoint.save(TENSORS, PROGRESS)
    checkpoint.path.write_bytes(DAMAGES[damage](checkpoint.path.read_bytes()))
    assert "cannot be used (" in note(checkpoint, capsys)


@pytest.mark.parametrize("metadata", [None, {"key": "1"}, {"progress": "["}])
def test_a_foreign_file_is_ignored_with_a_note(
    checkpoint: Checkpoint, capsys: pytest.CaptureFixture[str], metadata: dict[str, str] | None
) -> None:
    checkpoint.path.parent.mkdir()
    save_file(TENSORS, checkpoint.path, metadata=metadata)
    note(checkpoint, capsys)


def test_a_damaged_checkpoint_is_replaced_by_the_next(
    checkpoint: Checkpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint.path.parent.mkdir()
    checkpoint.path.write_bytes(b"")
    note(checkpoint, capsys)
    checkpoint.save(TENSORS, PROGRESS)
    saved = checkpoint.load()
    assert saved is not None
    assert saved[1] == PROGRESS


def test_what_a_killed_process_left_behind_is_overwritten(checkpoint: Checkpoint) -> None:
    checkpoint.path.parent.mkdir()
    leftover = checkpoint.path.with_name(f".new.{checkpoint.path.name}")
    leftover.write_bytes(json.dumps(PROGRESS).encode())
    assert checkpoint.load() is None
    checkpoint.save(TENSORS, PROGRESS)
    assert list(checkpoint.path.parent.iterdir()) == [checkpoint.path]
