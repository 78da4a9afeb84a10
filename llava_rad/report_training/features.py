"""Fill the feature cache with every image of a run, all processes together."""

from collections.abc import Sequence

from accelerate import Accelerator

from llava_rad.errors import DataError, ImageError
from llava_rad.features import FeatureCache
from llava_rad.report_training.samples import ReportSamples
from llava_rad.runs.together import in_all
from llava_rad.wording import counted


def fill_cache(
    cache: FeatureCache, splits: Sequence[ReportSamples], accelerator: Accelerator
) -> None:
    """Encode what the cache lacks; each process takes its share, then sees all.

    Raises:
        DataError: an image cannot be read (the message names its study), or the disk is full; in
            all processes.
    """
    in_all(accelerator, lambda: _fill(cache, splits, accelerator))
    cache.refresh()


def _fill(cache: FeatureCache, splits: Sequence[ReportSamples], accelerator: Accelerator) -> None:
    images = {path: study for split in splits for path, study in split.images().items()}
    try:
        missing = len(cache.missing(list(images)))
        accelerator.print(
            f"patch tokens      {counted(len(images), 'image')}, {missing} to encode, "
            f"{len(images) * cache.bytes_per_image / 1e9:.2f} GB in {cache.folder}"
        )
        cache.fill(
            list(images),
            rank=accelerator.process_index,
            processes=accelerator.num_processes,
            progress=_say if accelerator.is_main_process else None,
        )
    except ImageError as error:
        raise DataError(
            f"an image of study {images.get(error.where or '', '?')} cannot be read: {error.what}",
            where=error.where,
            remedy="Restore the file, or take the study out of the manifest",
            kind="unreadable_image",
        ) from error


def _say(done: int, total: int) -> None:
    step = max(total // 10, 1)
    if done == total or done // step != (done - 16) // step:
        print(f"                  {done} of {total} encoded", flush=True)
