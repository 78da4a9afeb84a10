"""The store of a run's patch tokens, filled with every image before they are learnt from."""

from collections.abc import Sequence

from accelerate import Accelerator

from llava_rad.encoders import ImageEncoder
from llava_rad.errors import ImageError
from llava_rad.features import FeatureStore, fill_together
from llava_rad.files import make_folder
from llava_rad.report_training.batches import unreadable
from llava_rad.report_training.config import ReportTrainingConfig
from llava_rad.report_training.samples import ReportSamples
from llava_rad.wording import counted


def open_store(config: ReportTrainingConfig, encoder: ImageEncoder) -> FeatureStore | None:
    """The store of a run; None where no stage learns from stored tokens."""
    device = next(encoder.parameters()).device.type
    if not any(config.stores_features(stage, device) for stage in config.stages):
        return None
    data = config.data
    folder = data.cache_folder or make_folder(config.output / "features", private=True)
    return FeatureStore(folder, encoder, keys=data.cache_keys, workers=data.workers)


def fill_store(
    store: FeatureStore, splits: Sequence[ReportSamples], accelerator: Accelerator
) -> None:
    """Encode what a store lacks; each process takes its share, then sees all.

    Raises:
        DataError: an image cannot be read (the message names its study), or the disk is full; in
            all processes.
    """
    images = {path: study for split in splits for path, study in split.images().items()}
    try:
        missing = len(store.missing(list(images)))
        accelerator.print(
            f"patch tokens      {counted(len(images), 'image')}, {missing} to encode, "
            f"{len(images) * store.bytes_per_image / 1e9:.2f} GB in {store.folder}"
        )
        fill_together(
            store,
            list(images),
            lambda done, total: accelerator.print(f"                  {done} of {total} encoded"),
        )
    except ImageError as error:
        raise unreadable(error, images.get(error.where or "", "?")) from error
