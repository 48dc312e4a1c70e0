"""A stand-in for the engine, and a small subject file."""

import threading
from pathlib import Path

from PIL import Image

import vectorfit as vf
from vf_dreambooth.base_models import load, resolve
from vf_dreambooth.engine import PromptBatch
from vf_dreambooth.pipeline import GeneratedImage, adapted_models


class FakeEngine:
    """Returns squares whose colour encodes strength and seed, and records its orders."""

    def __init__(self, blanked: bool = False) -> None:
        self.orders: list[PromptBatch] = []
        self.blanked = blanked
        self.drawing = threading.Lock()

    def generate(self, order: PromptBatch, told, preview=None) -> list[GeneratedImage]:
        with self.drawing:
            self.orders.append(order)
            for done in range(order.steps + 1):
                told(done)
                for index in range(len(order.seeds)) if preview and done else ():
                    preview(index, Image.new("RGB", (2, 2), (done, 0, 0)))
            strength = round(100 * sum(strength for _, strength in order.subjects))
            side = order.settings.resolution
            return [
                GeneratedImage(Image.new("RGB", (side, side), (strength, seed % 256, 0)), self.blanked)
                for seed in order.seeds
            ]

    def release(self) -> None:
        self.released = True


def write_subject(path: Path, noun: str = "dog", base: str = "starter", scale: float = 0.5) -> Path:
    """A real subject file on the starter with made-up deltas."""
    models = adapted_models(load(resolve("starter")))
    vf.inject(models)
    for number, vector in enumerate(vf.vector_parameters(models).values()):
        vector.data += scale * (number % 5 - 2)
    path.parent.mkdir(parents=True, exist_ok=True)
    training = f'{{"class_noun": "{noun}", "token": "sks"}}'
    metadata = {"vectorfit.training": training, "modelspec.trigger_phrase": f"sks {noun}"}
    vf.save_vectors(models, path, base_model=base, metadata=metadata)
    return path
