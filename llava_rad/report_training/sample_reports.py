"""Reports of a few validation studies while the training goes on, as a page with their images."""

import base64
import html
import io
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from llava_rad.files import write_text
from llava_rad.images import load_radiograph
from llava_rad.metrics import headline_values, score
from llava_rad.model import ReportModel
from llava_rad.report_training.batches import MicroBatch, collate
from llava_rad.report_training.samples import ReportSamples
from llava_rad.reports.generate import GenerationSettings, generate_reports
from llava_rad.reports.report import Report

_LOG = logging.getLogger(__name__)

# CheXbert counts where its weights are installed.
_METRICS = ("bleu_coco", "rouge", "chexbert")
_THUMBNAIL = 192


def write_sample_reports(
    path: Path,
    model: ReportModel,
    data: ReportSamples,
    count: int,
    inputs: Callable[[MicroBatch], dict[str, Tensor]],
) -> dict[str, float]:
    """Generate reports and write them beside the true ones.

    The model is left in evaluation mode.

    Args:
        path: of the HTML page.
        model: whole, in this process.
        data: the validation split.
        count: how many studies, spread evenly over the split; the same ones every time.
        inputs: makes the tensors of a batch into the model's arguments.

    Returns:
        Metrics of these few reports by ``metric/value``; they show a trend, not a result.
    """
    model.eval()
    chosen = np.linspace(0, len(data) - 1, min(count, len(data))).round().astype(int).tolist()
    samples = [data.sample(index) for index in chosen]
    preprocessing = data.processor.preprocessing
    tensors = inputs(collate(samples, data, preprocessing))
    patches = tensors.get("patches")
    with torch.no_grad():
        if patches is None:
            patches = model.encode_images(tensors["pixel_values"])
        requests = [data.request(index).request for index in chosen]
        reports = generate_reports(model, requests, GenerationSettings(), patches=patches)
    truths = [data.text(index) for index in chosen]
    found = score([report.findings for report in reports], truths, _METRICS)
    values = headline_values(found.results)
    rows = [
        _row(data.study_id(index), samples[place].paths, reports[place], truths[place])
        for place, index in enumerate(chosen)
    ]
    try:
        path.parent.mkdir(exist_ok=True)
        write_text(path, _page(path.stem, rows, values))
    except OSError as error:  # no run ends for its page
        _LOG.warning("%s cannot be written (%s)", path, error.strerror or error)
    return values


def _row(study_id: str, paths: tuple[str, ...], report: Report, truth: str) -> str:
    pictures = "".join(f'<img alt="" src="{_thumbnail(path)}">' for path in paths)
    end = " <em>(cut off)</em>" if report.truncated else ""
    return (
        f"<tr><td>{html.escape(study_id)}<br>{pictures}</td>"
        f"<td>{html.escape(report.findings)}{end}</td><td>{html.escape(truth)}</td></tr>"
    )


def _thumbnail(path: str) -> str:
    """A small picture as a data URL."""
    picture = Image.fromarray(load_radiograph(path).pixels)
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _page(title: str, rows: list[str], values: dict[str, float]) -> str:
    figures = ", ".join(f"{name} {value:.3f}" for name, value in values.items())
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        "<style>body{font:15px/1.4 sans-serif;margin:2em}td,th{vertical-align:top;text-align:left;"
        "padding:.6em;border-bottom:1px solid #ccc}img{margin:.3em .3em 0 0}</style>"
        f"<h1>{html.escape(title)}</h1><p>{figures}</p><table>"
        f"<tr><th>Study<th>Generated<th>True</tr>{''.join(rows)}</table></html>\n"
    )
