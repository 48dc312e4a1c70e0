"""What holds for every family: a tiny base trains, resumes, draws, is recognised, combines subjects and exports."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from diffusers import DiffusionPipeline
from PIL import Image
from safetensors.torch import load_file
from torch.utils._pytree import tree_flatten_with_path

import vectorfit as vf
from eval import generation as evaluation
from eval import manifest
from tests.vf_dreambooth.conftest import QUICK, command_line, write_photos
from tests.vf_dreambooth.families.tiny import BUILDERS, tiny
from train_dreambooth_vectorfit import adapted, main
from vectorfit import VectorFitError
from vectorfit.fingerprint import canonical_name
from vf_dreambooth import export, objective, optimization, run_writer
from vf_dreambooth.base_models import load, resolve
from vf_dreambooth.engine import Engine, PromptBatch
from vf_dreambooth.families import FAMILIES, Family
from vf_dreambooth.families.flow_transformer import FlowTransformer
from vf_dreambooth.families.flux import Flux
from vf_dreambooth.families.stable_diffusion_3 import StableDiffusion3
from vf_dreambooth.families.z_image import ZImage
from vf_dreambooth.pipeline import GenerationSettings, adapted_models, load_pipeline, set_subjects
from vf_dreambooth.setup import prepare
from vf_dreambooth.validation import Validation
from vf_training.runs import RunFolder

SAMPLING = GenerationSettings(num_inference_steps=2, guidance_scale=2.0, resolution=16)
STEPS = 20


class World:
    """A tiny base of a family, photos, and a run of both with all models that can be adapted."""

    def __init__(self, family: Family, folder: Path) -> None:
        self.family, self.folder, self.base = family, folder, folder / "base"
        self.photos = write_photos(folder / "dog")
        tiny(type(family)).save_pretrained(self.base)
        self.text = ["--train_text_encoder" if len(adapted_models(self.pipe())) > 1 else "--no-train_text_encoder"]
        main(self.line("run", "--num_validation_images", 1))
        self.run = RunFolder(folder / "run")

    def pipe(self) -> DiffusionPipeline:
        return load(resolve(str(self.base)))

    def line(self, name: str, *flags: object) -> list[str]:
        line = command_line(self.photos, self.base)(self.folder / name, *self.text, *flags)
        line[line.index("--max_train_steps") + 1] = str(STEPS)
        line[line.index("--checkpointing_steps") + 1] = str(STEPS // 2)
        return line


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.name)
def world(request, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VECTORFIT_CACHE", "off")
        patch.setattr(run_writer, "write_training", lambda *_: [])
        for family in FAMILIES:
            patch.setitem(family.presets, family.default_preset, QUICK)
        yield World(request.param, tmp_path_factory.mktemp("world"))


def pixels(pipe, *subjects):
    images = engine_of(pipe).generate(PromptBatch(None, subjects, ("a photo of sks dog",), (3,), SAMPLING))
    return np.asarray(images[0].image).astype(int)


def engine_of(pipe) -> Engine:
    """The page's generator, with this pipeline as the base that it has loaded."""
    engine = Engine()
    engine._pipe = pipe
    return engine


def test_every_family_is_here():
    assert {type(family) for family in FAMILIES} == BUILDERS.keys()


def test_a_run_is_complete_and_says_its_base(world):
    vectors, metadata = load_file(world.run.vectors), vf.read_metadata(world.run.vectors)
    assert {name.split(".")[0] for name in vectors} == set(adapted_models(world.pipe()))
    assert len(world.run.read_log()) == STEPS
    assert all(np.isfinite(entry["loss"]) for entry in world.run.read_log())
    assert world.run.sample_grids()
    assert len(list((world.folder / "class_images").glob("*/*.png"))) == 3
    assert world.family.hub_tag in (world.run.path / "README.md").read_text()
    assert metadata["modelspec.architecture"].startswith(world.family.architecture(world.pipe()))


def test_a_dry_run_says_how_much_memory_and_writes_nothing(world, capsys):
    main(world.line("dry", "--dry_run"))
    out = capsys.readouterr().out
    assert re.search(r"trainable    .*[\d,]+ of [\d,]+ parameters", out)
    assert re.search(r"these settings: +\d+\.\d GiB to train, \d+\.\d GiB to draw", out)
    assert not (world.folder / "dry").exists()


def test_the_loss_at_fixed_noise_is_lower_after_the_training(world):
    (setup,), _ = prepare(world.line("no run"))
    pipe, accelerator = world.pipe(), Accelerator(cpu=True)
    measure = Validation(setup.config, pipe, setup.photos)
    before = measure.loss(accelerator)
    vf.load_vectors(adapted_models(pipe), world.run.vectors)
    assert measure.loss(accelerator) < before


def test_every_vector_of_the_plan_gets_a_gradient(world):
    (setup,), _ = prepare(world.line("no run", "--no-avf"))
    pipe = world.pipe()
    models = adapted(pipe, "--train_text_encoder" in world.text)
    built = optimization.build(setup.config, models, world.family.unreached(pipe))
    denoiser = world.family.denoiser(pipe)
    ids = world.family.tokenize(pipe, ["a photo of a dog"])
    noisy = torch.randn(2, *world.family.latent_shape(pipe, 16))
    denoiser(noisy, torch.tensor([100, 700]), ids, torch.tensor([0, 0])).square().mean().backward()
    still = [name for name, vector in built.vectors.items() if vector.grad is None or not vector.grad.any()]
    # An attention's scores do not change with a bias of its keys: softmax takes no notice of a constant.
    assert [name for name in still if not name.endswith(("k_proj.bias", "to_k.bias"))] == []


def test_a_stopped_run_goes_on_to_the_identical_file(world, monkeypatch):
    original = objective.Objective.backward

    def backward(self, denoiser, step, accelerator):
        if step == STEPS // 2 + 3:
            raise KeyError
        return original(self, denoiser, step, accelerator)

    flags = ("--num_validation_images", 1)
    with monkeypatch.context() as patch:
        patch.setattr(objective.Objective, "backward", backward)
        with pytest.raises(KeyError):
            main(world.line("parts", *flags))
    main(world.line("parts", *flags, "--resume_from_checkpoint", "latest"))
    parts = RunFolder(world.folder / "parts")
    assert parts.vectors.read_bytes() == world.run.vectors.read_bytes()
    assert parts.log.read_bytes() == world.run.log.read_bytes()


def test_subjects_are_drawn_added_and_taken_away(world):
    pipe = load_pipeline(resolve(str(world.base)), device="cpu")
    base = pixels(pipe)
    once, twice = pixels(pipe, (world.run.path, 3.0)), pixels(pipe, (world.run.path, 3.0), (world.run.path, 3.0))
    double = pixels(pipe, (world.run.path, 6.0))
    assert (once != base).any()
    assert (twice != once).any()
    assert abs(twice - double).max() <= 1  # strengths add up
    assert (pixels(pipe) == base).all()


def test_another_base_is_refused(world, tmp_path):
    tiny(type(world.family), seed=1).save_pretrained(tmp_path / "other")
    with pytest.raises(VectorFitError, match="made for base weights with SHA-256"):
        load_pipeline(resolve(str(tmp_path / "other")), [(world.run.path, 1.0)], device="cpu")


FRESH = """
import sys
import numpy as np
from vf_dreambooth.base_models import resolve
from vf_dreambooth.pipeline import GenerationSettings, generate_images, load_pipeline

base, run, out = sys.argv[1:]
pipe = load_pipeline(resolve(base), [(run, 3.0)], device="cpu")
(image,) = generate_images(pipe, ["a photo of sks dog"], [3], GenerationSettings(2, 2.0, 16))
np.save(out, np.asarray(image))
"""


@pytest.mark.slow
def test_a_fresh_process_draws_the_same(world, tmp_path):
    command = [sys.executable, "-c", FRESH, str(world.base), str(world.run.path), str(tmp_path / "image.npy")]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[3], timeout=300)
    there = np.load(tmp_path / "image.npy").astype(int)
    here = pixels(load_pipeline(resolve(str(world.base)), device="cpu"), (world.run.path, 3.0))
    assert (there == here).all()


def test_the_evaluator_draws_the_subject(world, tmp_path):
    (tmp_path / "prompts.txt").write_text("a {} in the snow\na {} on the beach\n")
    options = {"images_per_prompt": 1, "class_images": False}
    task = evaluation.task_of(world.run.path, tmp_path / "evaluation", str(tmp_path / "prompts.txt"), **options)
    assert evaluation.generate(task) == 2
    drawn = manifest.read(task.out)
    assert [entry.prompt for entry in drawn] == ["a sks dog in the snow", "a sks dog on the beach"]
    assert {Image.open(task.out / entry.file).size for entry in drawn} == {(16, 16)}


def called(model, call):
    """The tensors that a model gets by the names of its parameters, and its output, when `call` is made."""
    seen = []
    forward = model.forward
    bind = inspect.signature(forward).bind

    def recorded(*args, **kwargs):
        output = forward(*args, **kwargs)
        given = tree_flatten_with_path(dict(bind(*args, **kwargs).arguments))[0]
        tensors = {str(path): value for path, value in given if isinstance(value, torch.Tensor)}
        seen.append((tensors, output[0]))
        return output

    model.forward = recorded
    try:
        with torch.no_grad():
            call()
    finally:
        del model.forward
    return seen[0]


def first_step(world, **more):
    """What the pipeline is called with to take its first step from known noise, without guidance."""
    guidance = 0.0 if isinstance(world.family, ZImage) else 1.0
    size = {"height": 16, "width": 16, "num_inference_steps": 2, "output_type": "latent"}
    generator = [torch.Generator().manual_seed(3)]
    own = world.family.call_arguments(world.pipe())
    return {"prompt": ["a photo of a dog"], "generator": generator, "guidance_scale": guidance, **size, **own, **more}


def known_noise(world, pipe):
    return torch.randn(1, *world.family.latent_shape(pipe, 16), generator=torch.Generator().manual_seed(3))


def test_the_denoiser_asks_the_model_what_the_pipeline_asks(world):
    pipe, family = world.pipe(), world.family
    denoiser, model = family.denoiser(pipe), next(iter(adapted_models(pipe).values()))
    theirs, output = called(model, lambda: pipe(**first_step(world)))
    timestep, ids = pipe.scheduler.timesteps[:1], family.tokenize(pipe, ["a photo of a dog"])
    ours, predicted = called(model, lambda: denoiser(known_noise(world, pipe), timestep, ids, torch.tensor([0])))
    for name, value in ours.items():
        torch.testing.assert_close(value.float(), theirs[name].float().expand(value.shape))
    torch.testing.assert_close(predicted, output)


def test_a_step_of_a_flow_goes_where_the_denoiser_says(world):
    pipe, family = world.pipe(), world.family
    if not isinstance(family, FlowTransformer):
        pytest.skip("predicts noise")
    steps = []

    def seen(_pipe, _step, _timestep, tensors):
        steps.append(tensors["latents"].clone())
        return tensors

    pipe(**first_step(world, callback_on_step_end=seen))
    after = steps[0] if steps[0].ndim == 4 else pipe._unpack_latents(steps[0], 16, 16, pipe.vae_scale_factor)
    noisy, shares = known_noise(world, pipe), pipe.scheduler.sigmas
    ids = family.tokenize(pipe, ["a photo of a dog"])
    with torch.no_grad():
        velocity = family.denoiser(pipe)(noisy, pipe.scheduler.timesteps[:1], ids, torch.tensor([0]))
    torch.testing.assert_close(noisy + (shares[1] - shares[0]) * velocity, after, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("naming", ["diffusers", "kohya"])
def test_a_lora_of_full_rank_is_the_subject_in_diffusers(world, tmp_path, naming):
    """Biases are not in kohya's files, so the subject has none here.

    Of kohya's files diffusers reads Flux's at its own width alone, and Stable Diffusion 3's not at all. Their own tests
    show that they hold the same.
    """
    if naming == "kohya" and isinstance(world.family, (Flux, StableDiffusion3)):
        pytest.skip("not read by diffusers")
    pipe = world.pipe()
    models = adapted_models(pipe)
    vf.inject(models, vf.VectorFitConfig(variant="sigma"))
    with torch.no_grad():
        for vector in vf.vector_parameters(models).values():
            vector.normal_(std=0.1)
    subject = tmp_path / "subject.safetensors"
    vf.save_vectors(models, subject, base_model=str(world.base))
    out = tmp_path / "lora.safetensors"
    export.export(subject, resolve(str(world.base)), export.Kind("lora", 999, naming), out)
    theirs = type(pipe).from_pretrained(world.base, torch_dtype=torch.float32)
    theirs.load_lora_weights(tmp_path, weight_name="lora.safetensors")
    expected, ours = world.pipe(), world.pipe()
    set_subjects(ours, [(subject, 1.0)])
    for name, model in adapted_models(ours).items():
        bases = dict(adapted_models(expected)[name].named_modules())
        loaded = dict(getattr(theirs, name).named_modules())
        for path, module in model.named_modules():
            if not isinstance(module, vf.layers.VectorFitLayer):
                continue
            layer = loaded[path]
            delta = module.weight - bases[path].weight
            assert delta.abs().max() > 1e-3
            assert hasattr(layer, "lora_A"), f"{name}.{path} was not loaded"
            torch.testing.assert_close(layer.get_delta_weight(layer.active_adapters[0]), delta, atol=1e-5, rtol=1e-3)


def test_the_merged_pipeline_and_the_difference_hold_the_subject(world, tmp_path):
    base, subject = (
        resolve(str(world.base)),
        load_pipeline(resolve(str(world.base)), [(world.run.path, 1.0)], device="cpu"),
    )
    for kind in ("pipeline", "diff"):
        export.export(world.run.path, base, export.Kind(kind), tmp_path / kind)
    merged, plain, change = load(resolve(str(tmp_path / "pipeline"))), world.pipe(), load_file(tmp_path / "diff")
    naming, changed = world.family.naming(world.family.diff_naming, subject), 0
    for name, model in adapted_models(subject).items():
        for path, module in model.named_modules():
            if isinstance(module, vf.layers.VectorFitLayer):
                there, before = (adapted_models(pipe)[name].get_submodule(path).weight for pipe in (merged, plain))
                assert torch.equal(there, module.weight)
                exact = change[f"{naming.layer(canonical_name(f'{name}.{path}'))}.diff"]
                torch.testing.assert_close(exact, module.weight - before, atol=1e-6, rtol=1e-3)
                changed += 1
    assert changed == sum(name.endswith(".diff") for name in change)
