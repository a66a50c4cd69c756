import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ddpm.checkpoint import Checkpoint

TENSORS = {"weights": torch.arange(5.0), "generator": torch.arange(7, dtype=torch.uint8)}
PROGRESS = {"step": 3, "loss": 0.1 + 0.2}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return Checkpoint.of(tmp_path / "kept", "train", {"lr": 0.1})


def test_what_is_kept_comes_back_to_the_bit(checkpoint: Checkpoint) -> None:
    checkpoint.save(TENSORS, {"step": 1})
    checkpoint.save(TENSORS, PROGRESS)
    kept = checkpoint.load(TENSORS)
    assert kept is not None
    assert kept[1] == PROGRESS
    assert all(torch.equal(kept[0][name], TENSORS[name]) for name in TENSORS)
    assert list(checkpoint.folder.iterdir()) == [checkpoint.path]
    checkpoint.remove()
    assert checkpoint.load(TENSORS) is None


def test_other_work_has_another_name(checkpoint: Checkpoint) -> None:
    checkpoint.save(TENSORS, PROGRESS)
    other = Checkpoint.of(checkpoint.folder, "train", {"lr": 0.2})
    assert other.load(TENSORS) is None
    assert Checkpoint.of(checkpoint.folder, "train", {"lr": 0.1}) == checkpoint


def test_a_renamed_checkpoint_of_other_work_is_not_taken_up(
    checkpoint: Checkpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Checkpoint.of(checkpoint.folder, "train", {"lr": 0.2})
    other.save(TENSORS, PROGRESS)
    other.path.rename(checkpoint.path)
    assert checkpoint.load(TENSORS) is None
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert "cannot be used (it is of other parameters, code or data); train starts from" in said


def damaged(content: bytes) -> dict[str, bytes]:
    flipped = bytearray(content)
    flipped[-3] ^= 4
    return {
        "truncated": content[:-1],
        "empty": b"",
        "flipped": bytes(flipped),
        "pickle": pickle.dumps(TENSORS),
        "header": (2**62).to_bytes(8, "little") + content[8:],
    }


@pytest.mark.parametrize("damage", damaged(b"12345678"))
def test_a_damaged_checkpoint_is_ignored_with_a_line(
    checkpoint: Checkpoint, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    checkpoint.save(TENSORS, PROGRESS)
    checkpoint.path.write_bytes(damaged(checkpoint.path.read_bytes())[damage])
    assert checkpoint.load(TENSORS) is None
    said = capsys.readouterr().out
    assert said.startswith(f"note: {checkpoint.path} cannot be used (")
    assert said.endswith("train starts from the beginning\n")


@pytest.mark.parametrize("metadata", [None, {"key": "1"}, {"progress": "[", "sha256": ""}])
def test_a_foreign_file_is_ignored(
    checkpoint: Checkpoint, capsys: pytest.CaptureFixture[str], metadata: dict[str, str] | None
) -> None:
    checkpoint.folder.mkdir()
    save_file(TENSORS, checkpoint.path, metadata=metadata)
    assert checkpoint.load(TENSORS) is None
    assert "starts from the beginning" in capsys.readouterr().out


def test_tensors_of_other_shapes_are_ignored(checkpoint: Checkpoint) -> None:
    checkpoint.save(TENSORS, PROGRESS)
    assert checkpoint.load(TENSORS | {"weights": torch.zeros(4)}) is None
    assert checkpoint.load(TENSORS | {"weights": torch.zeros(5).double()}) is None
    assert checkpoint.load(TENSORS | {"more": torch.zeros(1)}) is None


def test_what_a_killed_writer_left_is_swept_and_only_the_newest_are_kept(tmp_path: Path) -> None:
    for k in range(12):
        one = Checkpoint.of(tmp_path, "train", {"k": k})
        (tmp_path / f".{one.path.stem}.99.safetensors").write_bytes(b"half")
        one.save(TENSORS, {})
        assert one.load(TENSORS) is not None
    assert len(list(tmp_path.iterdir())) == 8
