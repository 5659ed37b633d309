"""Print the tables and texts that a notebook holds, by heading.

    python tools/print_outputs.py             every heading with outputs
    python tools/print_outputs.py 4a          the headings that contain "4a"
    python tools/print_outputs.py --companion Q3    the same of the second assignment

The outputs are those of the last full run; `tools/execute_notebook.py --check` says
whether they belong to the code beside them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from execute_notebook import headings_of, read_notebook
from nbformat import NotebookNode
from notebook_functions import COMPANION, find_notebook


def text_of(output: NotebookNode) -> str:
    """Return what an output says in text: a stream, a table, or nothing."""
    if output.output_type == "stream":
        return output.text.strip()
    data = output.get("data", {})
    if "image/png" in data:
        return ""
    return data.get("text/markdown", data.get("text/plain", "")).strip()


def texts_by_heading(notebook: NotebookNode) -> Iterator[tuple[str, str]]:
    """Yield each heading that has outputs in text, with these outputs."""
    heading, texts = "", []
    for cell in notebook.cells:
        for _, text in headings_of(cell):
            if texts:
                yield heading, "\n\n".join(texts)
            heading, texts = text, []
        if cell.cell_type == "code":
            texts += [text for text in map(text_of, cell.outputs) if text]
    if texts:
        yield heading, "\n\n".join(texts)


def print_outputs(notebook: NotebookNode, part: str) -> None:
    """Print the outputs below every heading that contains `part`.

    Raises:
        SystemExit: There is none; says what there is.
    """
    texts = list(texts_by_heading(notebook))
    found = [pair for pair in texts if part in pair[0]]
    if not texts:
        raise SystemExit("the notebook holds no outputs: fill it with `make run`")
    if not found:
        headings = "; ".join(heading for heading, _ in texts)
        raise SystemExit(f"no heading contains {part!r}; the headings are: {headings}")
    for heading, text in found:
        print(f"\n## {heading}\n\n{text}")


def main() -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", nargs="?", default="", help="part of a heading")
    parser.add_argument(
        "--companion", action="store_true", help="of the companion notebook"
    )
    options = parser.parse_args()
    notebook = read_notebook(COMPANION if options.companion else find_notebook())
    print_outputs(notebook, options.part)


if __name__ == "__main__":
    main()
