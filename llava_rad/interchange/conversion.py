"""One call: a checkpoint of any known layout in, a folder out."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from llava_rad.errors import ConfigError, WeightsError
from llava_rad.interchange import llava, transformers_llava, whole_folder
from llava_rad.interchange.export import write_llava
from llava_rad.interchange.parts import Sources
from llava_rad.interchange.source import source_folder
from llava_rad.model import PromptTemplate, ReportModel
from llava_rad.model.configuration import MODEL_TYPE, ReportModelConfig
from llava_rad.model.llm import llm_config
from llava_rad.model.lora import without_lora
from llava_rad.outputs import own_file
from llava_rad.readers import read_json

Target = Literal["llava-rad", "transformers", "llava"]

_WRITERS = {"transformers": whole_folder.write_whole, "llava": write_llava}


@dataclass(frozen=True)
class Conversion:
    """What a conversion did.

    Attributes:
        source: as given.
        output: the folder that was written.
        layout: of the source: ``llava-lora``, ``llava-projector``, ``llava-full``,
            ``transformers-llava``, ``maira-2``, ``transformers`` for the classes of
            :mod:`llava_rad.hf`, or ``llava-rad`` for this project's own.
        target: layout of the output.
        tensors: how many tensors each part of the model has: encoder, adapter, lora, llm.
        ignored: keys of the source that are no part of the model.
        notes: what the user should know, each ``kind: text``.
    """

    source: str
    output: str
    layout: str
    target: Target
    tensors: Mapping[str, int] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        counts = ", ".join(f"{part} {count}" for part, count in self.tensors.items() if count)
        lines = [f"{self.source} ({self.layout}) -> {self.output} ({self.target})"]
        lines.append(f"tensors: {counts}; ignored {len(self.ignored)}")
        return "\n".join([*lines, *self.notes])

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "ignored": list(self.ignored), "notes": list(self.notes)}


def convert(
    source: str | Path,
    output: str | Path,
    *,
    to: Target = "llava-rad",
    base_llm: str | Path | None = None,
    vision_tower: str | Path | None = None,
    vision_config: str | Path | None = None,
    template: PromptTemplate | None = None,
    name: str | None = None,
    dtype: torch.dtype | None = None,
) -> Conversion:
    """Read a checkpoint of another project, or a model of this one, and write it anew.

    Which layout a source has is told by its ``config.json`` and files. Places that a LLaVA
    checkpoint records (its base LLM, its vision tower) are looked for from the working directory,
    then from the checkpoint's folder, then on the hub.

    Args:
        source: a folder or a hub id: LLaVA 1.5 or LLaVA-Rad (LoRA, projector alone, or all
            weights), transformers' Llava, MAIRA-2, or a model of this project in either layout.
        output: folder to write; it must be new or empty.
        to: ``"llava-rad"`` for this project's format; with all weights merged ``"transformers"``
            for the classes of :mod:`llava_rad.hf`, and ``"llava"`` for transformers' own Llava,
            which cannot say every model.
        base_llm: folder or hub id of the base LLM, instead of the recorded one.
        vision_tower: an encoder as :func:`llava_rad.load_encoder` takes it, or an open_clip
            checkpoint file, instead of the recorded one.
        vision_config: open_clip's JSON for it, instead of the recorded one.
        template: wording of the prompt, instead of what the layout says or its models are asked;
            see :func:`llava_rad.model.read_prompt`.
        name: of the model; the source's own name unless told.
        dtype: of the written weights. None keeps an LLM as it is stored and writes encoder,
            adapter and LoRA in float32; in transformers' layouts all weights are then of the LLM's.

    Returns:
        What was read and written.

    Raises:
        WeightsError: a file or tensor is missing, damaged, unexpected or of another shape.
        ModelError: the model cannot be expressed in the target, or the base LLM is another one.
        ConfigError: an argument cannot be followed.
    """
    if to not in get_args(Target):
        raise ConfigError(
            f"unknown target '{to}'",
            where="to",
            remedy=f"Use one of {', '.join(get_args(Target))}",
        )
    output = Path(output).expanduser()
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise ConfigError(
            "there is something already",
            where=output,
            remedy="Name a folder that does not exist yet",
            kind="output_exists",
        )
    folder = source_folder(str(source))
    config = _read_config(folder)
    sources = Sources(
        base_llm=None if base_llm is None else str(base_llm),
        vision_tower=None if vision_tower is None else str(vision_tower),
        vision_config=None if vision_config is None else str(vision_config),
        template=template,
        dtype=dtype,
    )
    layout, ignored, notes = MODEL_TYPE.replace("_", "-"), (), []
    if config.get("model_type") == MODEL_TYPE and not whole_folder.is_whole_folder(config):
        model = _read_own(folder, sources, to)
    else:
        reader: Any = llava
        if whole_folder.is_whole_folder(config):
            reader = whole_folder
        elif transformers_llava.is_transformers_llava(config):
            reader = transformers_llava
        if reader is llava and "mm_vision_tower" not in config:
            raise WeightsError(
                f"model_type {config.get('model_type')!r} is of no layout that can be read",
                where=folder / "config.json",
                remedy="Known: LLaVA 1.5, LLaVA-Rad, transformers' Llava, MAIRA-2",
                kind="foreign_config",
            )
        parts, layers = reader.read(folder, config, sources)
        layout, ignored, notes = parts.layout, parts.ignored, list(parts.notes)
        # A snapshot of the hub lies in a folder named after its commit.
        own_name = name or Path(folder.resolve() if Path(source).is_dir() else source).name
        model = parts.assemble(name=own_name, layers=layers, source=folder)

    tensors = _count(model)
    with own_file(output, "conversion"):
        if to in _WRITERS:
            notes += _WRITERS[to](model, output, dtype=dtype)
        else:
            origin = {"converted_from": {"source": str(source), "layout": layout}}
            model.save_pretrained(
                output, name=name, training=origin, encoder_inside=True, dtype=dtype
            )
    return Conversion(
        source=str(source),
        output=str(output),
        layout=layout,
        target=to,
        tensors=tensors,
        ignored=ignored,
        notes=tuple(notes),
    )


def _read_own(folder: Path, sources: Sources, to: Target) -> ReportModel:
    if to == "llava-rad":
        raise ConfigError(
            "the model is in this project's format already",
            where=folder,
            remedy="Use it as it is, or convert it to transformers or llava",
        )
    config = ReportModelConfig.load(folder)
    inside = config.llm_weights == "full"
    place = str(folder / "llm") if inside else sources.base_llm or config.llm.id
    revision = None if inside or sources.base_llm else config.llm.revision
    stored = llm_config(place, revision).dtype or torch.float32
    return ReportModel.from_pretrained(
        folder, dtype=sources.dtype or stored, base_llm=sources.base_llm
    )


def _count(model: ReportModel) -> dict[str, int]:
    lora = [n for n, _ in model.llm.named_parameters() if "lora_" in n]
    llm = without_lora(model.llm)
    return {
        "encoder": len(model.encoder.state_dict()),
        "adapter": len(model.adapter.state_dict()),
        "lora": len(lora),
        "llm": sum(1 for n, _ in llm.named_parameters() if "lora_" not in n),
    }


def _read_config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    remedy = "Give the folder of a checkpoint with its config.json"
    return read_json(file, error=WeightsError, expect=dict, remedy=remedy, kind="no_config")
