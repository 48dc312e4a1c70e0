"""The web page: prompt subjects, compare, mix, inspect, and train new ones."""

import os

# Before gradio is imported: nothing is reported to anyone, and nothing fetched to say what is new.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
