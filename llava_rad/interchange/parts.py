"""What every reader hands on: the parts of a report model, and how they become one."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llava_rad.encoders import ImageEncoder
from llava_rad.encoders.weights import load_into
from llava_rad.errors import WeightsError
from llava_rad.model import (
    LLAVA_RAD,
    MISTRAL,
    AdapterConfig,
    LLMReference,
    PromptTemplate,
    ReportModel,
)


@dataclass(frozen=True)
class Sources:
    """Where parts come from that a checkpoint only names, and how weights are kept.

    Attributes:
        base_llm: instead of the base LLM that the checkpoint names.
        vision_tower: instead of the tower that the checkpoint names.
        vision_config: open_clip's JSON, where the tower is an open_clip checkpoint.
        template: instead of the reader's own prompt.
        dtype: of the LLM; None for the one it is stored in.
    """

    base_llm: str | None = None
    vision_tower: str | None = None
    vision_config: str | None = None
    template: PromptTemplate | None = None
    dtype: torch.dtype | None = None


@dataclass
class Parts:
    """A report model in parts.

    Attributes:
        layout: name of the layout that was read.
        encoder: with preprocessing and layer as the checkpoint says.
        projector: tensors of the adapter, named ``layers.0.weight`` and so on.
        llm: the causal LM, a PeftModel where a LoRA came with it.
        reference: what LLM it is.
        llm_weights: as in :class:`llava_rad.model.ReportModelConfig`.
        tokenizer: of the LLM.
        template: wording of the prompt.
        pool: see :class:`llava_rad.model.AdapterConfig`.
        ignored: keys of the source that are no part of the model.
        notes: what the user should know, each ``kind: text``.
    """

    layout: str
    encoder: ImageEncoder
    projector: dict[str, Tensor]
    llm: Any
    reference: LLMReference
    llm_weights: str
    tokenizer: Any
    template: PromptTemplate
    pool: int = 1
    ignored: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)

    def assemble(self, *, name: str, layers: int, source: Path) -> ReportModel:
        """Put the model together.

        Args:
            name: of the model.
            layers: linear layers of the adapter, as the checkpoint's configuration says.
            source: named in errors.

        Raises:
            WeightsError: a tensor of the adapter is missing, unexpected or of another shape.
        """
        first = self.projector.get("layers.0.weight")
        width = None if first is None or layers == 1 else first.shape[0]
        model = ReportModel.build(
            self.encoder,
            self.llm,
            self.reference,
            self.tokenizer,
            name=name,
            adapter=AdapterConfig(
                layers=layers,
                hidden=None if width == self.reference.hidden_size else width,
                pool=self.pool,
            ),
            template=self.template,
        )
        load_into(model.adapter, self.projector, source=f"{source} (projector)")
        model.config = replace(model.config, llm_weights=self.llm_weights)
        return model


def conversation(model_type: object) -> tuple[str, dict[str, Any]]:
    """The prompt of a LLaVA model whose files do not say theirs: in words, and its fields.

    Args:
        model_type: of the checkpoint or of its LLM, as ``config.json`` names it.
    """
    if "mistral" in str(model_type):  # LLaVA-Med 1.5 and LLaVA 1.6
        return "Mistral's turns with LLaVA-Rad's request", MISTRAL
    return "LLaVA-Rad's", LLAVA_RAD


def reference_of(llm: Any, name: str) -> LLMReference:
    """Describe an LLM whose weights travel with the model."""
    rows, width = llm.get_input_embeddings().weight.shape
    return LLMReference(
        id=name, revision=None, vocab_size=rows, hidden_size=width, architecture=type(llm).__name__
    )


def route(
    state: dict[str, Tensor], rules: tuple[tuple[str, str, str], ...], *, source: object
) -> dict[str, dict[str, Tensor]]:
    """Sort the tensors of a checkpoint into parts by the start of their names.

    Args:
        state: of the whole checkpoint.
        rules: (start of the name, part, what takes the start's place); the first that fits counts.
        source: named in errors.

    Returns:
        For each part of the rules, its tensors under their new names.

    Raises:
        WeightsError: no rule fits a name, or two tensors get the same one.
    """
    parts: dict[str, dict[str, Tensor]] = {part: {} for _, part, _ in rules}
    strange = []
    for key, tensor in state.items():
        rule = next((r for r in rules if key.startswith(r[0])), None)
        renamed = "" if rule is None else rule[2] + key.removeprefix(rule[0])
        if rule is None or renamed in parts[rule[1]]:
            strange.append(key)
        else:
            parts[rule[1]][renamed] = tensor
    if strange:
        shown = ", ".join(sorted(strange)[:5])
        raise WeightsError(
            f"{len(strange)} tensors have no place in the model: {shown}",
            where=source,
            remedy="Use the files as they were published, all of one and the same model",
            kind="unexpected_keys",
        )
    return parts
