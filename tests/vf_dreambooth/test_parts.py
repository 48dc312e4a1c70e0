import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vectorfit import VectorFitError
from vf_dreambooth.base_models import SD14, resolve
from vf_dreambooth.config import TrainConfig
from vf_dreambooth.data import Latents, Sampler
from vf_dreambooth.images import square
from vf_dreambooth.objective import combine, target
from vf_dreambooth.photos import open_photo, read_folder
from vf_dreambooth.prompts import class_noun, default_prompts


@given(st.lists(st.tuples(st.floats(0, 9), st.booleans()), min_size=1, max_size=12), st.randoms(), st.floats(0, 2))
def test_the_loss_does_not_depend_on_the_order_of_the_batch(samples, random, weight):
    def loss(pairs):
        losses, flags = zip(*pairs, strict=True)
        return combine(torch.tensor(losses, dtype=torch.float64), torch.tensor(flags), weight)[0]

    shuffled = random.sample(samples, len(samples))
    torch.testing.assert_close(loss(shuffled), loss(samples), atol=1e-9, rtol=1e-9)


def test_the_loss_is_two_means_and_an_empty_side_counts_nothing():
    losses = torch.tensor([1.0, 3.0, 10.0])
    total, instance, prior = combine(losses, torch.tensor([False, False, True]), 0.5)
    assert (total, instance, prior) == (7.0, 2.0, 10.0)
    assert combine(losses, torch.tensor([True] * 3), 0.5)[1] == 0
    assert combine(losses, torch.tensor([False] * 3), 0.5)[2] == 0


def test_the_target_follows_the_prediction_type():
    latents, noise, timesteps = torch.randn(2, 4, 2, 2), torch.randn(2, 4, 2, 2), torch.tensor([10, 900])
    assert torch.equal(target(DDPMScheduler(), latents, noise, timesteps), noise)
    velocity = DDPMScheduler(prediction_type="v_prediction")
    a = velocity.alphas_cumprod[timesteps].sqrt().view(2, 1, 1, 1)
    s = (1 - velocity.alphas_cumprod[timesteps]).sqrt().view(2, 1, 1, 1)
    torch.testing.assert_close(target(velocity, latents, noise, timesteps), a * noise - s * latents)
    with pytest.raises(VectorFitError, match="'sample'"):
        target(DDPMScheduler(prediction_type="sample"), latents, noise, timesteps)


def sampler(batch_size: int, seed: int = 0) -> Sampler:
    generator = torch.Generator().manual_seed(1)
    sides = [Latents(torch.randn(n, 4, 2, 2, generator=generator), torch.ones(n, 4, 2, 2)) for n in (5, 7)]
    return Sampler(*sides, batch_size=batch_size, global_batch_size=4, num_timesteps=1000, seed=seed)


def test_a_sample_depends_on_its_place_in_the_global_batch_alone():
    whole = sampler(4).batch(3)
    parts = [sampler(2).batch(3, first) for first in (0, 2)]
    for field in ("latents", "noise", "timesteps"):
        instance = torch.cat([getattr(part, field)[:2] for part in parts])
        prior = torch.cat([getattr(part, field)[2:] for part in parts])
        assert torch.equal(torch.cat([instance, prior]), getattr(whole, field))
    assert whole.is_class.tolist() == [False] * 4 + [True] * 4


def test_steps_and_seeds_differ_and_repeat():
    first = sampler(4).batch(1)
    assert torch.equal(sampler(4).batch(1).noise, first.noise)
    assert not torch.equal(sampler(4).batch(2).noise, first.noise)
    assert not torch.equal(sampler(4, seed=1).batch(1).noise, first.noise)


def test_every_photo_is_shown_equally_often():
    still = Latents(torch.arange(5.0).view(5, 1, 1, 1), torch.zeros(5, 1, 1, 1))
    draw = Sampler(still, None, batch_size=4, global_batch_size=4, num_timesteps=10, seed=0)
    shown = torch.cat([draw.batch(step).latents.flatten() for step in range(1, 6)])
    assert sorted(shown.tolist()) == sorted([*range(5)] * 4)


@pytest.mark.parametrize(
    ("folder", "noun"),
    [
        ("dog", "dog"),
        ("dog6", "dog"),
        ("my_teapot-2", "teapot"),
        ("backpack_dog", "backpack"),
        ("grey_sloth_plushie", "stuffed animal"),
        ("Red Car", "red car"),
        ("dog_photos", "dog"),
    ],
)
def test_the_noun_from_the_folder(folder, noun):
    assert class_noun(folder) == noun


@pytest.mark.parametrize("folder", ["images", "data", "IMG_2024", "123", "photos-2", "my_images"])
def test_uninformative_folder_names_are_refused(folder):
    with pytest.raises(VectorFitError, match="--class_noun"):
        class_noun(folder)


def test_default_prompts():
    assert default_prompts("sks", "dog") == ("a photo of sks dog", "a photo of a dog")
    assert default_prompts("zwx", "owl") == ("a photo of zwx owl", "a photo of an owl")


def test_photos_are_upright_rgb_in_order_and_other_files_are_named(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: 40 x 20 is shown as 20 x 40
    Image.new("RGB", (40, 20), "red").save(tmp_path / "b.jpg", exif=exif)
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "a.png")
    Image.new("RGB", (8, 8), "blue").save(tmp_path / "c.webp")
    (tmp_path / "notes.txt").write_text("no photo")
    (tmp_path / ".DS_Store").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    photos = read_folder(tmp_path)
    assert photos.names == ["a.png", "b.jpg", "c.webp"]
    assert photos.ignored == [".DS_Store", "folder", "notes.txt"]
    assert photos.images[0].getpixel((0, 0)) == (255, 255, 255)  # transparency lies over white
    assert photos.images[1].size == (20, 40)
    assert all(image.mode == "RGB" for image in photos.images)


def test_only_the_three_decoders_run(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "disguised.png", format="BMP")
    with pytest.raises(VectorFitError, match=r"disguised\.png.*not a JPEG, PNG or WebP"):
        open_photo(tmp_path / "disguised.png")


def test_square_takes_the_centre():
    image = Image.new("RGB", (30, 10), "red")
    image.paste("blue", (10, 0, 20, 10))
    assert square(image, 10).getcolors() == [(100, (0, 0, 255))]


def test_base_models_and_their_presets(tmp_path):
    starter, sd = resolve("starter"), resolve(SD14)
    assert starter.preset.resolution == 64
    assert (sd.preset.learning_rate, sd.preset.num_class_images, sd.preset.resolution) == (5e-5, 300, 512)
    assert resolve("auto").name == (SD14 if torch.cuda.is_available() else "starter")
    with pytest.raises(VectorFitError, match="no such folder"):
        resolve("./nowhere")


def test_settings_are_completed_from_folder_and_preset(tmp_path):
    config = TrainConfig(instance_data_dir=str(tmp_path / "dog6")).completed(
        resolve(SD14), mixed_precision="no", accumulation=1
    )
    assert (config.class_noun, config.instance_prompt, config.max_train_steps) == ("dog", "a photo of sks dog", 1000)
    assert (config.avf_first_step, config.avf_every, config.avf_num_freezes) == (350, 30, 10)
    assert config.learning_rate == 5e-5
