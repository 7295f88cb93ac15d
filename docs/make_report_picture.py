# ruff: noqa: INP001  # A script, no module of the package.
"""Make `docs/images/report.png`: the report of a damaged replica, as Chromium shows it.

pip install -e ".[browser]"
python docs/make_report_picture.py
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from pytest_lora_ckpt.auditing.render import write_report  # noqa: E402
from tests.helpers import report_samples  # noqa: E402

WIDTH, HEIGHT, SCALE = 1100, 1400, 0.8

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        result = report_samples.damaged(Path(folder))
        path = Path(folder) / "report.html"
        write_report(path, [report_samples.renamed(result, "runs/panorama-step-200.ckpt")])
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, device_scale_factor=SCALE)
            page.goto(path.as_uri())
            (HERE / "images").mkdir(exist_ok=True)
            page.screenshot(path=HERE / "images" / "report.png")
            browser.close()
