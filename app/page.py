"""The page: four tabs over one studio and one queue of trainings."""

from typing import Any

import gradio as gr

from .drawing import Studio
from .generate_tab import PRIVATE, GenerateTab
from .inspect_tab import InspectTab
from .jobs import Jobs
from .sessions import Sessions
from .sheets_tab import SheetsTab
from .train_tab import TrainTab

TITLE = "VectorFit: prompt your subjects"
FORGET = (3600, 3600)  # seconds: how often gradio looks for old files in its cache, and how old they may be
# System fonts: the page fetches nothing from anywhere.
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


def look() -> dict[str, Any]:
    """What `launch` is told of the page's looks."""
    return {
        "theme": gr.themes.Default(primary_hue="orange", neutral_hue="slate", font=FONT, font_mono=MONO),
        "css": CSS,
    }


def build(studio: Studio, jobs: Jobs) -> gr.Blocks:
    """The whole page. It holds nothing of any session: what belongs to one is in its `gr.State`."""
    sessions = Sessions()
    with gr.Blocks(title=TITLE, delete_cache=FORGET, analytics_enabled=False, fill_width=True) as page:
        gr.Markdown(f"# {TITLE}")
        with gr.Tab("Generate"):
            generate = GenerateTab(studio, sessions)
        with gr.Tab("Sheets"):
            sheets = SheetsTab(studio, sessions)
        with gr.Tab("Train"):
            train = TrainTab(studio, jobs)
        with gr.Tab("Inspect"):
            inspect = InspectTab(studio)
        tabs = (generate, sheets, inspect)
        known = gr.State([])  # the subjects that this session's lists show

        def refreshed() -> list[Any]:
            return [studio.library.names(), *(update for tab in tabs for update in tab.refreshed())]

        def refreshed_if_new(shown: list[str]) -> list[Any]:
            """The lists, where a subject has come or gone since this session's were filled."""
            if shown == studio.library.names():
                return [gr.skip()] * len(lists)
            return refreshed()

        lists = [known, *(component for tab in tabs for component in tab.lists)]
        page.load(refreshed, None, lists, **PRIVATE).then(
            generate.first, generate.subject, generate.subject, **PRIVATE
        ).then(**generate.choosing)
        generate.refresh.click(refreshed, None, lists, **PRIVATE)
        train.timer.tick(refreshed_if_new, known, lists, **PRIVATE)

        def list_subjects() -> list[dict[str, str]]:
            """The subjects there are: name, trigger phrase, base model and method of each."""
            subjects = studio.library.all()
            return [{"name": s.name, "trigger": s.trigger, "base": s.base, "method": s.method} for s in subjects]

        def left(request: gr.Request) -> None:
            """Nobody waits for what a closed page has asked for."""
            sessions.stop(request.session_hash)

        page.unload(left)
        gr.api(list_subjects, api_name="list_subjects", queue=False)
    return page
