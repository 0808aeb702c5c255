"""Every kind of page has no violation of axe-core's rules, in both schemes and both languages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from page_kinds import write_pages

KINDS = ("player", "joined", "reconstruction")


@pytest.fixture(scope="module")
def axe() -> str:
    package = pytest.importorskip("axe_playwright_python", reason="no axe: pip install -r requirements-dev.txt")
    return Path(package.__file__).with_name("axe.min.js").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_pages(tmp_path_factory.mktemp("pages"))


# Only what is needed comes back: to send all that axe knows takes longer than to find it.
RUN = """axe.run().then((found) => [
  found.passes.length, found.violations.map((rule) => [rule.id, ...rule.nodes.map((node) => node.html)])])"""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("locale", ["en-GB", "ja-JP"])
def test_no_violations(browser: Any, axe: str, pages: dict[str, Path], kind: str, locale: str) -> None:
    context = browser.new_context(viewport={"width": 1100, "height": 900}, locale=locale)
    page = context.new_page()
    page.goto(pages[kind].as_uri())
    assert page.evaluate("document.documentElement.lang") == locale[:2]
    if kind == "player":  # with a letter that is lit, and a favourite
        page.evaluate("document.querySelector('.seek').value = 3")
        page.evaluate("document.querySelector('.seek').dispatchEvent(new Event('input'))")
        assert page.locator(".now").count() == 1
        page.locator(".favourite").first.click()
    page.evaluate(f"{axe};0")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        passes, violations = page.evaluate(RUN)
        assert not violations and passes > 15, scheme
    context.close()


def test_a_fault_is_found(browser: Any, axe: str, pages: dict[str, Path]) -> None:
    page = browser.new_page()
    page.goto(pages["player"].as_uri())
    page.evaluate("document.querySelector('.seek').removeAttribute('aria-label')")
    page.evaluate("document.querySelector('h2').style.color = '#ccc'")
    page.evaluate(f"{axe};0")
    found = {rule for rule, *_ in page.evaluate(RUN)[1]}
    page.close()
    assert {"label", "color-contrast"} <= found
