"""Takes the pictures of pages that docs/ shows: python tools/screenshots.py

Needs `make dev` and chromium. Samples with the demo model, sends one of the songs through its VQ-VAE, runs the
notebook, opens the three pages and writes docs/page.png, docs/page.ja.png, docs/reconstruct.png and
docs/notebook.png. The Japanese one needs a font with Japanese letters.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SONGS = [
    *("--model=demo", "--n_samples=2", "--sample_length_in_seconds=10", "--total_sample_length_in_seconds=10"),
    *("--artist=anna bell", "--genre=disco", "--lyrics=mila sola timi\\kalu mesi loki\\sama tole kisu"),
]


def run(*words: str) -> None:
    subprocess.run([sys.executable, *words], cwd=ROOT, check=True)


def make_pages(folder: Path) -> dict[str, Path]:
    """Makes the three pages in a folder. Returns the path of each by the name of its picture."""
    run("jukebox/sample.py", f"--name={folder}/samples", *SONGS)
    song = folder / "samples" / "level_0" / "item_0.wav"
    run("jukebox/reconstruct.py", "--model=demo", f"--audio_file={song}", f"--name={folder}/reconstructed")
    notebook = ROOT / "jukebox" / "Interacting_with_Jukebox.ipynb"
    words = ("-m", "nbconvert", "--to=html", "--execute", f"--output-dir={folder}", "--output=notebook", str(notebook))
    run(*words)
    return {
        "page": folder / "samples" / "level_0" / "index.html",
        "page.ja": folder / "samples" / "level_0" / "index.html",
        "reconstruct": folder / "reconstructed" / "index.html",
        "notebook": folder / "notebook.html",
    }


def main() -> None:
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        pages = make_pages(Path(folder))
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        for name, path in pages.items():
            locale, scheme = ("ja-JP", "dark") if name == "page.ja" else ("en-GB", "light")
            page = browser.new_page(viewport={"width": 900, "height": 1000}, locale=locale, color_scheme=scheme)
            page.goto(path.as_uri())
            if name.startswith("page"):
                page.evaluate("document.querySelector('audio').currentTime = 3.2")
                page.locator(".favourite").first.click()
            if name == "notebook":
                page.locator("audio").nth(3).scroll_into_view_if_needed()
            page.wait_for_timeout(1000)
            page.screenshot(path=DOCS / f"{name}.png")
        browser.close()


if __name__ == "__main__":
    main()
