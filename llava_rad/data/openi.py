"""Open-i, the Indiana University chest X-ray collection (Demner-Fushman et al., 2016).

Reads the report XML files from ``NLMCXR_reports.tgz`` or from a folder that holds the archive or
the unpacked files (``ecgen-radiology/*.xml``). Images are optional: the folder of
``NLMCXR_png.tgz`` (``CXR1_1_IM-0001-3001.png``) or ``NLMCXR_dcm.tgz``
(``1_IM-0001-3001.dcm``). The files do not name the view; ``indiana_projections.csv`` (columns
``uid, filename, projection``) does, where it lies in the root or with the images.

The collection has no official split and no patient ids: each report counts as a patient of its
own. The indexers' MeSH terms are ``extra["mesh"]`` (joined by ``;``, such as ``"Cardiomegaly/mild;
Pulmonary Artery/enlarged"``), the automatic ones ``extra["mesh_automatic"]``.
"""

import tarfile
import xml.etree.ElementTree as ElementTree
import zlib
from collections.abc import Iterator
from pathlib import Path

from llava_rad.data.conversion import ConversionLog
from llava_rad.data.fields import frontal_first
from llava_rad.data.report_text import text_fields
from llava_rad.data.sections import ReportSections, missing_findings, tidy
from llava_rad.data.study import Study, StudyImage
from llava_rad.data.tables import read_table
from llava_rad.errors import DataError
from llava_rad.views import view_of

_ARCHIVE = "NLMCXR_reports.tgz"


def read(
    root: Path, log: ConversionLog, *, images: str = "", keep_marks: bool = False
) -> Iterator[Study]:
    """Read the data set.

    Args:
        root: the report archive, or the folder with the archive or the XML files.
        log: filled with what was left out or noted.
        images: the folder with the images; without it the studies have text only.
        keep_marks: leave ``XXXX`` in the texts.
    """
    image_paths = _index_images(Path(images)) if images else {}
    views = _views(root if root.is_dir() else root.parent, Path(images) if images else root)
    for name, content in _xml_files(root):
        try:
            report = ElementTree.fromstring(content)
        except (ElementTree.ParseError, ValueError, LookupError):  # or of an unknown encoding
            log.leave_out("not_xml", name)
            continue
        uid = report.find("uId")
        if uid is None or not uid.get("id"):
            log.leave_out("no_report_id", name)
            continue
        study_id = uid.get("id", "")
        fields, extra = text_fields(_sections(report), study_id, log, keep_marks=keep_marks)
        extra |= _mesh(report)
        image_ids = [image.get("id", "") for image in report.iter("parentImage")]
        extra |= {"image_ids": ";".join(image_ids)} if image_ids else {}
        study_images = []
        for image_id in image_ids if images else ():
            if image_id not in image_paths:
                log.leave_out("image_missing", image_id)
                continue
            position = views.get(image_id)
            path = str(image_paths[image_id])
            study_images.append(StudyImage(path, view_of(position), position))
        if images and not study_images:
            log.note("no_image", study_id)
        yield Study(
            study_id=study_id,
            patient_id=study_id,
            images=frontal_first(study_images),
            **fields,
            source="openi",
            extra=extra,
        )


def _xml_files(root: Path) -> Iterator[tuple[str, bytes]]:
    archive = root / _ARCHIVE if (root / _ARCHIVE).is_file() else root
    if archive.is_file():
        try:
            with tarfile.open(archive) as tar:
                for member in tar:
                    file = tar.extractfile(member) if member.name.endswith(".xml") else None
                    if file is not None:
                        yield member.name, file.read()
        except (tarfile.TarError, EOFError, zlib.error, OSError, ValueError) as error:
            raise DataError(
                f"not a tar archive, or damaged ({error})",
                where=archive,
                remedy="Download it again",
                kind="bad_file",
            ) from error
        return
    for path in sorted(root.rglob("*.xml"), key=lambda path: (len(path.name), path.name)):
        yield path.name, path.read_bytes()


def _sections(report: ElementTree.Element) -> ReportSections:
    texts: dict[str, str] = {}
    for part in report.iter("AbstractText"):
        text = tidy("".join(part.itertext()))
        if text:
            texts[(part.get("Label") or "").lower()] = text
    reason = None if "findings" in texts else missing_findings(texts.get("impression"))
    return ReportSections(
        indication=texts.get("indication"),
        comparison=texts.get("comparison"),
        findings=texts.get("findings"),
        impression=texts.get("impression"),
        no_findings_reason=reason,
    )


def _mesh(report: ElementTree.Element) -> dict[str, str]:
    terms = {
        name: ";".join((term.text or "").strip() for term in report.findall(f"MeSH/{tag}"))
        for name, tag in (("mesh", "major"), ("mesh_automatic", "automatic"))
    }
    return {name: text for name, text in terms.items() if text}


def _index_images(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise DataError("there is no such image folder", where=folder, kind="no_root")
    suffixes = (".png", ".dcm", ".jpg", ".jpeg")
    return {
        _image_id(path.name): path for path in sorted(folder.rglob("*")) if path.suffix in suffixes
    }


def _image_id(filename: str) -> str:
    """``CXR1_1_IM-0001-4001``, which some copies name ``1_IM-0001-4001.dcm.png``."""
    name = filename.split(".")[0]
    return name if name.startswith("CXR") else f"CXR{name.split('_')[0]}_{name}"


def _views(*folders: Path) -> dict[str, str]:
    """Image id to projection, from the table that names them, if it is there."""
    for folder in folders:
        table = folder / "indiana_projections.csv"
        if table.is_file():
            rows = read_table(table, ("filename", "projection"))
            return {_image_id(row["filename"]): row["projection"] for row in rows}
    return {}
