import typing
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import pytest

from llava_rad.config import (
    Ascending,
    Count,
    NonNegative,
    Positive,
    Range,
    Share,
    check_ranges,
    from_dict,
    load_config,
    save_config,
    to_dict,
)
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


# --- Ranges -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ranged:
    share: Share = 0.5
    lr: Positive = 1.0
    free: Annotated[float, Range()] = 0.0
    steps: Count = 1
    size: Count | None = None
    layers: Annotated[int, Range(0, 24)] | Literal["all"] = "all"
    scale: Annotated[tuple[Share, Share], Ascending()] = (0.0, 1.0)
    rates: list[Positive] = field(default_factory=list)
    weights: dict[str, NonNegative] = field(default_factory=dict)

    def __post_init__(self):
        check_ranges(self)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("share=1.5", "'share' must be from 0 to 1, got 1.5"),
        ("share=-0.1", "'share' must be from 0 to 1, got -0.1"),
        ("share=.nan", "'share' must be from 0 to 1, got nan"),
        ("share='nan'", "'share' must be from 0 to 1, got nan"),
        ("lr=0", "'lr' must be above 0, got 0.0"),
        ("lr=-1", "'lr' must be above 0, got -1.0"),
        ("lr=.inf", "'lr' must be above 0, got inf"),
        ("lr=1e999", "'lr' must be above 0, got inf"),
        ("lr=-.inf", "'lr' must be above 0, got -inf"),
        ("free=inf", "'free' must be a number with a finite value, got inf"),
        ("steps=0", "'steps' must be at least 1, got 0"),
        ("size=0", "'size' must be at least 1, got 0"),
        ("layers=25", "'layers' must be from 0 to 24, got 25"),
        ("layers=some", "'layers' must be a whole number or one of all, got 'some'"),
        ("scale=[0.5, 0.2]", "'scale' must go from the smaller to the larger value"),
        ("scale=[0.5, 2]", "'scale.1' must be from 0 to 1, got 2.0"),
        ("rates=[1, 0]", "'rates.1' must be above 0, got 0.0"),
        ("weights={a: -1}", "'weights.a' must be at least 0, got -1.0"),
    ],
)
def test_a_number_outside_its_range_is_refused_with_the_range(override, says):
    with pytest.raises(ConfigError) as caught:
        load_config(Ranged, None, [override])
    assert says in str(caught.value)
    assert caught.value.exit_code == 2


def test_the_ends_of_a_range_are_inside_it():
    given = ["share=1", "steps=1", "layers=24", "scale=[0.5, 0.5]", "weights={a: 0}", "size=null"]
    config = load_config(Ranged, None, given)
    assert (config.share, config.layers, config.scale, config.size) == (1, 24, (0.5, 0.5), None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"share": 2},
        {"lr": float("inf")},
        {"steps": 1.5},
        {"steps": True},
        {"steps": "3"},
        {"scale": (1.0, 0.0)},
        {"rates": [0.0]},
        {"weights": {"a": -1.0}},
        {"layers": 25},
    ],
)
def test_python_code_is_held_to_the_ranges_too(wrong):
    with pytest.raises(ConfigError, match=f"Ranged: '{next(iter(wrong))}"):
        Ranged(**wrong)


def every_config():
    """Each dataclass that a run is set up with, and those inside it."""
    from llava_rad.comparisons import AblationConfig, CompareConfig
    from llava_rad.dinov2.config import PretrainingConfig
    from llava_rad.model.configuration import ReportModelConfig
    from llava_rad.report_training import ReportTrainingConfig
    from llava_rad.reports.generate import GenerationSettings

    waiting = [PretrainingConfig, ReportTrainingConfig, ReportModelConfig, GenerationSettings]
    waiting += [AblationConfig, CompareConfig]
    found = []
    while waiting:
        kind = waiting.pop()
        if kind in found:
            continue
        found.append(kind)
        for hint in typing.get_type_hints(kind).values():
            waiting += [part for part in parts_of(hint) if is_dataclass(part)]
    return found


def parts_of(hint):
    inner = typing.get_args(hint)
    return [hint, *(part for option in inner for part in parts_of(option))]


def unranged(hint):
    """Whether a number without a range is somewhere in a type."""
    if typing.get_origin(hint) is Annotated:
        base, *marks = typing.get_args(hint)
        ranged = any(isinstance(mark, Range) for mark in marks)
        return not ranged and unranged(base)
    return hint in (int, float) or any(unranged(part) for part in typing.get_args(hint))


def test_every_number_of_every_config_states_its_range():
    kinds = every_config()
    assert len(kinds) >= 20
    without = [
        f"{kind.__name__}.{name}"
        for kind in kinds
        for name, hint in typing.get_type_hints(kind, include_extras=True).items()
        if typing.get_origin(hint) is not typing.Literal and unranged(hint)
    ]
    assert without == []


@pytest.mark.parametrize(
    "override",
    [
        "optimiser.base_lr=-1",
        "optimiser.clip=-1",
        "optimiser.batch_size=0",
        "schedule.momentum=[5, 9]",
        "head.layers=0",
        "log_steps=0",
        "crops.local_scale=[0.5, 0.1]",
        "data.sources=[{path: a, weight: .inf}]",
        "seed=-1",
    ],
)
def test_pretraining_refuses_what_ran_to_the_end(override):
    from llava_rad.dinov2.config import PretrainingConfig

    key = override.split("=")[0]
    with pytest.raises(ConfigError, match=rf"'{key}(\.\d)?(\.weight)?' must "):
        load_config(PretrainingConfig, None, ["output=x", override])


# --- Files that do harm -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: !!int abc\n", "'abc' is no int"),
        ("name: a\nsteps: !!timestamp x\n", "tag '!!timestamp' is not allowed"),
        ("name: !!python/object/apply:os.system [ls]\n", "is not allowed"),
        ("name: " + "[" * 3000, "nested too deep"),
        ("name: &a [*a]\n", "an alias stands for what it is part of"),
        ("name: a\nsteps: " + "9" * 5000, "is no int"),
        ("name: a\nsteps: 0x" + "f" * 5000, "is no int"),
        ("name: a\nlabels: {x: 1e999}\n", "'labels.x' must be a number with a finite value"),
        ("name: a\ndata: [{path: 3}]\n", "'data.0.path' must be a path, got 3"),
        ('name: a\ndata: [{path: "a\\0b"}]\n', "'data.0.path' must be a path"),
        ("name: a\n? [b]\n: 3\n", "a key is no plain value"),
        ("name: a\n3: 4\n", "unknown key '3'"),
        ("name: 2024-01-31\nsteps: 2024-01-31\n", "'steps' must be a whole number"),
        ("name: a\nsteps: 1:30\n", "'steps' must be a whole number, got '1:30'"),
        ("name: a\n---\nname: b\n", "single document"),
    ],
)
def test_a_harmful_file_is_one_line_that_names_the_place(write, text, says):
    path = write(text)
    with pytest.raises(ConfigError) as caught:
        load_config(Config, path)
    message = str(caught.value)
    assert says in message and message.startswith(str(path))
    assert "\n" not in message and len(message) < 500


def test_aliases_that_stand_for_millions_of_values_are_refused(write):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    with pytest.raises(ConfigError, match="more than 100,000 values"):
        load_config(Config, write("\n".join(lines)))


def test_small_aliases_and_merges_are_read(write):
    text = "name: a\noptimiser: &o {lr: 0.5}\nlabels: {<<: {x: 1, y: 2}, y: 3}\nsizes: &s [1]\n"
    config = load_config(Config, write(text))
    assert (config.optimiser.lr, config.labels, config.sizes) == (0.5, {"x": 1, "y": 3}, [1])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("name: é\n".encode("latin-1"), "config.yaml:1: not UTF-8"),
        ("name: a\n".encode("utf-16"), "UTF-16"),
        (b"name: a\nsteps: 1\0\n", "config.yaml:2: the file holds NUL bytes"),
    ],
)
def test_a_file_of_another_encoding_says_so(tmp_path, content, says):
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=says):
        load_config(Config, tmp_path / "config.yaml")


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path):
    (tmp_path / "config.yaml").write_bytes(b"\xef\xbb\xbfname: a\n")
    assert load_config(Config, tmp_path / "config.yaml").name == "a"


@dataclass(frozen=True)
class _Source:
    SHORT: ClassVar[str] = "path"

    path: Path
    weight: float = 1.0


@dataclass(frozen=True)
class _Shortened:
    sources: list[_Source] = field(default_factory=list)
    named: dict[str, _Source] = field(default_factory=dict)


@pytest.mark.parametrize(
    "given",
    ["a.jsonl", "[a.jsonl]", "{path: a.jsonl}", "[{path: a.jsonl}]"],
)
def test_a_path_or_a_list_of_paths_is_a_list_of_sources(given):
    found = load_config(_Shortened, overrides=[f"sources={given}"])
    assert found.sources == [_Source(Path("a.jsonl"))]


def test_paths_stand_beside_whole_sources():
    both = load_config(_Shortened, overrides=["sources=[a.jsonl, {path: b, weight: 2}]"])
    assert both.sources == [_Source(Path("a.jsonl")), _Source(Path("b"), 2.0)]
    named = load_config(_Shortened, overrides=["named={mine: a.jsonl}"])
    assert named.named == {"mine": _Source(Path("a.jsonl"))}
    with pytest.raises(ConfigError, match=r"sources\.0"):
        load_config(_Shortened, overrides=["sources=[3]"])


def test_both_trainings_take_a_plain_path():
    from llava_rad.dinov2.config import PretrainingConfig
    from llava_rad.report_training import ReportTrainingConfig

    for kind in (PretrainingConfig, ReportTrainingConfig):
        settings = load_config(kind, overrides=["output=x", "data.sources=my.jsonl"])
        assert [source.path for source in settings.data.sources] == [Path("my.jsonl")]
