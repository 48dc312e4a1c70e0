"""How the page looks, and the little that its own scripts do: full size, copied links, Ctrl+Enter, cutting photos."""

from pathlib import Path

import gradio as gr

# System fonts, so that the page fetches none.
FONT, MONO = ("system-ui", "sans-serif"), ("ui-monospace", "Consolas", "monospace")
ACCENT = gr.themes.Color(
    c50="#eefaf6",
    c100="#d3f3e7",
    c200="#a8e6d0",
    c300="#72d3b4",
    c400="#3db894",
    c500="#1c9c7a",
    c600="#0f7c61",
    c700="#0e634f",
    c800="#0f4f40",
    c900="#0d4136",
    c950="#05251f",
)


def theme() -> gr.themes.Base:
    """Green on warm greys; the primary button keeps a contrast of 4.5 : 1 in light and dark."""
    base = gr.themes.Base(
        primary_hue=ACCENT, secondary_hue=ACCENT, neutral_hue="stone", radius_size="lg", font=FONT, font_mono=MONO
    )
    return base.set(
        body_background_fill="#f7f6f3",
        body_background_fill_dark="#141412",
        block_background_fill="#ffffff",
        block_background_fill_dark="#1e1d1b",
        block_border_width="1px",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_700",
        button_primary_text_color="white",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        block_title_text_color="*neutral_700",
        block_title_text_color_dark="*neutral_200",
        block_label_text_color="*neutral_700",
        block_label_text_color_dark="*neutral_200",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_300",
        button_large_text_weight="600",
        slider_color="*primary_600",
        slider_color_dark="*primary_400",
    )


CSS = (Path(__file__).parent / "theme.css").read_text(encoding="utf-8")
SCRIPTS = [(Path(__file__).parent / name).read_text(encoding="utf-8") for name in ("theme.js", "photos.js")]
HEAD = "".join(f"<script>\n{script}</script>" for script in SCRIPTS)
