"""`python app/app.py` serves the page. A Hugging Face Space starts here too.

The folder app/ is installed as the package `vf_app`.
"""

from vf_app.command import run

if __name__ == "__main__":
    run()
