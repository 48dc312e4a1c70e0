"""A base's models are known by their configuration alone."""

import torch

from vf_dreambooth.families import skeleton as skeletons
from vf_dreambooth.families.skeleton import skeleton


def test_of_a_model_on_the_hub_its_configuration_alone_is_fetched(tiny_base, monkeypatch):
    asked = {}

    def snapshot_download(name, **how):
        asked.update(how, name=name)
        return str(tiny_base)

    monkeypatch.setattr(skeletons, "snapshot_download", snapshot_download)
    monkeypatch.setattr(skeletons.network, "answers", lambda address: True)
    assert vars(skeleton("somebody/model", "main")).keys() == {"unet", "text_encoder", "vae"}
    assert asked == {
        "name": "somebody/model",
        "revision": "main",
        "allow_patterns": ["model_index.json", "*/config.json"],
        "local_files_only": False,
    }


def test_models_without_weights_are_on_the_meta_device(tiny_base):
    models = vars(skeleton(str(tiny_base)))
    assert models.keys() == {"unet", "text_encoder", "vae"}
    assert {p.device for model in models.values() for p in model.parameters()} == {torch.device("meta")}
