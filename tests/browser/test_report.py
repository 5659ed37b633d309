"""The report as a reader sees it: the page in Chromium, and the PDF."""

from __future__ import annotations

import re

import make_report as tool
import pytest
from chromium import find_chromium, open_browser
from notebook import COMPANION, find_homework, read_notebook


@pytest.fixture(
    scope="module", params=[find_homework(), COMPANION], ids=lambda p: p.stem
)
def path(request):
    """Each notebook of the project."""
    return request.param


def test_figures_and_formulas_are_shown_without_a_network(path, tmp_path):
    html = tmp_path / "report.html"
    html.write_text(tool.to_html(path), encoding="utf-8")
    cells = read_notebook(path).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    described = [
        output.metadata["image/png"]["alt"]
        for output in outputs
        if "image/png" in output.get("data", {})
    ]
    with open_browser() as browser:
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.route(re.compile("^http"), lambda route: route.abort())
        page.goto(html.as_uri(), wait_until="domcontentloaded")
        images = page.locator("img").evaluate_all(
            "images => images.map(i => [i.alt, i.complete && i.naturalWidth > 0])"
        )
        sizes = page.locator("math").evaluate_all(
            "formulas => formulas.map(f => f.getBoundingClientRect().width)"
        )
        prose = page.locator(".text_cell_render").all_inner_texts()
    assert images == [[text, True] for text in described]
    assert len(sizes) > 5
    assert min(sizes) > 3  # pixels
    assert not [text for text in prose if "$" in text or "\\" in text]


def test_the_pdf_holds_all_pages(path, tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    assert tool.main(path) == 0
    content = (tmp_path / "dist" / f"{path.stem}.pdf").read_bytes()
    assert content.startswith(b"%PDF-")
    assert len(re.findall(rb"/Type\s*/Page\b", content)) >= 10


def test_without_a_browser_the_message_helps(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    monkeypatch.setenv("CHROMIUM", "no-such-browser")
    with pytest.raises(FileNotFoundError, match="no browser named no-such-browser"):
        find_chromium()
    assert tool.main(find_homework()) == 1
    assert "apt-get install chromium" in capsys.readouterr().err
    assert (tmp_path / "dist" / f"{find_homework().stem}.html").exists()
