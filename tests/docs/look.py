"""Every page of the built site in Chromium, at the width of a desk and of a phone, light and dark: pictures to look at.

It fails where a browser complains, asks another host for something, or has to scroll a page sideways.
``nox -s screenshots`` runs it; Chromium has to be installed.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).parents[2]
SITE = ROOT / "results/site"
WIDTHS = (1440, 1280, 390)
SCHEMES = ("light", "dark")

TOO_WIDE = """() => {
  const width = document.documentElement.clientWidth;
  const scrolls = (element) => {
    for (let e = element.parentElement; e; e = e.parentElement)
      if (["auto", "scroll", "hidden"].includes(getComputedStyle(e).overflowX)) return true;
    return false;
  };
  return document.documentElement.scrollWidth > width
    ? [`the page is ${document.documentElement.scrollWidth} wide`]
    : [...document.querySelectorAll("article *")]
        .filter((e) => e.getBoundingClientRect().right > width + 1 && !scrolls(e))
        .map((e) => `${e.tagName} ${e.className} sticks out`);
}"""


def listen(page: Page) -> list[str]:
    found: list[str] = []
    page.on("console", lambda said: found.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: found.append(str(error)))
    page.on("requestfailed", lambda request: found.append(f"not loaded: {request.url}"))
    page.on("request", lambda r: None if r.url.startswith(("file:", "data:")) else found.append(f"asks {r.url}"))
    return found


def main(out: Path) -> int:
    out.mkdir(parents=True, exist_ok=True)
    wrong = 0
    names = sorted(path.relative_to(SITE).as_posix() for path in SITE.rglob("*.html"))
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not names or not chromium:
        sys.exit("there is no site (nox -s docs) or no Chromium (apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for width in WIDTHS:
            for scheme in SCHEMES:
                context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
                for name in names:
                    page = context.new_page()
                    found = listen(page)
                    page.goto((SITE / name).as_uri())
                    page.wait_for_load_state("load")
                    for problem in [*found, *page.evaluate(TOO_WIDE)[:3]]:
                        print(f"{name}, {width} {scheme}: {problem}")
                        wrong += 1
                    picture = name.removesuffix(".html").replace("/", "_")
                    page.screenshot(path=out / f"{picture}-{width}-{scheme}.png", full_page=True)
                    page.close()
                context.close()
        browser.close()
    print(f"{len(names)} pages, pictures in {out}, {wrong} problems")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
