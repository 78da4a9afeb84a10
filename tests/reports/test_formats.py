"""Each format says the same, is valid by its own rules, and names nobody unless asked to."""

import html
import io
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from helpers.report_documents import SECRETS, document_of, write_image
from helpers.tiny_models import build, byte_level_tokenizer
from markdown_it import MarkdownIt
from PIL import Image
from pydicom import dcmread

from llava_rad.data.identifiers import Identifiers
from llava_rad.errors import DataError
from llava_rad.extras import MissingExtraError
from llava_rad.images.source_instance import read_source_instance
from llava_rad.observations import OBSERVATIONS
from llava_rad.reports.formats import FORMATS, report_format
from llava_rad.reports.report import GroundedSentence

KEEP = Identifiers(keep=True)
PROBABILITIES = {name: round(0.05 + i / 20, 3) for i, name in enumerate(OBSERVATIONS)}
AWKWARD = "Größe <b>5&nbsp;µm</b> & *no* [link](x) `code` 心\n1. first\n- second\n# third | fourth"


@pytest.fixture(scope="module")
def model():
    made = build(byte_level_tokenizer(), name="tiny-model")
    made.folder_hash = "0123456789abcdef" * 4
    return made


@pytest.fixture
def paths(tmp_path):
    return [write_image(tmp_path), write_image(tmp_path, name="lat", view="LL")]


def pdf_pages(content):
    pypdfium2 = pytest.importorskip("pypdfium2")
    pdf = pypdfium2.PdfDocument(content)
    return [page.get_textpage().get_text_range() for page in pdf]


def readable(name, content):
    """All that a reader of a document finds in it."""
    if name == "pdf":
        return content.decode("latin-1") + "".join(pdf_pages(content))
    if name == "dicom-sr":
        return dcmread(io.BytesIO(content)).to_json()
    return content.decode()


@pytest.mark.parametrize("name", ["markdown", "pdf", "fhir", "dicom-sr"])
def test_nobody_is_named_unless_identifiers_are_kept(model, paths, name):
    text = readable(name, FORMATS[name].write(document_of(model, paths)))
    for secret in (*SECRETS, "REFERRER", paths[0].name, str(paths[0].parent)):
        assert secret not in text
    if name != "dicom-sr":  # which refers to the images by their UIDs
        assert read_source_instance(paths[0]).study_uid not in text
    kept = readable(name, FORMATS[name].write(document_of(model, paths, identifiers=KEEP)))
    assert ("MRN-77" in kept) == (name in ("fhir", "dicom-sr"))


def test_one_key_gives_one_patient_one_name(model, tmp_path):
    same = Identifiers()
    one, two = (
        document_of(model, [write_image(tmp_path, number)], identifiers=same) for number in (1, 2)
    )
    assert one.patient_name == two.patient_name and one.study_name != two.study_name
    assert document_of(model, [write_image(tmp_path)]).patient_name != one.patient_name


def test_words_that_stand_for_nobody_do_not_make_two_patients_one(model, tmp_path):
    same = Identifiers()
    paths = [write_image(tmp_path, number, PatientID="ANONYMOUS") for number in (1, 2)]
    one, two = (document_of(model, [path], identifiers=same) for path in paths)
    assert one.patient_name != two.patient_name


@pytest.mark.parametrize("name", ["text", "markdown", "pdf", "fhir", "dicom-sr"])
def test_every_format_has_text_observations_warning_and_model(model, paths, name):
    document = document_of(model, paths, observations={"Edema": 0.625})
    text = " ".join(readable(name, FORMATS[name].write(document)).split())
    for part in ("The lungs are clear.", "not for clinical use", "dema", "0.6", "tiny-model"):
        assert part in text
    if name != "text":
        assert "not verified by a radiologist" in text and "0123456789ab" in text
        assert "image 1 does not state its view" in text


def test_markdown_shows_texts_as_they_are(model, paths):
    content = FORMATS["markdown"].write(document_of(model, paths, AWKWARD)).decode()
    page = MarkdownIt("gfm-like", {"linkify": False}).render(content)
    shown = html.unescape(re.sub(r"<[^>]+>", "", page))
    for line in AWKWARD.splitlines():
        assert line in shown
    assert "<b>" not in page and "<a " not in page and page.count("<h1>") == 1


def test_json_of_a_document_reads_back(model, paths):
    document = document_of(model, paths, AWKWARD, observations={"Edema": 0.5})
    values = json.loads(FORMATS["json"].write(document))
    assert values["findings"] == AWKWARD and values["observations"] == {"Edema": 0.5}
    assert values["model_hash"] == model.folder_hash


# FHIR


@pytest.mark.parametrize("keep", [False, True])
def test_fhir_is_a_valid_r4_report(model, paths, keep):
    module = pytest.importorskip("fhir.resources.R4B.diagnosticreport")
    identifiers = Identifiers(keep=keep)
    document = document_of(
        model, paths, AWKWARD, identifiers=identifiers, observations=PROBABILITIES
    )
    content = FORMATS["fhir"].write(document)
    assert content.count(b"\n") == 1
    report = module.DiagnosticReport.model_validate_json(content)
    assert report.status == "preliminary"
    values = [
        one.valueQuantity.value for one in report.contained if getattr(one, "valueQuantity", 0)
    ]
    assert [float(value) for value in values] == list(PROBABILITIES.values())
    # What is contained must be referred to (dom-3), and nothing else can be.
    raw = json.loads(content)
    names = {one["id"] for one in raw["contained"]}
    assert {name[1:] for name in re.findall(r'"reference": "(#[^"]+)"', content.decode())} == names
    shown = "".join(ET.fromstring(raw["text"]["div"]).itertext())
    assert "Größe <b>5&nbsp;µm</b>" in shown


def test_fhir_refers_to_the_images_where_identifiers_are_kept(model, paths):
    raw = json.loads(FORMATS["fhir"].write(document_of(model, paths, identifiers=KEEP)))
    [study] = [one for one in raw["contained"] if one["resourceType"] == "ImagingStudy"]
    source = read_source_instance(paths[0])
    assert study["identifier"][0]["value"] == f"urn:oid:{source.study_uid}"
    assert [i["uid"] for i in study["series"][0]["instance"]] == [
        read_source_instance(path).uid for path in paths
    ]
    assert raw["effectiveDateTime"] == "2020-03-04"


# DICOM SR


def items(dataset):
    """All content items, as (concept, item)."""
    for item in dataset.get("ContentSequence", []):
        yield item.get("ConceptNameCodeSequence", [{}])[0].get("CodeMeaning", ""), item
        yield from items(item)


def structured(document):
    return dcmread(io.BytesIO(FORMATS["dicom-sr"].write(document)))


@pytest.mark.parametrize("keep", [False, True])
def test_sr_belongs_to_the_study_and_refers_to_its_images(model, paths, keep):
    report = structured(document_of(model, paths, identifiers=Identifiers(keep=keep)))
    sources = [read_source_instance(path) for path in paths]
    assert report.StudyInstanceUID == sources[0].study_uid
    assert report.SeriesInstanceUID != sources[0].series_uid
    [evidence] = report.CurrentRequestedProcedureEvidenceSequence
    referred = evidence.ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert [r.ReferencedSOPInstanceUID for r in referred] == [source.uid for source in sources]
    assert (report.VerificationFlag, report.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "2000"
    found = dict(items(report))
    assert found["Observer Type"].ConceptCodeSequence[0].CodeMeaning == "Device"
    assert (report.PatientName == "FAMILY^GIVEN") == keep
    assert (report.StudyDate == "20200304") == keep


def test_sr_has_a_measurement_for_each_probability(model, paths):
    report = structured(document_of(model, paths, observations=PROBABILITIES))
    numbers = [
        float(item.MeasuredValueSequence[0].NumericValue)
        for name, item in items(report)
        if name == "Probability"
    ]
    assert numbers == list(PROBABILITIES.values())
    named = [item.ConceptCodeSequence[0] for name, item in items(report) if name == "Finding"
             and "ConceptCodeSequence" in item]  # fmt: skip
    assert ("60046008", "SCT") in [(c.CodeValue, c.CodingSchemeDesignator) for c in named]
    assert len(named) == len({c.CodeValue for c in named}) == 14


def test_sr_holds_any_text(model, paths):
    report = structured(document_of(model, paths, AWKWARD + "\x1b\x00"))
    texts = [item.TextValue for name, item in items(report) if name == "Finding"]
    assert texts[0].startswith(AWKWARD) and "\x1b" not in texts[0]


def test_the_same_report_is_one_instance(model, paths):
    document = document_of(model, paths)
    again = structured(replace(document, written=document.written.replace(year=2027)))
    assert structured(document).SOPInstanceUID == again.SOPInstanceUID
    other = structured(document_of(model, paths, "An effusion."))
    assert other.SOPInstanceUID != again.SOPInstanceUID
    assert other.SeriesInstanceUID == again.SeriesInstanceUID


def test_a_prior_is_evidence_of_another_study(model, paths, tmp_path):
    document = document_of(model, paths[:1])
    prior = read_source_instance(write_image(tmp_path, 2))
    image = replace(document.images[0], name="image 2", role="prior_frontal", instance=prior)
    report = structured(replace(document, images=(*document.images, image)))
    [other] = report.PertinentOtherEvidenceSequence
    assert other.StudyInstanceUID == prior.study_uid


def test_values_that_are_invalid_in_the_source_do_not_get_into_the_sr(model, tmp_path):
    path = write_image(tmp_path, StudyDate="03/04/2020", AccessionNumber="A" * 40, StudyTime="x")
    report = structured(document_of(model, [path], identifiers=KEEP))
    assert (report.StudyDate, report.AccessionNumber) == ("", "") and not report.StudyTime


def test_there_is_no_sr_of_a_picture_that_is_no_dicom(model, tmp_path):
    path = tmp_path / "chest.png"
    Image.new("L", (64, 64)).save(path)
    with pytest.raises(DataError, match=r"refers to DICOM images.*or choose another --format"):
        FORMATS["dicom-sr"].write(document_of(model, [path]))
    bare = write_image(tmp_path, SeriesInstanceUID=None)
    with pytest.raises(DataError, match="refers to DICOM images"):
        FORMATS["dicom-sr"].write(document_of(model, [bare]))


@pytest.mark.check
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("observations", [{}, PROBABILITIES])
def test_sr_passes_the_public_validators(model, paths, tmp_path, keep, observations):
    for program, package in (("dciodvfy", "dicom3tools"), ("dsrdump", "dcmtk")):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program} of the Debian package {package}")
    document = document_of(
        model, paths, AWKWARD, identifiers=Identifiers(keep=keep), observations=observations
    )
    path = tmp_path / "sr.dcm"
    path.write_bytes(FORMATS["dicom-sr"].write(document))
    checked = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
    assert "EnhancedSR" in checked.stderr
    assert not re.findall("^Error.*", checked.stderr, re.MULTILINE)
    dumped = subprocess.run(["dsrdump", path], capture_output=True, text=True, check=True)
    assert "Verification Flag   : UNVERIFIED" in dumped.stdout


# PDF


def test_a_pdf_is_one_page_with_the_pictures(model, paths):
    pypdfium2 = pytest.importorskip("pypdfium2")
    raw = pypdfium2.raw
    document = document_of(model, paths, observations=PROBABILITIES)
    [page] = pypdfium2.PdfDocument(FORMATS["pdf"].write(document))
    pictures = list(page.get_objects([raw.FPDF_PAGEOBJ_IMAGE]))
    assert len(pictures) == 2
    shown = pictures[0].get_bitmap().to_pil()
    assert shown.size == document.picture(document.images[0]).shape[::-1]


def test_a_long_text_is_whole_and_set_smaller_first(model, paths):
    words = [f"word{i:04}" for i in range(900)]
    [page] = pdf_pages(FORMATS["pdf"].write(document_of(model, paths, " ".join(words[:330]))))
    pages = pdf_pages(FORMATS["pdf"].write(document_of(model, paths, " ".join(words))))
    assert len(pages) > 1
    assert re.findall(r"word\d{4}", page) == words[:330]
    assert re.findall(r"word\d{4}", "".join(pages)) == words


def test_signs_that_the_font_lacks_are_escaped(model, paths):
    text = "".join(pdf_pages(FORMATS["pdf"].write(document_of(model, paths, "Größe 心."))))
    assert "Größe \\u5fc3." in text


# Packages


def test_a_missing_package_is_named_with_its_command(model, paths, monkeypatch):
    monkeypatch.setattr("llava_rad.extras._absent", lambda extra: ["highdicom"])
    with pytest.raises(MissingExtraError, match=r"highdicom.*pip install 'llava-rad\[formats\]'"):
        report_format("dicom-sr")
    assert report_format("fhir").write(document_of(model, paths))


@pytest.mark.parametrize("name", ["markdown", "pdf", "dicom-sr"])
def test_boxes_are_told_and_drawn(model, paths, name):
    text = "A nodule. No effusion."
    document = document_of(model, paths, text)
    plain = FORMATS[name].write(document)
    place = GroundedSentence(0, 9, 0, ((10.0, 20.0, 30.0, 60.0),), 100, 200)
    report = replace(document.report, grounding=(place,))
    content = FORMATS[name].write(replace(document, report=report))
    if name != "dicom-sr":
        assert "10% to 30% from the left edge" in " ".join(readable(name, content).split())
        assert content != plain
        return
    items = dcmread(io.BytesIO(content)).ContentSequence[-1].ContentSequence
    found = [item for item in items if "TextValue" in item and item.TextValue == "A nodule."]
    [region] = found[0].ContentSequence
    assert region.ValueType == "SCOORD" and region.GraphicType == "POLYLINE"
    assert [*region.GraphicData] == [10, 20, 30, 20, 30, 60, 10, 60, 10, 20]
    reference = region.ContentSequence[0].ReferencedSOPSequence[0]
    assert reference.ReferencedSOPInstanceUID == read_source_instance(paths[0]).uid
    assert dcmread(io.BytesIO(plain)).SOPInstanceUID != dcmread(io.BytesIO(content)).SOPInstanceUID
