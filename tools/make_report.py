"""Write a notebook as a page and a PDF for readers without Jupyter, into `dist/`.

    python tools/make_report.py NOTEBOOK

nbconvert makes the page. Formulas become MathML, which browsers show without a network.
"""

import re
import sys
from pathlib import Path

from chromium import open_browser
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from notebook import ROOT, NotebookError, read_notebook, replace_file

FORMULA = re.compile(r"\$\$(.+?)\$\$|(?<![\\$`])\$([^$`\n]+(?:\n[^$`\n]+)?)\$", re.S)


def to_mathml(formula: re.Match) -> str:
    """Return the formula that was matched between dollars as a MathML element."""
    block, inline = formula.groups()
    display = "block" if block else "inline"
    return convert((block or inline).strip(), display=display).replace("\n", " ")


def to_html(path: Path) -> str:
    """Return a notebook as one page of HTML."""
    notebook = read_notebook(path)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = FORMULA.sub(to_mathml, cell.source)
    notebook.metadata["title"] = path.stem
    exporter = HTMLExporter(template_name="classic", exclude_input_prompt=True)
    return exporter.from_notebook_node(notebook)[0]


def main(path: Path) -> int:
    """Write both files and return the exit code."""
    html, pdf = (ROOT / "dist" / f"{path.stem}{end}" for end in (".html", ".pdf"))
    html.parent.mkdir(exist_ok=True)
    try:
        replace_file(html, to_html(path).encode())
        with open_browser() as browser:
            page = browser.new_page()
            page.goto(html.as_uri(), wait_until="domcontentloaded")
            replace_file(pdf, page.pdf(format="A4", scale=0.75, tagged=True))
    except (NotebookError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"wrote {html.relative_to(ROOT)} and {pdf.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
