"""The pages in a real browser: accessible, nothing asked of a network, as wide as the screen, readable without scripts.

Run by `.ci/run`, or with `-m browser`, where Debian's Chromium and the extra `browser` are installed.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lora_ckpt.auditing.render import write_report
from tests.helpers import report_samples as samples

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]

_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
_PATIENCE = 120_000.0
# All four of one page; of the others, which have the same style, two.
SCREENS = [("sick", width, scheme) for width in (360, 1280) for scheme in ("light", "dark")]
SCREENS += [
    (name, *screen) for name in ("healthy", "several", "hostile") for screen in ((360, "light"), (1280, "dark"))
]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="the extra browser is not installed")
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("there is no chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=_FLAGS, timeout=_PATIENCE)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Reports of real audits, and of results that a file or a loader makes hard to show."""
    folder = tmp_path_factory.mktemp("reports")
    healthy, sick = samples.healthy(folder, layers=3), samples.damaged(folder, layers=12)
    scored = samples.scored(sick)
    runs = {
        "healthy": [healthy],
        "sick": [scored],
        "several": [healthy, sick],
        "hostile": [
            samples.named("</style><script>document.title='injected'</script>\u202e"),
            samples.named("x" * 10**6),
        ],
        "many": [samples.many_modules()],
    }
    written = {name: folder / f"{name}.html" for name in runs}
    for name, results in runs.items():
        write_report(written[name], results)
    return written


@pytest.fixture
def visit(chromium: Any, pages: Mapping[str, Path]) -> Iterator[Any]:
    """Open a page, and note what it asks for and complains of."""
    contexts = []

    def open_page(name: str, width: int = 1280, scheme: str = "light", **more: Any) -> Any:
        context = chromium.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, **more)
        context.set_default_timeout(_PATIENCE)
        contexts.append(context)
        page = context.new_page()
        page.asked, page.complaints = [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("console", lambda message: page.complaints.append(message.text))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.goto(pages[name].as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()


def overflow(page: Any) -> int:
    script = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    return int(page.evaluate(script))


@pytest.mark.parametrize(("name", "width", "scheme"), SCREENS)
def test_a_page_is_accessible_and_fits(visit: Any, name: str, width: int, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="the extra browser is not installed")
    page = visit(name, width, scheme)
    assert overflow(page) <= 0
    assert (found := axe.Axe().run(page)).violations_count == 0, found.generate_report()
    if switch := page.query_selector(".see-size"):
        switch.check()
        assert (found := axe.Axe().run(page)).violations_count == 0, found.generate_report()
    assert overflow(page) <= 0
    assert page.asked == [page.url]
    assert page.complaints == []
    assert page.title() != "injected"


def test_a_cell_says_its_numbers_to_the_mouse_and_to_the_keyboard(visit: Any) -> None:
    page = visit("healthy")
    said = page.locator(".readout")
    page.locator(".by-status table.map tbody td").nth(1).hover()
    assert said.inner_text() == "layer 0, mlp.down_proj: proved, 3 keys"
    page.locator(".see-size").check()
    first = page.locator(".by-size table.map tbody td").first
    first.focus()
    assert said.inner_text().startswith("layer 0, mlp.down_proj: update ")
    assert said.inner_text().endswith(" %")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert said.inner_text().startswith("layer 1, mlp.gate_proj: update ")
    assert page.locator(".by-size table.map [tabindex='0']").count() == 1


def test_code_is_copied_with_a_click(visit: Any) -> None:
    page = visit("sick")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator("button.copy").click()
    page.get_by_role("button", name="Copied").wait_for()
    assert "def rename_keys(state_dict):" in page.evaluate("navigator.clipboard.readText()")


def test_without_scripts_nothing_is_lost(visit: Any) -> None:
    page = visit("healthy", java_script_enabled=False)
    assert not page.locator(".by-size table").first.is_visible()
    page.locator(".see-size").check()
    assert page.locator(".by-size table").first.is_visible()
    page = visit("sick", java_script_enabled=False)
    assert not page.locator("button.copy").is_visible()
    assert page.locator(".code pre").is_visible()


def test_ten_thousand_modules_stay_usable(visit: Any) -> None:
    page = visit("many", 360)
    assert overflow(page) <= 0
    page.locator(".see-size").check()
    cell = page.locator(".by-size td").nth(5_000)
    cell.scroll_into_view_if_needed()
    cell.hover()
    assert "update" in page.locator(".readout").inner_text()


def test_paper_shows_both_views_and_all_details(visit: Any) -> None:
    page = visit("healthy")
    page.emulate_media(media="print")
    assert page.locator(".by-status table").first.is_visible()
    assert page.locator(".by-size table").first.is_visible()
    assert not page.locator(".switch").is_visible()
    assert page.pdf(format="A4").startswith(b"%PDF")
