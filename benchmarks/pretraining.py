r"""Images per second and peak memory of one pretraining step, beside the package lightly.

    python benchmarks/pretraining.py --peer .venv-lightly/bin/python

A step is all that the training loop does with one batch: 2 global and 8 local crops of each image,
masks, teacher, student, DINO, iBOT and KoLeo losses with softmax-centring, backward pass, AdamW and
the teacher's update; ViT-S/14 from random weights, 4,096 prototypes, stochastic depth 0.1. It is
timed once with crops that are there already and once whole, with the crops cut in the same process.
The images are smooth noise of 512 x 512 pixels: here they lie in this project's cache, there in PNG
files. The peer is lightly's DINOv2 example, put together as its documentation shows, in float32 as
it stands there and under bfloat16 autocast. It runs in an environment of its own:

    python -m venv .venv-lightly
    .venv-lightly/bin/pip install lightly timm

Every row has a process of its own, so that its peak memory, the imports' included, is its own.
Prints a Markdown table on stdout.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

PEER_PROGRAM = Path(__file__).with_name("pretraining_peer.py")
PROTOTYPES, LOCAL_CROPS, DROP_PATH = 4096, 8, 0.1
PEER_VIT = "vit_small_patch14_dinov2"  # timm's name of the same
PRECISIONS = ("fp32", "bf16")


def main() -> None:
    """Measure every setting, or one of them in a child process."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer", type=Path, help="Python of the environment that has lightly")
    parser.add_argument(
        "--sizes", nargs="+", default=["98/42", "224/98"], help="global/local crops in pixels"
    )
    parser.add_argument("--batch", type=int, default=32, help="images")
    parser.add_argument("--steps", type=int, default=5, help="timed steps; two come before")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="count processor seconds of all threads, for a machine that others use too",
    )
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        print(json.dumps(measure(json.loads(arguments.job.read_text()))))
        return

    programs = {"llava-rad": [sys.executable, __file__, "--job"]}
    if arguments.peer and _has_lightly(arguments.peer):
        programs["lightly"] = [str(arguments.peer), str(PEER_PROGRAM)]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        _write_images(Path(folder) / "images", 4 * arguments.batch)
        for sizes in arguments.sizes:
            for precision in PRECISIONS:
                for name, command in programs.items():
                    print(f"measuring {name}, {sizes}, {precision} ...", file=sys.stderr)
                    job = {
                        "folder": folder,
                        "global_size": int(sizes.split("/")[0]),
                        "local_size": int(sizes.split("/")[1]),
                        "precision": precision,
                        "batch": arguments.batch,
                        "steps": arguments.steps,
                        "device": arguments.device,
                        "clock": "process_time" if arguments.cpu_time else "perf_counter",
                        "prototypes": PROTOTYPES,
                        "local_crops": LOCAL_CROPS,
                        "drop_path": DROP_PATH,
                        "vit": PEER_VIT,
                    }
                    path = Path(folder) / "job.json"
                    path.write_text(json.dumps(job))
                    done = subprocess.run([*command, str(path)], stdout=subprocess.PIPE, text=True)
                    if done.returncode:
                        sys.exit(done.returncode)
                    result = json.loads(done.stdout.splitlines()[-1])
                    rows.append({"program": name, "sizes": sizes, "precision": precision, **result})
    print(report(rows, arguments))


def report(rows: list[dict], arguments: argparse.Namespace) -> str:
    """The table, each row against lightly's of the same sizes and precision."""
    unit = "processor second" if arguments.cpu_time else "second"
    lines = [
        f"Batch {arguments.batch}, {arguments.steps} steps, {arguments.device}, "
        f"{rows[0]['threads']} threads, torch {rows[0]['torch']}.",
        "",
        f"| crops | program | precision | images per {unit}, crops ready | whole step | "
        "times lightly | peak memory, GiB | of lightly's |",
        "|---|---|---|---|---|---|---|---|",
    ]
    peers = {(r["sizes"], r["precision"]): r for r in rows if r["program"] == "lightly"}
    for row in rows:
        peer = peers.get((row["sizes"], row["precision"]))
        speed = memory = ""
        if peer is not None and row is not peer:
            speed = " / ".join(f"{row[k] / peer[k]:.2f}" for k in ("ready_rate", "whole_rate"))
            memory = f"{row['peak_gib'] / peer['peak_gib']:.2f}"
        lines.append(
            f"| {row['sizes']} | {row['program']} | {row['precision']} | {row['ready_rate']:.2f} | "
            f"{row['whole_rate']:.2f} | {speed} | {row['peak_gib']:.2f} | {memory} |"
        )
    if not peers:
        lines += [
            "",
            "lightly: absent. Make an environment that has it, as --help shows, and name its "
            "Python with --peer.",
        ]
    return "\n".join(lines)


def measure(job: dict) -> dict:
    """Time this project's step in this process."""
    import torch

    from llava_rad.dinov2.augmentation import MultiCrop, apply_appearance
    from llava_rad.dinov2.backbone import build_backbone
    from llava_rad.dinov2.batches import Batch, CropBatches, DrawOrder
    from llava_rad.dinov2.config import BackboneConfig, CropsConfig, HeadConfig, LossConfig
    from llava_rad.dinov2.image_cache import build_cache
    from llava_rad.dinov2.image_sources import image_folder
    from llava_rad.dinov2.param_groups import parameter_groups
    from llava_rad.dinov2.student_teacher import StudentTeacher

    device = torch.device(job["device"])
    folder = Path(job["folder"])
    images = build_cache(image_folder(folder / "images"), folder / "cache", shorter_side=512)
    loss = LossConfig(targets="centring")
    crops = CropsConfig(local_count=job["local_crops"])
    batches = CropBatches(
        [images],
        DrawOrder([len(images)], [1.0], seed=0),
        MultiCrop(crops, job["global_size"], job["local_size"]),
        loss,
        patch_size=14,
        batch_size=job["batch"],
        rank=0,
        processes=1,
        seed=0,
    )
    torch.manual_seed(0)
    backbone = build_backbone(
        BackboneConfig(
            architecture="vit_small", image_size=job["global_size"], drop_path=job["drop_path"]
        )
    )
    if device.type != "cpu":
        torch.set_float32_matmul_precision("high")
    compute_dtype = torch.bfloat16 if job["precision"] == "bf16" else None
    model = StudentTeacher(backbone, HeadConfig(job["prototypes"]), None, loss, compute_dtype)
    model.to(device).train()
    groups = parameter_groups(model.student, 12, layer_decay=0.9, patch_embedding_lr=0.2)
    optimiser = torch.optim.AdamW(groups, lr=1e-4, fused=True)

    def step(batch: Batch) -> None:
        batch = batch.to(device)
        global_crops = apply_appearance(batch.global_crops, 0.5, 0.25)
        local_crops = apply_appearance(batch.local_crops, 0.5, 0.25)
        losses = model(global_crops, local_crops, batch.masks, 0.05)
        losses.total.backward()
        for module in model.student.children():
            torch.nn.utils.clip_grad_norm_(module.parameters(), 3.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        model.update_teacher(0.99)

    return time_steps(step, lambda number: batches[number], job)


def time_steps(step, make_batch, job: dict) -> dict:
    """Time steps on a batch that is there, and steps that make their own.

    Args:
        step: trains on one batch.
        make_batch: makes the batch of a number.
        job: what is measured.
    """
    import torch

    clock = getattr(time, job["clock"])

    def seconds(action) -> float:
        start = clock()
        action()
        if job["device"].startswith("cuda"):
            torch.cuda.synchronize()
        return clock() - start

    ready = make_batch(0)
    for _ in range(2):
        seconds(lambda: step(ready))
    with_ready = [seconds(lambda: step(ready)) for _ in range(job["steps"])]
    whole = [seconds(lambda n=n: step(make_batch(n))) for n in range(1, 1 + job["steps"])]
    if job["device"].startswith("cuda"):
        peak = torch.cuda.max_memory_allocated()
    else:
        # in KiB on Linux, in bytes on macOS
        unit = 1 if platform.system() == "Darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {
        "ready_rate": job["batch"] / statistics.median(with_ready),
        "whole_rate": job["batch"] / statistics.median(whole),
        "peak_gib": peak / 2**30,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def _has_lightly(python: Path) -> bool:
    try:
        found = subprocess.run([str(python), "-c", "import lightly, timm"], capture_output=True)
    except OSError:
        return False
    return found.returncode == 0


def _write_images(folder: Path, count: int) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        noise = rng.integers(0, 256, (32, 32), dtype=np.uint8)
        picture = Image.fromarray(noise).resize((512, 512), Image.Resampling.BICUBIC)
        picture.save(folder / f"{number:04}.png")


if __name__ == "__main__":
    main()
