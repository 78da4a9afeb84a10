import importlib.util
from pathlib import Path

import pytest
from typer.testing import CliRunner

PROGRAM = Path(__file__).parents[2] / "eval" / "rules_labeler.py"

XML = """<eCitation><uId id="CXR{n}"/><MedlineCitation><Article><Abstract>
<AbstractText Label="FINDINGS">{findings}</AbstractText></Abstract></Article></MedlineCitation>
<MeSH>{mesh}</MeSH></eCitation>"""


@pytest.fixture(scope="module")
def program():
    spec = importlib.util.spec_from_file_location("rules_labeler", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(program):
    return lambda path: CliRunner().invoke(program.app, [str(path)])


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        ("normal", set()),
        ("Cardiomegaly/mild;Pulmonary Atelectasis/base/left", {"Cardiomegaly", "Atelectasis"}),
        ("Density/lung/base", {"Lung Opacity"}),
        ("Density/humerus", set()),
        ("Opacity/lung/round", {"Lung Opacity", "Lung Lesion"}),
        ("Markings/bronchovascular", set()),
        ("Markings/lung/interstitial", {"Lung Opacity"}),
        ("Hydropneumothorax/right", {"Pneumothorax", "Pleural Effusion"}),
        ("Thickening/pleura/apex", {"Pleural Other"}),
        ("Costophrenic Angle/left/blunted", {"Pleural Effusion"}),
        ("Technical Quality of Image Unsatisfactory ", set()),
    ],
)
def test_codes_become_observations(program, terms, expected):
    assert program.observations_of(terms) == expected


def test_a_table_over_a_folder_of_reports(tmp_path, run):
    reports = [
        ("Small pleural effusion.", "<major>Pleural Effusion/small</major>"),
        ("The lungs are clear.", "<major>normal</major>"),
        ("The heart is enlarged.", "<major>No Indexing</major>"),
        ("", "<major>normal</major>"),
    ]
    for n, (findings, mesh) in enumerate(reports):
        (tmp_path / f"{n}.xml").write_text(XML.format(n=n, findings=findings, mesh=mesh))
    done = run(tmp_path)
    assert done.exit_code == 0, done.stderr
    assert "4 reports, 1 without text, 1 not coded, 2 compared" in done.stdout
    row = next(line for line in done.stdout.splitlines() if line.startswith("Pleural Effusion"))
    assert row.split()[2:] == ["1", *["1.000"] * 6]


@pytest.mark.slow
def test_agreement_with_the_people_who_coded_open_i(shared_data, run):
    done = run(shared_data / "openi" / "NLMCXR_reports.tgz")
    assert done.exit_code == 0, done.stderr
    assert "3955 reports" in done.stdout
    rows = [line.split() for line in done.stdout.splitlines()]
    macro = next(row for row in rows if row[:1] == ["macro"])
    micro = next(row for row in rows if row[:1] == ["micro"])
    assert float(micro[4]) > 0.93 and float(micro[-1]) > 0.94
    assert float(macro[4]) > 0.84 and float(macro[-1]) > 0.87


def test_a_folder_without_reports(tmp_path, run):
    done = run(tmp_path)
    assert done.exit_code == 1 and "no coded reports" in done.stderr
