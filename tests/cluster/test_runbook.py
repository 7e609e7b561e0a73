"""The runbook explains what is there, and names nothing that is not."""

from __future__ import annotations

import re

import pytest
import yaml

from tests.cluster.kubernetes.manifests import FOLDER, REPOSITORY

README = (FOLDER / "README.md").read_text(encoding="utf-8")
RUNBOOK = (REPOSITORY / "docs" / "cluster.md").read_text(encoding="utf-8")


def test_every_alarm_is_explained() -> None:
    groups = yaml.safe_load((FOLDER / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    alarms = {rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule}
    assert alarms == set(re.findall(r"^\| (T5enc\w+) \|", RUNBOOK, re.MULTILINE))


def test_every_file_of_the_folder_is_in_the_table_and_the_table_names_no_others() -> None:
    table = README.partition("\n## ")[0]
    named = set(re.findall(r"`([\w.-]+)`", re.sub(r"\|[^|]*\|$", "", table, flags=re.MULTILINE)))
    files = {path.name for path in FOLDER.iterdir() if path.is_file() and path.name != "README.md"}
    assert files <= named


@pytest.mark.parametrize("name", sorted(set(re.findall(r"(?<!tests/)cluster/([\w.-]+\w)", README + RUNBOOK))))
def test_a_file_that_a_command_names_is_there(name: str) -> None:
    assert (FOLDER / name).exists()


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", README):
        assert (REPOSITORY / "cluster" / target).exists(), target
