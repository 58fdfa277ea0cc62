"""A screenshot of the search page: `python screenshot.py <address> <query> <file.png>`."""

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

WINDOW = {"width": 1280, "height": 760}


def main(address: str, query: str, file: str) -> None:
    """Search on a running server, and save Chromium's page with few colours, for a small file."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        page = browser.new_page(viewport=WINDOW)
        page.goto(address)
        page.get_by_role("searchbox").fill(query)
        page.keyboard.press("Enter")
        page.locator("#reranked li").first.wait_for()
        page.wait_for_load_state("networkidle")
        page.locator("#query").blur()
        shown = page.screenshot()
        browser.close()
    Image.open(io.BytesIO(shown)).convert("RGB").quantize(256).save(Path(file), optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
