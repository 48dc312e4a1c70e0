"""Whether the picked checkpoint beats the last one on other prompts and seeds: `python -m benchmarks.selection`

Every subject of `examples/` is trained at the preset, or for `--steps`; `eval select` picks. Both are then scored by
the rule's own measure, on prompts and seeds that the choice did not see. A stopped benchmark goes on where it was.
"""

import argparse
from pathlib import Path
from statistics import fmean

from benchmarks.table import write_table
from eval import selection
from eval.balance import Scores
from eval.encoders import Encoders
from eval.intervals import estimate
from eval.protocols import PROTOCOLS
from starter.subjects import EXAMPLES, SUBJECTS
from train_dreambooth_vectorfit import main as train
from vf_dreambooth.base_models import resolve
from vf_training.runs import RunFolder

WORK, RESULT = Path("runs/selection"), Path(__file__).with_suffix(".md")
CHECKPOINTS = 4
PARTS = ("likeness", "prompt", "cls", "balance")


def trained(subject: str, seed: int, steps: int) -> RunFolder:
    """A finished run with its checkpoints, trained now or to its end unless it is there."""
    run = RunFolder(WORK / str(steps) / f"{subject}-{seed}")
    if run.config.exists() and "seconds" in run.read_config():
        return run
    flags = {"--instance_dir": EXAMPLES / subject, "--base_model": "starter", "--output_dir": run.path, "--seed": seed}
    flags |= {"--max_train_steps": steps, "--checkpointing_steps": steps // CHECKPOINTS}
    flags |= {"--checkpoints_total_limit": CHECKPOINTS, "--num_validation_images": 0}
    going_on = ["--resume_from_checkpoint", str(run.path)] if run.checkpoints() else []
    train(going_on or [str(part) for pair in flags.items() for part in pair])
    return run


def judged(run: RunFolder, encoders: Encoders) -> tuple[selection.Candidate, Scores, Scores]:
    """The picked candidate of a run, its scores and the last one's on prompts and seeds that chose neither."""
    result = selection.select(run, encoders, PROTOCOLS["starter"])
    offered = {(one.step, one.strength): one for one in selection.candidates(run)}
    picked = offered[result["picked"]["step"], result["picked"]["strength"]]
    last = offered[max(step for step, _ in offered), 1.0]
    artist = selection.Artist(run, resolve("starter"), "cpu", others=True)
    scores = selection.score(list({picked, last}), artist, encoders, selection.references_of(run, None))
    return picked, scores[picked], scores[last]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subjects", nargs="+", choices=list(SUBJECTS), default=list(SUBJECTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=resolve("starter").preset.max_train_steps)
    flags = parser.parse_args()
    encoders, rows, differences = Encoders.load(PROTOCOLS["starter"]), [], {}
    for subject in flags.subjects:
        for seed in flags.seeds:
            picked, own, last = judged(trained(subject, seed, flags.steps), encoders)
            differences.setdefault(subject, []).append(own.balance - last.balance)
            cells = [f"{getattr(own, part) or 0:.3f} ({getattr(last, part) or 0:.3f})" for part in PARTS]
            rows.append([subject, str(seed), picked.name, *cells])
            print(*rows[-1], flush=True)
        one = estimate(differences)
        interval = f"{one.mean:+.3f} ({one.low:+.3f} to {one.high:+.3f})"
        changed = fmean(difference != 0 for own in differences.values() for difference in own)
        notes = NOTES.format(steps=flags.steps, interval=interval, subjects=len(differences), changed=100 * changed)
        header = ["subject", "seed", "picked", "likeness", "prompt", "class", "balance"]
        write_table(RESULT, "The picked checkpoint", "python -m benchmarks.selection", header, rows, notes)


NOTES = """Scores of the picked candidate, in brackets the last checkpoint's at strength 1, after {steps} steps, on
prompts and seeds that the choice did not see. **Balance, picked minus last: {interval}** over {subjects} subjects, a
95 % interval; another one than the last was picked in {changed:.0f} % of the runs."""


if __name__ == "__main__":
    main()
