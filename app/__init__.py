"""The web page: generate images of subjects, compare, mix and inspect them, and train new ones."""

import os

# Set before gradio is imported: it then reports nothing and does not check for a new version.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
