"""Small DICOM radiographs, made by the test that reads them."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import uid as uids
from pydicom.dataset import Dataset, FileMetaDataset

UID = "1.2.826.0.1.3680043.8.498."  # pydicom's own root


def dicom_bytes(*, seed: int = 0, sop_class: str | None = None, **elements: Any) -> bytes:
    """A file of 64 x 64 pixels; elements that are None are left out."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uids.ExplicitVRLittleEndian
    dataset.SOPClassUID = sop_class or uids.DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID = f"{UID}9.{seed}"
    dataset.Modality = "DX"
    for keyword, value in elements.items():
        if value is not None:
            setattr(dataset, keyword, value)
    if sop_class is None:
        pixels = np.random.default_rng(seed).integers(0, 4096, (64, 64), dtype=np.uint16)
        dataset.Rows = dataset.Columns = 64
        dataset.SamplesPerPixel = 1
        dataset.PhotometricInterpretation = "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
        dataset.PixelRepresentation = 0
        dataset.PixelData = pixels.tobytes()
        dataset["PixelData"].VR = "OW"
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def write_exam(folder: Path, number: int, patient: int | None = None, **elements: Any) -> None:
    """An exam of two views, ``NUMBER_pa.dcm`` and ``NUMBER_lat.dcm``."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (name, view) in enumerate((("pa", "PA"), ("lat", "LL"))):
        values = {
            "StudyInstanceUID": f"{UID}1.{number}",
            "PatientID": None if patient is None else f"MRN-{patient:03}",
            "ViewPosition": view,
            **elements,
        }
        content = dicom_bytes(seed=10 * number + seed, **values)
        (folder / f"{number}_{name}.dcm").write_bytes(content)
