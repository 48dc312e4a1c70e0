"""The miniature DreamBench: every method on ten subjects. `python -m benchmarks.dreambooth_table`

The subjects are the starter's held-out ones. With `--tune` each method's rate is chosen first, on two others. It runs
for hours, goes on where it was stopped, and writes the tables anew after every method and seed.
"""

import argparse
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from benchmarks.starter_scores import write_table
from eval import generation, scoring
from eval.collection import gather
from eval.comparison import compare
from eval.encoders import Encoders
from eval.protocols import PROTOCOLS
from eval.statistics import estimate
from starter.subjects import EXAMPLES, SUBJECTS, TUNING_SUBJECTS, write
from train_dreambooth_vectorfit import main as train
from vectorfit.analysis import save_figure
from vectorfit.atomic import write_atomically
from vectorfit.runs import RunFolder
from vf_dreambooth.config import METHODS
from vf_dreambooth.images import grid

WORK = Path("runs/table")
RESULT = Path(__file__).with_suffix(".md")
SCORES = Path(__file__).with_name("dreambooth_scores")  # the results, a file per method and seed
TUNING = Path(__file__).with_name("dreambooth_tuning.json")
SEEDS = {"full": (0, 1, 2), "lora": (0, 1, 2), "no_avf": (0, 1, 2), "vectorfit": (0, 1, 2)}
ABLATION = ("sigma_a", "sigma", "sigma_a+b", "no_avf", "vectorfit")  # Fig. 4
# Around where each method's own users train; three rates a method, 300 steps as in the starter's preset.
RATES = {
    "full": (3e-5, 1e-4, 3e-4),
    "lora": (1e-3, 3e-3, 1e-2),
    "svft": (1e-2, 2e-2, 4e-2),
    **dict.fromkeys(("vectorfit", "no_avf", "sigma", "sigma_a", "sigma_a+b"), (2e-2, 4e-2, 6e-2)),
    **dict.fromkeys(("random_freezing", "l1", "sigma_dropout"), (2e-2, 4e-2, 6e-2)),
}
PROTOCOL = PROTOCOLS["starter"]
SHOWN = ("full", "lora", "no_avf", "vectorfit")  # in the grid of pictures


def trained(method: str, rate: float, seed: int, folder: Path, work: Path) -> RunFolder:
    """A finished run, trained now or to its end unless it is there; all runs share their class images."""
    run, shared = RunFolder(work / folder.name), WORK.resolve() / "class_images"
    if not (work / "class_images").exists():
        work.mkdir(parents=True, exist_ok=True)
        shared.mkdir(parents=True, exist_ok=True)
        (work / "class_images").symlink_to(shared)
    if not (run.config.exists() and "seconds" in run.read_config()):
        flags: dict[str, Any] = {"instance_dir": folder, "base_model": "starter", "output_dir": run.path}
        flags |= {"method": method, "learning_rate": rate, "seed": seed, "num_validation_images": 0}
        flags |= {"checkpointing_steps": 1000}
        if run.config.exists():
            train(["--resume_from_checkpoint", str(run.path)])
        else:
            train([str(part) for name, value in flags.items() for part in (f"--{name}", value)])
    return run


def scored(method: str, rate: float, seed: int, folders: list[Path], work: Path, per_prompt: int) -> dict[str, Any]:
    """Trains, generates and scores every subject, and tells the result of all."""
    places, facts = [], []
    for folder in folders:
        run = trained(method, rate, seed, folder, work)
        task = generation.task_of(run.path, None, None, images_per_prompt=per_prompt)
        generation.generate(task)
        places.append(task.out)
        facts.append(generation.facts_of(run.path))
    encoders = Encoders.load(PROTOCOL)
    subjects = gather(places, folders[0].parent)
    scores = {subject.name: scoring.score_subject(subject, encoders, PROTOCOL) for subject in subjects}
    for name, found in scores.items():
        place = next(place for place in places if place.parent.name == name)
        found["folder"] = os.path.relpath(place, SCORES)
        found["reference_files"] = [
            os.path.relpath(path, SCORES)
            for path in next(subject.references for subject in subjects if subject.name == name)
        ]
    names = ("parameters", "bytes", "seconds")
    means = {name: sum(float(fact[name]) for fact in facts) / len(facts) for name in names}
    means |= {"rate": rate, "seed": seed}
    return scoring.result_of(scores, PROTOCOL, encoders, method=method, facts=means, allow_missing=False)


def tune(methods: list[str]) -> None:
    """Chooses each method's rate: the highest mean of DINO and CLIP-T on the tuning subjects."""
    photos = WORK / "tuning-photos"
    write(photos, TUNING_SUBJECTS)
    known = json.loads(TUNING.read_text()) if TUNING.exists() else {}
    for method in methods:
        found = known.setdefault(method, {"tried": {}})
        for rate in RATES[method]:
            if str(rate) not in found["tried"]:
                work = WORK / "tuning" / f"{method}-{rate:g}"
                result = scored(method, rate, 0, [photos / name for name in TUNING_SUBJECTS], work, 2)["overall"]
                kept = {kind: result[kind]["mean"] for kind in ("dino", "clip_i", "clip_t")}
                found["tried"][str(rate)] = kept | {"pres": result["pres"]}
                print(method, rate, kept, flush=True)
        found["rate"] = float(
            max(found["tried"], key=lambda rate: sum(found["tried"][rate][k] for k in ("dino", "clip_t")))
        )
        write_atomically(TUNING, (json.dumps(known, indent=1) + "\n").encode())


def results() -> dict[str, list[dict[str, Any]]]:
    """All results there are, by method, in the order of seeds."""
    found: dict[str, list[dict[str, Any]]] = {}
    for method in METHODS:
        files = [SCORES / f"{method}-{seed}.json" for seed in range(3)]
        if any(file.exists() for file in files):
            found[method] = [scoring.read(file) for file in files if file.exists()]
    return found


def _over_seeds(runs: list[Mapping[str, Any]], kind: str) -> dict[str, list[float]]:
    """Scores by subject, of all seeds together."""
    return {
        name: [image[kind] for run in runs for image in run["subjects"][name]["images"]] for name in runs[0]["subjects"]
    }


def _mean(runs: list[Mapping[str, Any]], *path: str) -> float:
    values = []
    for run in runs:
        value: Any = run
        for part in path:
            value = value[part]
        values.append(float(value))
    return sum(values) / len(values)


def rows_of(found: Mapping[str, list[dict[str, Any]]]) -> Iterator[list[str]]:
    for method, runs in found.items():
        cells = []
        for kind in ("dino", "clip_i", "clip_t"):
            told = estimate(_over_seeds(runs, kind))
            cells.append(f"{told.mean:.3f} ({told.low:.3f} to {told.high:.3f})")
        panel = [f"{_mean(runs, 'overall', name):.3f}" for name in ("pres", "drift", "diversity")]
        facts = [f"{_mean(runs, 'facts', name):,.0f}" for name in ("parameters", "seconds", "bytes")]
        yield [method, str(len(runs)), *cells, *panel, f"{_mean(runs, 'facts', 'rate'):g}", *facts]


def write_results(found: Mapping[str, list[dict[str, Any]]]) -> None:
    labels = PROTOCOL.labels
    header = ["method", "seeds", *labels, "PRES ↓", "drift ↓", "diversity ↑", "rate", "parameters", "seconds", "bytes"]
    differences = []
    if "vectorfit" in found:
        for method, runs in found.items():
            if method != "vectorfit":
                told = compare(found["vectorfit"][0], runs[0])
                parts = [
                    f"{label} {told[kind]['difference']:+.3f} ({told[kind]['low']:+.3f} to {told[kind]['high']:+.3f})"
                    for label, kind in zip(labels, ("dino", "clip_i", "clip_t"), strict=True)
                ]
                differences.append(f"- vectorfit minus {method}: {', '.join(parts)}")
    real = next(iter(found.values()))[0]["overall"]["dino"]["real"]
    differences.sort()
    notes = f"""Ten subjects that the starter never saw, five photos each, 300 steps; DreamBench's prompts that its
world knows (12 for animals, 14 for things), four pictures each. Cosines by the starter's own encoders: no score here
compares with a published one. In brackets 95 % intervals over subjects, seeds together. The photos' own DINO is
{real:.3f}. Rates were chosen on two other subjects (`dreambooth_tuning.json`). Seconds and bytes are means over
subjects; seconds include class images where these had not been drawn for another run.

Differences on equal subjects, prompts and seeds (seed 0), with 95 % intervals over subjects:

{chr(10).join(differences)}

![score against parameters](dreambooth_pareto.png)

![ablation](dreambooth_ablation.png)

![pictures](dreambooth_grid.jpg)"""
    rows = list(rows_of(found))
    write_table(RESULT, "The miniature DreamBench", "python -m benchmarks.dreambooth_table", header, rows, notes)
    pareto(found)
    ablation(found)
    pictures(found)


def pareto(found: Mapping[str, list[dict[str, Any]]]) -> None:
    """Score against trained parameters, in the manner of Fig. 1."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axis, kind, label in zip(
        figure.subplots(1, 2), ("dino", "clip_t"), (PROTOCOL.labels[0], PROTOCOL.labels[2]), strict=True
    ):
        for method, runs in found.items():
            told, parameters = estimate(_over_seeds(runs, kind)), _mean(runs, "facts", "parameters")
            color = "tab:orange" if method == "vectorfit" else "tab:blue" if method in ("lora", "full") else "0.5"
            axis.errorbar(
                parameters, told.mean, [[told.mean - told.low], [told.high - told.mean]], fmt="o", color=color
            )
            axis.annotate(method, (parameters, told.mean), textcoords="offset points", xytext=(6, 4), fontsize=8)
        axis.set_xscale("log")
        axis.set_xlabel("trained parameters")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    save_figure(figure, RESULT.with_name("dreambooth_pareto.png"))


def ablation(found: Mapping[str, list[dict[str, Any]]]) -> None:
    """The paper's variants as bars, Fig. 4."""
    names = [name for name in (*ABLATION, "random_freezing", "l1", "sigma_dropout") if name in found]
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    for axis, kind, label in zip(figure.subplots(1, 3), ("dino", "clip_i", "clip_t"), PROTOCOL.labels, strict=True):
        told = [estimate(_over_seeds(found[name], kind)) for name in names]
        low = [t.mean - t.low for t in told]
        high = [t.high - t.mean for t in told]
        colors = ["tab:orange" if name == "vectorfit" else "0.65" for name in names]
        axis.bar(names, [t.mean for t in told], yerr=[low, high], color=colors, capsize=3)
        axis.set_title(label, fontsize=10)
        axis.tick_params(axis="x", rotation=45, labelsize=8)
        axis.set_ylim(bottom=min((t.low for t in told), default=0) - 0.05)
    save_figure(figure, RESULT.with_name("dreambooth_ablation.png"))


def pictures(found: Mapping[str, list[dict[str, Any]]]) -> None:
    """A photo, and every shown method's picture of one prompt and seed, for each subject: Fig. 11."""
    shown = [name for name in SHOWN if name in found]
    rows = []
    for place, name in enumerate(SUBJECTS):
        first = found[shown[0]][0]["subjects"][name]
        chosen = first["images"][(4 * place) % len(first["images"])]
        row = [Image.open(SCORES / first["reference_files"][0])]
        for method in shown:
            subject = found[method][0]["subjects"][name]
            same = next(
                i for i in subject["images"] if (i["prompt_id"], i["seed"]) == (chosen["prompt_id"], chosen["seed"])
            )
            row.append(Image.open(SCORES / subject["folder"] / same["file"]))
        rows.append((row, chosen["prompt"]))
    titles = [f"{text}   (photo | {' | '.join(shown)})" for _, text in rows]
    sheet = grid([row for row, _ in rows], row_titles=titles, cell=128)
    sheet.convert("RGB").save(RESULT.with_name("dreambooth_grid.jpg"), quality=85)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tune", action="store_true", help="choose the methods' rates first")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=3, help="at most so many of each method's seeds")
    parser.add_argument("--draw", action="store_true", help="only write tables and figures of the results there are")
    flags = parser.parse_args()
    if flags.tune:
        tune(flags.methods)
        return
    rates = json.loads(TUNING.read_text()) if TUNING.exists() else {}
    SCORES.mkdir(exist_ok=True)
    for seed in range(0 if flags.draw else flags.seeds):
        for method in flags.methods:
            file = SCORES / f"{method}-{seed}.json"
            if file.exists() or seed not in SEEDS.get(method, (0,)):
                continue
            folders = [EXAMPLES / name for name in SUBJECTS]
            result = scored(method, rates[method]["rate"], seed, folders, WORK / method / str(seed), 4)
            scoring.write(result, file)
            print(
                file,
                {kind: found["mean"] for kind, found in result["overall"].items() if isinstance(found, dict)},
                flush=True,
            )
            write_results(results())
    write_results(results())


if __name__ == "__main__":
    main()
