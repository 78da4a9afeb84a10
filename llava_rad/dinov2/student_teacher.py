"""Student and teacher: one forward pass from crops to losses, and the teacher's update."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedModel

from llava_rad.dinov2.backbone import tokens
from llava_rad.dinov2.compute_copies import copies_of
from llava_rad.dinov2.config import HeadConfig, LossConfig
from llava_rad.dinov2.dino_loss import dino_loss, prototype_entropy
from llava_rad.dinov2.head import DINOHead
from llava_rad.dinov2.ibot_loss import ibot_loss
from llava_rad.dinov2.koleo_loss import koleo_loss
from llava_rad.dinov2.targets import SoftmaxCentring, sinkhorn_knopp
from llava_rad.kernels.vit_layer import PatchMasks
from llava_rad.runs.distributed import gather_rows

GLOBAL_CROPS = 2


class Network(nn.Module):
    """A backbone with its heads; student and teacher are one each.

    Parameters stay in float32. With ``compute_dtype`` each forward pass works on copies of that
    type, as FSDP2's mixed precision does, and gradients come back in float32. Autocast would carry
    the residual stream in float32 and convert it at every layer; here nothing is converted in
    between, which is faster, and the price is a residual stream that is rounded to 8 bits after
    every block. Prototypes, targets and losses are float32 either way, and ``precision: fp32`` is
    there to compare.

    Args:
        backbone: from :mod:`llava_rad.dinov2.backbone`.
        head: of CLS tokens.
        ibot_head: of patch tokens; None shares ``head``.
        compute_dtype: None computes in the parameters' own type.
    """

    def __init__(
        self,
        backbone: PreTrainedModel,
        head: HeadConfig,
        ibot_head: HeadConfig | None,
        compute_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.compute_dtype = compute_dtype
        width = backbone.config.hidden_size
        self.backbone = backbone
        self.dino_head = _head(width, head)
        self.ibot_head = None if ibot_head is None else _head(width, ibot_head)

    def forward(
        self,
        global_crops: Tensor,
        local_crops: Tensor | None,
        patch_masks: PatchMasks | None,
        input_masks: Tensor | None = None,
    ) -> "NetworkOutput":
        """Run the backbone on both sizes of crops and the heads on all tokens that matter.

        Args:
            global_crops: ``[batch, 1, H, W]``.
            local_crops: ``[batch', 1, h, w]`` or None.
            patch_masks: patches that reach a head. None for none.
            input_masks: bool ``[batch, patches]``: patches hidden from the backbone.
        """
        backbone, dino_head = self._computing(self.backbone), self._computing(self.dino_head)
        cls, masked = tokens(backbone, global_crops, input_masks, patch_masks)
        groups = [cls]
        if local_crops is not None:
            groups.append(tokens(backbone, local_crops, None, None).cls)
        patch_logits = None
        if patch_masks is not None:
            if self.ibot_head is not None:
                patch_logits = self._computing(self.ibot_head)(masked)
            else:
                groups.append(masked)
        logits = list(dino_head(torch.cat(groups)).split([len(group) for group in groups]))
        if patch_masks is not None and self.ibot_head is None:
            patch_logits = logits.pop()
        return NetworkOutput(
            cls=cls,
            global_logits=logits[0],
            local_logits=logits[1] if local_crops is not None else None,
            patch_logits=patch_logits,
        )

    def _computing(self, module: nn.Module) -> Callable[..., Any]:
        """Return the module as a function that computes in ``compute_dtype``."""
        if self.compute_dtype is None:
            return module
        copies = copies_of(
            {
                name: parameter
                for name, parameter in module.named_parameters()
                if not name.startswith("last_layer.")  # prototypes are compared in float32
            },
            self.compute_dtype,
        )
        return lambda *args, **kwargs: functional_call(module, copies, args, kwargs)


def _head(width: int, config: HeadConfig) -> DINOHead:
    return DINOHead(
        width, config.prototypes, config.hidden_dim, config.bottleneck_dim, config.layers
    )


class NetworkOutput(NamedTuple):
    """Tokens and logits of one network.

    Attributes:
        cls: CLS tokens of the global crops, ``[crops x batch, dim]``.
        global_logits, local_logits: over prototypes, ``[crops x batch, prototypes]``.
        patch_logits: of the masked patches, ``[masked, prototypes]``.
    """

    cls: Tensor
    global_logits: Tensor
    local_logits: Tensor | None
    patch_logits: Tensor | None


@dataclass
class Losses:
    """The losses of one forward pass, and what there is to watch.

    Attributes:
        total: weighted sum; the only one with a gradient that is used.
        parts: each loss before its weight, detached.
        divergence: Kullback-Leibler, of the student's predictions from the teacher's assignments of
            CLS tokens, in nats: the DINO loss less the entropy of its targets, detached.
        targets: the teacher's distributions of the CLS tokens, ``[2 x batch, prototypes]``.
        features: the teacher's CLS tokens, ``[2 x batch, dim]``.
    """

    total: Tensor
    parts: dict[str, Tensor]
    divergence: Tensor
    targets: Tensor
    features: Tensor


class StudentTeacher(nn.Module):
    """DINOv2: the student learns to predict the teacher, which follows the student.

    Args:
        backbone: the student's; the teacher gets a copy without stochastic depth.
        head: of CLS tokens.
        ibot_head: of patch tokens, None to share.
        loss: weights, targets, temperatures.
        compute_dtype: of both networks' forward passes; losses are float32 either way.
    """

    def __init__(
        self,
        backbone: PreTrainedModel,
        head: HeadConfig,
        ibot_head: HeadConfig | None,
        loss: LossConfig,
        compute_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.loss = loss
        self.student = Network(backbone, head, ibot_head, compute_dtype)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False).eval()
        self.dino_centring = SoftmaxCentring(head.prototypes, loss.centre_momentum)
        self.ibot_centring = SoftmaxCentring((ibot_head or head).prototypes, loss.centre_momentum)

    def reset_teacher(self) -> None:
        """Copy the student to the teacher, after weights were loaded into the student."""
        self.teacher.load_state_dict(self.student.state_dict())

    def train(self, mode: bool = True) -> "StudentTeacher":
        """Switch the student; the teacher never drops anything."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(
        self,
        global_crops: Tensor,
        local_crops: Tensor | None,
        masks: PatchMasks,
        teacher_temperature: float,
    ) -> Losses:
        """Compute the losses of one batch.

        Args:
            global_crops: normalised, ``[2 x batch, 1, H, W]``, crop by crop.
            local_crops: normalised, ``[local crops x batch, 1, h, w]``, or None without any.
            masks: of the global crops.
            teacher_temperature: of this step.
        """
        config = self.loss
        patch_masks = masks if config.ibot_weight > 0 else None
        with torch.no_grad():
            teacher = self.teacher(global_crops, None, patch_masks)
            targets = self._targets(self.dino_centring, teacher.global_logits, teacher_temperature)
        student = self.student(global_crops, local_crops, patch_masks, input_masks=masks.chosen)

        batch = len(global_crops) // GLOBAL_CROPS
        losses: dict[str, Tensor] = {}
        losses["dino"] = dino_loss(
            student.global_logits.unflatten(0, (-1, batch)),
            None
            if student.local_logits is None
            else student.local_logits.unflatten(0, (-1, batch)),
            targets.unflatten(0, (-1, batch)),
            config.student_temperature,
        )
        if patch_masks is not None:
            patch_targets = self._targets(
                self.ibot_centring, teacher.patch_logits, teacher_temperature
            )
            losses["ibot"] = ibot_loss(
                student.patch_logits, patch_targets, masks, config.student_temperature
            )
        if config.koleo_weight > 0:
            # Two crops of one image are meant to be close: each set of crops is spread by itself.
            losses["koleo"] = sum(
                (
                    koleo_loss(gather_rows(crop), config.koleo_group)
                    for crop in student.cls.split(batch)
                ),
                start=torch.zeros((), device=global_crops.device),
            )
        weights = {
            "dino": config.dino_weight,
            "ibot": config.ibot_weight,
            "koleo": config.koleo_weight,
        }
        total = sum(
            (weights[name] * value for name, value in losses.items()),
            start=torch.zeros((), device=global_crops.device),
        )
        return Losses(
            total=total,
            parts={name: value.detach() for name, value in losses.items()},
            divergence=losses["dino"].detach() - prototype_entropy(targets),
            targets=targets,
            features=teacher.cls,
        )

    def _targets(self, centring: SoftmaxCentring, logits: Tensor, temperature: float) -> Tensor:
        if self.loss.targets == "centring":
            return centring(logits, temperature)
        return sinkhorn_knopp(logits, temperature)

    @torch.no_grad()
    def update_teacher(self, momentum: float) -> None:
        """Move the teacher's parameters towards the student's, and the centres; once per step."""
        teacher = [_local(parameter) for parameter in self.teacher.parameters()]
        student = [_local(parameter) for parameter in self.student.parameters()]
        torch._foreach_lerp_(teacher, student, 1 - momentum)
        self.dino_centring.update()
        self.ibot_centring.update()


def _local(parameter: Tensor) -> Tensor:
    """Return this process's part of a sharded parameter; student and teacher are sharded alike."""
    return parameter.to_local() if hasattr(parameter, "to_local") else parameter
