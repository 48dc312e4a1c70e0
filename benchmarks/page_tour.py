"""Films a new user's way through the page as pictures, and counts the actions. `python -m benchmarks.page_tour`

Two ways: from first sight to a personalised picture, and from five photos to a picture of a new subject. An action is a
click, a drop of files or the filling of one field; waiting is none. The pictures go to docs/page/. Needs Playwright and
a Chromium.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.page_server import ROOT, browser, serve, untrained

FILM = ROOT / "docs" / "page"
DESKTOP, PHONE = {"width": 1400, "height": 1000}, {"width": 390, "height": 844}
SUBJECT = "clock"  # of the shipped ones, the one that a person recognises at a glance
TO_A_PICTURE, TO_A_SUBJECT = 3, 6  # actions that a way may take
PATIENCE = 3_600_000  # milliseconds: a training may take that long here
SETTLED = 700  # milliseconds until what moves on the page stands still


class Tour:
    """A page in a browser, its pictures, and how many actions the person needed."""

    def __init__(self, page: Any, folder: Path, whole_way: bool = True) -> None:
        self.page, self.folder, self.whole_way, self.actions = page, folder, whole_way, 0
        page.set_default_timeout(PATIENCE)

    def open(self, address: str) -> None:
        self.page.goto(address, wait_until="domcontentloaded")
        self.page.locator(".tile").nth(1).wait_for()
        self.page.wait_for_function("document.querySelector('#prompt textarea')?.value")

    def click(self, selector: str, number: int = 0) -> None:
        self.page.locator(selector).nth(number).click()
        self.actions += 1

    def drop(self, photos: list[Path]) -> None:
        self.page.locator("#drop input[type=file]").first.set_input_files([str(photo) for photo in photos])
        self.page.locator("#photos .photo").nth(len(photos) - 1).wait_for()
        self.actions += 1

    def write(self, selector: str, text: str) -> None:
        self.page.locator(selector).fill(text)
        self.actions += 1

    def shoot(self, name: str, whole: bool = False, last: bool = False) -> None:
        if not (self.whole_way or last):
            return
        self.page.wait_for_timeout(SETTLED)
        path = self.folder / f"{name}.jpg"
        self.page.screenshot(path=path, type="jpeg", quality=82, full_page=whole)
        print(f"{self.actions} actions  {path.name}", flush=True)


def to_a_picture(tour: Tour, address: str, name: str) -> None:
    """First sight, a subject, a prompt, its pictures beside the base's."""
    tour.open(address)
    tour.shoot(f"{name}-1-first-sight")
    tour.click(f".tile:has-text('{SUBJECT}')")
    tour.page.locator(".tile[aria-pressed=true]").nth(0).wait_for()
    tour.page.locator(f"#examples .chip:has-text('{SUBJECT}')").nth(0).wait_for()
    tour.click("#examples .chip", 1)
    tour.shoot(f"{name}-2-asked")
    tour.click("#generate")
    tour.page.locator("#results .sketched").first.wait_for()
    tour.shoot(f"{name}-3-drawing")
    tour.page.locator("#results .bar").wait_for()
    tour.shoot(f"{name}-4-pictures", last=True)
    require(tour, TO_A_PICTURE)


def to_a_subject(tour: Tour, address: str, photos: list[Path], noun: str, steps: int | None) -> None:
    """Five photos, a training, pictures of the new subject."""
    tour.open(address)
    tour.click("[role=tab]:has-text('Train')")
    tour.drop(photos)
    tour.write("#noun input, #noun textarea", noun)
    tour.shoot("train-1-photos", whole=True)
    if steps:  # a rehearsal; a person would take the preset
        tour.page.get_by_role("button", name="Settings").locator("visible=true").click()
        tour.page.get_by_label("Steps", exact=True).locator("visible=true").fill(str(steps))
    tour.click("#train")
    tour.page.locator("#progress svg").wait_for()
    tour.page.locator("#samples figure").first.wait_for()
    tour.shoot("train-2-training", whole=True)
    tour.page.locator("#use").wait_for()
    tour.shoot("train-3-finished", whole=True)
    tour.click("#use")
    tour.page.wait_for_function(f"document.querySelector('#prompt textarea').value.includes('{noun}')")
    tour.click("#generate")
    tour.page.locator("#results .drawing").wait_for()
    tour.page.locator("#results .bar").wait_for()
    tour.shoot("train-4-pictures")
    require(tour, TO_A_SUBJECT)


def require(tour: Tour, most: int) -> None:
    if tour.actions > most:
        raise SystemExit(f"error: it took {tour.actions} actions, expected at most {most}")


def film(folder: Path, steps: int | None = None) -> None:
    """All pictures into a folder. `steps` shortens the training."""
    folder.mkdir(parents=True, exist_ok=True)
    photos = untrained()
    with tempfile.TemporaryDirectory() as runs, browser() as chromium:
        server, address = serve(Path(runs))
        try:
            for name, size, scheme in (
                ("page", DESKTOP, "light"),
                ("dark", DESKTOP, "dark"),
                ("phone", PHONE, "light"),
            ):
                page = chromium.new_page(viewport=size, color_scheme=scheme)
                to_a_picture(Tour(page, folder, whole_way=name == "page"), address, name)
                page.close()
            page = chromium.new_page(viewport=DESKTOP, color_scheme="light")
            to_a_subject(Tour(page, folder), address, sorted(photos.glob("*.png"))[:5], photos.name, steps)
        finally:
            server.terminate()
            server.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=FILM, help="where the pictures go (default docs/page)")
    parser.add_argument("--steps", type=int, help="steps of the training, for a rehearsal (default: the preset)")
    flags = parser.parse_args()
    film(flags.folder, flags.steps)


if __name__ == "__main__":
    main()
