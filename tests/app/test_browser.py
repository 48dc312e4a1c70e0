"""The page in a real browser: every way through it, good and bad, and what a person sees on the screen.

Needs Playwright and a Chromium (`CHROMIUM` names it).
"""

import os
import re
import signal
import time
import zipfile
from pathlib import Path

import psutil
import pytest
from PIL import Image

import vectorfit as vf
from benchmarks.page_server import CHROMIUM, ROOT, serve, untrained
from tests.app.stand_ins import write_subject
from vf_dreambooth.base_models import resolve
from vf_dreambooth.images import read_parameters

sync_api = pytest.importorskip("playwright.sync_api")
expect = sync_api.expect
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")]
WAIT = int(os.environ.get("BROWSER_WAIT", "240")) * 1000  # milliseconds; a training may run beside
SIZES = {"desktop": {"width": 1400, "height": 1000}, "phone": {"width": 390, "height": 844}}
sync_api.expect.set_options(timeout=WAIT)
NOUN = untrained().name
PHOTOS = sorted(untrained().glob("*.png"))[:5]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("browser") / "runs"


@pytest.fixture(scope="module")
def address(runs):
    app, address = serve(runs)
    yield address
    app.terminate()
    app.wait()


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@pytest.fixture(params=SIZES)
def page(request, browser, address):
    """The page at one of both sizes, in a browser of its own."""
    page, strays = opened(browser, address, viewport=SIZES[request.param])
    yield page
    assert strays == []
    page.context.close()


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
    expect(page.locator("#prompt textarea")).not_to_have_value("", timeout=WAIT)
    return page, strays


def tab(page, name):
    """Opens a tab; on a telephone some are in a menu."""
    button = page.get_by_role("tab", name=name, exact=True).first
    if not button.is_visible():
        page.locator(".overflow-menu > button").click()
        button = page.locator(".overflow-dropdown button", has_text=name)
    button.click()


def choose(page, number):
    """Clicks a tile; gives the subject's name and the words that call it."""
    tile = page.locator(".tile").nth(number)
    name, trigger = (tile.locator(part).text_content() for part in ("b", "small"))
    tile.click()
    expect(page.locator("#prompt textarea")).to_have_value(re.compile(trigger))
    return name, trigger


def generate(page):
    page.locator("#generate").click()
    expect(page.locator("#results .drawing")).to_be_visible()
    expect(page.locator("#results .bar")).to_be_visible(timeout=WAIT)


def shows(page, text):
    """A message on the screen, whole and inside it; then closes it."""
    toast = page.get_by_test_id("toast-body").filter(has_text=text).first
    expect(toast).to_be_visible()
    box, size = toast.bounding_box(), page.viewport_size
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= size["width"] + 1
    assert "&" not in toast.inner_text()
    assert str(ROOT) not in toast.inner_text()
    while page.get_by_test_id("toast-close").count():
        page.get_by_test_id("toast-close").first.click()
        page.wait_for_timeout(300)


def test_three_actions_lead_to_a_picture_of_a_subject(page):
    name, trigger = choose(page, 1)
    page.locator("#examples .chip", has_text=f"{trigger} in the snow").click()
    expect(page.locator("#prompt textarea")).to_have_value(f"{trigger} in the snow")
    generate(page)
    assert page.locator("#results .pair").count() == 2
    for pair in page.locator("#results .pair").all():
        base, own = pair.locator("figcaption").all_inner_texts()
        assert base.startswith("Base model · seed")
        assert own == f"{name} · seed {base.split()[-1]}"
    expect(page.locator("#results img").first).to_be_in_viewport()
    page.evaluate("scrollTo(0, 0)")
    top = page.locator("#results img").first.bounding_box()["y"]
    assert top < 760, "the results stand under Generate, not under the settings"
    assert page.locator("#references img").count() >= 3


def test_ctrl_enter_generates_and_a_click_makes_a_picture_larger(page):
    page.locator("#prompt textarea").press("Control+Enter")
    expect(page.locator("#results .bar")).to_be_visible(timeout=WAIT)
    picture = page.locator("#results .zoom").nth(1)
    small = picture.bounding_box()["width"]
    picture.press("Enter")  # the keyboard opens it too
    full = page.locator("dialog#full img")
    expect(full).to_be_visible()
    page.wait_for_timeout(300)
    assert full.bounding_box()["width"] > small
    assert full.evaluate("e => getComputedStyle(e).imageRendering") == "pixelated"
    page.keyboard.press("Escape")
    expect(page.locator("dialog#full")).not_to_be_visible()


def test_cancel_shows_only_while_drawing_and_truly_stops(page):
    expect(page.locator("#cancel")).not_to_be_visible()
    page.get_by_role("button", name="Settings").locator("visible=true").click()
    page.get_by_label("number input for Steps").locator("visible=true").fill("200")
    page.locator("#generate").click()
    expect(page.locator("#results .drawing")).to_contain_text("step")
    page.locator("#cancel").click()
    shows(page, "Cancelled")
    expect(page.locator("#cancel")).not_to_be_visible()
    page.get_by_label("number input for Steps").locator("visible=true").fill("2")
    began = time.monotonic()
    generate(page)
    assert time.monotonic() - began < 60  # two hundred steps of four pictures would take longer


def test_a_reload_while_drawing_loses_neither_pictures_nor_form(page):
    page.locator("#prompt textarea").fill("sks dog on the beach")
    page.locator("#generate").click()
    expect(page.locator("#results .drawing")).to_contain_text("step")
    page.reload(wait_until="domcontentloaded")
    expect(page.locator("#prompt textarea")).to_have_value("sks dog on the beach")
    expect(page.locator("#results .bar")).to_be_visible(timeout=WAIT)
    expect(page.locator("#results .zoom")).to_have_count(4)


def test_what_was_drawn_can_be_reused_linked_downloaded_and_deleted(page, tmp_path):
    page.locator("#prompt textarea").fill("a photo of a cat")
    generate(page)
    tab(page, "Gallery")
    kept = page.locator("#gallery .kept")
    expect(kept).to_have_count(1)
    for link, name in ((kept.locator("a"), "one.zip"), (page.locator("#download-all a"), "all.zip")):
        with page.expect_download() as download:
            link.click()
        download.value.save_as(tmp_path / name)
        with zipfile.ZipFile(tmp_path / name) as archive:
            archive.extractall(tmp_path / name[:3])
        pictures = list((tmp_path / name[:3]).rglob("*.png"))
        assert len(pictures) == 4
        assert {read_parameters(path)["prompt"] for path in pictures} == {"a photo of a cat"}
        assert Image.open(pictures[0]).size[0] > 0
    link = kept.locator("[data-copy]").get_attribute("data-copy")
    kept.get_by_text("Use these settings").click()
    shows(page, "holds these settings")
    expect(page.locator("#prompt textarea")).to_have_value("a photo of a cat")
    other = page.context.browser.new_context().new_page()
    other.goto(page.url.split("?")[0] + link, wait_until="domcontentloaded")
    expect(other.locator("#prompt textarea")).to_have_value("a photo of a cat", timeout=WAIT)
    expect(other.locator("#results")).to_contain_text("Your pictures appear here")
    other.context.close()
    page.once("dialog", lambda dialog: dialog.accept())
    page.locator("#results").get_by_text("Delete").click()
    expect(page.locator("#results")).to_contain_text("Your pictures appear here")


def test_a_prompt_that_is_too_long_says_what_is_cut(page):
    page.locator("#prompt textarea").fill("dog " * 500 + "<b>snow</b>")
    expect(page.locator("#tokens .cut")).to_contain_text("<b>snow</b>")
    page.locator("#prompt textarea").fill("a dog")
    expect(page.locator("#tokens .count")).to_have_text(re.compile(r"^2 of \d+ tokens$"))
    expect(page.locator("#tokens .unsaid")).to_contain_text("It does not say “sks")


def test_mixing_says_how_to_write_the_prompt(page):
    page.get_by_role("button", name="Mix with a second subject").click()
    page.get_by_label("Second subject").click()
    page.get_by_role("option").nth(2).click()  # after "(none)" and the first, which is chosen already
    expect(page.locator("#mixing")).to_contain_text("Say both in the prompt")
    one, two = page.locator(".tile small").all_text_contents()[:2]
    page.locator("#mixing .chip").click()
    expect(page.locator("#prompt textarea")).to_have_value(f"a photo of {one} and {two}")
    generate(page)
    pair = page.locator("#results .pair").first
    base, mixed = (figure.bounding_box() for figure in pair.locator("figure").all())
    assert base["width"] < 0.4 * mixed["width"]
    assert mixed["x"] < base["x"]
    assert base["x"] + base["width"] <= mixed["x"] + mixed["width"]
    pair.locator(".zoom").first.click()  # the corner opens like any other picture
    expect(page.locator("dialog#full p").first).to_have_text("base")


def test_what_generate_refuses_is_read_on_the_screen(page, tmp_path):
    page.locator("#prompt textarea").fill("")
    page.locator("#generate").click()
    shows(page, "prompt: empty, expected some words")
    page.get_by_role("button", name="Settings").locator("visible=true").click()
    Image.new("RGB", (4, 4)).save(tmp_path / "foreign.png")
    page.locator('input[type=file][accept*=".png"]').first.set_input_files(str(tmp_path / "foreign.png"))
    shows(page, "foreign.png: holds no settings")
    (tmp_path / "wrong.safetensors").write_bytes(b"it's no subject")
    page.locator('input[type=file][accept*=".safetensors"]').set_input_files(str(tmp_path / "wrong.safetensors"))
    shows(page, "wrong.safetensors")
    page.get_by_label("First seed").fill("-5")
    page.get_by_label("A new seed each time").uncheck()
    page.locator("#prompt textarea").fill("a dog")
    page.locator("#generate").click()
    shows(page, "0")


def test_every_setting_of_generate_reaches_the_picture_and_comes_back_from_it(page, tmp_path):
    page.get_by_label("number input for Strength").locator("visible=true").fill("0.5")
    page.get_by_label("number input for Pictures").fill("1")
    page.get_by_label("Draw the base model's picture beside each").uncheck()
    page.get_by_role("button", name="Settings").locator("visible=true").click()
    page.get_by_label("A new seed each time").uncheck()
    page.get_by_label("First seed").fill("7")
    page.get_by_label("Negative prompt").fill("rain")
    for field, value in (("Steps", "3"), ("Guidance", "2.5"), ("Width and height in pixels", "128")):
        page.get_by_label(f"number input for {field}").locator("visible=true").fill(value)
    page.get_by_label("Scheduler").click()
    page.get_by_role("option", name="DDIM").click()
    generate(page)
    expect(page.locator("#results .zoom")).to_have_count(1)
    picture = page.locator("#results img").get_attribute("src")
    (tmp_path / "drawn.png").write_bytes(page.request.get(f"{page.url}{picture}").body())
    told = read_parameters(tmp_path / "drawn.png")
    expected = {"negative_prompt": "rain", "seed": 7, "num_inference_steps": 3, "guidance_scale": 2.5}
    expected |= {"resolution": 128, "sampler": "DDIM"}
    assert {key: told[key] for key in expected} == expected
    assert [each["strength"] for each in told["subjects"]] == [0.5]
    page.get_by_label("Negative prompt").fill("")
    page.get_by_label("number input for Steps").locator("visible=true").fill("9")
    page.locator("#prompt textarea").fill("something else")
    page.locator('input[type=file][accept*=".png"]').first.set_input_files(str(tmp_path / "drawn.png"))
    expect(page.get_by_label("Negative prompt")).to_have_value("rain")
    expect(page.get_by_label("number input for Steps").locator("visible=true")).to_have_value("3")
    expect(page.locator("#prompt textarea")).to_have_value(told["prompt"])


def test_the_fields_of_train_say_what_is_wrong_with_them(page):
    tab(page, "Train")
    page.get_by_role("button", name="Settings").locator("visible=true").click()
    page.get_by_text(re.compile("^Quick")).click()
    balanced = resolve("starter").preset.max_train_steps
    expect(page.get_by_label("Steps", exact=True).locator("visible=true")).to_have_value(str(round(balanced / 3)))
    page.locator("#drop input[type=file]").first.set_input_files([str(path) for path in PHOTOS])
    expect(page.locator("#photos .photo")).to_have_count(5)
    page.get_by_label("Class noun").fill("")
    page.locator("#train").click()
    shows(page, "class noun: missing")
    page.get_by_label("Class noun").fill(NOUN)
    page.get_by_label("Seed", exact=True).locator("visible=true").fill("-1")
    page.locator("#train").click()
    shows(page, re.compile("seed: got -1|-1 is less than"))


def test_what_train_refuses_is_read_on_the_screen(page, tmp_path):
    tab(page, "Train")
    page.locator("#train").click()
    shows(page, "0 photos; expected 3 to 10")
    files = page.locator('input[type=file][accept*=".jpg"]').first
    files.set_input_files([str(path) for path in PHOTOS[:2]])
    shows(page, "2 photos; expected 3 to 10")
    page.locator("#train").click()
    shows(page, "2 photos; expected 3 to 10")
    (tmp_path / "no-photo.png").write_bytes(b"GIF89a")
    files.set_input_files([str(tmp_path / "no-photo.png")])
    expect(page.locator("#photos .warned")).to_contain_text("no-photo.png")


@pytest.mark.parametrize("field", ["Steps", "Learning rate"])
def test_settings_that_can_only_fail_are_refused_with_their_range(page, field):
    tab(page, "Train")
    page.locator('input[type=file][accept*=".jpg"]').first.set_input_files([str(path) for path in PHOTOS])
    expect(page.locator("#photos img")).to_have_count(5, timeout=WAIT)
    page.get_by_label("Class noun").fill(NOUN)
    page.get_by_role("button", name="Settings").locator("visible=true").click()
    page.get_by_label(field, exact=True).locator("visible=true").fill("1000000000000")
    page.locator("#train").click()
    shows(page, re.compile(rf"{field.lower()}: got 1e\+12, expected \S+ to \S+"))


def test_what_sheets_and_subjects_refuse_is_read_on_the_screen(page):
    tab(page, "Sheets")
    page.get_by_label("Subject", exact=True).locator("visible=true").click()
    page.get_by_role("option", name="(none)").click()
    page.get_by_role("button", name="Generate the sweep").click()
    shows(page, "a sweep of strengths needs a subject")
    page.get_by_role("tab", name="Prompts × subjects").click()
    page.get_by_role("button", name="Generate the table").click()
    shows(page, "got 0 subjects and 3 prompts")
    tab(page, "Subjects")
    expect(page.locator("#subject-card")).to_contain_text("came with VectorFit")
    expect(page.locator("#rename")).not_to_be_visible()
    expect(page.locator("#delete-subject")).not_to_be_visible()


def test_a_sheet_is_drawn_and_carries_its_settings(page, tmp_path):
    tab(page, "Sheets")
    expect(page.locator("#no-sheet")).to_be_visible()
    expect(page.get_by_label("Prompt", exact=True).locator("visible=true")).not_to_have_value("")
    page.get_by_label("number input for Columns").fill("2")
    page.get_by_label("number input for Rows, a seed each").fill("1")
    page.get_by_role("button", name="Generate the sweep").click()
    expect(page.locator("#sheet img")).to_be_visible()
    expect(page.locator("#no-sheet")).not_to_be_visible()
    with page.expect_download() as download:
        page.locator("#sheet").get_by_label("Download").click()
    download.value.save_as(tmp_path / "sheet.png")
    assert read_parameters(tmp_path / "sheet.png")["columns"] == ["0", "1.5"]


def test_a_photo_is_cut_captioned_and_removed(page, runs):
    name = f"cut-{page.viewport_size['width']}"
    tab(page, "Train")
    page.locator("#drop input[type=file]").first.set_input_files([str(path) for path in PHOTOS])
    expect(page.locator("#photos .photo")).to_have_count(5)
    page.locator(".photo .caption").nth(1).fill("a photo of {token} {class} <b>at sea</b>")
    page.locator("[data-cut]").nth(2).click()
    for field, value in (("side", "0.5"), ("x", "1"), ("y", "0")):
        page.locator(f"dialog#crop [name={field}]").fill(value)
    page.locator("dialog#crop [name=done]").click()
    page.locator("#photos [data-action=remove]").first.click()
    expect(page.locator("#photos .photo")).to_have_count(4)
    expect(page.locator(".photo .caption").first).to_have_value("a photo of {token} {class} <b>at sea</b>")
    expect(page.locator(".photo .caption").nth(1)).to_have_value("")
    page.get_by_label("Class noun").fill(NOUN)
    page.get_by_label("Name, if you like").fill(name)
    expect(page.locator("#called")).to_contain_text(f"sks {NOUN} will call it")
    page.get_by_role("button", name="Settings").locator("visible=true").click()
    page.get_by_label("Steps", exact=True).locator("visible=true").fill("500")
    page.locator(".photo .caption").nth(3).fill("a clock that is {nothing}")
    page.locator("#train").click()
    shows(page, "unknown placeholder {nothing}")
    page.locator(".photo .caption").nth(3).fill("")
    page.locator("#train").click()
    expect(page.locator("#progress")).to_contain_text(name)
    stored = runs / "photos" / name
    assert (stored / "00.txt").read_text() == "a photo of {token} {class} <b>at sea</b>\n"
    assert sorted(path.name for path in stored.glob("*.txt")) == ["00.txt"]
    with Image.open(stored / "01.png") as cut, Image.open(PHOTOS[2]) as whole:
        side = whole.width // 2
        assert cut.tobytes() == whole.convert("RGB").crop((whole.width - side, 0, whole.width, side)).tobytes()
    page.locator("#stop").click()
    expect(page.locator("#progress")).to_contain_text(f"{name} is stopped")
    page.once("dialog", lambda dialog: dialog.accept())
    page.locator("#remove").click()
    shows(page, f"{name} is removed")


def test_every_export_is_downloaded_and_opens(page, tmp_path):
    tab(page, "Subjects")
    expect(page.locator("#subject-card")).to_contain_text("in a prompt")
    for kind, suffix in (("subject file", ".safetensors"), ("LoRA", ".safetensors"), ("merged", ".zip")):
        page.get_by_label("Export as").click()
        page.get_by_role("option", name=re.compile(kind)).first.click()
        page.locator("#export").click()
        link = page.locator("#exported a[download]").first
        expect(link).to_have_attribute("download", re.compile(rf"{suffix}$"), timeout=WAIT)
        page.wait_for_timeout(1000)
        with page.expect_download() as download:
            link.click()
        file = tmp_path / download.value.suggested_filename
        download.value.save_as(file)
        if suffix == ".zip":
            with zipfile.ZipFile(file) as archive:
                assert "model_index.json" in archive.namelist()
        elif kind == "subject file":
            assert vf.read_metadata(file)["vectorfit.base_model"] == "starter"
        else:
            assert file.stat().st_size > 1000


def test_an_added_subject_is_in_every_list_can_be_noted_renamed_and_deleted(page, tmp_path):
    name = f"toy-{page.viewport_size['width']}"
    file = write_subject(tmp_path / f"{name}.safetensors", scale=0.3)
    page.locator('input[type=file][accept*=".safetensors"]').set_input_files(str(file))
    shows(page, f"{name} (added) is added")
    expect(page.locator(".tile", has_text=name)).to_be_visible()
    tab(page, "Subjects")
    page.locator("#looked-at input").click()
    page.get_by_role("option", name=name).click()
    expect(page.get_by_label("New name")).to_have_value(name)
    page.get_by_label("Notes").fill("best at 0.8")
    page.locator("#keep-notes").click()
    shows(page, "The notes are saved")
    page.get_by_label("New name").fill("")
    page.locator("#rename").click()
    shows(page, "new name: empty")
    page.get_by_label("New name").fill(f"{name} two")
    page.locator("#rename").click()
    shows(page, f"{name}-two")
    expect(page.get_by_label("Notes")).to_have_value("best at 0.8")
    page.once("dialog", lambda dialog: dialog.accept())
    page.locator("#delete-subject").click()
    shows(page, "deleted")
    tab(page, "Generate")
    expect(page.locator(".tile", has_text=name)).to_have_count(0)


def test_train_stop_continue_and_generate_with_it(browser, address, runs):
    page, _ = opened(browser, address, viewport=SIZES["desktop"])
    tab(page, "Train")
    page.locator('input[type=file][accept*=".jpg"]').first.set_input_files([str(path) for path in PHOTOS])
    expect(page.locator("#photos figure")).to_have_count(5, timeout=WAIT)
    page.get_by_label("Class noun").fill(NOUN)
    page.get_by_label("Name, if you like").fill("mantel")
    page.get_by_role("button", name="Settings").locator("visible=true").click()
    page.get_by_label("Steps", exact=True).locator("visible=true").fill("30")
    page.locator("#train").click()
    progress = page.locator("#progress")
    expect(progress).to_contain_text("mantel is training")
    expect(progress.locator("[aria-current=step]")).to_have_text("3 training")
    expect(progress).to_contain_text(re.compile(r"about \d+ (min \d+ )?s left"))
    expect(page.locator("#stop")).to_be_visible()
    page.locator("#stop").click()
    expect(progress).to_contain_text("mantel is stopped")
    expect(progress).to_contain_text(re.compile(r"Continue goes on from step \d+"))
    page.locator("#resume").click()
    expect(progress).to_contain_text("mantel is training")
    expect(progress).to_contain_text(re.compile(r"step \d+ of 30"))
    # It is killed: the page says so, and from where it can go on.
    pid = next(p.pid for p in psutil.process_iter(["cmdline"]) if f"={runs / 'mantel'}" in str(p.info["cmdline"]))
    os.kill(pid, signal.SIGKILL)
    expect(progress).to_contain_text("mantel did not finish")
    expect(progress).to_contain_text("ended its process")
    expect(progress).to_contain_text(re.compile(r"Continue goes on from step \d+"))
    assert "%|" not in progress.inner_text()
    page.locator("#resume").click()
    expect(progress).to_contain_text("mantel is finished")
    assert page.locator("#samples figure").count() >= 2
    page.locator("#use").click()
    expect(page.locator("#prompt textarea")).to_have_value(f"a photo of sks {NOUN}")
    generate(page)
    page.context.close()


def test_two_browsers_do_not_mix(browser, address):
    pages = [opened(browser, address)[0] for _ in range(2)]
    names = [choose(page, number)[0] for number, page in enumerate(pages)]
    pages[0].get_by_label("number input for Pictures").fill("8")  # long enough for the other to come second
    for page in pages:
        page.locator("#generate").click()
    expect(pages[1].locator("#results .drawing")).to_contain_text("1 drawing before yours")
    expect(pages[0].locator("#results .sketched").first).to_be_visible()  # a live preview
    for page, name in zip(pages, names, strict=True):
        expect(page.locator("#results .bar")).to_be_visible(timeout=WAIT)
        captions = page.locator("#results figcaption").all_inner_texts()
        assert all(text.startswith(("Base model", f"{name} ·")) for text in captions)
        tab(page, "Gallery")
        expect(page.locator("#gallery .kept")).to_have_count(1)


def test_the_gallery_survives_a_killed_server(browser, tmp_path):
    app, address = serve(tmp_path / "runs")
    try:
        page, _ = opened(browser, address)
        generate(page)
        pictures = page.locator("#results img")
        sources = [image.get_attribute("src") for image in pictures.all()]
        app.kill()
        app.wait()
        app, _ = serve(tmp_path / "runs", int(address.rstrip("/").rpartition(":")[2]))
        page.goto(address, wait_until="domcontentloaded")
        expect(pictures).to_have_count(4)
        assert [image.get_attribute("src") for image in pictures.all()] == sources
        page.wait_for_timeout(1000)
        assert all(pictures.evaluate_all("all => all.map(one => one.naturalWidth > 0)"))
    finally:
        app.kill()
        app.wait()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_on_a_telephone(browser, address, scheme):
    page, _ = opened(browser, address, viewport=SIZES["phone"], color_scheme=scheme)
    for name in ("Generate", "Gallery", "Train", "Subjects", "Sheets"):
        tab(page, name)
        page.wait_for_timeout(500)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        outside = "[...document.querySelectorAll('.tiles, .chips, button.act, #generate, [role=tab]')]"
        outside += ".filter(e => e.offsetParent && e.getBoundingClientRect().right > 391).length"
        assert page.evaluate(outside) == 0
    unnamed = page.evaluate(
        "[...document.querySelectorAll('input:not([type=file]):not([type=hidden]), textarea, select')]"
        ".filter(e => e.offsetParent && !(e.labels?.length || e.ariaLabel || e.getAttribute('aria-labelledby')"
        " || e.placeholder || e.title)).map(e => e.outerHTML.slice(0, 200))"
    )
    assert unnamed == []
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_a_contrast_of_four_and_a_half(browser, address, scheme):
    page, _ = opened(browser, address, viewport=SIZES["desktop"], color_scheme=scheme)
    weak = (Path(__file__).parent / "contrast.js").read_text(encoding="utf-8")
    for name in ("Generate", "Gallery", "Train", "Subjects", "Sheets"):
        tab(page, name)
        page.wait_for_timeout(1500)
        assert page.evaluate(weak) == []
    # The same with something in it: a prompt that is cut, pictures, photos of which one is there twice, figures.
    tab(page, "Generate")
    page.locator("#prompt textarea").fill("a " * 500)
    generate(page)
    assert page.evaluate(weak) == []
    tab(page, "Gallery")
    expect(page.locator("#gallery .kept")).to_have_count(1)
    assert page.evaluate(weak) == []
    tab(page, "Train")
    page.locator("#drop input[type=file]").first.set_input_files([str(PHOTOS[n]) for n in (0, 0, 1)])
    expect(page.locator("#photos .warned")).to_have_count(1)
    page.locator("[data-cut]").first.click()
    assert page.evaluate(weak) == []
    page.keyboard.press("Escape")
    tab(page, "Subjects")
    page.get_by_role("button", name="How it was trained").click()
    expect(page.locator("#plots svg").first).to_be_visible()
    assert page.evaluate(weak) == []
    page.evaluate(
        "document.querySelector('#title').insertAdjacentHTML('beforeend', '<i style=\"color:#777\">weak</i>')"
    )
    assert [text.partition(":")[0] for text in page.evaluate(weak)] == ["weak"]  # the check can fail
    page.context.close()


def test_the_keyboard_alone_gets_through_generate(browser, address):
    page, _ = opened(browser, address, viewport=SIZES["desktop"])
    page.get_by_role("tab", name="Generate").first.focus()
    reached = []
    while "Generate" not in reached and len(reached) < 60:
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.innerText || document.activeElement.tagName").strip())
        if reached[-1].startswith(page.locator(".tile b").nth(1).inner_text()):
            page.keyboard.press("Enter")
    assert reached[-1] == "Generate"
    assert reached.index("TEXTAREA") < reached.index("Generate")
    expect(page.locator(".tile").nth(1)).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Enter")
    expect(page.locator("#results .bar")).to_be_visible(timeout=WAIT)
    page.context.close()
