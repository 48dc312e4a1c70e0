"""Pictures to be scored: the DreamBench prompts, or one's own, answered by a trained subject."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from accelerate import PartialState
from diffusers import DiffusionPipeline
from safetensors.torch import load_file
from tqdm import tqdm

import vectorfit as vf
from vectorfit import VectorFitError
from vectorfit.atomic import write_atomically
from vf_dreambooth.images import write_png
from vf_dreambooth.pipeline import (
    GenerationSettings,
    base_of,
    generate_images,
    load_pipeline,
    set_subjects,
    subject_file,
)
from vf_training.runs import RunFolder

from . import manifest
from .collection import FACTS
from .dreambench import SHARED, Prompt, is_live, prompts
from .manifest import Entry

PROMPTS = "live or object for DreamBench's, or a file of prompts, a line each, with {} for the thing"
FIRST_SEED = 100_000  # far from the seeds of previews and class images, which training has seen


@dataclass(frozen=True)
class Task:
    """What is generated of one subject: its name, unique token and class, prompts, pictures of each, first seed."""

    run: Path
    out: Path
    subject: str
    token: str
    cls: str
    prompts: list[Prompt]
    images_per_prompt: int = 4
    seed: int = FIRST_SEED
    class_images: bool = True  # of the class alone too, by base and subject: for PRES and drift


def read_prompt_file(path: Path) -> list[Prompt]:
    """One's own prompts, a line each, with {} for the thing: "a {} in a teacup".

    Raises:
        VectorFitError: the file cannot be read, is empty, or lines have no {}.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise VectorFitError(f"--prompts {path}: cannot be read ({error})") from error
    broken = [line for line in lines if line.count("{}") != 1]
    if broken or not lines:
        what = f"{len(broken)} of {len(lines)} lines without one {{}}, such as {broken[0]!r}" if broken else "no line"
        raise VectorFitError(f"--prompts {path}: {what}; expected prompts such as 'a {{}} in the snow'")
    return [Prompt(number, "own", line) for number, line in enumerate(lines, start=1)]


def task_of(run: Path, out: Path | None = None, wanted: str | None = None, **choices: object) -> Task:
    """What to generate for a run folder or subject file; token and class are those it was trained with.

    `wanted` is one of `PROMPTS`; by default the class says whether it is a live subject.

    Raises:
        VectorFitError: it is no subject file, or does not say what triggers it.
    """
    metadata = vf.read_metadata(subject_file(run))
    told = json.loads(metadata.get("vectorfit.training", "{}"))
    token, cls = told.get("token"), told.get("class_noun")
    if not (token and cls):
        raise VectorFitError(f"{run}: does not tell its token and class; expected a subject trained with --class_noun")
    starter = metadata["vectorfit.base_model"] == "starter"
    if wanted in (None, "live", "object"):
        asked = prompts(is_live(cls) if wanted is None else wanted == "live", starter=starter)
    else:
        asked = read_prompt_file(Path(wanted))
    place = out or (run if run.is_dir() else run.parent) / "evaluation"
    return Task(run, place, name_of(run), token, cls, asked, **choices)  # type: ignore[arg-type]


def name_of(run: Path) -> str:
    """A subject's name: that of the folder of its photos, so that trainings of one subject go by one name."""
    recorded = RunFolder(subject_file(run).parent)
    if recorded.config.exists():
        return Path(recorded.read_config()["settings"]["instance_data_dir"]).resolve().name
    return run.stem if run.is_file() else run.resolve().name


def _settings(task: Task, sampling: GenerationSettings, role: str) -> str:
    """A hash of what a picture depends on besides prompt and seed."""
    file = subject_file(task.run)
    content = {
        **dataclasses.asdict(sampling),
        "base": vf.read_metadata(file)["vectorfit.base_sha256"],
    }
    if role != "base_class":
        content["subject"] = hashlib.sha256(file.read_bytes()).hexdigest()
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def entries(task: Task, sampling: GenerationSettings) -> list[Entry]:
    """Every picture that is wanted, in the order in which it is generated."""
    found = []
    roles = {"subject": task.prompts}
    if task.class_images:
        plain = [Prompt(number, "class", f"a {{}} {place}") for number, place in enumerate(SHARED, start=1)]
        roles |= {"class": plain, "base_class": plain}
    for role, wanted in roles.items():
        settings = _settings(task, sampling, role)
        thing = f"{task.token} {task.cls}" if role == "subject" else task.cls
        for prompt in wanted:
            for index in range(task.images_per_prompt if role == "subject" else 1):
                seed = task.seed + 1000 * prompt.number + index
                said, text = prompt.text(thing), prompt.text(task.cls)
                words = hashlib.sha256(said.encode()).hexdigest()[:6]
                file = f"images/{role}/{prompt.number:02d}-{seed}-{words}-{settings[:6]}.png"
                known = (file, task.subject, task.cls, role, prompt.number, prompt.group, said, text, seed, settings)
                found.append(Entry(*known))
    return found


def _generate(
    pipe: DiffusionPipeline, task: Task, wanted: Sequence[Entry], sampling: GenerationSettings, *, quiet: bool
) -> None:
    size = sampling.batch_size
    for start in tqdm(range(0, len(wanted), size), desc=f"{task.subject}", unit="batch", disable=quiet):
        portion = wanted[start : start + size]
        places = [entry.seed + entry.prompt_id for entry in portion]  # one picture of many prompts fills batches too
        images = generate_images(
            pipe, [entry.prompt for entry in portion], [entry.seed for entry in portion], sampling, places
        )
        for entry, image in zip(portion, images, strict=True):
            path = task.out / entry.file
            path.parent.mkdir(parents=True, exist_ok=True)
            write_png(path, image)
        manifest.append(task.out, portion)


def generate(task: Task, base_model: str | None = None) -> int:
    """Generates what is not there yet, shared out among the processes; returns how many pictures were missing.

    Raises:
        VectorFitError: the base or the subject cannot be loaded.
    """
    state = PartialState()
    base = base_of(task.run, base_model)
    sampling = GenerationSettings.of(base.preset)
    task.out.mkdir(parents=True, exist_ok=True)
    there = manifest.read(task.out) if (task.out / manifest.NAME).exists() else []
    known = {entry.key for entry in there if (task.out / entry.file).exists()}
    missing = [entry for entry in entries(task, sampling) if entry.key not in known]
    state.wait_for_everyone()  # nobody adds to the list before all have read it
    pipe = load_pipeline(base, device=state.device) if missing else None
    for roles, subjects in ((("subject", "class"), [(task.run, 1.0)]), (("base_class",), [])):
        wanted = [entry for entry in missing if entry.role in roles]
        if pipe is None or not wanted:
            continue
        set_subjects(pipe, subjects)
        with state.split_between_processes(wanted) as mine:
            _generate(pipe, task, mine, sampling, quiet=not state.is_local_main_process)
    state.wait_for_everyone()
    if state.is_main_process:
        manifest.keep_only(task.out, entries(task, sampling))
        facts = (json.dumps(facts_of(task.run), indent=1) + "\n").encode()
        write_atomically(task.out / FACTS, facts)
    state.wait_for_everyone()
    return len(missing)


def facts_of(run: Path) -> dict[str, object]:
    """What a report puts beside the scores: parameters, bytes, and of a run folder its seconds, memory and photos."""
    file = subject_file(run)
    facts: dict[str, object] = {
        "parameters": sum(tensor.numel() for tensor in load_file(file).values()),
        "bytes": file.stat().st_size,
    }
    folder = RunFolder(file.parent)
    if folder.config.exists():
        config = folder.read_config()
        facts |= {"seconds": config.get("seconds"), "memory": config.get("peak_memory")}
        facts["references"] = str(Path(config["settings"]["instance_data_dir"]).resolve())
        method = config["settings"].get("method", "vectorfit")
        facts["method"] = "no_avf" if method == "vectorfit" and config["settings"].get("avf") is False else method
    return {name: value for name, value in facts.items() if value is not None}
