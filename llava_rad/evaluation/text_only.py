"""A copy of a report model that sees no image: what it writes is what its texts alone teach."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llava_rad.encoders import EncoderOutput, ImageEncoder
from llava_rad.errors import ModelError
from llava_rad.model import ReportModel
from llava_rad.model.training_summary import CELLS


class MeanEncoder(ImageEncoder):
    """Gives the mean tokens of the training images, whatever it is shown.

    Args:
        encoder: that it stands in for.
        mean: of the cells of a training summary, [cells, dim].
    """

    def __init__(self, encoder: ImageEncoder, mean: Tensor) -> None:
        super().__init__(encoder.name, encoder.preprocessing, layer=encoder.layer)
        self.mean = nn.Parameter(mean.to(next(encoder.parameters())))
        self._freeze(dim=encoder.dim, patch_size=encoder.patch_size, depth=encoder.depth)

    def _encode(self, pixel_values: Tensor) -> EncoderOutput:
        grid = self.grid(pixel_values.shape[-2], pixel_values.shape[-1])
        cells = self.mean.T.unflatten(1, (CELLS, CELLS))[None].float()
        tokens = F.interpolate(cells, grid, mode="nearest").flatten(2).transpose(1, 2)
        tokens = tokens.to(self.mean.dtype).expand(len(pixel_values), -1, -1)
        return EncoderOutput(tokens.mean(dim=1), tokens)

    def _save_weights(self, folder: Path) -> None:
        raise ModelError("the mean of training images is no encoder to save", where=folder)


def text_only(model: ReportModel) -> ReportModel | None:
    """The model with the training images' mean in place of every image's tokens.

    All but the encoder is shared with the model. None without its training summary.
    """
    summary = model.heads.summary
    if summary is None:
        return None
    with torch.no_grad():
        encoder = MeanEncoder(model.encoder, summary.mean)
    blind = ReportModel(model.config, encoder, model.adapter, model.llm, model.processor)
    blind.folder, blind.folder_hash = model.folder, model.folder_hash
    return blind.train(model.training)
