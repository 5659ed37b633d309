"""Write a notebook as a report: one HTML file that needs no network, and a PDF.

    python tools/make_report.py                   the homework notebook, into dist/
    python tools/make_report.py NOTEBOOK --output FOLDER

Figures lie within the HTML file, with their descriptions as alternative text.
Formulas are turned into MathML, which browsers show by themselves. Chromium prints
the PDF from the HTML.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Sequence
from pathlib import Path

from chromium import open_browser
from execute_notebook import NotebookError, headings_of, read_notebook, replace_file
from jinja2 import pass_context
from jinja2.runtime import Context
from latex2mathml.converter import convert
from mistune.plugins.table import render_table_cell
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode
from notebook_functions import ROOT, find_notebook

PDF_SCALE = 0.75  # so that a line of code of 88 characters fits on A4
TEMPLATE = Path(__file__).with_name("report.html.j2")


def to_mathml(formula: str, display: str) -> str:
    """Return a formula in LaTeX as a MathML element.

    Args:
        formula: What stands between the dollars.
        display: `inline` or `block`.

    Raises:
        NotebookError: The formula is not LaTeX, or has a command that is not known.
    """
    try:
        element = convert(formula, display=display)
    except Exception as error:  # the converter has a class of error for each mistake
        raise NotebookError(
            f"expected LaTeX between dollars, got {formula!r} ({error!r}): correct it"
        ) from error
    if "\\" in element:  # a command that the converter does not know stays as it is
        raise NotebookError(
            f"cannot turn the formula {formula!r} into MathML: use plainer commands"
        )
    return element


class ReportRenderer(IPythonRenderer):
    """Markdown to HTML, formulas to MathML, tables that can be read out."""

    def block_math(self, body: str) -> str:
        """Return a formula that stands by itself."""
        return to_mathml(body.strip(), "block")

    def inline_math(self, body: str) -> str:
        """Return a formula within a line."""
        return to_mathml(body.strip(), "inline")

    def latex_environment(self, name: str, body: str) -> str:
        """Return a formula written as an environment."""
        return to_mathml(f"\\begin{{{name}}}{body}\\end{{{name}}}", "block")

    def table_cell(
        self, text: str, align: str | None = None, head: bool = False
    ) -> str:
        """Return a cell of a table; an empty corner is no heading of its column."""
        return render_table_cell(self, text, align, head and bool(text))


class ReportExporter(HTMLExporter):
    """A notebook to one HTML page."""

    @pass_context
    def markdown2html(self, context: Context, source: str) -> str:
        """Return the HTML of a markdown text."""
        attachments = context.get("cell", {}).get("attachments", {})
        renderer = ReportRenderer(escape=False, attachments=attachments)
        return MarkdownWithMath(renderer=renderer).render(source)


def to_html(notebook: NotebookNode, title: str) -> str:
    """Return a notebook as one HTML page.

    Args:
        notebook: The notebook; it is not changed.
        title: Title of the page for a notebook without a heading.

    Raises:
        NotebookError: A formula cannot be turned into MathML.
    """
    notebook = copy.deepcopy(notebook)
    headings = [text for cell in notebook.cells for _, text in headings_of(cell)]
    notebook.metadata["title"] = headings[0] if headings else title
    exporter = ReportExporter(raw_template=TEMPLATE.read_text(encoding="utf-8"))
    html, _ = exporter.from_notebook_node(notebook)
    return html


def to_pdf(html: Path) -> bytes:
    """Return a page as a PDF that keeps headings and alternative text.

    Raises:
        FileNotFoundError: There is no browser; says how to install it.
    """
    with open_browser() as browser:
        page = browser.new_page()
        page.goto(html.resolve().as_uri())
        options = dict(print_background=True, tagged=True, outline=True)
        return page.pdf(format="A4", scale=PDF_SCALE, **options)


def make_report(path: Path, folder: Path) -> tuple[Path, Path]:
    """Write a notebook's report into a folder, which is made if it is missing.

    Returns:
        The HTML file and the PDF file, named after the notebook.

    Raises:
        NotebookError: There is no such notebook, or a formula cannot be shown.
        FileNotFoundError: There is no browser for the PDF; the HTML file is written.
    """
    page = to_html(read_notebook(path), path.stem)
    folder.mkdir(parents=True, exist_ok=True)
    html, pdf = folder / f"{path.stem}.html", folder / f"{path.stem}.pdf"
    replace_file(html, page.encode())
    print(f"wrote {html}", flush=True)
    replace_file(pdf, to_pdf(html))
    print(f"wrote {pdf}")
    return html, pdf


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebook", type=Path, nargs="?", help="default: the homework")
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="folder")
    options = parser.parse_args(arguments)
    try:
        make_report(options.notebook or find_notebook(), options.output)
        return 0
    except (NotebookError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
