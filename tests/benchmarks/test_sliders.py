"""How long a reader waits for the picture after a key press on a slider, in JupyterLab in a headless Chromium.

Needs playwright (``pip install playwright``) and a Chromium, whose path is in the variable ``CHROMIUM`` if it is not
/usr/bin/chromium. Runs all cells of the notebooks that have sliders, or only of those whose numbers are in the variable
``SLIDERS``, as in ``SLIDERS="01 03"``.
"""

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright and a Chromium")

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = [path for path in sorted(FOLDER.glob("[0-9]*.ipynb")) if "Sliders(" in path.read_text(encoding="utf-8")]
CHOSEN = os.environ.get("SLIDERS", "").split()
if CHOSEN:
    NOTEBOOKS = [path for path in NOTEBOOKS if path.stem[:2] in CHOSEN]
PRESSES = 21  # on each slider
PROMISE = 150  # milliseconds, the median from key press to picture
PATIENCE = 300_000  # milliseconds for all cells of a notebook
LONGEST = 5_000  # milliseconds: a press that shows no new picture until then counts as so long
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
QUIET += ["--disable-component-update", "--disable-sync"]
SETTINGS = {  # all cells are in the page, and nothing is saved while a press is timed
    "notebook-extension/tracker": {"windowingMode": "none"},
    "docmanager-extension/plugin": {"autosave": False},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
READY = "() => window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
SHUT_DOWN = "() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()"
# Watches the outputs of a cell, from the next key press to a new picture that the browser has decoded.
WATCH = """([cell, longest]) => {
    const shown = () => cell.querySelector('.jp-OutputArea img');
    const before = shown().src;
    window.waited = new Promise(done => {
        let pressed;
        addEventListener('keydown', () => { pressed = performance.now(); }, {capture: true, once: true});
        const watching = new MutationObserver(async () => {
            const picture = shown();
            if (!picture || picture.src === before) return;
            watching.disconnect();
            await picture.decode();
            done(performance.now() - pressed);
        });
        setTimeout(() => done(longest), longest);
        watching.observe(cell, {subtree: true, childList: true, attributes: true});
    });
}"""


@pytest.fixture
def lab(tmp_path):
    """The address of a JupyterLab with a copy of the notebooks."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, setting in SETTINGS.items():
        file = tmp_path / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(setting))
    (tmp_path / "notebooks").mkdir()
    for notebook in NOTEBOOKS:
        shutil.copy(notebook, tmp_path / "notebooks")
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}"]
    command += [
        "--IdentityProvider.token=",
        "--LabApp.expose_app_in_browser=True",
        f"--notebook-dir={tmp_path / 'notebooks'}",
    ]
    dirs = {"JUPYTERLAB_SETTINGS_DIR": tmp_path / "settings", "JUPYTERLAB_WORKSPACES_DIR": tmp_path / "workspaces"}
    environment = os.environ | {name: str(folder) for name, folder in dirs.items()}
    with (
        open(tmp_path / "log", "w") as log,
        subprocess.Popen(command, env=environment, stdout=log, stderr=log) as server,
    ):
        address = f"http://127.0.0.1:{port}"
        _wait_for(address + "/api")
        yield address
        server.terminate()


def _wait_for(address, seconds=60):
    for _ in range(10 * seconds):
        try:
            return urlopen(address).close()
        except URLError:
            time.sleep(0.1)
    raise TimeoutError(f"nothing answers at {address}")


def waits(lab):
    """Milliseconds from each key press to its picture, by notebook and slider."""
    found = {}
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        for notebook in NOTEBOOKS:
            page = browser.new_page(viewport={"width": 1400, "height": 1200})
            page.set_default_timeout(PATIENCE)
            page.goto(f"{lab}/lab/tree/{notebook.name}?reset")
            page.wait_for_selector(".jp-Notebook .jp-CodeCell")
            page.wait_for_function(READY)
            page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
            found |= _of_sliders(page, notebook.stem[:2])
            page.evaluate(SHUT_DOWN)  # an idle kernel holds memory and polls
            page.close()
        browser.close()
    return found


def _of_sliders(page, name):
    found = {}
    for i, cell in enumerate(page.query_selector_all(".jp-CodeCell:has(.noUi-handle)")):
        for slider in cell.query_selector_all(".widget-slider"):
            label = slider.query_selector(".widget-label").inner_text()
            found[f"{name}, figure {i + 1}, {label}"] = [_press(page, cell, slider, k) for k in range(PRESSES)]
    return found


def _press(page, cell, slider, k):
    handle = slider.query_selector(".noUi-handle")
    handle.focus()
    at_end = float(handle.get_attribute("aria-valuenow")) >= float(handle.get_attribute("aria-valuemax"))
    page.evaluate(WATCH, [cell, LONGEST])
    page.keyboard.press("ArrowLeft" if at_end or k % 2 else "ArrowRight")
    return page.evaluate("() => window.waited")


def test_from_key_to_picture(benchmark, capsys, lab):
    """Assert that half of the key presses on each slider show their picture within 150 milliseconds."""
    found = benchmark.pedantic(waits, args=(lab,), rounds=1)
    with capsys.disabled():
        print(f"\nload {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores")
        for name, taken in found.items():
            print(f"{name:36} median {statistics.median(taken):7.1f} ms, shortest {min(taken):7.1f} ms")
    assert found
    assert max(map(statistics.median, found.values())) <= PROMISE
