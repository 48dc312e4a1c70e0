"""`python app/app.py` opens the page; a Hugging Face Space starts here too. All else is in the package."""

from vf_app.server import run

if __name__ == "__main__":
    run()
