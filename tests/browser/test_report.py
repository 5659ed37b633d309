"""The report as a reader sees it: the page in Chromium, and the PDF."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from chromium import find_chromium, open_browser
from conftest import ROOT, find_notebook, make_notebook
from execute_notebook import NotebookError, headings_of, read_notebook
from make_report import PDF_SCALE, make_report, to_html, to_mathml
from nbformat.v4 import new_output
from PIL import Image
from playwright.sync_api import Browser, Page

COMPANION = ROOT / "companion" / "DeepLearningAssignment.ipynb"
NOTEBOOKS = [find_notebook(), *([COMPANION] if COMPANION.exists() else [])]
FORMULA = re.compile(r"\$\$.+?\$\$|\$[^$\n]+?\$", re.S)


@pytest.fixture(scope="module")
def browser():
    """Chromium, without a window."""
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request) -> Path:
    """Each notebook of the project."""
    return request.param


@pytest.fixture(scope="module")
def html(path: Path, tmp_path_factory) -> Path:
    """The notebook's page."""
    page = tmp_path_factory.mktemp("report") / "report.html"
    page.write_text(to_html(read_notebook(path), path.stem), encoding="utf-8")
    return page


@pytest.fixture(scope="module")
def asked() -> list[str]:
    """All addresses that a page has asked for."""
    return []


@pytest.fixture(scope="module")
def page(browser: Browser, html: Path, asked: list[str]) -> Page:
    """The page, open."""
    asked.clear()
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.on("request", lambda request: asked.append(request.url))
    page.goto(html.as_uri())
    return page


def picture(page: Page, selector: str | None = None) -> np.ndarray:
    """Return a screenshot in gray, of the whole page or of one element."""
    shot = page.locator(selector).first.screenshot() if selector else None
    image = Image.open(io.BytesIO(shot or page.screenshot(full_page=True)))
    return np.asarray(image.convert("L"))


# --------------------------------------------------------------------- the page


def test_the_page_needs_no_network(page, asked, html):
    foreign = [url for url in asked if not url.startswith("data:")]
    assert foreign == [html.as_uri()]


def test_every_figure_is_shown_with_its_description(page, path):
    outputs = [
        output for c in read_notebook(path).cells for output in c.get("outputs", [])
    ]
    figures = [o for o in outputs if "image/png" in o.get("data", {})]
    images = page.locator("img").evaluate_all(
        "images => images.map(i => [i.alt, i.complete && i.naturalWidth > 0])"
    )
    described = [figure.metadata["image/png"]["alt"] for figure in figures]
    assert images == [[description, True] for description in described]


def test_every_formula_is_shown(page, path):
    cells = [c for c in read_notebook(path).cells if c.cell_type == "markdown"]
    without_code = [re.sub(r"`[^`]*`", "", cell.source) for cell in cells]
    expected = sum(len(FORMULA.findall(source)) for source in without_code)
    sizes = page.locator("math").evaluate_all(
        "formulas => formulas.map(f => f.getBoundingClientRect().width)"
    )
    assert len(sizes) == expected > 0
    assert min(sizes) > 3  # pixels
    prose = page.locator(".jp-MarkdownOutput").all_inner_texts()
    assert not [text for text in prose if "$" in text or "\\" in text]


def test_headings_and_links_lead_through_the_page(page, path):
    cells = read_notebook(path).cells
    expected = [[level, text] for cell in cells for level, text in headings_of(cell)]
    shown = page.locator("h1, h2, h3, h4, h5, h6").evaluate_all(
        "all => all.map(h => [+h.tagName[1], h.textContent.replace('¶', '')])"
    )
    assert [level for level, _ in shown] == [level for level, _ in expected]
    assert page.title() == expected[0][1]
    broken = page.locator("a[href^='#']:not(.anchor-link)").evaluate_all(
        "all => all.map(a => decodeURIComponent(a.hash.slice(1)))"
        ".filter(name => !document.getElementById(name))"
    )
    assert not broken


def test_screenshots_show_text_and_figures(page, path):
    whole = picture(page)
    assert whole.shape[0] > 10 * 900  # many screens
    # No screen of it is blank: something dark stands on something light.
    for top in range(0, whole.shape[0] - 900, 900):
        screen = whole[top : top + 900]
        assert screen.min() < 100
        assert screen.max() > 200
    if page.locator("img").count():
        assert np.ptp(picture(page, "img").astype(int)) > 200


# Widths in pixels of a desktop, of a phone, and of A4 without its margins of half an
# inch as the PDF is scaled.
WIDTHS = {"desktop": 1200, "phone": 400, "print": (8.27 - 1) * 96 / PDF_SCALE}


@pytest.mark.parametrize("medium", WIDTHS)
def test_nothing_is_cut_off_at_the_side(page, medium):
    """Code wraps; a wide table or formula scrolls on a phone, else it fits."""
    page.emulate_media(media="print" if medium == "print" else "screen")
    page.set_viewport_size({"width": int(WIDTHS[medium]), "height": 900})
    boxes = ["html", ".jp-InputArea-editor", ".jp-OutputArea"]
    if medium != "phone":
        boxes += [".jp-MarkdownOutput", ".jp-OutputArea-output"]
    cut = page.locator(", ".join(boxes)).evaluate_all(
        "all => all.filter(box => box.scrollWidth > box.clientWidth + 1)"
        ".map(box => box.className + ': ' + box.innerText.slice(0, 60))"
    )
    page.emulate_media(media="screen")
    page.set_viewport_size({"width": 1200, "height": 900})
    assert not cut


def test_a_checker_of_accessibility_finds_nothing(page):
    """Axe-core: contrast, descriptions, heading order, names, language and more."""
    results = Axe().run(page)
    assert results.response["passes"], "the checker has looked at nothing"
    assert not results.violations_count, results.generate_report()


def test_the_checker_finds_what_is_wrong(browser):
    page = browser.new_page()
    page.set_content(
        "<html lang='en'><title>t</title><main><h1>One</h1><h3>Three</h3>"
        "<img src='data:,'><p style='color: #bbb'>pale</p></main>"
    )
    found = {violation["id"] for violation in Axe().run(page).response["violations"]}
    page.close()
    assert found >= {"heading-order", "image-alt", "color-contrast"}


# ------------------------------------------------------------------- the program


def test_a_figure_without_a_description_is_left_to_the_checker(tmp_path):
    notebook = make_notebook("# Title", "show()")
    figure = new_output("display_data", data={"image/png": "AAAA"})
    notebook.cells[1].outputs = [figure]
    assert "No description has been provided" in to_html(notebook, "t")
    figure.metadata = {"image/png": {"alt": 'a "b" <c> & d'}}
    assert """alt='a "b" &lt;c&gt; &amp; d'""" in to_html(notebook, "t")


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        (r"\unheard x", r"cannot turn the formula '\\\\unheard x' into MathML"),
        ("x_1_2", "expected LaTeX between dollars, got 'x_1_2'"),
    ],
)
def test_a_formula_that_cannot_be_shown_is_refused(formula, message):
    with pytest.raises(NotebookError, match=message):
        to_mathml(formula, "inline")


def test_the_pdf_holds_all_pages_and_figures(path, tmp_path):
    program = [sys.executable, ROOT / "tools" / "make_report.py", path]
    subprocess.run([*program, "--output", tmp_path / "dist"], check=True)
    html, pdf = (tmp_path / "dist" / f"{path.stem}.{end}" for end in ("html", "pdf"))
    content = pdf.read_bytes()
    assert content.startswith(b"%PDF-")
    assert b"%%EOF" in content[-1024:]
    pages = len(re.findall(rb"/Type\s*/Page\b", content))
    figures = html.read_text(encoding="utf-8").count("<img ")
    assert pages >= 10
    assert len(re.findall(rb"/Subtype\s*/Image\b", content)) >= figures
    assert b"/StructTreeRoot" in content  # tagged: headings for a screen reader
    assert sorted(file.name for file in pdf.parent.iterdir()) == [html.name, pdf.name]


def test_without_a_browser_the_page_is_written_and_the_message_helps(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("CHROMIUM", "no-such-browser")
    with pytest.raises(FileNotFoundError, match="no browser named no-such-browser"):
        find_chromium()
    with pytest.raises(FileNotFoundError, match="apt-get install chromium"):
        make_report(find_notebook(), tmp_path)
    assert [file.suffix for file in tmp_path.iterdir()] == [".html"]
