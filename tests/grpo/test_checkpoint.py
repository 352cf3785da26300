import json
from pathlib import Path

from runner.grpo import checkpoint


def save(folder: Path, step: int, weights: str = "w") -> checkpoint.Checkpoint:
    part = folder / ".part"
    part.mkdir(parents=True)
    (part / "policy.json").write_text(weights)
    (part / "optimizer.pt").write_text("o")
    described = checkpoint.describe(part, step)
    checkpoint.seal(part, described, folder / checkpoint.folder_name(step))
    return described


def test_complete_checkpoints_are_found_oldest_first(tmp_path: Path) -> None:
    save(tmp_path, 20)
    save(tmp_path, 3)
    assert [found.step for found in checkpoint.find(tmp_path)] == [3, 20]


def test_a_folder_without_manifest_or_with_a_file_cut_short_does_not_count(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step)
    (tmp_path / "step-000002" / checkpoint.MANIFEST).unlink()
    (tmp_path / "step-000003" / "policy.json").write_text("")
    assert [found.step for found in checkpoint.find(tmp_path)] == [1]


def test_equal_weights_have_equal_hashes_and_the_optimizer_does_not_count(tmp_path: Path) -> None:
    first = save(tmp_path / "a", 1)
    (tmp_path / "a/step-000001/optimizer.pt").write_text("other")
    assert checkpoint.weights_hash(tmp_path / "a/step-000001") == first.weights
    assert save(tmp_path / "b", 1, weights="v").weights != first.weights


def test_the_manifest_lists_every_file_with_its_size(tmp_path: Path) -> None:
    save(tmp_path, 1)
    manifest = json.loads((tmp_path / "step-000001" / checkpoint.MANIFEST).read_text())
    assert manifest["files"] == {"optimizer.pt": 1, "policy.json": 1}
    assert manifest["bytes"] == 2


def test_the_last_ones_stay() -> None:
    made = [checkpoint.Checkpoint(step=n, path=Path("x"), bytes=0, weights="") for n in (1, 2, 3)]
    assert [old.step for old in checkpoint.surplus(made, 2)] == [1]
    assert checkpoint.surplus(made[:1], 2) == []
