"""One whole way through the page, in a real browser. Needs Playwright and a Chromium (`CHROMIUM` names it)."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

sync_api = pytest.importorskip("playwright.sync_api")
ROOT = Path(__file__).parents[2]
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")]
WAIT = 240_000  # milliseconds; a training may run beside


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The app as a user starts it."""
    runs = tmp_path_factory.mktemp("browser") / "runs"
    command = [sys.executable, "app/app.py", "--runs", str(runs), "--base_model", "starter"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    ) as app:
        for line in app.stdout:
            if "Running on local URL" in line:
                break
        yield line.split()[-1]
        app.terminate()


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


def opened(browser, address, **look):
    """The page, every request to elsewhere refused and kept."""
    context = browser.new_context(**look)
    page, strays = context.new_page(), []
    page.set_default_timeout(WAIT)

    def local(route):
        if "127.0.0.1" in route.request.url or route.request.url.startswith(("data:", "blob:")):
            route.continue_()
        else:
            strays.append(route.request.url)
            route.abort()

    page.route("**/*", local)
    page.goto(address, wait_until="domcontentloaded")
    page.get_by_role("button", name="Generate", exact=True).wait_for()
    return page, strays


def generate(page, pictures=2):
    """Presses the button and waits for new pictures at both sides."""
    before = page.get_by_label("Seeds used").input_value()
    page.get_by_role("button", name="Generate", exact=True).click()
    sync_api.expect(page.get_by_label("Seeds used")).not_to_have_value(before, timeout=WAIT)
    for gallery in ("#pictures", "#base-pictures"):
        sync_api.expect(page.locator(f"{gallery} img")).to_have_count(pictures, timeout=WAIT)


def test_choose_generate_train_stop_resume_and_generate_with_it(browser, address):
    page, strays = opened(browser, address, viewport={"width": 1400, "height": 1000})
    prompt = page.get_by_label("Prompt", exact=True)
    sync_api.expect(prompt).to_have_value("a photo of sks backpack")  # the first subject is chosen at once
    page.locator("#subjects button.thumbnail-item", has_text="dog").click()
    sync_api.expect(prompt).to_have_value("a photo of sks dog")
    generate(page)
    seeds = page.get_by_label("Seeds used").input_value().split(", ")
    page.get_by_role("button", name="Use this seed again").click()
    sync_api.expect(page.get_by_label("Seed of the first image")).to_have_value(seeds[0])

    page.get_by_role("tab", name="Train").click()
    photos = sorted((ROOT / "examples" / "clock").glob("*.png"))
    page.locator('input[type=file][accept*=".jpg"]').first.set_input_files([str(path) for path in photos])
    sync_api.expect(page.locator("#upright img")).to_have_count(5, timeout=WAIT)
    page.get_by_label("What is it?").fill("clock")
    page.get_by_label("Name of the subject").fill("mantel")
    page.get_by_role("button", name="Advanced settings").click()
    page.get_by_label("Steps", exact=True).locator("visible=true").fill("20")
    page.locator("#train").click()
    progress = page.locator("#progress")
    sync_api.expect(progress).to_contain_text("mantel: running", timeout=WAIT)
    sync_api.expect(progress).to_contain_text("loss", timeout=WAIT)
    page.locator("#stop").click()
    sync_api.expect(progress).to_contain_text("mantel: stopped", timeout=WAIT)
    assert "step 20 of 20" not in progress.inner_text()
    page.locator("#resume").click()
    sync_api.expect(progress).to_contain_text("mantel: finished, step 20 of 20", timeout=WAIT)
    sync_api.expect(page.locator("#samples img")).to_be_visible()

    page.get_by_role("tab", name="Generate").click()
    page.get_by_label("Subject", exact=True).locator("visible=true").click()
    page.get_by_role("option", name="mantel").click()
    page.get_by_label("Random seed").check()
    sync_api.expect(prompt).to_have_value("a photo of sks clock")
    generate(page)
    assert strays == []


def test_cancel_truly_stops(browser, address):
    page, _ = opened(browser, address)
    page.get_by_role("button", name="More settings").click()
    page.get_by_label("number input for Steps").locator("visible=true").fill("200")
    page.get_by_role("button", name="Generate", exact=True).click()
    sync_api.expect(page.locator("#pictures")).to_contain_text("steps", timeout=WAIT)
    page.locator("#cancel").click()
    sync_api.expect(page.get_by_label("Note").locator("visible=true")).to_have_value("Cancelled.")
    page.get_by_label("number input for Steps").locator("visible=true").fill("2")
    began = time.monotonic()
    generate(page)
    assert time.monotonic() - began < 60  # two hundred steps of four pictures would take longer
    assert page.locator("#pictures img").count() == 2


def test_two_browsers_do_not_mix(browser, address):
    pages = {name: opened(browser, address)[0] for name in ("dog", "cat")}
    for name, page in pages.items():
        page.locator("#subjects button.thumbnail-item", has_text=name).click()
        sync_api.expect(page.get_by_label("Prompt", exact=True)).to_have_value(f"a photo of sks {name}")
    for page in pages.values():
        page.get_by_role("button", name="Generate", exact=True).click()
    for name, page in pages.items():
        sync_api.expect(page.locator("#pictures img")).to_have_count(2, timeout=WAIT)
        assert all(f"/{name}-" in img.get_attribute("src") for img in page.locator("#pictures img").all())
        assert page.get_by_label("Prompt", exact=True).input_value() == f"a photo of sks {name}"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_on_a_telephone(browser, address, scheme):
    page, _ = opened(browser, address, viewport={"width": 390, "height": 844}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for tab in ("Sheets", "Train", "Inspect", "Generate"):
        page.get_by_role("tab", name=tab).click()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    unnamed = page.evaluate(
        "[...document.querySelectorAll('input:not([type=file]):not([type=hidden]), textarea, select')]"
        ".filter(e => e.offsetParent && !(e.labels?.length || e.ariaLabel || e.getAttribute('aria-labelledby')"
        " || e.placeholder || e.title)).map(e => e.outerHTML.slice(0, 200))"
    )
    assert unnamed == []
