import importlib.util
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

PROGRAM = Path(__file__).parents[2] / "eval" / "compare.py"
PRIMARY = "chexpert_rules/uncertain_positive/14/micro/f1"
REFERENCES = ["small effusion", "clear lungs", "large nodule", "rib fracture"] * 8


@pytest.fixture(scope="module")
def app():
    spec = importlib.util.spec_from_file_location("eval_compare", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.app


@pytest.fixture
def run(app):
    return lambda *arguments: CliRunner().invoke(
        app, [*map(str, arguments), "--metrics", "rouge,bleu_coco"]
    )


def write(path, predictions, *, ids=None, references=REFERENCES, more=lambda i: {}):
    rows = [
        {"id": f"s{i}" if ids is None else ids[i], "prediction": p, "reference": r, **more(i)}
        for i, (p, r) in enumerate(zip(predictions, references, strict=True))
    ]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.fixture
def bad(tmp_path):
    return write(tmp_path / "bad.jsonl", ["clear lungs"] * 32)


def test_a_better_model_is_told_from_a_worse_one(tmp_path, bad, run):
    good = write(tmp_path / "good.jsonl", REFERENCES)
    done = run(bad, good, "-o", tmp_path / "out.json", "--resamples", "200")
    assert done.exit_code == 0, done.stderr
    assert "32 pairs" in done.stdout and "p corrected" in done.stdout
    found = json.loads((tmp_path / "out.json").read_text())["files"][str(good)]
    rouge = found["rouge/rougeL"]
    assert rouge["difference"] == pytest.approx(0.75)
    assert rouge["interval"]["low"] > 0
    # Seven values are exploratory; each p-value is the smallest that 200 swaps can give.
    assert rouge["p_randomisation"] == pytest.approx(1 / 201)
    assert rouge["role"] == "exploratory" and rouge["p"] == pytest.approx(7 / 201)
    # The primary value stands first and is tested alone, though its metric was not asked for.
    assert next(iter(found)) == PRIMARY and len(found) == 8
    assert found[PRIMARY]["role"] == "primary"
    assert found[PRIMARY]["p"] == found[PRIMARY]["p_randomisation"] == pytest.approx(1 / 201)
    assert "primary metric, declared before: chexpert-rules micro F1" in done.stdout


def test_pairs_are_matched_by_id_and_not_by_line(tmp_path, bad, run):
    order = list(range(32))[::-1]
    shuffled = write(
        tmp_path / "shuffled.jsonl",
        ["clear lungs"] * 32,
        ids=[f"s{i}" for i in order],
        references=[REFERENCES[i] for i in order],
    )
    done = run(bad, shuffled, "-o", tmp_path / "out.json", "--resamples", "50")
    assert done.exit_code == 0, done.stderr
    found = json.loads((tmp_path / "out.json").read_text())["files"][str(shuffled)]
    assert all(difference["difference"] == 0 for difference in found.values())
    assert all(difference["p"] == 1 for difference in found.values())


def test_ids_of_one_file_alone_are_named(tmp_path, bad, run):
    ids = [*(f"s{i}" for i in range(30)), "extra", "s31"]
    other = write(tmp_path / "other.jsonl", REFERENCES, ids=ids)
    done = run(bad, other, "--resamples", "20")
    assert done.exit_code == 0
    assert "31 pairs" in done.stdout
    assert "bad.jsonl: 1 id is not in every file and is left out: s30" in done.stderr
    assert "other.jsonl: 1 id is not in every file and is left out: extra" in done.stderr


def test_other_references_and_other_studies_are_refused(tmp_path, bad, run):
    changed = write(
        tmp_path / "changed.jsonl", REFERENCES, references=["no effusion", *REFERENCES[1:]]
    )
    done = run(bad, changed)
    assert done.exit_code == 1 and "1 reference differs" in done.stderr and "s0" in done.stderr
    strangers = write(tmp_path / "strangers.jsonl", REFERENCES, ids=[f"x{i}" for i in range(32)])
    done = run(bad, strangers)
    assert done.exit_code == 1 and "no id in common" in done.stderr
    assert "Traceback" not in done.stderr


def test_three_files_and_wrong_usage(tmp_path, bad, run):
    good = write(tmp_path / "good.jsonl", REFERENCES)
    done = run(bad, good, bad, "--resamples", "20")
    assert done.exit_code == 0 and done.stdout.count("p corrected") == 2
    alone = run(bad)
    assert alone.exit_code == 2 and "at least two files" in alone.stderr
    assert run(bad, tmp_path / "absent.jsonl").exit_code == 1


def test_patients_are_resampled_and_swapped_whole(tmp_path, bad, run):
    # 4 patients of 8 studies; the better file is better on one patient alone.
    some = [text if i < 8 else "clear lungs" for i, text in enumerate(REFERENCES)]
    good = write(tmp_path / "good.jsonl", some, more=lambda i: {"patient_id": f"p{i // 8}"})
    # One of the files names the patients.
    done = run(bad, good, "-o", tmp_path / "out.json", "--resamples", "200")
    assert done.exit_code == 0, done.stderr
    assert "32 pairs of 4 patients;" in done.stdout and "patient_id" not in done.stderr
    content = json.loads((tmp_path / "out.json").read_text())
    assert (content["unit"], content["units"]) == ("patient", 4)
    found = content["files"][str(good)]["rouge/rougeL"]
    assert found["difference"] > 0 and found["p_randomisation"] == 1
    assert found["interval"]["low"] == 0
    other = write(tmp_path / "other.jsonl", some, more=lambda i: {"patient_id": "someone"})
    done = run(good, other)
    assert done.exit_code == 1 and "of patient 'someone' here and of 'p0'" in done.stderr


def test_without_patients_the_output_says_so(tmp_path, bad, run):
    done = run(bad, bad, "--resamples", "20")
    assert "32 studies (no patient ids)" in done.stdout
    assert "(--patient)" in done.stderr


def test_another_primary_value(tmp_path, bad, run):
    good = write(tmp_path / "good.jsonl", REFERENCES)
    done = run(bad, good, "--primary", "rouge/rougeL", "-o", tmp_path / "o.json")
    assert done.exit_code == 0, done.stderr
    found = json.loads((tmp_path / "o.json").read_text())["files"][str(good)]
    assert next(iter(found)) == "rouge/rougeL" and PRIMARY not in found
    assert [value["role"] for value in found.values()].count("primary") == 1
    done = run(bad, good, "--primary", "rouge/rougeX")
    assert done.exit_code == 2 and "Declare one of rouge/rouge1" in done.stderr
    done = run(bad, good, "--primary", "chexbert/uncertain_negative/14/micro/f1")
    assert done.exit_code == 1 and "it was not computed" in done.stderr


def test_blank_references_are_refused(tmp_path, run):
    blank = write(tmp_path / "a.jsonl", ["x"] * 32, references=[" "] * 32)
    done = run(blank, blank, "-o", tmp_path / "out.json")
    assert done.exit_code == 1 and "all references are blank" in done.stderr
    assert not (tmp_path / "out.json").exists()


def test_numbers_are_printed_or_written_as_asked(tmp_path, run):
    for name, texts in (("a", ["clear lungs"] * 32), ("b", REFERENCES)):
        rows = [f"s{i},{text},{REFERENCES[i]}" for i, text in enumerate(texts)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["study,mine,true", *rows]) + "\n")
    options = ["--id", "study", "--prediction", "mine", "--reference", "true", "--resamples", "20"]
    files = (tmp_path / "a.csv", tmp_path / "b.csv")
    printed = run(*files, *options, "--format", "json")
    assert printed.exit_code == 0, printed.stderr
    values = json.loads(printed.stdout)
    assert values["pairs"] == 32
    both = run(*files, *options, "-o", tmp_path / "out.json")
    assert "p corrected" in both.stdout
    assert json.loads((tmp_path / "out.json").read_text()) == values
    table = ["--format", "text", "-o", tmp_path / "out.txt"]
    assert run(*files, *options, *table).exit_code == 0
    assert (tmp_path / "out.txt").read_text() == both.stdout
    again = run(*files, *options, *table)
    assert again.exit_code == 1 and "--overwrite" in again.stderr
    assert run(*files, *options, *table, "--overwrite").exit_code == 0


def test_errors_by_subgroup_are_compared_in_a_folder(tmp_path, run):
    # Of patients and sexes one file tells; 64 studies, so that some cells are not few.
    def told(i):
        return {"patient_id": f"p{i}", "sex": "FM"[i // 4 % 2], "age": 40.5}

    references = REFERENCES * 2
    bad = write(tmp_path / "a.jsonl", ["clear lungs"] * 64, references=references)
    good = write(tmp_path / "b.jsonl", references, references=references, more=told)
    out = tmp_path / "out"
    done = run(bad, good, "--resamples", "20", "--errors", out)
    assert done.exit_code == 0, done.stderr
    assert "errors.json, errors.csv, comparison.html" in done.stderr
    page = (out / "comparison.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>") and "What got better or worse" in page
    assert "not in the file of predictions: view, source" in page
    held = json.loads((out / "errors.json").read_text(encoding="utf-8"))
    assert held["unit"] == "patient" and "age: 40-59 in all studies" in held["notes"]
    where = {"second": str(good), "uncertain": "uncertain_positive", "observation": "No Finding"}
    cells = [cell for cell in held["cells"] if where.items() <= cell.items()]
    everybody, women, men = cells[:3]
    assert [everybody["value"], women["value"], men["value"]] == ["all studies", "F", "M"]
    # Of 48 references with a finding the first says that there is none, the second never.
    assert everybody["first_invented"] == 48 and everybody["second_invented"] == 0
    assert everybody["invented_p"] == pytest.approx(2 / 2**48)
    assert everybody["invented_verdict"] == women["invented_verdict"] == "better"
    assert everybody["found_verdict"] == "few" and everybody["found_p"] is None
    # The same command may write there again; a stranger's file stays.
    assert run(bad, good, "--resamples", "20", "--errors", out).exit_code == 0
    (out / "errors.csv").write_text("mine")
    again = run(bad, good, "--resamples", "20", "--errors", out)
    assert again.exit_code == 1 and "errors.csv" in again.stderr


def test_without_labels_there_are_no_errors_to_compare(tmp_path, run):
    texts = ["Kein Erguss."] * 32
    file = write(tmp_path / "a.jsonl", texts, more=lambda i: {"language": "de"})
    done = run(file, file, "--resamples", "20", "--errors", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    assert "no labeler knows the language of the reports" in done.stderr
    assert not (tmp_path / "out").exists()
