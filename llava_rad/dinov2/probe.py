"""Whether the teacher learns anything of use: a probe on its CLS token while the run goes on.

A few labelled images are enough. The probe is fitted on the manifest's training studies and scored
on its validation studies; its test studies are never opened, so that the curve can be used to
choose settings. It has nothing to tune. For a comparison of finished encoders there are the
programs under ``eval/``.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import mean_absolute_error, roc_auc_score
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from llava_rad.data import Study, load_manifest
from llava_rad.dinov2.config import ProbeConfig
from llava_rad.dinov2.image_sources import ImageFiles, ImageSource
from llava_rad.encoders import Preprocessing
from llava_rad.errors import DataError
from llava_rad.images import Rendering
from llava_rad.runs.distributed import gather_rows, world_size

_BATCH = 64  # images in one forward pass
# Of the logistic regression on standardised features: strong, since images are few.
_INVERSE_PENALTY = 0.01
_RIDGE_PENALTIES = np.logspace(0, 5, 11)  # leave-one-out on the training studies takes the best


class Probe:
    """Labelled images, and what is to be predicted from the teacher's features of them.

    Args:
        config: manifest and targets.
        views: to use; None for all.
        rendering: see :func:`llava_rad.images.load_radiograph`.
        prepare: puts something faster before the images, such as their cache.

    Raises:
        DataError: a target is unknown or does not vary in one of the two splits.
    """

    def __init__(
        self,
        config: ProbeConfig,
        views: list[str] | None,
        rendering: Rendering,
        prepare: Callable[[ImageSource], ImageSource],
    ) -> None:
        self.config = config
        studies_of: dict[str, Study] = {}
        for split in ("train", "validation"):
            for study in load_manifest(config.manifest, split=split):
                for image in study.images:
                    if views is None or image.view in views:
                        studies_of[str(Path(image.path))] = study
        if not studies_of:
            raise DataError(f"no image has a view of {views}", where=config.manifest)
        self.images = prepare(ImageFiles(studies_of, rendering))
        # The cache leaves out images that cannot be read.
        studies = [studies_of[self.images.name(index)] for index in range(len(self.images))]
        self.is_train = np.array([study.split == "train" for study in studies])
        self.targets = {name: self._target(name, studies) for name in config.targets}

    def _target(self, name: str, studies: list[Study]) -> np.ndarray:
        values = np.array([_value(study, name) for study in studies])
        for split, chosen in (("train", self.is_train), ("validation", ~self.is_train)):
            known = values[chosen & ~np.isnan(values)]
            if len(np.unique(known)) < 2:
                labels = sorted({label for study in studies for label in study.labels})
                raise DataError(
                    f"{name!r} has fewer than two known values among the {split} images",
                    where=self.config.manifest,
                    remedy=f"Choose probe.targets among sex, age, {', '.join(labels)}",
                    kind="constant_target",
                )
        return values

    @torch.no_grad()
    def features(
        self,
        teacher: Callable[[Tensor], Tensor],
        preprocessing: Preprocessing,
        rank: int,
        device: torch.device,
    ) -> np.ndarray:
        """Encode all images; processes share them, and each has to call this.

        Args:
            teacher: from ``[batch, 1, H, W]`` to CLS tokens ``[batch, dim]``.
            preprocessing: makes its input.
            rank: of this process.
            device: of the teacher.

        Returns:
            ``[images, dim]``, the same in every process.
        """
        # Every process runs equally many batches, as a split teacher needs: where the images do not
        # divide, the last one is encoded again.
        processes, count = world_size(), len(self.images)
        share = math.ceil(count / processes)
        own = [min(rank + processes * turn, count - 1) for turn in range(share)]
        encoded = []
        for start in range(0, len(own), _BATCH):
            batch = [preprocessing(self.images.read(i))[:1] for i in own[start : start + _BATCH]]
            encoded.append(teacher(torch.stack(batch).to(device)).float())
        rows = gather_rows(torch.cat(encoded)).unflatten(0, (processes, -1))
        return rows.transpose(0, 1).flatten(0, 1)[:count].cpu().numpy()

    def scores(self, features: np.ndarray) -> dict[str, float]:
        """Fit on the training images and return each target's score on the validation images.

        Returns:
            ``"probe NAME AUROC"`` of labels and sex, ``"probe age error"``, the mean absolute error
            in years.
        """
        scores = {}
        for name, values in self.targets.items():
            known = ~np.isnan(values)
            train, validation = known & self.is_train, known & ~self.is_train
            neighbours = min(self.config.neighbours, int(train.sum()))
            make = _regression if name == "age" else _classification
            model = make(self.config.method, neighbours)
            model.fit(features[train], values[train])
            if name == "age":
                error = mean_absolute_error(values[validation], model.predict(features[validation]))
                scores["probe age error"] = float(error)
            else:
                chance = model.predict_proba(features[validation])[:, 1]
                scores[f"probe {name} AUROC"] = float(roc_auc_score(values[validation], chance))
        return scores


def _classification(method: str, neighbours: int) -> Any:
    if method == "knn":
        return KNeighborsClassifier(neighbours, weights="distance", metric="cosine")
    return make_pipeline(StandardScaler(), LogisticRegression(C=_INVERSE_PENALTY, max_iter=2000))


def _regression(method: str, neighbours: int) -> Any:
    if method == "knn":
        return KNeighborsRegressor(neighbours, weights="distance", metric="cosine")
    return make_pipeline(StandardScaler(), RidgeCV(_RIDGE_PENALTIES))


def _value(study: Study, name: str) -> float:
    """The target of a study, or NaN where it is not known; uncertain labels are not known."""
    if name == "age":
        return math.nan if study.age is None else study.age
    if name == "sex":
        return math.nan if study.sex is None else float(study.sex == "M")
    value = study.labels.get(name)
    return float(value) if value in (0.0, 1.0) else math.nan
