"""What coding subject files in few bytes costs in likeness: `python -m benchmarks.coded`

Each subject is coded with several numbers of bits, drawn with the evaluator's prompts and scored by its encoders,
beside its whole file. By default the shipped subjects; `--subjects` takes run folders and subject files of any base.
What is drawn is kept, and a stopped benchmark goes on where it was.
"""

import argparse
from pathlib import Path
from typing import Any

from benchmarks.table import write_table
from eval import generation, scoring
from eval.collection import gather
from eval.encoders import Encoders
from eval.protocols import PROTOCOLS
from vectorfit.coded_file import save_coded
from vectorfit.vectors_file import read_vectors
from vf_dreambooth.base_models import load
from vf_dreambooth.pipeline import adapted_models, base_of, subject_file
from vf_training.commands import hide_loading_bars

ROOT, RESULT = Path(__file__).parents[1], Path(__file__).with_suffix(".md")
WORK, SHIPPED = Path("runs/coded"), ROOT / "examples" / "trained"
BITS = (8.0, 4.0, 3.0, 2.0, 1.6)  # a number; SD v1.4's 438,656 numbers take 100 kB at 1.6


def coded(subject: Path, folders: list[Path]) -> list[dict[str, Any]]:
    """Writes a subject coded with each of `BITS` into these folders; returns bytes, bits and error of each."""
    models, facts = adapted_models(load(base_of(subject))), []
    numbers = sum(len(vector) for vector in read_vectors(subject_file(subject))[0].values())
    around = 0.0
    for bits, folder in zip(BITS, folders, strict=True):
        file = folder / f"{generation.name_of(subject)}.safetensors"
        folder.mkdir(parents=True, exist_ok=True)
        most = 10**9 if bits == 8 else int(around + bits * numbers / 8)
        made = save_coded(models, subject_file(subject), file, most_bytes=most)
        size = file.stat().st_size
        around = around or size - made.bits * numbers / 8  # names, scales and texts
        facts.append({"bytes": size, "bits": made.bits, "error": made.error})
    return facts


def scored(files: list[Path], references: Path, per_prompt: int, encoders: Encoders, protocol: Any) -> dict[str, Any]:
    """The scores over all subjects of some files, drawn now unless they are."""
    places = []
    for file in files:
        task = generation.task_of(file, file.parent / "pictures" / file.stem, images_per_prompt=per_prompt)
        generation.generate(task)
        places.append(task.out)
    subjects = {subject.name: subject for subject in gather(places, references)}
    return scoring.overall({n: scoring.score_subject(one, encoders, protocol) for n, one in subjects.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subjects", nargs="+", type=Path, default=sorted(SHIPPED.glob("*.safetensors")))
    parser.add_argument("--references", type=Path, default=ROOT / "examples", help="folder of the subjects' photos")
    parser.add_argument("--protocol", choices=list(PROTOCOLS), default="starter")
    parser.add_argument("--per_prompt", type=int, default=2)
    flags = parser.parse_args()
    hide_loading_bars()
    protocol = PROTOCOLS[flags.protocol]
    encoders, folders = Encoders.load(protocol), [WORK / f"{bits:g}" for bits in BITS]
    facts = [coded(subject, folders) for subject in flags.subjects]
    (WORK / "whole").mkdir(exist_ok=True)
    names = [generation.name_of(subject) for subject in flags.subjects]
    whole = [WORK / "whole" / f"{name}.safetensors" for name in names]
    for subject, copy in zip(flags.subjects, whole, strict=True):
        copy.write_bytes(subject_file(subject).read_bytes())
    sizes = [file.stat().st_size for file in whole]
    rows = [["whole, float32", "32", f"{sum(sizes) / len(sizes):,.0f}", "0"]]
    all_files = [whole, *([folder / f"{name}.safetensors" for name in names] for folder in folders)]
    for level in range(len(BITS)):
        means = {key: sum(fact[level][key] for fact in facts) / len(facts) for key in ("bits", "bytes", "error")}
        rows.append(["coded", f"{means['bits']:.1f}", f"{means['bytes']:,.0f}", f"{100 * means['error']:.1f} %"])
    for row, files in zip(rows, all_files, strict=True):
        found = scored(files, flags.references, flags.per_prompt, encoders, protocol)
        row += [f"{found[kind]['mean']:.3f}" for kind in ("dino", "clip_i", "clip_t")]
        print(*row, flush=True)
    header = ["file", "bits a number", "bytes", "error of dW", "DINO", "CLIP-I", "CLIP-T"]
    notes = f"""Means over {len(names)} subjects, {flags.per_prompt} pictures a prompt, scored under the protocol
`{flags.protocol}`. The bytes are those of the whole file with its metadata (without a thumbnail)."""
    write_table(RESULT, "Subject files in few bytes", "python -m benchmarks.coded", header, rows, notes)
    print(RESULT.read_text())


if __name__ == "__main__":
    main()
