"""Reports as a FHIR R4 DiagnosticReport, all that it refers to contained in it.

https://hl7.org/fhir/R4/diagnosticreport.html. The resource is plain JSON, so that no library is
needed to write it; the tests validate it with fhir.resources. A FHIR DiagnosticReport cannot name
a device, so the text is an Observation by the model as well, which can.
"""

import html
import json
from datetime import datetime
from typing import Any

from llava_rad import __version__
from llava_rad.reports.formats.document import ReportDocument
from llava_rad.reports.formats.observation_codes import snomed_code

_LOINC = "http://loinc.org"
_UID_SYSTEM = "urn:dicom:uid"
_MODALITIES = "http://dicom.nema.org/resources/ontology/DCM"
# FHIR's words for "asserted by artificial intelligence" and "for healthcare research".
_LABELS = (
    ("http://terminology.hl7.org/CodeSystem/v3-ObservationValue", "AIAST"),
    ("http://terminology.hl7.org/CodeSystem/v3-ActReason", "HRESCH"),
)
_GENDERS = {"M": "male", "F": "female", "O": "other"}


def write_fhir(document: ReportDocument) -> bytes:
    """A report as one line of JSON, so that several in a row are NDJSON.

    Without kept identifiers the patient and the study have pseudonyms, and no UID or date of the
    study is there.
    """
    findings = _observation(document, "findings", _code("59776-5", "Procedure findings"))
    findings["valueString"] = document.findings
    findings["note"] = [{"text": note} for note in (*_warnings(document), *document.notes)]
    observations = [findings]
    for number, (name, probability) in enumerate(document.report.observations.items(), 1):
        one = _observation(document, f"observation-{number}", _observed(name))
        quantity = {"value": round(float(probability), 6), "unit": "probability"}
        one["valueQuantity"] = {**quantity, "system": "http://unitsofmeasure.org", "code": "1"}
        observations.append(one)
    studies = _studies(document)
    report = {
        "resourceType": "DiagnosticReport",
        "meta": {"security": [{"system": system, "code": code} for system, code in _LABELS]},
        "text": {"status": "generated", "div": _narrative(document)},
        "contained": [_patient(document), _device(document), *studies, *observations],
        "status": "preliminary",
        "category": [
            {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0074", "code": "RAD"}]}
        ],
        "code": _code("18748-4", "Diagnostic imaging study"),
        "subject": {"reference": "#patient"},
        **_effective(document),
        "issued": document.written.isoformat("T", "milliseconds"),
        "result": [{"reference": f"#{one['id']}"} for one in observations],
        "imagingStudy": [{"reference": f"#{one['id']}"} for one in studies],
    }
    return json.dumps(report, ensure_ascii=False).encode() + b"\n"


def _warnings(document: ReportDocument) -> tuple[str, str]:
    return document.report.disclaimer, document.unverified


def _code(code: str, display: str) -> dict[str, Any]:
    return {"coding": [{"system": _LOINC, "code": code, "display": display}]}


def _observed(name: str) -> dict[str, Any]:
    code = snomed_code(name)
    if code is None:
        return {"text": name}
    coding = {"system": "http://snomed.info/sct", "code": code.value, "display": code.meaning}
    return {"coding": [coding], "text": name}


def _observation(document: ReportDocument, name: str, code: dict[str, Any]) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "id": name,
        "status": "preliminary",
        "code": code,
        "subject": {"reference": "#patient"},
        **_effective(document),
        "device": {"reference": "#model"},
    }


def _patient(document: ReportDocument) -> dict[str, Any]:
    patient: dict[str, Any] = {
        "resourceType": "Patient",
        "id": "patient",
        "identifier": [{"value": document.patient_name}],
    }
    if not document.identifiers_kept:
        return patient
    source = next((i.instance for i in document.current if i.instance is not None), None)
    if source is not None:
        issuer = source.identifying.get("IssuerOfPatientID")
        if issuer:
            patient["identifier"][0]["assigner"] = {"display": issuer}
        if source.sex:
            patient["gender"] = _GENDERS[source.sex]
        born = _date(source.identifying.get("PatientBirthDate"))
        if born:
            patient["birthDate"] = born
    return patient


def _device(document: ReportDocument) -> dict[str, Any]:
    device: dict[str, Any] = {
        "resourceType": "Device",
        "id": "model",
        "deviceName": [{"name": document.report.model, "type": "model-name"}],
        "version": [{"type": {"text": "llava-rad"}, "value": __version__}],
    }
    if document.model_hash:
        device["identifier"] = [{"value": document.model_hash}]
    return device


def _studies(document: ReportDocument) -> list[dict[str, Any]]:
    study: dict[str, Any] = {
        "resourceType": "ImagingStudy",
        "id": "study",
        "identifier": [{"value": document.study_name}],
        "status": "available",
        "subject": {"reference": "#patient"},
        "numberOfInstances": len(document.current),
    }
    instances = [image.instance for image in document.current if image.instance is not None]
    if not document.identifiers_kept or not instances:
        return [study]
    study["identifier"] = [{"system": _UID_SYSTEM, "value": f"urn:oid:{instances[0].study_uid}"}]
    accession = instances[0].identifying.get("AccessionNumber")
    if accession:
        kind = {"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "ACSN"}
        study["identifier"].append({"type": {"coding": [kind]}, "value": accession})
    series: dict[str, dict[str, Any]] = {}
    for instance in instances:
        modality = {"system": _MODALITIES, "code": instance.modality or "OT"}
        one = series.setdefault(
            instance.series_uid, {"uid": instance.series_uid, "modality": modality, "instance": []}
        )
        kind = {"system": "urn:ietf:rfc:3986", "code": f"urn:oid:{instance.sop_class}"}
        one["instance"].append({"uid": instance.uid, "sopClass": kind})
    study["series"] = list(series.values())
    return [study]


def _effective(document: ReportDocument) -> dict[str, str]:
    """The study's date, which helps to identify a patient."""
    if not document.identifiers_kept:
        return {}
    for image in document.current:
        day = _date(image.instance.identifying.get("StudyDate")) if image.instance else None
        if day:
            return {"effectiveDateTime": day}
    return {}


def _date(text: str | None) -> str | None:
    try:
        return datetime.strptime(text or "", "%Y%m%d").date().isoformat()
    except ValueError:
        return None


def _narrative(document: ReportDocument) -> str:
    parts = [f"<b>{_text(document.report.disclaimer)}</b> {_text(document.unverified)}"]
    if document.indication:
        parts.append(f"Indication: {_text(document.indication)}")
    parts += [_text(line) for line in document.findings.splitlines() if line]
    parts += [f"{_text(n)}: probability {p:.2f}" for n, p in document.report.observations.items()]
    parts += [_text(note) for note in document.notes]
    parts.append(_text(document.model))
    paragraphs = "".join(f"<p>{part}</p>" for part in parts)
    return f'<div xmlns="http://www.w3.org/1999/xhtml">{paragraphs}</div>'


def _text(text: str) -> str:
    return html.escape(text, quote=False)
