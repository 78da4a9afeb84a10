"""Make what a model tells of an image beside its text: probabilities, outlines, a warning.

    python training/train_observations.py observations model=runs/mini/model
    python training/train_observations.py mine.yaml model=MODEL output=runs/observations

Into the model's folder go observations.safetensors (a calibrated linear layer on the frozen
features), segmentation.safetensors (outlines of organs, for the web page) and
training_summary.safetensors (by which an image unlike the training images is known). Encoder,
adapter and LLM stay as they are. Everything is fitted on training patients and chosen on
validation; AUROC and calibration error are measured on the test patients, with 95 % intervals.

The output folder gets observations.json and observations.md, which also becomes a section of the
model's card. The table goes to standard output, progress to standard error. Vectors in the cache
stay, so the same command resumes a stopped run.
"""

if __name__ == "__main__":  # the imports below take seconds
    from llava_rad.ending import leave_quietly

    leave_quietly()

import contextlib
import json
from typing import TYPE_CHECKING, Any

from llava_rad.cli.command import program_app
from llava_rad.cli.common import say_once
from llava_rad.cli.options import Config, Overrides, Overwrite
from llava_rad.config import load_config, to_dict
from llava_rad.ending import program_ending
from llava_rad.programs import find_config

if TYPE_CHECKING:
    from llava_rad.model.encoder_heads import EncoderHeads
    from llava_rad.probing import Estimate

HEADING = "## Beside the text"


def main(config: Config, overrides: Overrides = None, overwrite: Overwrite = False) -> None:
    """Load the encoder, make the heads, save them, print."""
    with (
        program_ending("vectors in the cache stay, the same command goes on from there"),
        contextlib.ExitStack() as stack,
    ):
        # Heavy imports wait until the options are read.
        from llava_rad.model.card import put_section
        from llava_rad.model.configuration import ReportModelConfig
        from llava_rad.model.encoder_heads import EncoderHeads
        from llava_rad.model.loading import model_folder
        from llava_rad.model.report_model import CARD_FILE, load_own_encoder
        from llava_rad.observation_training import (
            ObservationsConfig,
            make_observations,
            make_outlines,
            make_summary,
        )
        from llava_rad.outputs import has_keys, own_shared_results, starts_with, write_result
        from llava_rad.probing import to_plain

        file = find_config(config, "mini")
        settings = load_config(ObservationsConfig, file, overrides or [])
        results = {
            "observations.json": lambda path: has_keys(path, "settings", "measures"),
            "observations.md": lambda path: starts_with(path, HEADING),
        }
        what = "making of observations"
        stack.enter_context(
            own_shared_results(settings.output, results, [file], what=what, overwrite=overwrite)
        )

        # 1. The model's encoder; nothing else of the model is needed.
        folder = model_folder(str(settings.model))
        encoder = load_own_encoder(folder, ReportModelConfig.load(folder))

        # 2. The heads.
        observations = outlines = summary = None
        estimates: dict[str, Estimate] = {}
        if settings.observations:
            observations, outcome = make_observations(encoder, settings, say_once)
            estimates = outcome.estimates()
        if settings.outlines:
            outlines = make_outlines(encoder, settings.outlines, settings.cache, say_once)
        if settings.summary:
            summary = make_summary(encoder, settings.summary, say_once)
        heads = EncoderHeads(observations, summary, outlines)

        # 3. The model's folder, its card, numbers.
        heads.save(folder, encoder.fingerprint())
        section = card_section(heads, estimates)
        card = folder / CARD_FILE
        if card.is_file():
            write_result(card, put_section(card.read_text("utf-8"), section))
        content = {"settings": to_dict(settings), "measures": to_plain(estimates)}
        write_result(
            settings.output / "observations.json", json.dumps(content, indent=1, default=str) + "\n"
        )
        write_result(settings.output / "observations.md", section)
        print(section, end="")


def card_section(heads: "EncoderHeads", estimates: "dict[str, Estimate]") -> str:
    """What the card says of the heads."""
    from llava_rad.probing import interval, number

    def cell(measure: str, name: str) -> str:
        found = estimates.get(f"{measure}/{name}", estimates[measure])  # of one label, its mean
        return f"{number(found.value)} ({interval(found.low, found.high)})"

    lines = [HEADING, ""]
    if heads.observations:
        facts = heads.observations.facts
        lines += [
            "Probabilities of a linear layer on the frozen features, calibrated by temperature on "
            "validation patients. On test patients, with 95 % intervals; ECE is the expected "
            "calibration error. The training images are no sample of any clinic's, and neither is "
            "the share of findings that the probabilities start from. Intervals of ECE lie high, "
            "since resampling adds to it.",
            "",
        ]
        rows = [
            [
                name,
                str(facts["positive"][name]),
                cell("auroc", name),
                cell("ece", name),
                f"{temperature:.2f}",
            ]
            for name, temperature in zip(
                heads.observations.names, heads.observations.temperature.tolist(), strict=True
            )
        ]
        rows.append(["mean", "", cell("auroc", ""), cell("ece", ""), ""])
        head = ["observation", "positive training images", "AUROC", "ECE", "temperature"]
        lines += [_markdown(head, rows), ""]
    if heads.segmentation:
        dice: dict[str, Any] = heads.segmentation.facts["dice"]
        said = [
            f"{name} {dice.get(f'dice/{name}', dice['dice']):.3f}"
            for name in heads.segmentation.structures
        ]
        lines += [
            "Outlines of a linear head on the patch tokens, Dice on test patients: "
            f"{', '.join(said)}.",
            "",
        ]
    if heads.summary:
        facts = heads.summary.facts
        lines += [
            "An image is called unlike the training images where the distance of its features is "
            f"above {heads.summary.threshold:.2f} (training images: about 1), the "
            f"{100 * facts['share']:g} % quantile of {facts['validation_images']} validation "
            "images.",
            "",
            _markdown(
                ["images", "how many", "called unlike the training images"],
                [
                    [
                        name,
                        str(found["images"]),
                        f"{100 * found['strange'] / found['images']:.1f} %",
                    ]
                    for name, found in facts["strange"].items()
                ],
            ),
            "",
        ]
    return "\n".join(lines)


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


app = program_app(main, __doc__, "training/train_observations.py")

if __name__ == "__main__":
    app()
