from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from llava_rad.config import from_dict, load_config, save_config, to_dict
from llava_rad.errors import ConfigError


@dataclass(frozen=True)
class Source:
    path: Path
    weight: float = 1.0


@dataclass
class Optimiser:
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float | None = None

    def __post_init__(self):
        if self.lr <= 0:
            raise ConfigError("lr must be positive", remedy="Set it above 0")


@dataclass
class Config:
    name: str
    steps: int = 10
    half: bool = False
    head: Literal["linear", "mlp"] = "linear"
    sizes: list[int] = field(default_factory=lambda: [224, 98])
    layers: int | Literal["all"] = "all"
    labels: dict[str, float] = field(default_factory=dict)
    optimiser: Optimiser = field(default_factory=Optimiser)
    data: list[Source] = field(default_factory=list)


@pytest.fixture
def write(tmp_path):
    def _write(text: str) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return _write


def test_file_then_overrides_in_order(write):
    path = write("name: a\nsteps: 5\noptimiser: {lr: 0.5}\ndata: [{path: x, weight: 3}]\n")
    config = load_config(
        Config,
        path,
        ["steps=7", "steps=8", "--optimiser.clip=3", "data.0.weight=0.5", "sizes=[112]"],
    )
    assert (config.steps, config.sizes, config.half) == (8, [112], False)
    assert config.optimiser == Optimiser(lr=0.5, clip=3.0)
    assert isinstance(config.optimiser.clip, float)
    assert config.data == [Source(Path("x"), 0.5)]


def test_a_file_states_what_differs_from_its_base(tmp_path):
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "root.yaml").write_text(
        "name: root\nsteps: 1\noptimiser: {lr: 0.5, clip: 1}\nsizes: [1, 2]\n"
        "labels: {x: 1, y: 2}\ndata: [{path: a}]\n"
    )
    (tmp_path / "middle.yaml").write_text("base: shared/root.yaml\nname: middle\nsteps: 2\n")
    leaf = tmp_path / "leaf.yaml"
    leaf.write_text(
        "base: middle.yaml\nname: leaf\noptimiser: {clip: null}\nsizes: [3]\nlabels: {y: 3}\n"
    )
    assert load_config(Config, leaf, ["half=true"]) == Config(
        "leaf",
        steps=2,
        half=True,
        sizes=[3],
        labels={"x": 1.0, "y": 3.0},
        optimiser=Optimiser(lr=0.5, clip=None),
        data=[Source(Path("a"))],
    )


@pytest.mark.parametrize(
    ("base", "says"),
    [
        ("base: config.yaml\n", r"config\.yaml: the file is its own base"),
        ("base: other.yaml\n", r"config\.yaml: the file is its own base"),
        ("base: absent.yaml\n", r"absent\.yaml: cannot read the configuration"),
        ("base: [other.yaml]\n", r"'base' must be a file's name"),
        ("base: typo.yaml\n", r"config\.yaml: unknown key 'stepz'.*'steps'"),
    ],
)
def test_a_wrong_base_is_a_config_error(write, tmp_path, base, says):
    (tmp_path / "other.yaml").write_text("base: config.yaml\nname: b\n")
    (tmp_path / "typo.yaml").write_text("name: b\nstepz: 3\n")
    with pytest.raises(ConfigError, match=says):
        load_config(Config, write(base + "name: a\n"))


def test_without_a_file_overrides_fill_the_defaults():
    config = load_config(Config, None, ["name=b", "optimiser.betas=[0.8, 0.9]"])
    assert config.name == "b"
    assert config.optimiser.betas == (0.8, 0.9)


def test_exponent_without_dot_is_a_number(write):
    assert load_config(Config, write("name: a\noptimiser: {lr: 1e-4}\n")).optimiser.lr == 1e-4


def test_saved_config_reads_back_equal(tmp_path):
    config = Config("ü", data=[Source(Path("a/b"))], layers=3, labels={"x": 0.5})
    save_config(config, tmp_path / "run" / "config.yaml")
    assert load_config(Config, tmp_path / "run" / "config.yaml") == config
    assert from_dict(Config, to_dict(config)) == config


@pytest.mark.parametrize("layers", [2, "all"])
def test_union_takes_either_kind(layers):
    assert load_config(Config, None, ["name=a", f"layers={layers}"]).layers == layers


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: a\nstep: 3\n", "Did you mean 'steps'?"),
        ("name: a\noptimiser: {learning: 3}\n", "unknown key 'optimiser.learning'"),
        ("name: a\nsteps: many\n", "'steps' must be a whole number, got 'many'"),
        ("name: a\nsteps: 2.5\n", "'steps' must be a whole number, got 2.5"),
        ("name: a\nsteps: true\n", "'steps' must be a whole number, got True"),
        ("name: a\nhalf: 1\n", "'half' must be true or false"),
        ("name: 3\n", "'name' must be text"),
        ("steps: 3\n", "key 'name' is missing"),
        ("name: a\nhead: conv\n", "'head' must be one of linear, mlp, got 'conv'"),
        ("name: a\nsizes: 3\n", "'sizes' must be a list"),
        ("name: a\nsizes: [1, x]\n", "'sizes.1' must be a whole number"),
        ("name: a\noptimiser: {betas: [0.9]}\n", "'optimiser.betas' must be 2 values"),
        ("name: a\noptimiser: 3\n", "expected keys of Optimiser, got 3"),
        ("name: a\noptimiser: {lr: fast}\n", "'optimiser.lr' must be a number"),
        ("name: a\nlayers: some\n", "'layers' must be"),
        ("name: a\nlabels: {x: y}\n", "'labels.x' must be a number"),
        ("name: a\ndata: [{weight: 1}]\n", "key 'data.0.path' is missing"),
        ("name: a\noptimiser: {lr: -1}\n", "optimiser: lr must be positive. Set it above 0"),
        ("name: a\nname: b\n", "key 'name' is given twice"),
        ("- a\n", "holds a list"),
        ("name: [\n", "not valid YAML"),
    ],
)
def test_a_wrong_file_names_the_key_and_the_file(write, text, says):
    path = write(text)
    with pytest.raises(ConfigError) as caught:
        load_config(Config, path)
    assert says in str(caught.value)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("steps", "must look like key=value"),
        ("=3", "must look like key=value"),
        ("stepz=3", "Did you mean 'steps'?"),
        ("optimiser.lrr=3", "Did you mean 'lr'?"),
        ("name.x=3", "'name' is a single value"),
        ("sizes.5=3", "'5' is not an index into a list of 2"),
        ("name=[", "not valid YAML"),
    ],
)
def test_a_wrong_override_says_what_is_wrong(write, override, says):
    path = write("name: a\nsizes: [1, 2]\n")
    with pytest.raises(ConfigError) as caught:
        load_config(Config, path, [override])
    assert says in str(caught.value)


def test_absent_file_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        load_config(Config, tmp_path / "none.yaml")
