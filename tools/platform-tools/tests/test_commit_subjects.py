"""Commit subjects since the start of the writing standard have at most 72 characters."""

import subprocess

import pytest

from platform_tools.checkout import ROOT

BEGAN = "b21b1ba6e2bafa31ab96f56d78e831cc1baec1c8"
LONGEST = 72


def git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def test_commit_subjects_have_an_area_and_at_most_72_characters() -> None:
    if git("merge-base", "--is-ancestor", BEGAN, "HEAD").returncode:
        pytest.skip(f"no git history back to {BEGAN}")
    subjects = git("log", "--no-merges", "--format=%s", f"{BEGAN}..HEAD").stdout.splitlines()
    assert [subject for subject in subjects if len(subject) > LONGEST] == []
    assert [subject for subject in subjects if ": " not in subject] == []
