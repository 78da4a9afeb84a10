"""Making the heads that tell of an image beside its text: what ``train_observations.py`` does.

The encoder stays as it is. Observations are learned from the labels of manifests, outlines from
their masks; the summary of training images needs neither.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llava_rad.config import Count, Range, check_ranges
from llava_rad.data import load_manifest
from llava_rad.dinov2.config import SourceConfig
from llava_rad.encoders import ImageEncoder
from llava_rad.errors import ConfigError, DataError
from llava_rad.features import BATCH, FeatureStore
from llava_rad.images import load_radiograph
from llava_rad.model.observation_head import ObservationHead
from llava_rad.model.training_summary import TrainingSummary, cell_means
from llava_rad.observations import OBSERVATIONS
from llava_rad.outlines import SegmentationHead, seeing_whole_images
from llava_rad.probing import (
    Example,
    Examples,
    encoder_facts,
    extract_features,
    fit_linear_probe,
    read_examples,
)
from llava_rad.probing.calibration import CalibratedOutcome, fit_temperatures
from llava_rad.probing.masks import ManifestMasks
from llava_rad.probing.segmentation import segment
from llava_rad.statistics import Floats

_FRONTAL = ("frontal",)

_CHANGED = 1 / 3  # of the test images

#: Called with a line now and then.
Say = Callable[[str], None]
#: From pixels to pixels, uint8 [height, width].
Change = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]


@dataclass(frozen=True)
class OutlinesConfig:
    """Outlines to learn.

    Attributes:
        manifests: whose masks are learned from.
        structures: names of the masks there.
        steps: of the fit, 16 images each.
    """

    manifests: list[Path]
    structures: list[str]
    steps: Count = 500

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class SummaryConfig:
    """The summary of the training images.

    Attributes:
        sources: manifests of images that the model was trained on, each with the split to use and,
            as its weight, the share of its images that is summarised. Those with a validation split
            give the threshold.
        share: of the validation images that stay below the threshold.
    """

    sources: list[SourceConfig]
    share: Annotated[float, Range(above=0, high=1)] = 0.98

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class ObservationsConfig:
    """All that is made for a model.

    Attributes:
        model: folder of a report model; its heads are written there.
        output: folder of the numbers.
        manifests: whose labels are learned from, each with a training and a test split.
        observations: name of an observation, out of CheXpert's 14, to the labels that mean it. It
            is there where one of them is, and absent where one is stated and none is there.
        outlines: see :class:`OutlinesConfig`; none by default.
        summary: see :class:`SummaryConfig`; none by default.
        cache: folder for vectors and patch tokens.
    """

    model: Path
    output: Path
    manifests: list[Path] = field(default_factory=list)
    observations: dict[str, list[str]] = field(default_factory=dict)
    outlines: OutlinesConfig | None = None
    summary: SummaryConfig | None = None
    cache: Path = Path("runs/features")

    def __post_init__(self) -> None:
        check_ranges(self)
        unknown = sorted(set(self.observations) - set(OBSERVATIONS))
        if unknown:
            raise ConfigError(
                f"there is no observation {unknown[0]!r}",
                where="observations",
                remedy=f"Use {', '.join(OBSERVATIONS)}",
            )
        if bool(self.observations) != bool(self.manifests):
            raise ConfigError(
                "observations and the manifests they are learned from belong together",
                where="observations",
                remedy="Give both or neither",
            )


def make_observations(
    encoder: ImageEncoder, config: ObservationsConfig, say: Say
) -> tuple[ObservationHead, CalibratedOutcome]:
    """Fit a logistic layer, calibrate it on validation, test it.

    Each data set has an intercept of its own while the layer is fitted: else it would learn to know
    the machines of a data set in which a finding is frequent. For images of anywhere their mean is
    taken.

    Raises:
        DataError: an observation is of one value among the training images.
    """
    examples = read_examples(config.manifests, _FRONTAL)
    say(f"observations      {examples}")
    names = tuple(config.observations)
    truth = {
        part: _truth(getattr(examples, part), config.observations)
        for part in ("train", "validation", "test")
    }
    for column, name in enumerate(names):
        stated = truth["train"][:, column]
        if len(np.unique(stated[~np.isnan(stated)])) < 2:
            raise DataError(
                f"{name!r} is of one value among the training images",
                remedy="Leave it out, or give manifests in which it varies",
                kind="constant_target",
            )
    vectors = _vectors(encoder, examples, config.cache, say)
    marked, unmarked = _with_sources(examples, vectors)
    probe = fit_linear_probe(
        "binary",
        names,
        (marked, truth["train"]),
        (unmarked, truth["validation"]),
        likeliest=True,
    )
    dim = 2 * encoder.dim
    sources = marked[:, dim:].mean(axis=0)
    weight, bias = probe.weight[:, :dim], probe.bias + probe.weight[:, dim:] @ sources
    logits = {part: vectors[part] @ weight.T + bias for part in vectors}
    temperature = fit_temperatures(logits["validation"], truth["validation"])
    head = ObservationHead(
        names,
        torch.from_numpy(weight).float(),
        torch.from_numpy(bias).float(),
        torch.from_numpy(temperature).float(),
        {
            **probe.facts,
            "encoder": encoder_facts(encoder),
            "labels": config.observations,
            "positive": {
                name: int((truth["train"][:, column] == 1).sum())
                for column, name in enumerate(names)
            },
        },
    )
    said = 1 / (1 + np.exp(-logits["test"] / temperature))
    patients = tuple(example.patient for example in examples.test)
    return head, CalibratedOutcome(patients, names, said[None], truth["test"])


def make_outlines(
    encoder: ImageEncoder, config: OutlinesConfig, cache: Path, say: Say
) -> SegmentationHead:
    """Fit a linear head on the patch tokens of whole images."""
    whole = seeing_whole_images(encoder)
    result = segment(
        whole,
        read_examples(config.manifests, _FRONTAL),
        [ManifestMasks(name) for name in config.structures],
        FeatureStore(cache, whole),
        steps=config.steps,
        seeds=1,
        progress=say,
    )
    result.head.facts = {
        "encoder": encoder_facts(whole),
        "steps": config.steps,
        "dice": result.outcome.measured(),
    }
    return result.head


def make_summary(encoder: ImageEncoder, config: SummaryConfig, say: Say) -> TrainingSummary:
    """Summarise training images; the threshold is a quantile of validation images' distances.

    Its facts say how many test images are called strange, by source, and how many of the same
    images inverted and upside down, of lateral views that were not trained on, and of noise.
    """
    studies = {source: load_manifest(source.path) for source in config.sources}

    def paths(split: str, view: str = "frontal") -> dict[str, list[str]]:
        found = {}
        for source, of_source in studies.items():
            wanted = source.split if split == "train" else split
            chosen = [s for s in of_source if wanted is None or s.split == wanted]
            named = [i.path for s in chosen for i in s.images if i.view == view]
            found[source.path.stem] = _drawn(named, source.weight) if split == "train" else named
        return found

    def joined(groups: Mapping[str, list[str]]) -> list[str]:
        return [path for group in groups.values() for path in group]

    train, validation = joined(paths("train")), joined(paths("validation"))
    if not validation:
        raise DataError(
            "no source has validation images, which the threshold comes from",
            where="summary.sources",
            remedy="Give a manifest with a validation split among them",
            kind="no_split",
        )
    say(f"summary           {len(train)} images, {len(validation)} held out")
    summary = TrainingSummary.fit(_cells(encoder, train, say))
    distances = summary.distance(_cells(encoder, validation, say))
    summary = replace(summary, threshold=float(distances.quantile(config.share)))

    def strange(of: Sequence[str], change: Change | None = None) -> dict[str, int]:
        far = summary.distance(_cells(encoder, of, say, change)) > summary.threshold
        return {"images": len(of), "strange": int(far.sum())}

    tested = {name: group for name, group in paths("test").items() if group}
    some = _drawn(joined(tested), _CHANGED)
    laterals = joined(paths("validation", "lateral")) + joined(paths("test", "lateral"))
    facts = {f"test images of {name}": strange(group) for name, group in tested.items()}
    if some:
        facts |= {name: strange(some, change) for name, change in CHANGES.items()}
    if laterals:
        facts["lateral views"] = strange(laterals)
    return replace(
        summary,
        facts={
            "encoder": encoder_facts(encoder),
            "images": len(train),
            "validation_images": len(validation),
            "share": config.share,
            "strange": facts,
        },
    )


def _drawn(paths: list[str], weight: float) -> list[str]:
    """A share of paths, evenly from first to last; more than all of them repeats some."""
    count = round(weight * len(paths))
    return [paths[place * len(paths) // count] for place in range(count)]


def _truth(examples: Sequence[Example], labels: Mapping[str, Sequence[str]]) -> Floats:
    """What is known of each observation, NaN where nothing is: [examples, observations]."""
    rows = []
    for example in examples:
        stated = example.study.labels
        row = []
        for meant in labels.values():
            values = {stated[name] for name in meant if stated.get(name) is not None}
            row.append(1.0 if 1 in values else 0.0 if values == {0} else np.nan)
        rows.append(row)
    return np.array(rows, dtype=np.float64)


def _vectors(encoder: ImageEncoder, examples: Examples, cache: Path, say: Say) -> dict[str, Floats]:
    """CLS beside the mean of the patch tokens, [examples, 2 * dim] of each part."""
    features = extract_features(
        encoder,
        [example.path for example in examples.all],
        cache=cache,
        progress=lambda done, of: say(f"encoded {done} of {of}"),
    ).pooled("cls+mean")
    rows = features.double().numpy()
    ends = np.cumsum([len(examples.train), len(examples.validation)]).tolist()
    return dict(zip(("train", "validation", "test"), np.split(rows, ends), strict=True))


def _with_sources(examples: Examples, vectors: Mapping[str, Floats]) -> tuple[Floats, Floats]:
    """Training vectors with a column for each data set, and validation vectors of any data set."""
    of = [example.study.source or "" for example in examples.train]
    names = sorted(set(of))
    if len(names) == 1:
        return vectors["train"], vectors["validation"]
    columns = np.array([[float(own == name) for name in names] for own in of])
    shares = np.tile(columns.mean(axis=0), (len(vectors["validation"]), 1))
    return np.hstack([vectors["train"], columns]), np.hstack([vectors["validation"], shares])


@torch.inference_mode()
def _cells(
    encoder: ImageEncoder, paths: Sequence[str], say: Say, change: Change | None = None
) -> Tensor:
    """Cell means of images, after a change of their pixels if one is given."""
    preprocessing = encoder.preprocessing
    device = next(encoder.parameters()).device
    grid = encoder.grid(encoder.image_size, encoder.image_size)
    found: list[Tensor] = []
    for start in range(0, len(paths), BATCH):
        pictures = [
            load_radiograph(path, rendering=preprocessing.rendering)
            for path in paths[start : start + BATCH]
        ]
        if change is not None:
            pictures = [replace(p, pixels=np.ascontiguousarray(change(p.pixels))) for p in pictures]
        pixels = torch.stack([preprocessing(picture) for picture in pictures])
        found.append(cell_means(encoder.encode(pixels.to(device)).patches, grid).cpu())
        if start // BATCH % 20 == 19:
            say(f"encoded {start + len(pictures)} of {len(paths)}")
    return torch.cat(found)


def _noise(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, pixels.shape, dtype=np.uint8)


#: What is done to test images that must then be called strange.
CHANGES: dict[str, Change] = {
    "inverted": lambda pixels: 255 - pixels,
    "upside down": lambda pixels: pixels[::-1, ::-1],
    "noise of their size": _noise,
}
