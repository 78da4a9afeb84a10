"""Reports as a DICOM structured report (Enhanced SR) beside the images of its study.

The text follows TID 2000 (Basic Diagnostic Imaging Report), probabilities of observations are
measurement groups of TID 1501 in a container of imaging measurements, as TID 1500 places them
(DICOM PS3.16). The observer is a device, and the document is preliminary and unverified.

A sentence with boxes stands once more as a finding of its own, inferred from the regions
(SCOORD) of the image that it was given.

The document belongs to the images' study and refers to them, so it carries their UIDs. Its own UIDs
come from the text, the model and the images: the same report written twice is one instance, of
which an archive keeps one.
"""

import io
import json
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydicom import Dataset
from pydicom.uid import UID

from llava_rad import __version__
from llava_rad.errors import DataError
from llava_rad.extras import require
from llava_rad.images.quiet import quiet_libraries
from llava_rad.images.source_instance import IDENTIFYING, SourceInstance
from llava_rad.reports.formats.document import ReportDocument
from llava_rad.reports.formats.observation_codes import snomed_code

if TYPE_CHECKING:
    from highdicom.sr import ContainerContentItem, ContentSequence, TextContentItem
    from pydicom.sr.coding import Code

_MAKER = "llava-rad"
_SPACE = uuid.uuid5(uuid.NAMESPACE_OID, "llava-rad structured report")
_SERIES_NUMBER = 9901  # behind those that modalities write


def write_dicom_sr(document: ReportDocument) -> bytes:
    """A report as a DICOM file.

    Raises:
        DataError: an image of the study is no DICOM file with UIDs (kind ``no_sr``).
        MissingExtraError: highdicom is not installed.
    """
    require("formats", "DICOM SR")
    with quiet_libraries():
        return _write(document, referred_to(document))


def _write(document: ReportDocument, sources: Sequence[SourceInstance]) -> bytes:
    from highdicom.sr import EnhancedSR

    written = document.written
    same: list[object] = [
        document.findings,
        document.indication,
        sorted(document.report.observations.items()),
    ]
    same += [(place.start, place.image, place.boxes) for place in document.report.grounding]
    facts = json.dumps([*same, document.model, [source.uid for source in sources]])
    report = EnhancedSR(
        evidence=[_evidence(source, document) for source in sources],
        content=_content(document, sources),
        series_instance_uid=_uid("series", sources[0].study_uid + document.model),
        series_number=_SERIES_NUMBER,
        sop_instance_uid=_uid("instance", facts),
        instance_number=1,
        manufacturer=_MAKER,
        is_complete=True,
        is_final=False,
        is_verified=False,
        specific_character_set="ISO_IR 192",
        content_date=written.date(),
        content_time=written.time(),
        series_description="Findings by a model; not for clinical use",
        manufacturer_model_name=document.report.model[:64],
        software_versions=__version__,
        device_serial_number=(document.model_hash or "")[:64] or None,
    )
    report.TimezoneOffsetFromUTC = written.strftime("%z")[:5]
    file = io.BytesIO()
    report.save_as(file, enforce_file_format=True)
    return file.getvalue()


def referred_to(document: ReportDocument) -> list[SourceInstance]:
    """The images as an SR refers to them, those of the study first.

    Raises:
        DataError: one of the study's is no DICOM file with UIDs.
    """
    sources = []
    for image in document.current:
        if image.instance is None:
            raise no_sr(document.report.study_id, image.name)
        sources.append(image.instance)
    if not sources:
        raise no_sr(document.report.study_id, "the report")
    own = {source.study_uid for source in sources}
    prior = [image.instance for image in document.images if image not in document.current]
    return sources + [i for i in prior if i is not None and i.study_uid not in own]


def no_sr(study_id: str | None, what: str) -> DataError:
    """What is said where there is nothing that an SR could refer to."""
    return DataError(
        f"a DICOM SR refers to DICOM images, and {what} is none with the UIDs of its study",
        where=study_id,
        remedy="Give the DICOM files, or choose another --format",
        kind="no_sr",
    )


def _uid(kind: str, facts: str) -> UID:
    return UID(f"2.25.{uuid.uuid5(_SPACE, f'{kind} {facts}').int}")


def _evidence(source: SourceInstance, document: ReportDocument) -> Dataset:
    """What highdicom takes from an image: its UIDs, and patient and study for the header."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = source.sop_class, source.uid
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = source.study_uid, source.series_uid
    dataset.Modality = source.modality or ""
    for keyword in IDENTIFYING:
        if keyword != "IssuerOfPatientID":
            setattr(dataset, keyword, "")
    dataset.PatientSex = source.sex or ""
    if document.identifiers_kept:
        for keyword, value in source.identifying.items():
            setattr(dataset, keyword, value)
    else:
        dataset.PatientID = document.patient_name
        dataset.PatientName = f"{document.patient_name}^"  # a family name
    return dataset


def _content(document: ReportDocument, sources: Sequence[SourceInstance]) -> "ContainerContentItem":
    from highdicom.sr import (
        CodedConcept,
        ContainerContentItem,
        ContentSequence,
        DeviceObserverIdentifyingAttributes,
        ImageContentItem,
        LanguageOfContentItemAndDescendants,
        ObservationContext,
        ObserverContext,
        RelationshipTypeValues,
        TextContentItem,
    )
    from pydicom.sr.codedict import codes

    contains = RelationshipTypeValues.CONTAINS
    device = DeviceObserverIdentifyingAttributes(
        uid=_uid("device", document.model),
        name=document.report.model,
        manufacturer_name=_MAKER,
        model_name=document.report.model,
        serial_number=document.model_hash,
    )
    root = ContainerContentItem(codes.LN.XRayReport, template_id="2000")
    root.ContentSequence = ContentSequence()
    root.ContentSequence.extend(
        LanguageOfContentItemAndDescendants(CodedConcept("en", "RFC5646", "English"))
    )
    root.ContentSequence.extend(
        ObservationContext(observer_device_context=ObserverContext(codes.DCM.Device, device))
    )

    def section(heading: "Code", texts: Sequence[tuple["Code", str]]) -> "ContainerContentItem":
        container = ContainerContentItem(heading, relationship_type=contains)
        container.ContentSequence = ContentSequence(
            [TextContentItem(name, text, contains) for name, text in texts]
        )
        root.ContentSequence.append(container)
        return container

    if document.indication:
        section(
            codes.LN.IndicationsForProcedure, [(codes.LN.ClinicalInformation, document.indication)]
        )
    comments = (document.report.disclaimer, document.unverified, *document.notes)
    findings = section(
        codes.LN.Findings,
        [
            *((codes.DCM.Comment, comment) for comment in comments),
            (codes.DCM.Finding, document.findings),
        ],
    )
    findings.ContentSequence[-1].ContentSequence = ContentSequence(
        [
            ImageContentItem(
                codes.DCM.SourceOfMeasurement,
                source.sop_class,
                source.uid,
                relationship_type=RelationshipTypeValues.INFERRED_FROM,
            )
            for source in sources
        ]
    )
    findings.ContentSequence.extend(_placed(document))
    if document.report.observations:
        measurements = ContainerContentItem(
            codes.DCM.ImagingMeasurements, relationship_type=contains
        )
        measurements.ContentSequence = ContentSequence()
        for name, probability in document.report.observations.items():
            measurements.ContentSequence.extend(_measured(name, probability, document, sources))
        root.ContentSequence.append(measurements)
    return root


def _placed(document: ReportDocument) -> list["TextContentItem"]:
    """The sentences with boxes, each with its regions."""
    import numpy as np
    from highdicom.sr import (
        ContentSequence,
        GraphicTypeValues,
        ImageContentItem,
        PixelOriginInterpretationValues,
        RelationshipTypeValues,
        ScoordContentItem,
        TextContentItem,
    )
    from pydicom.sr.codedict import codes

    items = []
    for sentence, place in document.report.boxes:
        source = document.images[place.image].instance
        if source is None:
            continue
        item = TextContentItem(codes.DCM.Finding, sentence, RelationshipTypeValues.CONTAINS)
        item.ContentSequence = ContentSequence()
        for left, upper, right, lower in place.boxes:
            corners = [(left, upper), (right, upper), (right, lower), (left, lower), (left, upper)]
            region = ScoordContentItem(
                codes.DCM.ImageRegion,
                GraphicTypeValues.POLYLINE,
                np.array(corners),
                pixel_origin_interpretation=PixelOriginInterpretationValues.FRAME,
                relationship_type=RelationshipTypeValues.INFERRED_FROM,
            )
            region.ContentSequence = ContentSequence(
                [
                    ImageContentItem(
                        codes.DCM.SourceOfMeasurement,
                        source.sop_class,
                        source.uid,
                        relationship_type=RelationshipTypeValues.SELECTED_FROM,
                    )
                ]
            )
            item.ContentSequence.append(region)
        items.append(item)
    return items


def _measured(
    name: str, probability: float, document: ReportDocument, sources: Sequence[SourceInstance]
) -> "ContentSequence":
    """A measurement group (TID 1501): an observation and its probability."""
    from highdicom.sr import (
        AlgorithmIdentification,
        Measurement,
        MeasurementsAndQualitativeEvaluations,
        SourceImageForMeasurementGroup,
        TrackingIdentifier,
    )
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    facts = f"{name} {document.model} {' '.join(source.uid for source in sources)}"
    # A code of our own ("99" is DICOM's mark of such schemes) where the standard lists none.
    local = Code(name.upper().replace(" ", "_")[:16], "99LLAVARAD", name[:64])
    return MeasurementsAndQualitativeEvaluations(
        TrackingIdentifier(uid=_uid("tracking", facts), identifier=name),
        finding_type=snomed_code(name) or local,
        algorithm_id=AlgorithmIdentification(
            document.report.model, document.model_hash or "unknown"
        ),
        measurements=[Measurement(codes.DCM.Probability, float(probability), codes.UCUM.NoUnits)],
        source_images=[SourceImageForMeasurementGroup(s.sop_class, s.uid) for s in sources],
    )
