"""The evaluator's images: generates those to score, of a subject with the DreamBench prompts, or with your own."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    folder_of,
    generate_images,
    load_pipeline,
    set_subjects,
    subject_file,
)
from vf_training.runs import RunFolder

from . import manifest
from .collection import EVALUATION, FACTS
from .dreambench import FIRST_SEED, SHARED, Prompt, is_live, prompts
from .manifest import Entry


@dataclass(frozen=True)
class Task:
    """What to generate for one subject: its name, token and class, the prompts, images per prompt, first seed."""

    run: Path
    out: Path
    subject: str
    token: str
    cls: str
    prompts: list[Prompt]
    images_per_prompt: int = 4
    seed: int = FIRST_SEED
    class_images: bool = True  # also generate the class, with the base and with the subject, for PRES and drift


def read_prompt_file(path: Path) -> list[Prompt]:
    """Prompts from a file, one per line, with {} for the subject: "a {} in a teacup".

    Raises:
        VectorFitError: the file cannot be read, is empty, or lines have no {}.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise VectorFitError(f"--prompts {path}: cannot be read ({error})") from error
    broken = [line for line in lines if line.count("{}") != 1]
    if broken or not lines:
        problem = (
            f"{len(broken)} of {len(lines)} lines without one {{}}, such as {broken[0]!r}" if broken else "no line"
        )
        raise VectorFitError(f"--prompts {path}: {problem}; expected prompts such as 'a {{}} in the snow'")
    return [Prompt(number, "own", line) for number, line in enumerate(lines, start=1)]


def task_of(
    run: Path, out: Path | None = None, wanted: str | Sequence[Prompt] | None = None, **options: object
) -> Task:
    """What to generate for a run folder or subject file, with the token and class of its training.

    `wanted` is one of `PROMPTS`, or the prompts; by default the class decides between live and object.

    Raises:
        VectorFitError: the file is not a subject file, or does not record its token and class.
    """
    metadata = vf.read_metadata(subject_file(run))
    training = json.loads(metadata.get("vectorfit.training", "{}"))
    token, cls = training.get("token"), training.get("class_noun")
    if not (token and cls):
        raise VectorFitError(
            f"{run}: does not record its token and class; expected a subject trained with --class_noun"
        )
    starter = metadata["vectorfit.base_model"] == "starter"
    if wanted in (None, "live", "object"):
        chosen = prompts(is_live(cls) if wanted is None else wanted == "live", starter=starter)
    else:
        chosen = read_prompt_file(Path(wanted)) if isinstance(wanted, str) else list(wanted)
    folder = out or folder_of(run) / EVALUATION
    return Task(run, folder, name_of(run), token, cls, chosen, **options)  # type: ignore[arg-type]


def name_of(run: Path) -> str:
    """A subject's name: its photo folder's, so that all trainings on the same photos have the same name."""
    recorded = RunFolder(subject_file(run).parent)
    if recorded.config.exists():
        return recorded_name(recorded.read_config())
    return run.stem if run.is_file() else run.resolve().name


def recorded_name(config: Mapping[str, Any]) -> str:
    """A subject's name by the config.json of its run."""
    return Path(config["settings"]["instance_data_dir"]).resolve().name


def _settings(task: Task, sampling: GenerationSettings, role: str) -> str:
    """A hash of everything but prompt and seed that an image depends on."""
    file = subject_file(task.run)
    content = {
        **dataclasses.asdict(sampling),
        "base": vf.read_metadata(file)["vectorfit.base_sha256"],
    }
    if role != "base_class":
        content["subject"] = hashlib.sha256(file.read_bytes()).hexdigest()
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def entries(task: Task, sampling: GenerationSettings) -> list[Entry]:
    """The entries of all images of a task, in the order in which they are generated."""
    entries = []
    roles = {"subject": task.prompts}
    if task.class_images:
        plain = [Prompt(number, "class", f"a {{}} {words}") for number, words in enumerate(SHARED, start=1)]
        roles |= {"class": plain, "base_class": plain}
    for role, wanted in roles.items():
        settings = _settings(task, sampling, role)
        thing = f"{task.token} {task.cls}" if role == "subject" else task.cls
        for prompt in wanted:
            for index in range(task.images_per_prompt if role == "subject" else 1):
                seed = task.seed + 1000 * prompt.number + index
                full, text = prompt.text(thing), prompt.text(task.cls)
                prompt_hash = hashlib.sha256(full.encode()).hexdigest()[:6]
                file = f"images/{role}/{prompt.number:02d}-{seed}-{prompt_hash}-{settings[:6]}.png"
                fields = (file, task.subject, task.cls, role, prompt.number, prompt.group, full, text, seed, settings)
                entries.append(Entry(*fields))
    return entries


def _generate(
    pipe: DiffusionPipeline, task: Task, wanted: Sequence[Entry], sampling: GenerationSettings, *, quiet: bool
) -> None:
    size = sampling.batch_size
    for start in tqdm(range(0, len(wanted), size), desc=f"drawing {task.subject}", unit="batch", disable=quiet):
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


def generate(task: Task, base_model: str | None = None, load: Callable[..., DiffusionPipeline] = load_pipeline) -> int:
    """Generates the missing images, divided among the processes. Returns how many were missing.

    `load` gives the pipeline if any are missing, as `load_pipeline` does; it may be one that is loaded already.

    Raises:
        VectorFitError: the base or the subject cannot be loaded.
    """
    state = PartialState()
    base = base_of(task.run, base_model)
    sampling = GenerationSettings.of(base.preset)
    task.out.mkdir(parents=True, exist_ok=True)
    existing = manifest.read(task.out) if (task.out / manifest.NAME).exists() else []
    keys = {entry.key for entry in existing if (task.out / entry.file).exists()}
    missing = [entry for entry in entries(task, sampling) if entry.key not in keys]
    state.wait_for_everyone()  # no process may add to the list before all have read it
    pipe = load(base, [(task.run, 1.0)], device=state.device) if missing else None
    for roles, subjects in ((("subject", "class"), [(task.run, 1.0)]), (("base_class",), [])):
        wanted = [entry for entry in missing if entry.role in roles]
        if pipe is None or not wanted:
            continue
        set_subjects(pipe, subjects)
        with state.split_between_processes(wanted) as share:
            _generate(pipe, task, share, sampling, quiet=not state.is_local_main_process)
    state.wait_for_everyone()
    if state.is_main_process:
        manifest.keep_only(task.out, entries(task, sampling))
        facts = (json.dumps(facts_of(task.run), indent=1) + "\n").encode()
        write_atomically(task.out / FACTS, facts)
    state.wait_for_everyone()
    return len(missing)


def facts_of(run: Path) -> dict[str, object]:
    """Facts for a report: parameters and bytes; of a run folder also seconds, memory, photos and method."""
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
