"""The options that commands and programs share: one name, one help text, one default each.

Nothing heavy is imported here, so that ``--help`` stays quick.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import typer

if TYPE_CHECKING:
    import torch

    from llava_rad.encoders import ImageEncoder
    from llava_rad.evaluation.predictions import Columns
    from llava_rad.probing import Examples
    from llava_rad.reports.generate import GenerationSettings

#: Images or studies that go through a network together.
BATCH_SIZE = 8

DType = Literal["auto", "float32", "bfloat16", "float16"]
Format = Literal["text", "json"]
SectionName = Literal["findings", "impression", "findings_and_impression"]
# Those of llava_rad.evaluation.presets, whose import takes seconds.
PresetName = Literal["llava-rad", "maira-2", "rexrank", "radeval", "f1chexbert"]

# --- one option each -----------------------------------------------------------------------------

Inputs = Annotated[
    list[str],
    typer.Argument(metavar="IMAGE", help="Files, folders, globs or manifests.", show_default=False),
]
Model = Annotated[
    str, typer.Option(help="The report model: mini, a folder, a training run, or a hub id.")
]
Encoder = Annotated[
    str,
    typer.Option(help="The encoder: mini, a name of llava-rad models list, a folder, or a hub id."),
]
JudgedEncoder = Annotated[
    str,
    typer.Option(
        help="The encoder: mini, a name of llava-rad models list, a folder, a hub id, random:E "
        "(E with random weights), or pixels."
    ),
]
Manifest = Annotated[Path, typer.Option(help="The manifest of the studies, .jsonl or .parquet.")]
Manifests = Annotated[
    list[Path],
    typer.Option(help="A manifest, .jsonl or .parquet; give it again for several."),
]
Config = Annotated[
    str, typer.Argument(metavar="CONFIG", help="A YAML file, or a name of llava-rad configs list.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Settings to change, such as seed=1."),
]
OutputFolder = Annotated[Path, typer.Option("--output", "-o", help="The folder for the results.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Begin anew, whatever the files there hold.")
]
PrintFormat = Annotated[Format, typer.Option(help="How the result is printed.")]
BatchSize = Annotated[int, typer.Option(min=1, help="How many go through the network together.")]
Device = Annotated[str, typer.Option(help="Where to compute: auto, cpu, cuda, cuda:1, xpu or mps.")]
Precision = Annotated[
    DType,
    typer.Option(
        help="The number format of the weights; auto is bfloat16 on a GPU and on a CPU with units "
        "for it, else float32."
    ),
]
Frame = Annotated[
    int | None,
    typer.Option(min=1, help="Which picture to read of files that hold several, from 1."),
]
Seed = Annotated[int, typer.Option(min=0, help="The seed of every random choice.")]
Resamples = Annotated[
    int, typer.Option(min=1, help="How many resamples the intervals and tests draw.")
]
Split = Annotated[
    Literal["train", "validation", "test", "all"],
    typer.Option(help="Whose studies are judged; all is for a manifest without splits."),
]
Section = Annotated[
    SectionName | None,
    typer.Option(help="The section of reports to compare with; by default model or file say it."),
]
Preset = Annotated[
    PresetName | None,
    typer.Option(
        help="Compute and print what a published table does; options given beside it win."
    ),
]
AnyPooling = Annotated[
    Literal["cls", "mean", "cls+mean", "attentive"],
    typer.Option(
        help="The vector of an image; mean is that of its patches, attentive learns a query of "
        "them for each label."
    ),
]
Pooling = Annotated[
    Literal["cls", "mean", "cls+mean"],
    typer.Option(help="The vector of an image; mean is that of its patches."),
]
Solver = Annotated[
    Literal["lbfgs", "adamw"],
    typer.Option(help="How a linear layer is fitted; lbfgs has one solution."),
]
Workers = Annotated[int, typer.Option(min=0, help="How many processes read images ahead.")]


# --- groups --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Loading:
    """How a report model is loaded."""

    TITLE: ClassVar[str] = "Loading"

    base_llm: Annotated[
        str | None,
        typer.Option(help="Another place of the model's base LLM: a folder or a hub id."),
    ] = None
    quantize: Annotated[
        Literal["4bit", "8bit", "none"] | None,
        typer.Option(help="Bits of the LLM's weights (bitsandbytes); by default as in training."),
    ] = None
    dtype: Precision = "auto"
    device: Device = "auto"


@dataclass(frozen=True)
class Decoding:
    """How text is decoded."""

    TITLE: ClassVar[str] = "Decoding"

    batch_size: BatchSize = BATCH_SIZE
    max_new_tokens: Annotated[int, typer.Option(min=1, help="The longest report, in tokens.")] = 256
    num_beams: Annotated[int, typer.Option(min=1, help="How many beams; 1 is greedy.")] = 1
    temperature: Annotated[
        float, typer.Option(min=0, help="0 is deterministic; above, tokens are drawn.")
    ] = 0.0
    top_p: Annotated[
        float, typer.Option(help="With a temperature, the share of probability drawn from.")
    ] = 1.0
    static_cache: Annotated[
        bool,
        typer.Option(
            "--static-cache", help="Compile the decoding step on a GPU, for a cache of one size."
        ),
    ] = False

    def settings(self, seed: int) -> "GenerationSettings":
        """Of the decoding, with the seed of its draws. Raises ConfigError."""
        from llava_rad.reports.generate import GenerationSettings

        return GenerationSettings(
            max_new_tokens=self.max_new_tokens,
            num_beams=self.num_beams,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=seed,
            static_cache=self.static_cache,
        )


@dataclass(frozen=True)
class ColumnNames:
    """What the columns of a file of predictions are called."""

    TITLE: ClassVar[str] = "Columns of the predictions"

    id: Annotated[str, typer.Option(help="The column that pairs are matched by.")] = "id"
    prediction: Annotated[str, typer.Option(help="The column of generated texts.")] = "prediction"
    reference: Annotated[str, typer.Option(help="The column of true texts.")] = "reference"
    patient: Annotated[str, typer.Option(help="The column of patients.")] = "patient_id"

    def columns(self) -> "Columns":
        """For the reader of predictions."""
        from llava_rad.evaluation.predictions import Columns

        return Columns(self.id, self.prediction, self.reference, self.patient)


@dataclass(frozen=True)
class Judging:
    """What a frozen encoder is judged on."""

    TITLE: ClassVar[str] = "Encoder and images"

    encoder: JudgedEncoder
    manifest: Manifests
    views: Annotated[
        str,
        typer.Option(help="Views with commas between: frontal, lateral, unknown; all if empty."),
    ] = ""
    image_size: Annotated[
        int | None, typer.Option(help="The side of the input in pixels, if not the encoder's own.")
    ] = None
    cache: Annotated[
        Path, typer.Option(help="The folder where vectors and patch tokens are kept.")
    ] = Path("runs/features")
    device: Device = "auto"

    def open(self) -> "tuple[ImageEncoder, Examples, list[Path]]":
        """The encoder, the images it is judged on, and all files that are read of them.

        Raises:
            LlavaRadError: one of them cannot be had.
        """
        from llava_rad.probing import load_judged, read_examples

        device = device_of_process(self.device)
        encoder = load_judged(self.encoder, image_size=self.image_size, device=device)
        examples = read_examples(self.manifest, names(self.views))
        files = [*self.manifest, *(Path(example.path) for example in examples.all)]
        return encoder, examples, files


@dataclass(frozen=True)
class Numbers:
    """Where the numbers of a program go, beside the table that it prints."""

    TITLE: ClassVar[str] = "Results"

    format: Annotated[
        Format | None,
        typer.Option(help="Of what is printed, or of --output; by default text, and json there."),
    ] = None
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Also write the result to this file.")
    ] = None
    overwrite: Overwrite = False

    def claim(self, keys: tuple[str, ...], inputs: list[Path]) -> None:
        """Refuse a place for the result before the work for it begins. Raises DataError."""
        from llava_rad.errors import DataError
        from llava_rad.outputs import claim_json, refuse_inputs

        if self.output is not None and self.format == "text":
            refuse_inputs(self.output, inputs)
            # A table does not say who wrote it.
            if self.output.is_file() and not self.overwrite:
                raise DataError(
                    "there is a file already",
                    where=self.output,
                    remedy="Choose another --output, or replace it with --overwrite",
                    kind="foreign_output",
                )
        else:
            claim_json(self.output, keys, inputs, overwrite=self.overwrite)

    def put(self, values: object, text: str) -> None:
        """Print a result and write it.

        Args:
            values: for JSON.
            text: the table.
        """
        import json

        from llava_rad.outputs import write_result

        written = json.dumps(values, indent=1, allow_nan=False)
        print(written if self.format == "json" and self.output is None else text)
        if self.output is not None:
            write_result(self.output, (text if self.format == "text" else written) + "\n")


def how_written(loading: Loading, decoding: Decoding, seed: int) -> dict[str, Any]:
    """How the reports of a split are written, for :func:`evaluation.split_reports.open_split`."""
    return {
        "settings": decoding.settings(seed),
        "batch_size": decoding.batch_size,
        "precision": loading.dtype,
        "device": device_of_process(loading.device),
        "quantize": loading.quantize,
        "base_llm": loading.base_llm,
    }


# --- what options mean ---------------------------------------------------------------------------


def names(text: str) -> list[str]:
    """Names with commas between."""
    return [part.strip() for part in text.split(",") if part.strip()]


def device_of_process(name: str) -> "torch.device":
    """The device of this process of a run; ``auto`` gives each process its own."""
    from llava_rad.devices import pick_device
    from llava_rad.processes import process_state

    return process_state().device if name == "auto" else pick_device(name)
