"""The data sets that can be read, and their conversion to a manifest."""

import difflib
import inspect
import json
import logging
import os
import re
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llava_rad.data import (
    brax,
    candid_ptx,
    chexmask,
    chexpert,
    chexpert_plus,
    covid,
    csv_table,
    folder,
    iu_xray,
    jsrt,
    kermany,
    llava_rad_annotations,
    mimic_cxr,
    nih,
    openi,
    padchest,
    padchest_gr,
    rexgradient,
    rexrank,
    rsna,
    siim_acr,
    vindr_cxr,
)
from llava_rad.data.conversion import ConversionLog
from llava_rad.data.folder import NO_PATIENT
from llava_rad.data.identifiers import Identifiers, key_file, read_key, write_key
from llava_rad.data.label_names import join_labels
from llava_rad.data.manifest import is_manifest, save_manifest
from llava_rad.data.splitting import hold_out
from llava_rad.data.study import Study
from llava_rad.errors import ConfigError, DataError
from llava_rad.names import escape_name
from llava_rad.outputs import (
    cannot_write,
    has_keys,
    own_file,
    refuse_foreign,
    refuse_inputs,
    write_result,
)
from llava_rad.wording import counted, verb

_LOG = logging.getLogger(__name__)

# Each reads a data set's folder: read(root, log, **options) -> studies.
ADAPTERS: dict[str, Callable[..., Iterator[Study]]] = {
    "mimic-cxr": mimic_cxr.read,
    "llava-rad": llava_rad_annotations.read,
    "openi": openi.read,
    "iu-xray": iu_xray.read,
    "chexpert": chexpert.read,
    "chexpert-plus": chexpert_plus.read,
    "rexgradient": rexgradient.read,
    "rexrank": rexrank.read,
    "padchest": padchest.read,
    "padchest-gr": padchest_gr.read,
    "nih": nih.read,
    "rsna": rsna.read,
    "siim-acr": siim_acr.read,
    "vindr-cxr": vindr_cxr.read,
    "brax": brax.read,
    "candid-ptx": candid_ptx.read,
    "covid": covid.read,
    "jsrt": jsrt.read,
    "kermany": kermany.read,
    "chexmask": chexmask.read,
    "folder": folder.read,
    "csv": csv_table.read,
}


@dataclass(frozen=True)
class ConversionReport:
    """The outcome of a conversion.

    Attributes:
        name: the adapter.
        output: the manifest.
        sha256: its hash.
        studies: how many studies it holds.
        images: how many images.
        with_findings: how many studies have findings text.
        splits: split name (``"none"`` without one) to the number of studies.
        left_out: reason to the ids of rows that did not become a study.
        noted: fact to the ids of studies that were kept although something is missing or odd.
        key: the file with the key that ids were made with, None where none were made.
    """

    name: str
    output: str
    sha256: str
    studies: int
    images: int
    with_findings: int
    splits: dict[str, int]
    left_out: dict[str, list[str]]
    noted: dict[str, list[str]]
    key: str | None = None


def convert(
    name: str,
    root: str | Path,
    output: str | Path,
    /,
    *,
    validation: float = 0.0,
    test: float = 0.0,
    overwrite: bool = False,
    keep_identifiers: bool = False,
    key: str | Path | None = None,
    tell: Callable[[str], None] = _LOG.warning,
    **options: str | bool,
) -> ConversionReport:
    """Read a data set and write it as a manifest.

    Beside the manifest, ``<output>.report.json`` lists what was left out and noted, with ids. Where
    ids were made from DICOM headers, ``<output>.key`` holds their key
    (:mod:`llava_rad.data.identifiers`): a conversion made again finds it there and gives the same
    ids.

    Args:
        name: one of :data:`ADAPTERS`.
        root: the folder that the data set was unpacked into.
        output: the manifest, ``.jsonl`` or ``.parquet``.
        validation: share of the training patients to move to validation, where the data set has
            no official validation split (:func:`llava_rad.data.hold_out`).
        test: the same for the test split.
        overwrite: replace files of these names that are no manifest and no report of one.
        keep_identifiers: write the patients' ids, study ids and dates of DICOM headers as they are.
        key: the key file of another manifest, so that patients of both have the same ids.
        tell: is given what must be known before a split by patient.
        options: the adapter's own, see :func:`adapter_options`; a switch may be given as a text
            (``"true"``, ``"false"``).

    Raises:
        ConfigError: the name or an option is unknown.
        DataError: the folder does not hold the data set, or no study is left.
    """
    checked: dict[str, Any] = _check_options(name, options)
    root = Path(root)
    if not os.path.exists(root):  # noqa: PTH110 (pathlib's raises for a path that is too long)
        raise DataError("there is no such folder", where=root, kind="no_root")
    output = Path(output)
    _refuse_outputs(output, root, checked.values(), overwrite=overwrite)
    with own_file(output, "run of data"):
        return _convert(
            name,
            root,
            output,
            validation=validation,
            test=test,
            keep_identifiers=keep_identifiers,
            key=key,
            tell=tell,
            options=checked,
        )


def _listing(output: Path) -> Path:
    return output.with_name(f"{output.name}.report.json")


def _refuse_outputs(
    output: Path, root: Path, options: Iterable[object], *, overwrite: bool
) -> None:
    named: list[str | Path] = [root, *(value for value in options if isinstance(value, str))]
    for place, known, what in (
        (output, is_manifest, "manifest"),
        (
            _listing(output),
            lambda path: has_keys(path, "sha256", "studies", "left_out"),
            "report of one",
        ),
    ):
        refuse_inputs(place, named)
        refuse_foreign(place, known, what, overwrite=overwrite)
        if overwrite and place.is_file() and not known(place) and root.is_dir():
            refuse_inputs(place, (path for path in root.rglob("*") if path.is_file()))


def _convert(
    name: str,
    root: Path,
    output: Path,
    *,
    validation: float,
    test: float,
    keep_identifiers: bool,
    key: str | Path | None,
    tell: Callable[[str], None],
    options: dict[str, Any],
) -> ConversionReport:
    reader = _adapter(name)
    checked = dict(options)
    log = ConversionLog()
    identifiers = None
    if "identifiers" in inspect.signature(reader).parameters:
        known = key or (key_file(output) if key_file(output).exists() else None)
        identifiers = Identifiers(read_key(known) if known else None, keep=keep_identifiers)
        checked["identifiers"] = identifiers
    elif keep_identifiers or key:
        raise ConfigError(
            f"the ids of {name!r} are the data set's own, none are made from DICOM headers",
            remedy="Leave --keep-identifiers and --id-key out",
            kind="bad_option",
        )
    studies = list(reader(root, log, **checked))
    if not studies:
        reasons = ", ".join(f"{reason}: {len(ids)}" for reason, ids in log.left_out.items())
        raise DataError(
            f"no study is left ({reasons or 'the data set has no rows'})",
            where=root,
            remedy=f"Check that this is the folder of the data set {name!r}",
            kind="no_study",
        )
    joined = join_labels(studies)
    studies = joined.studies
    for old, new in joined.spellings.items():
        log.note(f"label {old!r} taken as {new!r}", name)
    for study_id in joined.contradicting:
        log.note("label_spellings_contradict", study_id)
    if validation or test:
        _tell_of_patients(studies, log, tell)
        studies = hold_out(studies, validation=validation, test=test)
        for split, share in (("validation", validation), ("test", test)):
            if share and not any(study.split == split for study in studies):
                tell(f"no patient fell into {split}: the patients are too few for that share")
    refuse_inputs(output, (image.path for study in studies for image in study.images))
    key_path = key_file(output) if identifiers is not None and identifiers.used else None
    if identifiers is not None and key_path is not None:
        try:
            write_key(key_path, identifiers.key)
        except OSError as error:
            raise cannot_write(key_path, error) from error
    digest = save_manifest(studies, output)
    report = ConversionReport(
        name=name,
        output=str(output),
        sha256=digest,
        studies=len(studies),
        images=sum(len(study.images) for study in studies),
        with_findings=sum(study.findings is not None for study in studies),
        splits=dict(Counter(study.split or "none" for study in studies)),
        left_out=log.left_out,
        noted=log.noted,
        key=None if key_path is None else str(key_path),
    )
    # Names only: the folder may be handed on.
    named = {"output": escape_name(output.name)}
    if report.key is not None:
        named["key"] = escape_name(Path(report.key).name)
    text = json.dumps(asdict(report) | named, indent=1, ensure_ascii=False)
    write_result(_listing(output), text + "\n")
    return report


def _tell_of_patients(
    studies: Sequence[Study], log: ConversionLog, tell: Callable[[str], None]
) -> None:
    nameless = len(log.noted.get(NO_PATIENT, ()))
    if nameless:
        tell(
            f"{nameless} of {counted(len(studies), 'study', 'studies')} "
            f"{verb(nameless, 'names', 'name')} no patient: each counts as a patient of "
            "its own, so studies of one person may fall on both sides of the split; name the "
            "patient with -O patient=REGEX if the paths hold it"
        )


def adapter_options(name: str) -> dict[str, str | bool]:
    """The options of an adapter with their defaults; its ``read`` explains them."""
    return {
        option: parameter.default
        for option, parameter in inspect.signature(_adapter(name)).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }


def explained_options(name: str) -> list[tuple[str, str, str]]:
    """The options of an adapter: name, default as it is typed, and what it is for.

    Raises:
        ConfigError: there is no data set of this name.
    """
    explained = _arguments(inspect.getdoc(_adapter(name)) or "")
    return [
        (option, str(default).lower() if isinstance(default, bool) else default, explained[option])
        for option, default in adapter_options(name).items()
    ]


def describe(name: str) -> str:
    """What a data set is, its layout, and its options, for a person.

    Raises:
        ConfigError: there is no data set of this name.
    """
    reader = _adapter(name)
    about = inspect.getdoc(inspect.getmodule(reader)) or ""
    lines = [name, *(f"  {line}".rstrip() for line in _plain(about).splitlines())]
    known = explained_options(name)
    lines += ["", "  Options:" if known else "  It has no options of its own."]
    for option, default, explained in known:
        text = f"-O {option}={default}  {explained}"
        lines += textwrap.wrap(text, 100, initial_indent="    ", subsequent_indent=" " * 8)
    return "\n".join(lines)


def _plain(text: str) -> str:
    """A docstring without its marks."""
    return re.sub(r":\w+:`([^`]*)`", r"\1", text).replace("``", "")


def _arguments(text: str) -> dict[str, str]:
    """What a docstring says of each argument."""
    _, _, rest = text.partition("Args:\n")
    found: dict[str, str] = {}
    name = ""
    for line in rest.splitlines():
        if match := re.fullmatch(r"    (\w+): (.*)", line):
            name = match[1]
            found[name] = match[2]
        elif line.startswith("        ") and name:
            found[name] += f" {line.strip()}"
        elif line.strip():
            break
    return {name: _plain(said) for name, said in found.items()}


def _check_options(name: str, options: dict[str, str | bool]) -> dict[str, str | bool]:
    known = adapter_options(name)
    checked = dict(options)
    for option, value in options.items():
        if option not in known:
            raise ConfigError(
                f"data set {name!r} has no option {option!r}",
                remedy=_nearest(option, known) if known else "It takes none of its own",
                kind="unknown_option",
            )
        if isinstance(known[option], bool) and isinstance(value, str):
            if value.lower() not in ("true", "false"):
                raise ConfigError(
                    f"option {option} is {value!r}", remedy="Use true or false", kind="bad_option"
                )
            checked[option] = value.lower() == "true"
    return checked


def _adapter(name: str) -> Callable[..., Iterator[Study]]:
    if name not in ADAPTERS:
        raise ConfigError(
            f"there is no data set {name!r}", remedy=_nearest(name, ADAPTERS), kind="unknown_name"
        )
    return ADAPTERS[name]


def _nearest(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    listed = ", ".join(known)
    return f"Did you mean {near[0]!r}? Known: {listed}" if near else f"Known: {listed}"
