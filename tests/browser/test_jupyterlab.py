"""The homework notebook in JupyterLab, as a person runs it in a browser."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT
from make_submission import REHEARSAL
from nbformat import NotebookNode
from notebooks import find_homework, has_code, inject_parameters, read_notebook
from playwright.sync_api import Error, Locator, Page, expect, sync_playwright

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--no-sandbox",  # containers forbid what the sandbox needs; pages are our own
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
)
MINUTE = 60_000  # milliseconds
LONGEST_RUN = 15 * MINUTE  # of all cells on small settings; it takes two
FAULTS = ", ".join(
    f"[data-mime-type='application/vnd.jupyter.{kind}']" for kind in ("error", "stderr")
)
SETTINGS = {
    # All cells are in the page, also those that a person would have to scroll to.
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}


@pytest.fixture
def notebook() -> NotebookNode:
    """The homework notebook, with a cell of small settings."""
    return inject_parameters(read_notebook(find_homework()), REHEARSAL)


@pytest.fixture
def project(notebook: NotebookNode, tmp_path: Path) -> Path:
    """A copy of the project, the notebook on small settings and without outputs."""
    for name in ("data", "models"):
        shutil.copytree(ROOT / name, tmp_path / name)
    bare = copy.deepcopy(notebook)
    for cell in bare.cells:
        if cell.cell_type == "code":  # what the page shows comes from its own run
            cell.outputs, cell.execution_count = [], None
    nbformat.write(bare, tmp_path / find_homework().name)
    return tmp_path


def wait_for_server(address: str, process: subprocess.Popen, log: Path) -> None:
    """Return when JupyterLab answers; fail with its last words if it does not."""
    for _ in range(120):
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{address}/api/status", timeout=5).close()
            return
        if process.poll() is not None:
            break
        time.sleep(0.5)
    pytest.fail(f"JupyterLab did not start:\n{log.read_text()[-2000:]}", pytrace=False)


@pytest.fixture
def server(project: Path, tmp_path_factory) -> Iterator[str]:
    """The address of a JupyterLab for the copy, with settings of its own."""
    home = tmp_path_factory.mktemp("jupyter")
    for name, content in SETTINGS.items():
        file = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(content))
    folders = "CONFIG", "DATA", "RUNTIME"
    environment = os.environ | {f"JUPYTER_{x}_DIR": str(home / x) for x in folders}
    environment["JUPYTERLAB_WORKSPACES_DIR"] = str(home / "workspaces")
    environment["JUPYTERLAB_SETTINGS_DIR"] = str(home / "settings")
    environment |= {"JUPYTER_PREFER_ENV_PATH": "1", "IPYTHONDIR": str(home / "ipython")}
    environment["MPLBACKEND"] = "svg"  # figures appear all the same
    log = home / "log.txt"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]  # nothing else listens on it
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += [f"--ServerApp.root_dir={project}", "--ServerApp.ip=127.0.0.1"]
    command += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
    command += ["--IdentityProvider.token=", "--ServerApp.password="]
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=project, env=environment, stdout=file, stderr=file
        )
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for_server(address, process, log)
        yield address
    finally:
        process.terminate()  # ends the kernels too
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()


@pytest.fixture
def page() -> Iterator[Page]:
    """A page in Chromium without a window."""
    names = [os.environ["CHROMIUM"]] if "CHROMIUM" in os.environ else CHROMIUMS
    program = next(filter(None, map(shutil.which, names)), names[0])
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        except Error as error:
            reason = error.message.splitlines()[0]
            pytest.fail(f"the browser did not start: {reason}", pytrace=False)
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(MINUTE)
        yield page
        browser.close()


# ------------------------------------------------------------- what a person does


def choose(page: Page, menu: str, entry: str) -> None:
    """Choose an entry of a menu of the menu bar."""
    bar = page.get_by_role("menubar").first
    bar.get_by_role("menuitem", name=menu, exact=True).click()
    page.get_by_role("menuitem", name=entry).first.click()


def select(cell: Locator) -> None:
    """Select a cell by a click beside it."""
    cell.scroll_into_view_if_needed()
    cell.locator(".jp-InputArea-prompt").first.click()


def waiting(page: Page) -> Locator:
    """Return the prompts of the cells that run or wait for it."""
    return page.locator(".jp-InputArea-prompt", has_text="*")


def interrupt(page: Page) -> None:
    """Interrupt until no cell runs: where Python cannot raise it, it goes on."""
    for _ in range(5):
        choose(page, "Kernel", "Interrupt Kernel")
        with contextlib.suppress(AssertionError):
            expect(waiting(page)).to_have_count(0, timeout=MINUTE / 6)
            return
    pytest.fail("five interrupts did not stop the cells", pytrace=False)


def wait_until_idle(page: Page) -> None:
    """Wait until no cell waits and Python is there: else what is run next is lost."""
    expect(waiting(page)).to_have_count(0, timeout=MINUTE)
    expect(page.get_by_text("| Idle")).to_be_visible(timeout=2 * MINUTE)


def wait_until_done(page: Page, last: int) -> None:
    """Wait until the code cell with this index has run, or another has failed."""
    cell = page.locator(".jp-CodeCell").nth(last)
    number = cell.locator(".jp-InputArea-prompt", has_text=re.compile(r"\d"))
    ended = number.or_(page.locator(FAULTS)).first
    expect(ended).to_be_attached(timeout=LONGEST_RUN)
    wait_until_idle(page)


# --------------------------------------------------------------- what the page says


def figures_of_cells(page: Page) -> list[int]:
    """Return for every code cell how many figures stand under it, fully loaded."""
    return page.locator(".jp-CodeCell").evaluate_all(
        "cells => cells.map(cell => [...cell.querySelectorAll('.jp-OutputArea img')]"
        ".filter(image => image.complete && image.naturalWidth > 100).length)"
    )


def stored_figures(notebook: NotebookNode) -> list[int]:
    """Return for every code cell how many figures the committed notebook holds."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    outputs = [[output.get("data", {}) for output in cell.outputs] for cell in cells]
    shown = "image/png", "text/html"  # the animation is a picture in HTML
    return [sum(any(x in data for x in shown) for data in cell) for cell in outputs]


# ------------------------------------------------------------------------- the test


def test_all_cells_run_and_go_on_after_an_interrupt(page, notebook, project, server):
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    page.goto(f"{server}/lab/tree/{find_homework().name}?reset")
    cells = page.locator(".jp-CodeCell")
    expect(cells).to_have_count(len(code), timeout=2 * MINUTE)
    wait_until_idle(page)

    select(cells.first)
    choose(page, "Run", "Run All Cells")
    training = page.locator(".jp-OutputArea-output", has_text="Epoch 1/")
    expect(training.first).to_be_visible(timeout=5 * MINUTE)
    interrupt(page)
    wait_until_idle(page)
    stopped = cells.filter(has=page.locator(FAULTS))
    expect(stopped).to_contain_text("KeyboardInterrupt")

    select(stopped)
    choose(page, "Run", "Run Selected Cell and All Below")
    expect(stopped).to_have_count(0)
    wait_until_done(page, last=len(code) - 1)
    assert page.locator(FAULTS).all_text_contents() == []
    counts = page.locator(".jp-CodeCell .jp-InputArea-prompt").all_text_contents()
    ran = [bool(re.search(r"\d", count)) for count in counts]
    assert ran == [has_code(cell) for cell in code]
    assert figures_of_cells(page) == stored_figures(notebook)
    assert (project / "other_settings" / "results" / "optimized_images.npz").exists()
