"""Uploads a finished run: card, subject file and sample grids. config.json has paths of this machine and stays."""

from pathlib import Path

from huggingface_hub import HfApi, get_token

from vectorfit import VectorFitError
from vf_training.runs import VECTORS

UPLOADED = ["README.md", VECTORS, "samples/*.png"]


def check_login() -> None:
    """Checks the login before any work is done. Raises VectorFitError when there is none."""
    if get_token() is None:
        raise VectorFitError("--push_to_hub: nobody is logged in; run 'hf auth login' or set HF_TOKEN first")


def push(run: Path, repository: str, message: str) -> str:
    """Uploads a run folder and returns the repository's address.

    Raises:
        VectorFitError: the hub refuses or cannot be reached. The run itself is complete.
    """
    api = HfApi()
    try:
        repository = api.create_repo(repository, exist_ok=True).repo_id
        api.upload_folder(repo_id=repository, folder_path=run, allow_patterns=UPLOADED, commit_message=message)
    except Exception as error:  # whatever the network does, the message must say that the run is complete
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise VectorFitError(
            f"the run is complete in {run}, but could not be uploaded ({first_line}); "
            f"later: hf upload {repository} {run} . --include {' '.join(map(repr, UPLOADED))}"
        ) from error
    return f"{api.endpoint}/{repository}"
