"""Time of an update and memory on a DeBERTaV3-base-shaped encoder: `python -m benchmarks.tasks_speed` (Table 6, Fig. 5)

Random weights of the shape of microsoft/deberta-v3-base, in float32, sentence pairs of 128 tokens. Each method runs in
processes of its own, one after the other, in two rounds; nothing else should run on the machine.
"""

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import torch
from matplotlib.figure import Figure
from transformers import DebertaV2Config, DebertaV2ForSequenceClassification

from benchmarks.table import write_table
from vectorfit import AdaptiveVectorFreezing
from vf_tasks import recipe
from vf_tasks.run import put_in
from vf_training.analysis import save_figure
from vf_training.device import best_device, describe_device, peak_memory, synchronize

RESULT = Path(__file__).with_suffix(".md")
MAPPED = {"type_vocab_size": 0, "position_biased_input": False, "relative_attention": True, "position_buckets": 256}
MAPPED |= {
    "pos_att_type": ["p2c", "c2p"],
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
    "max_relative_positions": -1,
}
SHAPE = {"vocab_size": 128100, "hidden_size": 768, "num_hidden_layers": 12, "intermediate_size": 3072} | MAPPED
# LoRA and AdaLoRA with the budget of about VectorFit's parameters: r = 1, b(T) = 72.
METHODS = ("lora", "adalora", "vectorfit", "no_avf", "sigma_a+b", "sigma", "sigma_a")
TOKENS, WARM_UP, TIMED, ROUNDS = 128, 1, 4, 2
TRACED = {
    "lora": "LoRA, r = 1",
    "adalora": "AdaLoRA",
    "vectorfit": "VectorFit",
    "sigma_a+b": "sigma_a+b",
    "sigma_a": "sigma_a",
}


class Trace:
    """The memory of this process, or of its accelerator, every hundredth of a second."""

    def __init__(self) -> None:
        self.began, self.points, self.going = time.perf_counter(), [], True
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def _watch(self) -> None:
        process = psutil.Process()
        while self.going:
            used = torch.cuda.memory_allocated() if torch.cuda.is_available() else process.memory_info().rss
            self.points.append((round(time.perf_counter() - self.began, 3), used))
            time.sleep(0.01)

    def end(self) -> list[tuple[float, int]]:
        self.going = False
        self.thread.join()
        return self.points


def measure(method: str, batch: int) -> dict:
    """Seconds of an update, peak memory, trained parameters and the trace of one method, in this process."""
    torch.manual_seed(0)
    device = best_device()
    model = DebertaV2ForSequenceClassification(DebertaV2Config(**SHAPE, num_labels=3))
    own = recipe.read("squad" if method in ("lora", "adalora") else "mnli")
    built = put_in(method, model, ("classifier", "pooler"), own, WARM_UP + TIMED, 0)
    trained = built.wrapped[""].to(device).train()
    optimizer = torch.optim.AdamW([p for p in trained.parameters() if p.requires_grad], lr=1e-4, weight_decay=0)
    rows = {"input_ids": torch.randint(0, 1000, (batch, TOKENS)), "labels": torch.randint(0, 3, (batch,))}
    rows = {name: value.to(device) for name, value in rows.items()}
    # The worst case: it chooses anew at every update, where the paper does at every ten thousandth of MNLI.
    avf = AdaptiveVectorFreezing(model, first_step=1, every=1, num_freezes=99) if method == "vectorfit" else None
    seconds, trace = [], Trace()
    for step in range(WARM_UP + TIMED):
        began = time.perf_counter()
        trained(**rows).loss.backward()
        if avf:
            avf.step(step + 1)
        optimizer.step()
        built.method.technique.after_update(built, step + 1)
        optimizer.zero_grad()
        synchronize()
        seconds.append(time.perf_counter() - began)
    found = {"seconds": statistics.median(seconds[WARM_UP:]), "memory": peak_memory(), "trace": trace.end()}
    return found | built.counts


def run(method: str, batch: int) -> dict:
    command = [sys.executable, "-m", "benchmarks.tasks_speed", "--method", method, "--batch", str(batch)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def draw(found: dict[str, list[dict]]) -> None:
    """The memory over time. Fig. 5."""
    figure = Figure(figsize=(14, 3), layout="constrained")
    axes = figure.subplots(1, len(TRACED), sharey=True)
    for axis, (method, title) in zip(axes, TRACED.items(), strict=True):
        times, used = zip(*found[method][0]["trace"], strict=True)
        colour = "tab:blue" if "lora" in method else "tab:orange"
        axis.fill_between(times, [value / 2**30 for value in used], alpha=0.7, color=colour)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel(f"seconds, {WARM_UP + TIMED} updates")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("memory, GiB")
    save_figure(figure, RESULT.with_suffix(".png"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=8, help="sentence pairs in an update")
    parser.add_argument("--method", choices=METHODS, help=argparse.SUPPRESS)  # of a process for one method
    flags = parser.parse_args()
    if flags.method:
        print(json.dumps(measure(flags.method, flags.batch)))
        return
    found: dict[str, list[dict]] = {method: [] for method in METHODS}
    for turn in range(ROUNDS):
        for method in METHODS if turn % 2 == 0 else METHODS[::-1]:
            found[method].append(run(method, flags.batch))
            print(
                method, {name: found[method][-1][name] for name in ("seconds", "memory")}, file=sys.stderr, flush=True
            )
    best = {method: min(one["seconds"] for one in runs) for method, runs in found.items()}
    memory = {method: min(one["memory"] for one in runs) for method, runs in found.items()}
    rows = [
        [
            method,
            f"{runs[0]['parameters']:,}",
            f"{100 * runs[0]['parameters'] / runs[0]['base_parameters']:.3f}",
            f"{best[method]:.2f}",
            f"{best[method] / best['lora']:.2f}",
            f"{memory[method] / 2**30:.2f}",
            f"{(memory[method] - memory['lora']) / 2**20:+,.0f}",
        ]
        for method, runs in found.items()
    ]
    measured = "the accelerator" if torch.cuda.is_available() else "the process, libraries included"
    notes = f"""{describe_device()}; batch {flags.batch}, {TOKENS} tokens, float32, median of {TIMED} updates, best of
{ROUNDS} rounds in opposite orders. LoRA has r = 1 and AdaLoRA b(T) = 72 as in the paper's Table 10; AdaLoRA's
ranks begin above that, and so they are counted. VectorFit chooses what to freeze at every update here, the worst case.
Memory is the peak of {measured}.

The paper's Table 6 (an epoch of MNLI on a Titan XP): LoRA 82 min, AdaLoRA 91, VectorFit 75, sigma_a+b 71, sigma_a 64,
which is 1, 1.11, 0.91, 0.87 and 0.78 times LoRA's. Its Fig. 5: VectorFit takes about 200 MB more.

![memory](tasks_speed.png)"""
    header = ["method", "parameters", "% of the base", "s / update", "to LoRA", "peak GiB", "MiB beside LoRA"]
    title = "Speed and memory on a DeBERTaV3-base-shaped encoder"
    write_table(RESULT, title, "python -m benchmarks.tasks_speed", header, rows, notes)
    draw(found)


if __name__ == "__main__":
    main()
