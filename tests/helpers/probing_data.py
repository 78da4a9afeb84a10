"""A small data set whose labels and masks show in the pictures."""

from pathlib import Path

import numpy as np
from PIL import Image

from llava_rad.data import Study, StudyImage, save_manifest

SIDE = 70


def radiograph(rng, *, bright: bool, wide: bool) -> tuple[np.ndarray, np.ndarray]:
    """A gray field with noise and one bright ellipse; and the ellipse's mask."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    centre = rng.uniform(28, 42, 2)
    mask = ((rows - centre[0]) / 18) ** 2 + ((columns - centre[1]) / (26 if wide else 14)) ** 2 < 1
    pixels = 70 + 60 * mask + (50 if bright else 0) * (rows > 50) + rng.normal(0, 6, mask.shape)
    pixels[0, :2] = 0, 255  # a fixed range, so that min-max rendering changes nothing
    return pixels.clip(0, 255).astype(np.uint8), mask


def write_probing_data(folder: Path) -> Path:
    """A manifest of 80 images of 40 patients: label Bright, sex by the ellipse's width."""
    (folder / "masks").mkdir()
    rng = np.random.default_rng(0)
    studies = []
    for patient in range(40):
        split = "train" if patient < 24 else "validation" if patient < 31 else "test"
        wide = bool(rng.integers(2))
        for visit in range(2):
            name = f"p{patient:02}-{visit}"
            bright = bool(rng.integers(2))
            pixels, mask = radiograph(rng, bright=bright, wide=wide)
            Image.fromarray(pixels).save(folder / f"{name}.png")
            mask_file = folder / "masks" / f"{name}.png"
            Image.fromarray((255 * mask).astype(np.uint8)).save(mask_file)
            unknown = patient % 8 == 0 and visit == 1
            studies.append(
                Study(
                    study_id=name,
                    patient_id=f"p{patient:02}",
                    split=split,
                    images=(
                        StudyImage(
                            str(folder / f"{name}.png"), "frontal", "PA", {"lungs": str(mask_file)}
                        ),
                    ),
                    labels={
                        "Bright": None if unknown else float(bright),
                        "Doubtful": -1.0 if visit else float(bright),
                        "Never": 0.0,
                    },
                    sex="M" if wide else "F",
                    age=None if unknown else 40.0 + 20 * bright + patient / 10,
                    extra={"weight": str(60 + 15 * wide), "ward": "north" if bright else "south"},
                )
            )
    save_manifest(studies, folder / "manifest.jsonl")
    return folder / "manifest.jsonl"
