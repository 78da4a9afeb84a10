"""From studies to reports: what a model is shown of a study, its text, and the file of the texts.

:mod:`writer` is the model that people use. :mod:`given` makes studies of what they give,
:mod:`request` chooses the images and texts of a study, :mod:`generate` decodes, :mod:`study` goes
through many studies, :mod:`worker_processes` does so on several devices, :mod:`file` keeps what
they gave so that an interrupted run resumes, :mod:`attention` says where the model looked,
:mod:`boxes` where it says that a finding is.
"""

from llava_rad.reports.attention import ImageAttention, SentenceAttention, report_attention
from llava_rad.reports.file import ReportFile, run_id
from llava_rad.reports.generate import GenerationSettings, generate_reports
from llava_rad.reports.report import GroundedSentence, Report, Sentence
from llava_rad.reports.request import StudyRequest, study_request
from llava_rad.reports.study import (
    Failure,
    StudyReader,
    read_study,
    report_studies,
    with_indication,
)
from llava_rad.reports.writer import ReportWriter, load

__all__ = [
    "Failure",
    "GenerationSettings",
    "GroundedSentence",
    "ImageAttention",
    "Report",
    "ReportFile",
    "ReportWriter",
    "Sentence",
    "SentenceAttention",
    "StudyReader",
    "StudyRequest",
    "generate_reports",
    "load",
    "read_study",
    "report_attention",
    "report_studies",
    "run_id",
    "study_request",
    "with_indication",
]
