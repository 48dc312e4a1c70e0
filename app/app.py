"""`python app/app.py` serves the page. A Hugging Face Space starts here too."""

from vf_app.server import run

if __name__ == "__main__":
    run()
