"""Image files as studies: the one grouping that reports, conversions and Python share.

DICOM files of one Study Instance UID and one Patient ID are one study, wherever they lie. Any other
file is a study of its own. Views, sex and age come from the headers, the patient's study before
this one from Study Date and Study Time.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar, cast

from llava_rad.data.conversion import ConversionLog
from llava_rad.data.fields import frontal_first, parse_age, parse_sex
from llava_rad.data.identifiers import Identifiers
from llava_rad.data.priors import add_priors
from llava_rad.data.study import Study, StudyImage, View
from llava_rad.errors import DataError
from llava_rad.names import escape_name

if TYPE_CHECKING:
    from llava_rad.images.study_header import StudyHeader

_Value = TypeVar("_Value")

# What de-identification writes for a patient, and what stands for no patient at all.
_NOBODY = re.compile(
    r"(anon(ymous|ymi[sz]ed)?|de-?identified|unknown|none|null|nan|n/?a|<na>|patient|test"
    r"|[0\W_]*|x+)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class ImageGroup:
    """Files of one study.

    Attributes:
        files: as they were given, in their order.
        headers: of each; None for a file that is not DICOM or has no readable header.
    """

    files: tuple[str, ...]
    headers: "tuple[StudyHeader | None, ...]"

    @property
    def study_uid(self) -> str | None:
        """Study Instance UID of its files, None where they state none."""
        return self._first(lambda header: header.study_uid)

    @property
    def patient_id(self) -> str | None:
        """Patient ID, None where it is absent or stands for nobody (``"ANONYMOUS"``)."""
        return self._first(_patient_of)

    @property
    def sex(self) -> str | None:
        """``"M"`` or ``"F"`` or None."""
        return self._first(lambda header: parse_sex(header.sex))

    @property
    def age(self) -> float | None:
        """Whole years at the study, or None."""
        return self._first(_age_of)

    @property
    def time(self) -> tuple[float, float] | None:
        """Study Date and Study Time as numbers that sort, or None without a date."""
        return self._first(_time_of)

    @property
    def date(self) -> str | None:
        """Study Date as it is there."""
        return self._first(lambda header: header.study_date)

    @property
    def images(self) -> tuple[StudyImage, ...]:
        """The files with their views, frontal ones first."""
        return frontal_first(
            StudyImage(file)
            if header is None
            else StudyImage(file, cast(View, header.view), header.view_position)
            for file, header in zip(self.files, self.headers, strict=True)
        )

    def _first(self, read: "Callable[[StudyHeader], _Value | None]") -> _Value | None:
        values = (read(header) for header in self.headers if header is not None)
        return next((value for value in values if value is not None), None)


def group_files(files: Iterable[str]) -> list[ImageGroup]:
    """Files as studies, in the order of each one's first file.

    Files of one Study Instance UID that name different patients stay apart: some anonymisers write
    one UID for all. A file that names none belongs to the study's patient.
    """
    from llava_rad.images.study_header import read_study_header  # numpy and pydicom take a while

    return group_members([(file, read_study_header(file)) for file in files])


def group_members(members: "Sequence[tuple[str, StudyHeader | None]]") -> list[ImageGroup]:
    """:func:`group_files` of files whose headers were read before."""
    patients_of: dict[str, set[str]] = {}
    for _, header in members:
        if header is not None and header.study_uid is not None:
            named = _patient_of(header)
            patients_of.setdefault(header.study_uid, set()).update([named] if named else [])
    groups: dict[tuple[str | None, ...], list[tuple[str, StudyHeader | None]]] = {}
    for file, header in members:
        key: tuple[str | None, ...] = (file,)
        if header is not None and header.study_uid is not None:
            several = len(patients_of[header.study_uid]) > 1
            key = (header.study_uid, _patient_of(header) if several else None)
        groups.setdefault(key, []).append((file, header))
    return [join(group) for group in groups.values()]


def join(members: "Iterable[tuple[str, StudyHeader | None]]") -> ImageGroup:
    """A study of these files."""
    files, headers = zip(*members, strict=True)
    return ImageGroup(files, headers)


def as_one_study(groups: Sequence[ImageGroup], *, remedy: str) -> ImageGroup:
    """All files as the views of one study; what says nothing of its study goes with the others.

    Args:
        groups: of the files.
        remedy: what to do where they are of several.

    Raises:
        DataError: they state different studies or patients (``different_studies``).
    """
    uids = {group.study_uid for group in groups} - {None}
    patients = {group.patient_id for group in groups} - {None}
    if max(len(uids), len(patients)) > 1:
        what = f"{len(uids)} studies" if len(uids) > 1 else f"{len(patients)} patients"
        raise DataError(
            f"the files are of {what}, by their headers",
            where=groups[0].files[0],
            remedy=remedy,
            kind="different_studies",
        )
    return join(member for g in groups for member in zip(g.files, g.headers, strict=True))


def studies_of(
    groups: Sequence[ImageGroup],
    identifiers: Identifiers,
    log: ConversionLog,
    *,
    named_by_file: bool = False,
) -> list[Study]:
    """The studies of groups, each with its patient's study before it.

    Args:
        groups: from :func:`group_files`.
        identifiers: make the names of patients and studies.
        log: filled with what is noted.
        named_by_file: a study is called by its first file instead, for a list that a person looks
            things up in.
    """
    studies, times = [], {}
    names = study_names(groups, identifiers, log)
    for group, name in zip(groups, names, strict=True):
        file = escape_name(group.files[0])
        study_id = file if named_by_file or name is None else name
        studies.append(
            Study(
                study_id=study_id,
                patient_id=patient_name(group, identifiers) or study_id,
                images=group.images,
                sex=group.sex,
                age=group.age,
            )
        )
        if group.time is not None:
            times[study_id] = group.time
    return list(add_priors(studies, times, log))


def study_names(
    groups: Sequence[ImageGroup], identifiers: Identifiers, log: ConversionLog
) -> list[str | None]:
    """The name of each group's study, None where its files state no Study Instance UID."""
    uses = Counter(group.study_uid for group in groups)
    names: list[str | None] = []
    for group in groups:
        uid = group.study_uid
        if uid is not None and uses[uid] > 1:
            uid = f"{uid}/{group.patient_id or 'unknown'}"
            log.note("study_uid_of_several_patients", identifiers.study(uid))
        names.append(None if uid is None else identifiers.study(uid))
    return names


def patient_name(group: ImageGroup, identifiers: Identifiers) -> str | None:
    """The name of a group's patient, None where no file names one."""
    patient = group.patient_id
    return identifiers.patient(patient) if patient is not None else None


def names_nobody(patient_id: str) -> bool:
    """Whether a Patient ID is empty or a word such as ``"ANONYMOUS"``, which many may share."""
    return bool(_NOBODY.fullmatch(patient_id))


def _patient_of(header: "StudyHeader") -> str | None:
    patient = header.patient_id
    return None if patient is None or names_nobody(patient) else patient


def _age_of(header: "StudyHeader") -> float | None:
    years = parse_age(header.age)
    if years is None and header.birth_date and header.study_date:
        # YYYYMMDD: the year turns on the birthday.
        birth, study = _digits(header.birth_date), _digits(header.study_date)
        if birth and study and study >= birth:
            years = parse_age(str((study - birth) // 10_000))
    return None if years is None else float(math.floor(years))


def _time_of(header: "StudyHeader") -> tuple[float, float] | None:
    date = _digits(header.study_date)
    if date is None:
        return None
    time = re.match(r"(\d{2}(?:\d{2}(?:\d{2}(?:\.\d+)?)?)?)", header.study_time or "")
    return float(date), float(time[1].ljust(6, "0")) if time else 0.0


def _digits(date: str | None) -> int | None:
    """A date as the number YYYYMMDD; dots of the old form are left out."""
    plain = (date or "").replace(".", "").replace("-", "")
    return int(plain) if re.fullmatch(r"[12]\d{3}(0[1-9]|1[0-2])([0-2]\d|3[01])", plain) else None
