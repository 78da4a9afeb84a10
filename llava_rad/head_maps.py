"""Where the logit of a trained head comes from: maps over the patches of an image.

A head that reads the mean of the patch tokens, or an attentive probe's weighted mean, adds up one
share for each patch. These maps are exact: they sum to what the head reads of the patches. CLS is
no such sum; for it there is Grad-CAM (Selvaraju et al., ICCV 2017) on the patch tokens that go into
the last block, as is done with vision transformers. It is an estimate and shows only what speaks
for the label.

A map explains a head, not a disease: it says where the number comes from.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llava_rad.encoders import EncoderOutput, ImageEncoder
from llava_rad.errors import ConfigError, ModelError, WeightsError
from llava_rad.model.observation_head import ObservationHead, load_observation_head
from llava_rad.probing.attentive_probe import AttentiveProbe, load_attentive_probe
from llava_rad.probing.linear_probe import LinearProbe, load_probe

_POOLINGS = ("cls", "mean", "cls+mean")


@dataclass(frozen=True, eq=False)
class LinearHead:
    """A linear layer on CLS, on the mean of the patch tokens, or on both.

    Attributes:
        names: of the labels.
        cls: weights of CLS, float32 [labels, dim]; None where it is not read.
        patches: weights of the mean of the patch tokens, float32 [labels, dim]; None likewise.
        bias: float32 [labels].
    """

    names: tuple[str, ...]
    cls: Tensor | None
    patches: Tensor | None
    bias: Tensor

    @classmethod
    def of_observations(cls, head: ObservationHead) -> "LinearHead":
        """Of a model; the temperature is part of the logits, as it is of the probabilities."""
        weight = head.weight / head.temperature[:, None]
        of_cls, of_patches = weight.chunk(2, dim=1)
        return cls(head.names, of_cls, of_patches, head.bias / head.temperature)

    @classmethod
    def of_probe(cls, probe: LinearProbe) -> "LinearHead":
        """Of a probe of binary labels, whose facts name its pooling."""
        weight = torch.from_numpy(probe.weight).float()
        pooling = probe.facts["pooling"]
        of_cls = of_patches = weight
        if pooling == "cls+mean":
            of_cls, of_patches = weight.chunk(2, dim=1)
        return cls(
            probe.names,
            None if pooling == "mean" else of_cls,
            None if pooling == "cls" else of_patches,
            torch.from_numpy(probe.bias).float(),
        )

    def only(self, places: Sequence[int]) -> "LinearHead":
        """The head of some of the labels."""
        chosen = list(places)
        return replace(
            self,
            names=tuple(self.names[place] for place in chosen),
            cls=None if self.cls is None else self.cls[chosen],
            patches=None if self.patches is None else self.patches[chosen],
            bias=self.bias[chosen],
        )

    def logits(self, seen: EncoderOutput) -> Tensor:
        """Of the labels, float32 [images, labels]."""
        shares = self.patch_shares(seen.patches)
        read = self.bias if shares is None else self.bias + shares.sum(-1)
        return self.cls_share(seen.cls) + read

    def patch_shares(self, patches: Tensor, average: Tensor | None = None) -> Tensor | None:
        """What each patch adds to the logits, float32 [images, labels, tokens].

        Args:
            patches: [images, tokens, dim].
            average: a token, [dim], that is taken off each patch: with the mean of the training
                images' patches the sum is what sets the image apart from them.

        Returns:
            None where the head does not read the patches.
        """
        if self.patches is None:
            return None
        patches = patches.float() - (0.0 if average is None else average)
        return torch.einsum("itd,ld->ilt", patches, self.patches) / patches.shape[1]

    def cls_share(self, cls: Tensor, average: Tensor | None = None) -> Tensor:
        """What CLS adds to the logits, float32 [images, labels]; arguments likewise."""
        if self.cls is None:
            return torch.zeros(len(cls), len(self.names))
        return (cls.float() - (0.0 if average is None else average)) @ self.cls.T


@dataclass(frozen=True, eq=False)
class AttentiveHead:
    """An attentive probe: a patch adds its attention times what its token says.

    Attributes:
        probe: as it was fitted; its tokens are standardised, so that the average training token
            adds nothing.
    """

    probe: AttentiveProbe

    cls = None  # which is not read

    @property
    def names(self) -> tuple[str, ...]:
        """Of the labels."""
        return self.probe.names

    def only(self, places: Sequence[int]) -> "AttentiveHead":
        """The head of some of the labels."""
        chosen, probe = list(places), self.probe
        return AttentiveHead(
            replace(
                probe,
                names=tuple(probe.names[place] for place in chosen),
                query=probe.query[chosen],
                weight=probe.weight[chosen],
                bias=probe.bias[chosen],
            )
        )

    def logits(self, seen: EncoderOutput) -> Tensor:
        """Of the labels, float32 [images, labels]."""
        return self.probe.logits(seen.patches.float())

    def patch_shares(self, patches: Tensor, average: Tensor | None = None) -> Tensor:
        """What each patch adds to the logits, as of a linear head; it has its own average."""
        probe = self.probe
        tokens = (patches.float() - probe.mean) / probe.scale
        said = torch.einsum("itd,ld->ilt", tokens, probe.weight) / patches.shape[-1] ** 0.5
        return probe.attention(patches.float()) * said

    def cls_share(self, cls: Tensor, average: Tensor | None = None) -> Tensor:
        """Zeros [images, labels]."""
        return torch.zeros(len(cls), len(self.names))


LabelHead = LinearHead | AttentiveHead


def load_label_head(file: Path, encoder: ImageEncoder, labels: Sequence[str] = ()) -> LabelHead:
    """Read a head that can be mapped.

    Args:
        file: an observation head (``observations.safetensors`` of a model's folder), or a linear
            probe of labels or an attentive probe (``eval/classification.py --save``).
        encoder: the head's own.
        labels: those to keep; all by default.

    Raises:
        WeightsError: the file is none of them, damaged, or made for another encoder.
        ConfigError: the head has no such label.
    """
    head, facts = _read(file)
    made_for = facts.get("encoder", {}).get("fingerprint")
    if made_for != encoder.fingerprint():
        raise WeightsError(
            "it was made for another encoder, or another size of its input",
            where=file,
            remedy="Give the encoder and --image-size that it was fitted with",
            kind="other_encoder",
        )
    unknown = [label for label in labels if label not in head.names]
    if unknown:
        raise ConfigError(
            f"the head has no label {unknown[0]!r}",
            where=file,
            remedy=f"Choose among {', '.join(head.names)}",
            kind="unknown_label",
        )
    return head.only([head.names.index(label) for label in labels or head.names])


def grad_cam(encoder: ImageEncoder, pixel_values: Tensor, weight: Tensor) -> Tensor:
    """Grad-CAM of a direction of CLS on the patch tokens that go into the last block.

    Channels are weighted by the mean of the gradient over the patches; what is negative is 0.

    Args:
        encoder: a vision transformer.
        pixel_values: [batch, 3, height, width].
        weight: of a label, [dim]: the map explains ``cls @ weight``.

    Returns:
        float32 [batch, rows, columns], at least 0.

    Raises:
        ModelError: the encoder's blocks are not known.
    """
    kept: list[Tensor] = []

    def keep(block: torch.nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        kept.append(arguments[0].detach().requires_grad_())
        return (kept[-1], *arguments[1:])

    handle = _last_block(encoder).register_forward_pre_hook(keep)
    try:
        with torch.enable_grad():
            explained = (encoder.encode(pixel_values).cls.float() @ weight.to(pixel_values)).sum()
            (gradient,) = torch.autograd.grad(explained, kept[-1])
    finally:
        handle.remove()
    rows, columns = encoder.grid(*pixel_values.shape[-2:])
    # CLS and registers are before the patches.
    tokens, gradient = (part[:, -rows * columns :].float() for part in (kept[-1], gradient))
    found = (tokens.detach() * gradient.mean(dim=1, keepdim=True)).sum(-1).clamp_min(0)
    return found.unflatten(1, (rows, columns)).cpu()


def _last_block(encoder: ImageEncoder) -> torch.nn.Module:
    """The last block that CLS goes through."""
    for module in encoder.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == encoder.depth:
            return module[-1 if encoder.layer is None else encoder.layer]
    raise ModelError(
        "Grad-CAM needs the blocks of a vision transformer, which this encoder does not list",
        where=encoder.name,
        remedy="Use a head on the mean of the patches",
        kind="no_blocks",
    )


def _read(file: Path) -> tuple[LabelHead, dict[str, Any]]:
    reasons = []
    try:
        observations = load_observation_head(file)
        return LinearHead.of_observations(observations), observations.facts
    except WeightsError as error:
        reasons.append(error.what)
    try:
        attentive = load_attentive_probe(file)
        return AttentiveHead(attentive), attentive.facts
    except WeightsError as error:
        reasons.append(error.what)
    try:
        probe = load_probe(file)
    except WeightsError as error:
        reasons.append(error.what)
    else:
        fitting = probe.kind == "binary" and probe.facts.get("pooling") in _POOLINGS
        if fitting and not probe.facts.get("fine_tuned"):
            return LinearHead.of_probe(probe), probe.facts
        reasons.append("a linear probe, but not of binary labels on a frozen encoder")
    raise WeightsError(
        f"not a head of labels: {'; '.join(reasons)}",
        where=file,
        remedy="Give a model's observations.safetensors, or what eval/classification.py --save "
        "wrote",
        kind="no_head",
    )
