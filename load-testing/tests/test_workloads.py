"""Every workload folder is complete, valid and documented; errors name the faulty key."""

from pathlib import Path

import pytest

from load_testing import workloads

NAMES = sorted(path.name for path in workloads.FOLDER.iterdir() if path.is_dir() and path.name[0] not in "_.")


@pytest.mark.parametrize("name", NAMES)
def test_a_workload_loads_and_its_readme_lists_what_to_check(name: str) -> None:
    assert workloads.load(name).requests
    readme = (workloads.FOLDER / name / "README.md").read_text()
    assert readme.startswith(f"# {name}\n")
    assert "**Check:**" in readme


def test_an_unknown_workload_is_named_with_the_known_ones() -> None:
    with pytest.raises(
        workloads.BadWorkload, match=r'WORKLOAD: "fixd" is not a workload \(known: .*fixed-rate'
    ):
        workloads.load("fixd")


def test_a_misspelled_key_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "workload.yaml").write_text("description: x\nrate: 1\n")
    monkeypatch.setattr(workloads, "FOLDER", tmp_path)
    with pytest.raises(workloads.BadWorkload, match="rate"):
        workloads.load("w")
