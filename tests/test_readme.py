"""The numbers in the READMEs are those of the committed results, and README's commands name files that exist."""

import json
import re

import pytest
from conftest import ROOT


def table_rows(text: str) -> dict[str, list[str]]:
    """First cell -> the other cells, of every row of every table."""
    rows = [
        [cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines() if line.startswith("| ")
    ]
    return {row[0]: row[1:] for row in rows}


def test_the_table_of_nu_deeplabv3plus_is_that_of_its_results():
    folder = ROOT / "nu_deeplabv3plus"
    results = json.loads((folder / "results" / "none.json").read_text())["results"]
    rows = table_rows((folder / "README.md").read_text())
    for part, scores in results["per_class"].items():
        assert rows[part][-1] == f"{scores['iou']:.4f}", part
    assert rows["mean, 18 parts"][-1] == f"{results['iou_18']:.4f}"
    assert rows["mean, 16 parts (the paper's mean)"][-1] == f"{results['iou_16']:.4f}"


@pytest.mark.parametrize("readme", sorted(ROOT.glob("*/README.md")) + [ROOT / "README.md"], ids=lambda p: p.parent.name)
def test_the_scripts_and_links_of_a_readme_exist(readme):
    text = readme.read_text()
    for script in re.findall(r"(?:python|torchrun) (\w+/\w+\.py)", text):
        assert (ROOT / script).is_file(), script
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (readme.parent / link).exists(), link
