"""Configurations in YAML: those that come with the project, damaged line by line."""

from pathlib import Path
from random import Random

from fuzz.inputs import Files, Kind
from fuzz.raw import damaged

_ROOT = Path(__file__).parents[2]
_VALUES = (
    *("", "null", "~", "true", "no", "0", "-1", "-1e-30", "1e999", ".inf", "-.inf", ".nan", "0x10"),
    *("1e400", "9" * 5000, "1_000", "1:30:00", "2001-01-01", "2001-02-30", "2001-13-45 25:61:61"),
    *("!!int abc", "!!float x", "!!timestamp x", "!!binary '*'", "!!set {a, b}", "!!omap [a]"),
    *("!!python/object/apply:os.system [ls]", "!!python/name:os.system", "!foo bar", "!!bool 1"),
    *("[5, 9]", "[]", "{}", "{a: {b: {c: 1}}}", "[" * 3000, "[" * 3000 + "]" * 3000, "{a: " * 900),
    *("&a [*a]", "*missing", "&a {b: *a}", '"\\ud800"', '"\\x00"', "'open", "|", ">-", "? [1]: 2"),
    *(
        "<<: 1",
        "@x",
        "%x",
        "\t",
        "a: b: c",
        "a" * 70_000,
        "../../etc/hostname",
        "é\u2028b",
        "- - -",
    ),
)
_LAUGHS = "a0: &a0 [x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
_LINES = (
    *("base: x.yaml", "base: 3", "base: main.yaml", "base: [a]", "<<: *a", "? [1, 2]\n: 3", "---"),
    *("...", "- 1", "\ta: 1", "unknown: 1", "seed: 1\nseed: 2", "1: 2", "null: 1", "2001-01-01: x"),
    *("{}: 1", "[a]: 1", "a: &x {b: *x}", "<<: {a: 1}", "<<: [1, 2]", "\x00", "é: é", "!!int x: 1"),
    *("%YAML 9.9\n---", "a" * 2000 + ": 1", _LAUGHS, "b:\n" * 3, "\ufeffa: 1", "1.5: {}"),
)
_OVERRIDES = (
    *("seed=1", "seed=[", "seed", "=1", "seed=!!int x", "a.b.c=1", "data.0.weight=2", "data=3"),
    *("data.x=1", "seed.x=1", "data.99999999999999999999=1", "..=1", "seed=2001-02-30", "stages=1"),
    *(
        "seed=" + "[" * 3000,
        "data.0=null",
        "seed=1e999",
        "seed=&a [*a]",
        "\ud800=1",
        "x=\x00",
        "a=@",
    ),
    *(
        "stages.0.epochs=-1",
        "data.sources.0.path=3",
        "data.²=1",
        "crops=null",
        "optimiser.base_lr=-1",
    ),
)


def _mutate(files: Files, rng: Random) -> Files:
    data = files["main.yaml"]
    if rng.random() < 0.2:
        return {**files, "main.yaml": damaged(data, rng)}
    lines = data.decode("utf-8").split("\n")
    for _ in range(rng.choice((1, 1, 2, 3))):
        keyed = [n for n, line in enumerate(lines) if ":" in line and line.strip()[:1] != "#"]
        at = rng.choice(keyed or [0])
        way = rng.random()
        if way < 0.55:
            lines[at] = f"{lines[at].partition(':')[0]}: {rng.choice(_VALUES)}"
        elif way < 0.75:
            indent = lines[at][: len(lines[at]) - len(lines[at].lstrip())]
            lines.insert(at, indent + rng.choice(_LINES))
        elif way < 0.85:
            del lines[at]
        elif way < 0.95:
            lines.insert(at, lines[at])
        else:
            lines[at] = rng.choice((" ", "\t", "  - ")) + lines[at]
        lines = lines or [""]
    return {**files, "main.yaml": "\n".join(lines).encode("utf-8", "surrogatepass")}


def _read(folder: Path, rng: Random) -> None:
    from llava_rad.config import load_config, save_config
    from llava_rad.dinov2.config import PretrainingConfig
    from llava_rad.report_training import ReportTrainingConfig

    kind = (folder / "kind").read_text(encoding="utf-8")
    config_class = PretrainingConfig if kind == "encoder" else ReportTrainingConfig
    overrides = rng.choices(_OVERRIDES, k=1) if rng.random() < 0.15 else []
    config: object = load_config(config_class, folder / "main.yaml", overrides)
    copy = folder / "copy.yaml"
    save_config(config, copy)
    assert load_config(config_class, copy) == config


def _ready() -> None:
    import llava_rad.dinov2.config
    import llava_rad.report_training.config  # noqa: F401


def _seeds() -> dict[str, Files]:
    seeds: dict[str, Files] = {}
    for kind in ("encoder", "report"):
        folder = _ROOT / "configs" / kind
        texts = {path.name: path.read_bytes() for path in sorted(folder.glob("*.yaml"))}
        for name, text in texts.items():
            # Those that a file is based on lie beside it.
            seeds[f"{kind}/{name}"] = {**texts, "main.yaml": text, "kind": kind.encode()}
    return seeds


YAML = Kind("yaml", _seeds, _mutate, _read, _ready)
