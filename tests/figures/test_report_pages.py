"""The report as people look at it: on a phone, in the dark, on paper."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from drawn import a_space, write_sweep
from playwright.sync_api import Browser, sync_playwright

from pipeline.figures import style
from pipeline.settings.machine import Machine
from pipeline.stages import render

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("pages"),
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's package chromium"),
]
WIDER_THAN_THEIR_PLACE = """[...document.querySelectorAll('table')]
  .filter(table => table.scrollWidth > table.parentElement.clientWidth).length"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    paths = write_sweep(tmp_path_factory.mktemp("sweep"), a_space(), (1, 8, 8))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(style._SETTINGS, "savefig.dpi", 40)
        patch.setattr(render, "audit_outputs", lambda *_: SimpleNamespace(findings=[]))
        render.run(a_space(), Machine(), paths)
    return (paths.render / "report.html").as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as driver:
        yield driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )


def test_a_phone_hides_no_column(address: str, browser: Browser) -> None:
    page = browser.new_page(viewport={"width": 360, "height": 800})
    page.goto(address)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert page.evaluate(WIDER_THAN_THEIR_PLACE) == 0
    label = "getComputedStyle(document.querySelector('.wide td'), '::before').content"
    assert page.evaluate(label) == '"candidate"'
    assert page.evaluate("document.querySelector('figure img').clientWidth") > 600  # it scrolls


def test_the_page_is_dark_where_the_reader_wants_it(address: str, browser: Browser) -> None:
    shades = {}
    for scheme in ("light", "dark"):
        page = browser.new_page(color_scheme=scheme)  # type: ignore[arg-type]
        page.goto(address)
        colours = page.evaluate(
            "[document.body, document.querySelector('figure img')]"
            ".map(each => getComputedStyle(each).backgroundColor)"
        )
        shades[scheme] = [int(re.findall(r"\d+", colour)[0]) for colour in colours]
    assert shades["light"] == [255, 255]
    assert shades["dark"][0] < 60
    assert shades["dark"][1] == 255, "figures keep their white ground"


def test_paper_is_white_and_pictures_share_it(
    address: str, browser: Browser, tmp_path: Path
) -> None:
    page = browser.new_page(viewport={"width": 703, "height": 1000}, color_scheme="dark")
    page.goto(address)
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate(WIDER_THAN_THEIR_PLACE) == 0
    heights = page.evaluate(
        "[...document.querySelectorAll('figure img')].map(image => image.clientHeight)"
    )
    assert max(heights) < 330, "three to a page of 1 000 points"
