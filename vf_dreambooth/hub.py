"""Subjects on the hub: fetched by their id, and uploaded from a finished run.

An upload is card, subject file and sample grids. config.json has paths of this machine and stays.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from accelerate import PartialState
from huggingface_hub import HfApi, constants, get_token, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from vectorfit import VectorFitError
from vectorfit.atomic import write_atomically
from vf_training.problems import Problems
from vf_training.runs import VECTORS, RunFolder

from . import network
from .config import TrainConfig

HUB_ID = re.compile(r"(?P<repository>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[\w.-]+))?")
UPLOADED = ["README.md", VECTORS, "samples/*.png"]


def is_hub_id(path: Path) -> bool:
    """Whether a path is meant as owner/name or owner/name@revision.

    It is not where there is a folder `owner` here: runs/dgo, mistyped or deleted, must not be looked for on the hub.
    """
    return bool(HUB_ID.fullmatch(path.as_posix())) and path.suffix != ".safetensors" and not path.parent.exists()


def fetch_subject(hub_id: str) -> Path:
    """The subject file of owner/name or owner/name@revision, downloaded unless the hub's cache on this machine has it.

    Raises:
        VectorFitError: the hub has no such subject, or cannot be reached.
    """
    parts = HUB_ID.fullmatch(hub_id)
    assert parts is not None
    repository, revision = parts["repository"], parts["revision"]
    try:
        kept_only = not network.answers(constants.ENDPOINT)
        return Path(hf_hub_download(repository, VECTORS, revision=revision, local_files_only=kept_only))
    except GatedRepoError:
        why = f"{repository} must be asked for on the hub; do so there, and run 'hf auth login'"
    except RepositoryNotFoundError:
        why = "the hub has no such repository, or it is private; correct it, or run 'hf auth login'"
    except RevisionNotFoundError:
        why = f"{repository} has no revision {revision!r}"
    except LocalEntryNotFoundError:  # an EntryNotFoundError too, so it comes before that
        why = "the hub cannot be reached, and no copy is kept; correct the path, or try again with a network"
    except EntryNotFoundError:
        why = f"{repository} has no {VECTORS}, so it is no subject of VectorFit"
    except Exception as error:  # whatever else the network does
        why = f"the hub does not give it ({(str(error).strip().splitlines() or [type(error).__name__])[0]})"
    raise VectorFitError(f"{hub_id}: no run folder or subject file here, and {why}")


def check_login() -> None:
    """Checks the login before any work is done. Raises VectorFitError when there is none."""
    if get_token() is None:
        raise VectorFitError("--push_to_hub: nobody is logged in; run 'hf auth login' or set HF_TOKEN first")


def push(run: Path, repository: str, message: str, *, private: bool = False) -> str:
    """Uploads a run folder and returns the repository's address. The card then names the subject by its hub id.

    Raises:
        VectorFitError: the hub refuses or cannot be reached. The run itself is complete.
    """
    api = HfApi()
    try:
        repository = api.create_repo(repository, private=private or None, exist_ok=True).repo_id
        card = run / "README.md"
        named = card.read_text(encoding="utf-8").replace(f'[("{VECTORS}", 1.0)]', f'[("{repository}", 1.0)]')
        write_atomically(card, named.encode())
        api.upload_folder(repo_id=repository, folder_path=run, allow_patterns=UPLOADED, commit_message=message)
    except Exception as error:  # whatever the network does, the message must say that the run is complete
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise VectorFitError(
            f"the run is complete in {run}, but could not be uploaded ({first_line}); "
            f"later: hf upload {repository} {run} . --include {' '.join(map(repr, UPLOADED))}"
        ) from error
    return f"{api.endpoint}/{repository}"


def push_finished(runs: Iterable[tuple[TrainConfig, RunFolder]]) -> None:
    """Uploads the finished runs with --push_to_hub. Errors are reported after all were tried."""
    problems = Problems()
    for config, run in runs:
        if config.push_to_hub and PartialState().is_main_process:
            name = config.hub_model_id or run.path.resolve().name
            message = f"{config.trigger}, trained with VectorFit"
            with problems.noting():
                print(f"uploaded     {push(run.path, name, message, private=config.hub_private_repo)}")
    problems.raise_all()
