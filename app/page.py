"""The page: four tabs that share one generator and one queue of trainings."""

from typing import Any

import gradio as gr

from .components import OFTEN, PRIVATE
from .generate_tab import GenerateTab
from .generation import Generator
from .inspect_tab import InspectTab
from .jobs import Jobs
from .sessions import Sessions
from .sheets_tab import SheetsTab
from .train_tab import TrainTab

TITLE = "VectorFit: prompt your subjects"
CACHE_CLEANUP = (3600, 3600)  # seconds: how often gradio removes old files from its cache, and from which age
LIST_SECONDS = 2.0  # how often an open page asks whether the list of subjects changed
# System fonts, so that the page fetches none.
FONT, MONO = ("system-ui", "sans-serif"), ("ui-monospace", "Consolas", "monospace")
CSS = """
#subjects .grid-wrap, #upright .grid-wrap { min-height: 0; height: auto; max-height: 20rem; }
#pictures .grid-wrap, #base-pictures .grid-wrap { min-height: 0; height: auto; max-height: 70vh; }
#pictures, #base-pictures { min-height: 14rem; }
#pictures .grid-container, #base-pictures .grid-container { padding-top: 1.6rem; }
#progress progress { width: 100%; height: 1.1rem; accent-color: var(--color-accent); }
#progress pre { white-space: pre-wrap; font-size: .85rem; opacity: .8; }
@media (max-width: 480px) { .gradio-container { padding: .5rem !important; } }
"""


def appearance() -> dict[str, Any]:
    """The options of gradio's `launch` for theme and style."""
    return {
        "theme": gr.themes.Default(primary_hue="orange", neutral_hue="slate", font=FONT, font_mono=MONO),
        "css": CSS,
    }


def build(generator: Generator, jobs: Jobs) -> gr.Blocks:
    """The whole page. It keeps no data of a session; a session's own data is in its `gr.State`."""
    sessions = Sessions()
    with gr.Blocks(title=TITLE, delete_cache=CACHE_CLEANUP, analytics_enabled=False, fill_width=True) as page:
        gr.Markdown(f"# {TITLE}")
        with gr.Tab("Generate"):
            generate = GenerateTab(generator, sessions)
        with gr.Tab("Sheets"):
            sheets = SheetsTab(generator, sessions)
        with gr.Tab("Train"):
            TrainTab(generator, jobs)
        with gr.Tab("Inspect"):
            inspect = InspectTab(generator)
        timer = gr.Timer(LIST_SECONDS)  # outside the tabs: a tab's components live only after its first look
        tabs = (generate, sheets, inspect)
        listed = gr.State([])  # the subjects in this session's lists

        def refreshed() -> list[Any]:
            return [generator.library.names(), *(update for tab in tabs for update in tab.refreshed())]

        def refreshed_if_changed(listed_names: list[str]) -> list[Any]:
            """The lists, if a subject was added or removed since this session's lists were filled."""
            if listed_names == generator.library.names():
                return [gr.skip()] * len(lists)
            return refreshed()

        lists = [listed, *(component for tab in tabs for component in tab.lists)]
        page.load(refreshed, None, lists, **PRIVATE).then(
            generate.first, generate.subject, generate.subject, **PRIVATE
        ).then(**generate.fill_in_event)
        generate.refresh.click(refreshed, None, lists, **PRIVATE)
        timer.tick(refreshed_if_changed, listed, lists, **OFTEN)

        def list_subjects() -> list[dict[str, str]]:
            """All subjects: name, trigger phrase, base model and method of each."""
            subjects = generator.library.all()
            return [{"name": s.name, "trigger": s.trigger, "base": s.base, "method": s.method} for s in subjects]

        def page_closed(request: gr.Request) -> None:
            """Cancels the session's generations: nobody waits for them."""
            sessions.cancel(request.session_hash)

        page.unload(page_closed)
        gr.api(list_subjects, api_name="list_subjects", queue=False)
    return page
