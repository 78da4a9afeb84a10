"""Every image of a run opened before its first step."""

from pathlib import Path

from accelerate import Accelerator

from llava_rad.data import Study
from llava_rad.data.checking import check_images, settle_unreadable
from llava_rad.encoders import ImageEncoder
from llava_rad.errors import DataError, ImageError
from llava_rad.features import FeatureStore
from llava_rad.file_keys import stamp_key
from llava_rad.files import read_sealed, write_sealed
from llava_rad.report_training.config import DataConfig
from llava_rad.report_training.studies import RunStudies
from llava_rad.reports.request import without_images
from llava_rad.runs.together import gathered

_REMEMBERED = "readable.json"


def check_readable(
    studies: RunStudies,
    config: DataConfig,
    encoder: ImageEncoder,
    output: Path,
    store: FeatureStore | None,
    accelerator: Accelerator,
) -> None:
    """Open the images that the run may show, and list all that cannot be read.

    Images whose patch tokens are stored already, and those that an earlier start of the run opened
    and that have not changed, are not opened again. Processes share the work.

    Args:
        studies: of the run; images that cannot be read are taken out of them.
        config: says what of a study is shown, and what happens to unreadable images.
        encoder: says how images are rendered.
        output: folder of the run.
        store: of the run's patch tokens, if it has one.
        accelerator: of the processes.

    Raises:
        DataError: an image cannot be read, unless ``config.unreadable`` leaves such images out.
    """
    wanted: dict[str, str] = {}
    for study in (*studies.train.studies, *studies.validation.studies):
        for path in _may_be_shown(study, config):
            wanted.setdefault(path, study.study_id)
    seen = _remembered(output)
    rank, processes = accelerator.process_index, accelerator.num_processes
    mine = list(wanted)[rank::processes]
    to_open = [p for p in mine if stamp_key(p) not in seen and not _is_stored(p, store)]
    rendering = encoder.preprocessing.rendering
    found = check_images(to_open, rendering=rendering, workers=config.workers)
    own_failures = {path: str(error) for path, error in found.items()}
    own_opened = [stamp_key(path) for path in to_open if path not in found]
    everyones = gathered(accelerator, (own_failures, own_opened))
    failures = {path: reason for part, _ in everyones for path, reason in part.items()}
    opened = [key for _, part in everyones for key in part]
    if accelerator.is_main_process and opened:
        _remember(output, seen.union(opened))
    reasons = {
        path: f"study {wanted[path]}: {failures[path]}" for path in wanted if path in failures
    }
    leave_out = config.unreadable == "leave_out"
    settle_unreadable(reasons, len(wanted), leave_out=leave_out, say=accelerator.print)
    for split in (studies.train, studies.validation) if reasons else ():
        split.studies = [without_images(study, reasons) for study in split.studies]


def _may_be_shown(study: Study, config: DataConfig) -> list[str]:
    lateral = "current_lateral" in config.images
    paths = [image.path for image in study.images if lateral or image.view != "lateral"]
    if study.prior is not None and "prior_frontal" in config.images:
        paths += [image.path for image in study.prior.images if image.view != "lateral"]
    return paths


def _is_stored(path: str, store: FeatureStore | None) -> bool:
    try:
        return store is not None and path in store
    except ImageError:
        return False


def _remembered(output: Path) -> set[str]:
    try:
        return set(read_sealed(output / _REMEMBERED))
    except (OSError, DataError, TypeError):
        return set()


def _remember(output: Path, keys: set[str]) -> None:
    output.mkdir(parents=True, exist_ok=True)
    write_sealed(output / _REMEMBERED, sorted(keys))
