"""Variants of a recipe: equal lengths, their images, their places."""

from pathlib import Path

import pytest

from llava_rad.config import load_config
from llava_rad.data import Study, StudyImage, load_manifest, save_manifest
from llava_rad.dinov2.config import PretrainingConfig, SourceConfig
from llava_rad.dinov2.schedules import Schedules
from llava_rad.dinov2.variants import draw, make_variant, open_pool, with_steps
from llava_rad.errors import ConfigError

RECIPES = sorted((Path(__file__).parents[2] / "configs" / "encoder").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_schedules_keep_their_shape_at_another_length(path):
    recipe = load_config(PretrainingConfig, path)
    short = with_steps(recipe, 1000)
    whole = Schedules(recipe.schedule, 1.0, 0.0, epoch_steps=recipe.schedule.epoch_steps or 200)
    schedules = Schedules(short.schedule, 1.0, 0.0, short.schedule.epoch_steps)
    assert schedules.steps == 1000
    # A warm-up of few steps rises by a visible part of the peak in each of them.
    one_step = short.schedule.epochs / (short.schedule.warmup_epochs * 1000)
    # Every tenth of a percent looks like the same part of the whole run.
    for step in range(0, 1000, 7):
        now, then = schedules.at(step), whole.at(round(step / 1000 * whole.steps))
        assert now.lr == pytest.approx(then.lr, abs=0.01 + one_step)
        assert now.backbone_lr == pytest.approx(then.backbone_lr, abs=0.12)
        assert now.weight_decay == pytest.approx(then.weight_decay, abs=0.002)
        assert now.momentum == pytest.approx(then.momentum, abs=1e-4)
        assert now.teacher_temperature == pytest.approx(then.teacher_temperature, abs=1e-3)
    if recipe.high_resolution is not None:
        share = recipe.high_resolution.epochs / recipe.schedule.epochs
        steps = short.high_resolution.epochs * short.schedule.epoch_steps
        assert steps == pytest.approx(1000 * share)
    assert with_steps(short, 1000) == short


def test_an_epoch_stays_what_the_recipe_says(tmp_path):
    recipe = load_config(PretrainingConfig, RECIPES[0])
    assert with_steps(recipe, 5).schedule.epoch_steps == recipe.schedule.epoch_steps == 611
    assert with_steps(recipe, 5).schedule.epochs == pytest.approx(5 / 611)


@pytest.fixture
def manifest(tmp_path):
    """Twenty patients with a frontal and a lateral image each, ten of them without the frontal."""
    (tmp_path / "data").mkdir()
    studies = []
    for number in range(20):
        images = [StudyImage(str(tmp_path / "data" / f"{number}-lateral.png"), "lateral")]
        if number % 2:
            images.append(StudyImage(str(tmp_path / "data" / f"{number}.png"), "frontal"))
        studies.append(Study(f"s{number}", f"p{number}", "train", tuple(images), source="one"))
    save_manifest(studies, tmp_path / "data" / "one.jsonl")
    (tmp_path / "recipe.yaml").write_text("output: unused\noptimiser: {batch_size: 2}\n")
    return tmp_path / "data" / "one.jsonl"


def variant(manifest, share=1.0, seed=0, steps=10, **change):
    pools = {"one": open_pool(SourceConfig(manifest))}
    return make_variant(
        "a b", manifest.parents[1] / "recipe.yaml", [{"crops.global_size": 112}, change],
        steps=steps, pools=pools, share=share, seed=seed,
    )  # fmt: skip


def test_later_changes_win_in_either_spelling(manifest):
    recipe = variant(manifest, crops={"global_size": 56}, **{"loss.ibot_weight": 0}).recipe
    assert (recipe.crops.global_size, recipe.loss.ibot_weight, recipe.seed) == (56, 0, 0)
    with pytest.raises(ConfigError, match=r"a b, .*Did you mean 'ibot_weight'"):
        variant(manifest, loss={"ibot_wait": 0})


def test_the_share_is_of_patients_with_the_views_wanted(manifest):
    views = {"data": {"views": ["frontal"]}}
    half = variant(manifest, share=0.5, **views)
    assert (half.patients, half.images) == (5, 5)
    both = variant(manifest, share=0.5)
    assert both.patients == 10 and 10 <= both.images <= 20
    assert all(Path(path).suffix == ".png" for path in half.drawn["one"].images.paths)


def test_a_share_becomes_a_manifest_with_the_same_images(manifest, tmp_path):
    half = variant(manifest, share=0.5)
    recipe, hashes = half.place(tmp_path / "runs" / "out", None)
    (source,) = recipe.data.sources
    assert load_manifest(source.path) == half.drawn["one"].studies
    assert recipe.data.cache_folder == tmp_path / "runs" / "out" / "cache"
    whole, _ = variant(manifest).place(tmp_path / "runs" / "out", None)
    assert whole.data.sources[0].path == manifest
    assert len(hashes["one"]) == 64


def test_the_folder_is_named_after_all_that_decides_the_result(manifest, tmp_path):
    def name(launcher=None, **changes):
        return variant(manifest, **changes).place(tmp_path / "out", launcher)[0].output

    plain = name()
    assert plain.parent == tmp_path / "out" / "pretrainings" and plain.name.startswith("a-b-seed0-")
    assert name(log_steps=3, data={"workers": 1}) == plain  # decide nothing
    others = [
        name(steps=11), name(seed=1), name(share=0.5), name(loss={"koleo_weight": 0}),
        name(launcher="torchrun --nproc_per_node 2"),
    ]  # fmt: skip
    save_manifest(load_manifest(manifest)[1:], manifest)
    others.append(name())
    assert len({plain, *others}) == 7


def test_too_few_images_are_refused_before_any_training(manifest):
    with pytest.raises(ConfigError, match="a b: 1 images are fewer than the 2"):
        variant(manifest, share=0.01, data={"views": ["frontal"]})


def test_a_folder_has_no_patients(manifest):
    (manifest.parent / "x.png").touch()
    pool = open_pool(SourceConfig(manifest.parent))
    data = variant(manifest).recipe.data
    drawn = draw("all", pool, data)
    assert drawn.studies is None and len(drawn.images) == 1
    with pytest.raises(ConfigError, match=r"sources\.all: only a manifest knows its patients"):
        draw("all", pool, data, share=0.5)
