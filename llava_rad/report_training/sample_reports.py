"""Reports of a few validation studies while the training goes on, as a page with their images."""

import logging
from pathlib import Path

import numpy as np
import torch

from llava_rad.appearance.pages import fill_page, picture_uri
from llava_rad.evaluation.labels import key_label
from llava_rad.features import FeatureStore
from llava_rad.files import write_text
from llava_rad.images import load_radiograph
from llava_rad.metrics import headline_values, score
from llava_rad.model import ReportModel
from llava_rad.report_training.batches import Images, collate
from llava_rad.report_training.samples import ReportSamples
from llava_rad.reports.generate import GenerationSettings, generate_reports

_LOG = logging.getLogger(__name__)

# CheXbert counts where its weights are installed.
_METRICS = ("bleu_coco", "rouge", "chexbert")
_THUMBNAIL = 260  # pixels


def write_sample_reports(
    path: Path,
    model: ReportModel,
    data: ReportSamples,
    count: int,
    images: Images,
) -> dict[str, float]:
    """Generate reports and write them beside the true ones.

    The model is left in evaluation mode.

    Args:
        path: of the HTML page; its stem is ``STAGE-STEP``.
        model: whole, in this process.
        data: the validation split.
        count: how many studies, spread evenly over the split; the same ones every time.
        images: where those of the studies come from.

    Returns:
        Metrics of these few reports by ``metric/value``; they show a trend, not a result.
    """
    model.eval()
    chosen = np.linspace(0, len(data) - 1, min(count, len(data))).round().astype(int).tolist()
    samples = [data.sample(index) for index in chosen]
    with torch.no_grad():
        if isinstance(images, FeatureStore):
            patches = images.read([path for sample in samples for path in sample.paths])
        else:
            inputs = collate(samples, data, images).model_inputs(model.device)
            patches = model.encode_images(inputs["pixel_values"])
        requests = [data.request(index).request for index in chosen]
        reports = generate_reports(
            model, requests, GenerationSettings(), patches=patches.to(model.device)
        )
    truths = [data.text(index) for index in chosen]
    found = score([report.findings for report in reports], truths, _METRICS)
    values = headline_values(found.results)
    stage, _, step = path.stem.rpartition("-")
    page = fill_page(
        "llava_rad.report_training",
        "sample_reports.html.jinja",
        title=f"{stage}, step {int(step)}",
        values={key_label(key): f"{value:.3f}" for key, value in values.items()},
        studies=[
            {
                "id": data.study_id(index),
                "pictures": [
                    picture_uri(load_radiograph(each).pixels, _THUMBNAIL)
                    for each in samples[place].paths
                ],
                "generated": reports[place].findings,
                "truncated": reports[place].truncated,
                "true": truths[place],
            }
            for place, index in enumerate(chosen)
        ],
    )
    try:
        path.parent.mkdir(exist_ok=True)
        write_text(path, page)
    except OSError as error:  # no run ends for its page
        _LOG.warning("%s cannot be written (%s)", path, error.strerror or error)
    return values
