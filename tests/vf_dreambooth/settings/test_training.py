"""The flags under "training"."""

import pytest

from vectorfit import VectorFitError
from vf_dreambooth.config import TrainConfig


def settings(**given) -> TrainConfig:
    return TrainConfig(instance_data_dir="dog", **given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"huber_c": 0.2}, "--huber_c: --loss_type l2 has no such place"),
        ({"lr_num_cycles": 2}, "--lr_num_cycles: --lr_scheduler constant has no"),
        ({"lr_power": 2.0, "lr_scheduler": "cosine"}, "--lr_power: --lr_scheduler cosine has no"),
        ({"lr_warmup_steps": 5}, "--lr_warmup_steps: the constant schedule has no warm-up"),
        ({"optimizer": "prodigy", "text_encoder_lr": 1.0}, "--text_encoder_lr: prodigy finds one rate"),
        ({"train_text_encoder": False, "text_encoder_lr": 1.0}, "--text_encoder_lr: the text encoder is not trained"),
        ({"ema_decay": 0.5}, "--ema_decay: no moving average is kept"),
        ({"offset_noise": -0.1}, "--offset_noise: got -0.1, expected at least 0"),
        ({"loss_type": "l1"}, "--loss_type: got 'l1', expected one of l2, huber"),
        ({"optimizer": "sgd"}, "--optimizer: got 'sgd', expected one of adamw, prodigy"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_contradicts_is_refused(given, message):
    with pytest.raises(VectorFitError, match=message):
        settings(**given)


def test_what_belongs_together_is_taken():
    given = {"loss_type": "huber", "huber_c": 0.2, "lr_scheduler": "polynomial", "lr_power": 2.0}
    restarts = {"lr_scheduler": "cosine_with_restarts", "lr_num_cycles": 3, "lr_warmup_steps": 5}
    for together in ({**given, "optimizer": "prodigy"}, restarts):
        taken = settings(**together)
        assert {name: getattr(taken, name) for name in together} == together
