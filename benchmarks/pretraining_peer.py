"""What ``benchmarks/pretraining.py`` runs in lightly's environment: its DINOv2 example.

    PEER_PYTHON pretraining_peer.py JOB.json

Put together from lightly's building blocks as its documentation shows (examples, DINOv2), at patch
size 14 and the sizes of the job. Prints one JSON object.
"""

import copy
import json
import sys
from contextlib import nullcontext
from pathlib import Path

import torch
from lightly.loss import DINOLoss, IBOTPatchLoss, KoLeoLoss
from lightly.models.modules import DINOv2ProjectionHead, MaskedVisionTransformerTIMM
from lightly.models.utils import random_block_mask, update_drop_path_rate, update_momentum
from lightly.transforms.dino_transform import DINOTransform
from PIL import Image
from pretraining import time_steps
from timm.models import vision_transformer
from torch.utils.data import default_collate


def make_step(job):
    """The example's step, a function of the views of a batch, each [images, 3, side, side]."""
    torch.manual_seed(0)
    device = torch.device(job["device"])
    make_vit = getattr(vision_transformer, job["vit"])
    vit = make_vit(img_size=job["global_size"], dynamic_img_size=True)
    teacher = MaskedVisionTransformerTIMM(vit=vit, antialias=False, pos_embed_initialization="skip")
    student = copy.deepcopy(teacher)
    update_drop_path_rate(student.vit, drop_path_rate=job["drop_path"], mode="uniform")
    teacher_head, student_head = (
        DINOv2ProjectionHead(input_dim=vit.embed_dim, output_dim=job["prototypes"])
        for _ in range(2)
    )
    for module in (teacher, teacher_head):
        module.requires_grad_(False).eval()
    dino_loss = DINOLoss(output_dim=job["prototypes"])
    ibot_loss = IBOTPatchLoss(output_dim=job["prototypes"])
    koleo_loss = KoLeoLoss()
    parts = (teacher, student, teacher_head, student_head, dino_loss, ibot_loss, koleo_loss)
    torch.nn.ModuleList(parts).to(device)
    if job.get("compile"):
        for network in (teacher, student):
            for block in network.vit.blocks:
                block.compile(dynamic=False)
    trained = [*student.parameters(), *student_head.parameters()]
    optimiser = torch.optim.AdamW(trained, lr=1e-4)
    half = job["precision"] == "bf16"

    def step(views):
        views = [view.to(device, non_blocking=True) for view in views]
        global_views, local_views = torch.cat(views[:2]), torch.cat(views[2:])
        count = len(global_views)
        rows, columns = teacher.vit.patch_embed.grid_size
        mask = torch.zeros(count, teacher.sequence_length, dtype=torch.bool, device=device)
        blocks = random_block_mask(size=(count, rows, columns), device=device)
        mask[:, 1:] = blocks.flatten(start_dim=1)
        with torch.autocast(device.type, torch.bfloat16) if half else nullcontext():
            with torch.no_grad():
                features = teacher.encode(global_views)
                teacher_cls = teacher_head(features[:, 0])
                teacher_patches = teacher_head(features[mask])
            features = student.encode(global_views, mask=mask)
            student_patches = student_head(features[mask])
            local_cls = student.encode(local_views, mask=None)[:, 0]
            student_cls = torch.cat([student_head(features[:, 0]), student_head(local_cls)])
            loss = dino_loss(
                teacher_out=teacher_cls.chunk(2),
                student_out=student_cls.chunk(len(views)),
                teacher_temp=0.05,
            )
            loss = loss + ibot_loss(
                teacher_out=teacher_patches,
                student_out=student_patches,
                mask=blocks,
                teacher_temp=0.05,
            )
            loss = loss + 0.1 * sum(koleo_loss(part) for part in features[:, 0].chunk(2))
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        update_momentum(student, teacher, m=0.99)
        update_momentum(student_head, teacher_head, m=0.99)

    return step


def measure(job):
    """Time the example's step."""
    step = make_step(job)
    transform = DINOTransform(
        global_crop_size=job["global_size"],
        global_crop_scale=(0.32, 1),
        local_crop_size=job["local_size"],
        local_crop_scale=(0.05, 0.32),
        n_local_views=job["local_crops"],
    )
    paths = sorted((Path(job["folder"]) / "images").iterdir())

    def make_batch(number):
        first = number * job["batch"]
        chosen = [paths[index % len(paths)] for index in range(first, first + job["batch"])]
        return default_collate([transform(Image.open(path).convert("RGB")) for path in chosen])

    return time_steps(step, make_batch, job)


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(Path(sys.argv[1]).read_text()))))
