"""A small ViT pretrained from scratch on six classes of CIFAR-10, and the other four's pictures to adapt it to.

`python -m benchmarks.small_vit --data DATA` makes what is not there yet.
"""

import argparse
import math
import zipfile
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from vf_tasks import recipe
from vf_tasks.data import read
from vf_tasks.image_classification import ImageClassification

WORK = Path("runs/small_vit")
KNOWN = ("airplane", "automobile", "cat", "deer", "horse", "ship")
SIZES = {"hidden_size": 128, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 256}
EPOCHS, BATCH, RATE = 60, 128, 1e-3


def _part(data: Path, known: bool) -> Path:
    """A zip of the pictures of the known classes, or of the others."""
    target = WORK / ("known.zip" if known else "unseen.zip")
    if not target.exists():
        WORK.mkdir(parents=True, exist_ok=True)
        aside = target.with_suffix(".tmp")
        with zipfile.ZipFile(data / "cifar10_subset.zip") as whole, zipfile.ZipFile(aside, "w") as part:
            for name in whole.namelist():
                if name.endswith(".jpg") and (name.split("/")[-2] in KNOWN) == known:
                    part.writestr(name, whole.read(name))
        aside.rename(target)
    return target


def unseen(data: Path) -> Path:
    """The pictures of the four classes that pretraining does not see, as a zip."""
    return _part(data, known=False)


def pretrained(data: Path) -> Path:
    """The folder of the pretrained model, trained now unless it is there."""
    target = WORK / "model"
    if not (target / "config.json").exists():
        _pretrain(_part(data, known=True), target)
    return target


def _pretrain(pictures: Path, target: Path) -> None:
    torch.manual_seed(0)
    task = ImageClassification(recipe.read("cifar10"))
    rows = read(task.recipe, str(pictures))
    task.prepare(rows)
    task.processor = ViTImageProcessor(size={"height": 32, "width": 32})
    config = ViTConfig(**SIZES, image_size=32, patch_size=4, hidden_dropout_prob=0.1, **task.model_options())
    config._attn_implementation = "eager"  # twice as fast as torch's own under autocast on CPUs
    model = ViTForImageClassification(config)
    loader = DataLoader(task.examples(rows.train, training=True), BATCH, shuffle=True, collate_fn=task.collator)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.05)
    steps = EPOCHS * len(loader)
    cosine = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda n: min(1, n / 200) * (1 + math.cos(math.pi * n / steps)) / 2
    )
    for epoch in range(EPOCHS):
        model.train()
        for batch in loader:
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(**batch).loss
            loss.backward()
            optimizer.step()
            cosine.step()
            optimizer.zero_grad()
        print(f"epoch {epoch + 1} of {EPOCHS}: loss {loss.item():.3f}", flush=True)
    print(f"accuracy on the six classes' test pictures: {_accuracy(model, task, rows):.3f}", flush=True)
    task.processor.save_pretrained(target)
    model.save_pretrained(target)


@torch.no_grad()
def _accuracy(model: ViTForImageClassification, task: ImageClassification, rows) -> float:
    model.eval()
    right = [
        model(pixel_values=batch["pixel_values"]).logits.argmax(-1) == batch["labels"]
        for batch in DataLoader(task.examples(rows.tests["test"], training=False), BATCH, collate_fn=task.collator)
    ]
    return torch.cat(right).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder with cifar10_subset.zip")
    data = parser.parse_args().data
    print(pretrained(data))
    print(unseen(data))


if __name__ == "__main__":
    main()
