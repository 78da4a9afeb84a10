"""Every launcher configuration says what its name promises, and agrees with the run."""

import os
from argparse import Namespace
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import (
    prepare_deepspeed_cmd_env,
    prepare_multi_gpu_env,
    prepare_simple_launcher_cmd_env,
)

from llava_rad.config import load_config
from llava_rad.errors import ConfigError
from llava_rad.report_training import ReportTrainingConfig
from llava_rad.report_training.launching import agree, start_accelerator

CONFIGS = Path(__file__).parents[2] / "configs"
# Name: processes, machines, accelerate's name for it, and what a run becomes that leaves it open.
LAUNCHERS = {
    "single": (1, 1, "NO", "none"),
    "ddp": (4, 1, "MULTI_GPU", "none"),
    "fsdp2": (4, 1, "FSDP", "fsdp2"),
    "zero2": (4, 1, "DEEPSPEED", "zero2"),
    "zero3": (4, 1, "DEEPSPEED", "zero3"),
    "multinode": (16, 2, "MULTI_GPU", "none"),
}
RUN = ReportTrainingConfig(output=Path("runs/x"))


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    """The environment as without a launcher, and put back afterwards."""
    for name in list(os.environ):
        if name.startswith(("ACCELERATE_", "FSDP_")):
            monkeypatch.delenv(name)
    # Nothing is started here: a port that another program uses is no matter.
    monkeypatch.setattr("accelerate.utils.launch.is_port_in_use", lambda port=None: False)


def path_of(name: str) -> Path:
    return CONFIGS / "accelerate" / f"{name}.yaml"


def launch_arguments(name: str) -> Namespace:
    """What ``accelerate launch --config_file`` makes of a file."""
    arguments = ["--config_file", str(path_of(name)), "training/train_report.py"]
    return _validate_launch_command(launch_command_parser().parse_args(arguments))[0]


def launched_environment(name: str) -> dict[str, str]:
    """What ``accelerate launch`` tells the processes that it starts."""
    arguments = launch_arguments(name)
    if arguments.use_deepspeed:
        keys = load_config_from_file(str(path_of(name))).deepspeed_config
        arguments.deepspeed_fields_from_accelerate_config = ",".join(keys)
        return prepare_deepspeed_cmd_env(arguments)[1]
    if arguments.multi_gpu or arguments.use_fsdp:
        return prepare_multi_gpu_env(arguments)
    return prepare_simple_launcher_cmd_env(arguments)[1]


def launch(monkeypatch, name: str, **changes: str) -> None:
    for key, value in {**launched_environment(name), **changes}.items():
        monkeypatch.setenv(key, value)


def test_there_is_one_for_each_way():
    assert {path.stem for path in path_of("x").parent.glob("*.yaml")} == set(LAUNCHERS)


@pytest.mark.parametrize("name", LAUNCHERS)
def test_accelerate_reads_each(name):
    processes, machines, kind, _ = LAUNCHERS[name]
    config = load_config_from_file(str(path_of(name)))  # refuses unknown keys
    assert (config.num_processes, config.num_machines) == (processes, machines)
    assert config.distributed_type == kind
    assert config.mixed_precision is None  # the run's own setting
    options = vars(launch_arguments(name))
    nested = {**config.deepspeed_config, **config.fsdp_config}
    assert {key: options[key] for key in nested} == nested
    assert bool(config.deepspeed_config) == (kind == "DEEPSPEED")
    assert bool(config.fsdp_config) == (kind == "FSDP")
    if kind == "DEEPSPEED":
        assert config.deepspeed_config["zero_stage"] == int(name[-1])
    if kind == "FSDP":
        assert config.fsdp_config["fsdp_version"] == 2


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_run_becomes_what_its_launcher_says(monkeypatch, name):
    launch(monkeypatch, name)
    sharding = LAUNCHERS[name][3]
    assert agree(RUN).sharding == sharding
    for own in ("none", "fsdp2", "zero2", "zero3"):
        run = load_config(ReportTrainingConfig, None, ["output=x", f"sharding={own}"])
        if sharding in ("none", own):  # plain launchers leave it to the run
            assert agree(run).sharding == own
        else:
            with pytest.raises(ConfigError, match=f"launcher says {sharding}, the run {own}"):
                agree(run)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("fsdp2", {"FSDP_VERSION": "1"}, r"FSDP_VERSION=1.*configs/accelerate/fsdp2\.yaml"),
        ("fsdp2", {"FSDP_OFFLOAD_PARAMS": "true"}, "FSDP_OFFLOAD_PARAMS=true"),
        ("fsdp2", {"FSDP_ACTIVATION_CHECKPOINTING": "true"}, "ACTIVATION_CHECKPOINTING=true"),
        ("zero2", {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "1"}, "ZeRO stage 1 is not used here"),
        ("zero2", {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}, "gradient_accumulation_steps"),
        ("zero3", {"ACCELERATE_GRADIENT_CLIPPING": "0.5"}, "gradient_clipping"),
        ("zero3", {"ACCELERATE_DEEPSPEED_ZERO3_INIT": "true"}, "zero3_init_flag"),
        (
            "zero3",
            {"ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "cpu"},
            "offload_optimizer to cpu",
        ),
        ("ddp", {"ACCELERATE_MIXED_PRECISION": "fp16"}, "launcher says fp16, the run bf16"),
        ("ddp", {"ACCELERATE_USE_MEGATRON_LM": "true"}, "Megatron-LM is not used"),
    ],
)
def test_what_is_not_done_here_is_refused(monkeypatch, name, changes, message):
    launch(monkeypatch, name, **changes)
    with pytest.raises(ConfigError, match=message):
        agree(RUN)


def test_a_deepspeed_file_may_set_its_own_but_not_the_runs(monkeypatch, tmp_path):
    file = tmp_path / "deepspeed.json"
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(file))
    start = '{"zero_optimization": {"stage": 3}, "gradient_accumulation_steps": "auto"'
    file.write_text(start + ', "bf16": {"enabled": "auto"}, "train_batch_size": "auto"}')
    assert agree(RUN).sharding == "zero3"
    for more in ('"bf16": {"enabled": true}', '"optimizer": {"type": "AdamW"}'):
        file.write_text(f"{start}, {more}}}")
        with pytest.raises(ConfigError, match=r"a setting of the run.*Leave it out"):
            agree(RUN)


def test_a_quantised_llm_is_not_split(monkeypatch):
    recipe = load_config(ReportTrainingConfig, CONFIGS / "report" / "phi3_mini_qlora.yaml")
    launch(monkeypatch, "zero3")
    with pytest.raises(ConfigError, match=r"quantised LLM cannot be split.*none or zero2"):
        agree(recipe)
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    assert agree(recipe).sharding == "zero2"


def test_a_missing_deepspeed_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("llava_rad.report_training.launching.is_installed", lambda _: False)
    launch(monkeypatch, "zero2")
    with pytest.raises(ConfigError, match=r"zero2 needs DeepSpeed.*llava-rad\[deepspeed\]"):
        start_accelerator(agree(RUN))
