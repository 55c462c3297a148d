"""The documentation hangs together: links, navigation, and the rules that comments name."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.rglob("*.md")), ROOT / "README.md", ROOT / "CHANGELOG.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    gone = [u for u in links if "://" not in u and not (page.parent / u).exists()]
    assert gone == []


def test_the_navigation_has_every_page_once() -> None:
    named = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(named) == sorted(str(p.relative_to(DOCS)) for p in DOCS.rglob("*.md"))


def test_rules_that_are_named_are_written_down() -> None:
    rules = set(re.findall(r"^\| (R-\d+) \|", (DOCS / "rules.md").read_text(), re.MULTILINE))
    files = [*(ROOT / "src").rglob("*.py"), *(ROOT / "tests").rglob("*.py"), *DOCS.rglob("*.md")]
    named = {r for f in files for r in re.findall(r"\bR-\d\d\b", f.read_text())}
    assert named - rules == set()


def test_every_error_code_is_explained() -> None:
    from keycairn.errors import Code

    text = (DOCS / "errors.md").read_text().partition("## Codes, and what to do")[2]
    assert [c.value for c in Code if c.value not in text] == []
