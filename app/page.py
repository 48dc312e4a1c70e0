"""The page: its tabs share one generator, one gallery and one queue of trainings."""

from typing import Any

import gradio as gr

from . import cards
from .api import Api
from .components import OFTEN, PRIVATE
from .drawings import Drawings
from .gallery import Gallery
from .gallery_tab import DELETE, GalleryTab
from .generate_tab import GenerateTab
from .generation import Generator
from .handlers import shows_errors, streams_errors
from .jobs import Jobs
from .sessions import Sessions
from .sheets_tab import SheetsTab
from .subjects_tab import SubjectsTab
from .theme import CSS, HEAD, theme
from .train_tab import TrainTab

TITLE = "VectorFit"
INTRODUCTION = (
    "See your subject, say what to draw, compare. A **subject** is one thing, learnt from a few photos of it; its "
    "phrase, such as *sks dog*, calls it in a prompt."
)
STARTER = (
    " The model behind this page, the **starter**, is a small one for demonstration: it draws simple scenes at "
    "{0} × {0} pixels."
)
CACHE_CLEANUP = (3600, 3600)  # seconds: how often gradio removes old files from its cache, and from which age
LIST_SECONDS = 2.0  # how often an open page asks whether the list of subjects changed


def appearance() -> dict[str, Any]:
    """The options of gradio's `launch` for theme and style."""
    return {"theme": theme(), "css": CSS, "head": HEAD}


def build(generator: Generator, jobs: Jobs, gallery: Gallery) -> gr.Blocks:
    """The whole page. It keeps no data of a session; a session's own data is in its `gr.State`."""
    sessions, drawings, base = Sessions(), Drawings(generator, gallery), generator.default_base
    with gr.Blocks(title=TITLE, delete_cache=CACHE_CLEANUP, analytics_enabled=False, fill_width=True) as page:
        starter = STARTER.format(base.preset.resolution) if base.name == "starter" else ""
        gr.Markdown(f"# {TITLE}\n{INTRODUCTION}{starter}", elem_id="title")
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab("Generate", id="generate"):
                generate = GenerateTab(generator, gallery, drawings, sessions)
            with gr.Tab("Gallery", id="gallery") as gallery_page:
                kept = GalleryTab(gallery)
            with gr.Tab("Train", id="train"):
                train = TrainTab(generator, jobs)
            with gr.Tab("Subjects", id="subjects") as subjects_page:
                subjects = SubjectsTab(generator, jobs)
            with gr.Tab("Sheets", id="sheets") as sheets_page:
                sheets = SheetsTab(generator, sessions)
        Api(generator, jobs)
        page.load(train.presets, None, train.preset, **PRIVATE)
        _list_subjects(page, generator, (sheets, subjects), generate)
        _connect(page, tabs, gallery_page, generate, kept)
        _use(tabs, generate, (train.use, train.job), (subjects.use, subjects.subject))
        subjects_page.select(subjects.first, subjects.subject, subjects.subject, **PRIVATE)
        sheets_page.select(sheets.first, [sheets.subject, sheets.prompt], [sheets.subject, sheets.prompt], **PRIVATE)

        def page_closed(request: gr.Request) -> None:
            """Cancels the session's sheets: nobody waits for them. What Generate draws goes to the gallery."""
            sessions.cancel(request.session_hash)

        page.unload(page_closed)
    return page


def _list_subjects(page: gr.Blocks, generator: Generator, tabs: tuple[Any, ...], generate: GenerateTab) -> None:
    """Keeps every list of subjects up to date, also in tabs that were never opened."""
    listed, timer = gr.State([]), gr.Timer(LIST_SECONDS)
    lists = [listed, *generate.lists, *(component for tab in tabs for component in tab.lists)]

    def refreshed(chosen: str) -> list[Any]:
        return [
            generator.library.names(),
            *generate.refreshed(chosen),
            *(update for tab in tabs for update in tab.refreshed()),
        ]

    def refreshed_if_changed(listed_names: list[str], chosen: str) -> list[Any]:
        """The lists, if a subject was added or removed since this session's lists were filled."""
        return [gr.skip()] * len(lists) if listed_names == generator.library.names() else refreshed(chosen)

    page.load(refreshed, generate.subject, lists, **PRIVATE)
    timer.tick(refreshed_if_changed, [listed, generate.subject], lists, **OFTEN)


def _connect(page: gr.Blocks, tabs: gr.Tabs, gallery_page: gr.Tab, generate: GenerateTab, kept: GalleryTab) -> None:
    """What leads from one tab to another, and back to what this browser left."""

    def opened(key: str, request: gr.Request) -> tuple[Any, ...]:
        return generate.opened(key, request.query_params.get("settings", ""))

    def acted(key: str, event: gr.EventData) -> tuple[Any, ...]:
        """Fills the form with a drawing's settings and shows it, or deletes the drawing."""
        drawing = generate.gallery.find(key, event.of)
        if event.action == DELETE:
            generate.gallery.delete(key, event.of)
            newest = next(iter(generate.gallery.all(key)), None)
            return gr.skip(), *(gr.skip(),) * len(generate.form), cards.results(newest), *kept.shown(key)
        form = generate.filled(drawing.parameters | {"seed": drawing.seeds[0]})
        gr.Info("The form holds these settings.")
        return gr.Tabs(selected="generate"), *form, gr.skip(), gr.skip(), gr.skip()

    outputs = [tabs, *generate.form, generate.results, *kept.components]
    for shown in (generate.results, kept.drawings):
        shown.click(shows_errors(acted), generate.key, outputs, **PRIVATE)
    gallery_page.select(kept.shown, generate.key, kept.components, **PRIVATE)
    watched = [generate.results, generate.go, generate.cancel]
    page.load(opened, generate.key, [generate.key, *generate.form, generate.results], **PRIVATE).then(
        **generate.filling
    ).then(streams_errors(generate.resumed), generate.key, watched, **PRIVATE)


def _use(tabs: gr.Tabs, generate: GenerateTab, *sources: tuple[gr.Button, gr.Dropdown]) -> None:
    """Buttons that show a subject in Generate, with its prompt filled in."""

    def use(name: str) -> tuple[Any, str]:
        return gr.Tabs(selected="generate"), generate.library.find(name or "").name

    for button, menu in sources:
        button.click(shows_errors(use), menu, [tabs, generate.subject], **PRIVATE).then(**generate.filling)
