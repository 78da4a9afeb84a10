"""A report model as people use it: files, pictures and studies in, reports out."""

import contextlib
import functools
from collections.abc import Generator, Iterable, Iterator
from dataclasses import replace
from typing import Literal, overload

import torch

from llava_rad.data import Study
from llava_rad.errors import ConfigError, shown
from llava_rad.model import ReportModel
from llava_rad.model import load as load_model
from llava_rad.model.llm import Quantization
from llava_rad.reports.attention import SentenceAttention, report_attention
from llava_rad.reports.generate import GenerationSettings
from llava_rad.reports.given import Given, given_studies, one_study
from llava_rad.reports.report import Report
from llava_rad.reports.request import StudyRequest
from llava_rad.reports.study import READERS, Failure, read_study, report_studies, with_indication


class ReportWriter(ReportModel):
    """A report model that takes files, pictures and studies: what :func:`llava_rad.load` gives.

    It goes the same way as ``llava-rad report``: files of one study are grouped, views come from
    the study or the file, pictures are rendered as the encoder was trained, a lateral film is not
    taken for a frontal one, and what is noticed becomes a warning of the report.

    Example:
        >>> isinstance(model, llava_rad.ReportWriter)
        True
    """

    @classmethod
    def of(cls, model: ReportModel) -> "ReportWriter":
        """A writer of the same parts as a model, such as one that was just trained.

        Example:
            >>> from llava_rad.model import ReportModel
            >>> isinstance(llava_rad.ReportWriter.of(model), ReportModel)
            True
        """
        writer = cls(
            model.config, model.encoder, model.adapter, model.llm, model.processor, model.heads
        )
        writer.folder, writer.folder_hash = model.folder, model.folder_hash
        writer.train(model.training)
        return writer

    def report(
        self,
        images: Given,
        *,
        indication: str | None = None,
        settings: GenerationSettings | None = None,
        frame: int | None = None,
    ) -> Report:
        """Write the report of one study.

        Args:
            images: of the study: a path (a file; a folder, pattern or manifest that holds one
                study), the bytes of a file, a picture of Pillow, an array, a
                :class:`llava_rad.Radiograph`; a list of them, which are the views of one study; or
                a :class:`llava_rad.Study`, which also says views, indication and the prior study.
            indication: why the study was made.
            settings: of the decoding; default: greedy, 256 tokens.
            frame: which picture of files that hold several, counted from 1.

        Returns:
            The report. A view that cannot be read is left out with a warning where others are left.

        Raises:
            DataError: no such file, no study, or several.
            ImageError: no picture of the study can be read.
            ModelError: no frontal view to describe, or the model's numbers are not finite.

        Example:
            >>> short = llava_rad.GenerationSettings(max_new_tokens=4)
            >>> model.report(["exam/1_lat.dcm", "exam/1_pa.dcm"], settings=short).roles
            ('current_frontal',)
            >>> model.report("lateral.dcm")
            Traceback (most recent call last):
            llava_rad.errors.ModelError: lateral.dcm: no frontal image to describe (lateral.dcm is \
a lateral view). Give a frontal (PA or AP) radiograph.
        """
        study = one_study(images)
        results = self.reports(
            study, indication=indication, settings=settings, frame=frame, workers=0
        )
        return next(results)

    @overload
    def reports(
        self,
        inputs: Given | Iterable[Given],
        *,
        indication: str | None = ...,
        settings: GenerationSettings | None = ...,
        frame: int | None = ...,
        batch_size: int = ...,
        workers: int = ...,
        errors: Literal["raise"] = ...,
    ) -> Iterator[Report]: ...

    @overload
    def reports(
        self,
        inputs: Given | Iterable[Given],
        *,
        indication: str | None = ...,
        settings: GenerationSettings | None = ...,
        frame: int | None = ...,
        batch_size: int = ...,
        workers: int = ...,
        errors: Literal["yield"],
    ) -> Iterator[Report | Failure]: ...

    def reports(
        self,
        inputs: Given | Iterable[Given],
        *,
        indication: str | None = None,
        settings: GenerationSettings | None = None,
        frame: int | None = None,
        batch_size: int = 8,
        workers: int = READERS,
        errors: Literal["raise", "yield"] = "raise",
    ) -> Iterator[Report] | Iterator[Report | Failure]:
        """Write the reports of many studies, in order, each given as it comes.

        Args:
            inputs: any of what :meth:`report` takes, one after the other, a generator too. Paths in
                a row are taken as on the command line: folders are searched, manifests read, and
                DICOM files of one study become one report; a generator of paths is therefore read
                to its end first. A list among the inputs holds the views of one study.
            indication: of all studies; None is what each study says.
            settings: of the decoding; default: greedy, 256 tokens.
            frame: which picture of files that hold several, counted from 1.
            batch_size: studies decoded together; the texts do not depend on it.
            workers: threads that read the next pictures meanwhile; 0 reads when it is needed.
            errors: ``"raise"`` ends the stream at the first study without a report, when the ones
                before it were given; ``"yield"`` gives a :class:`llava_rad.Failure` in its place
                and goes on.

        Raises:
            ConfigError: there is no such policy of errors, or no studies a batch.

        Example:
            >>> short = llava_rad.GenerationSettings(max_new_tokens=4)
            >>> for report in model.reports(["chest.dcm", "exam/"], settings=short, batch_size=2):
            ...     print(report.images)
            ('chest.dcm',)
            ('exam/1_pa.dcm',)
        """
        if errors not in ("raise", "yield"):
            raise ConfigError(f"errors is {shown(errors)}", remedy="Use raise or yield")
        for name, value, least in (("batch_size", batch_size, 1), ("workers", workers, 0)):
            if type(value) is not int or value < least:
                raise ConfigError(
                    f"{name} is {shown(value)}", remedy=f"Use a whole number from {least}"
                )
        studies = (
            study if isinstance(study, Failure) else with_indication([study], indication)[0]
            for study in given_studies(inputs)
        )
        results = report_studies(
            self,
            studies,
            settings,
            batch_size=batch_size,
            workers=workers,
            read=functools.partial(_read_to_show, frame=frame),
        )
        return results if errors == "yield" else _raising(results)

    def attention(
        self,
        images: Given,
        findings: str,
        *,
        indication: str | None = None,
        frame: int | None = None,
    ) -> list[SentenceAttention]:
        """Which places of the images each sentence of a report attended to.

        See :func:`llava_rad.reports.report_attention` for what this is and is not.

        Args:
            images: of the study that the report describes, as for :meth:`report`.
            findings: its text.
            indication: that it was written with.
            frame: as for :meth:`report`.

        Raises:
            DataError, ImageError, ModelError: as for :meth:`report`; the LLM gives no attention.

        Example:
            >>> [found] = model.attention("chest.dcm", "The lungs are clear.")
            >>> found.images[0].grid.shape
            (12, 12)
            >>> found.images[0].on_radiograph(1955, 1841).shape
            (1955, 1841)
        """
        study = with_indication([one_study(images)], indication)[0]
        result = read_study(self, study, frame=frame)
        if isinstance(result, Failure):
            raise result.error
        return report_attention(self, result.request, findings)


def load(
    name: str = "mini",
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    revision: str | None = None,
    quantize: Quantization | Literal["none"] | None = None,
    base_llm: str | None = None,
) -> ReportWriter:
    """Load a model to write reports with.

    Args:
        name: ``mini``, a folder, or a hub id.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"xpu"``, ``"mps"``; ``"auto"`` is the first
            of CUDA, XPU and MPS that is there, else the CPU.
        dtype: of the weights, ``"float32"``, ``"bfloat16"`` or ``"float16"``; ``"auto"`` is
            bfloat16 on CUDA, XPU and CPUs that are fast in it, float32 elsewhere.
        revision: branch, tag or commit of a hub repository.
        quantize: ``"4bit"`` or ``"8bit"`` for the LLM, ``"none"`` for plain weights; None is what
            its LoRA was trained on. The LoRA is merged where the LLM is not quantised.
        base_llm: another place of the same base LLM.

    Raises:
        WeightsError: not found, incomplete or damaged.
        ModelError: the base LLM is another one.
        ConfigError: there is no such device on this machine, or no such number format.

    Example:
        >>> model = llava_rad.load("mini")
        >>> model.report("chest.dcm", indication="cough").model
        'llava-rad-mini'
    """
    model = load_model(
        name,
        device=device,
        dtype=dtype,
        revision=revision,
        quantize=quantize,
        base_llm=base_llm,
    )
    return ReportWriter.of(model)


def _read_to_show(model: ReportModel, study: Study, *, frame: int | None) -> StudyRequest | Failure:
    """Read a study, and keep what a notebook shows of it."""
    result = read_study(model, study, frame=frame)
    if isinstance(result, Failure):
        return result
    pictures = [image.radiograph for image in result.request.images]
    return replace(result, thumbnails=tuple(p.thumbnail() for p in pictures if p is not None))


def _raising(
    results: Generator[Report | Failure, None, None],
) -> Generator[Report, None, None]:
    with contextlib.closing(results):
        for result in results:
            if isinstance(result, Failure):
                raise result.error
            yield result
