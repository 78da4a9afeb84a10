import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.dicom_files import UID, write_exam
from helpers.tiny_models import byte_level_tokenizer, save_tiny_model, tiny_llm
from helpers.waiting import PATIENCE
from PIL import Image
from typer.testing import CliRunner

from llava_rad.cli import app
from llava_rad.cli.common import starting_up

RUN = CliRunner()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for i in range(5):
        pixels = generator.integers(0, 256, (64, 60), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"image{i}.png")
    return folder


def run(*arguments):
    return RUN.invoke(app, [str(a) for a in arguments])


def lines(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_prints_findings_the_models_name_and_one_disclaimer(model, images):
    result = run("report", images / "image0.png", "--model", model, "--max-new-tokens", 8)
    assert result.exit_code == 0, result.stderr
    assert "[tiny-model]" in result.stdout
    assert result.stdout.count("not for clinical use") == 1


def test_json_goes_to_stdout_and_nothing_else_does(model, images):
    result = run(
        "report",
        images,
        "--model",
        model,
        "--format",
        "json",
        "--max-new-tokens",
        8,
        "--batch-size",
        2,
    )
    assert result.exit_code == 0, result.stderr
    reports = [json.loads(line) for line in result.stdout.splitlines()]
    assert [Path(r["study_id"]).name for r in reports] == [f"image{i}.png" for i in range(5)]
    for report in reports:
        assert report["model"] == "tiny-model"
        assert "not for clinical use" in report["disclaimer"]
        assert any(w.startswith("view_unknown") for w in report["warnings"])


def test_batches_do_not_change_the_text(model, images):
    def texts(size):
        out = run("report", images, "--model", model, "--format", "json", "--batch-size", size)
        return [json.loads(line)["findings"] for line in out.stdout.splitlines()]

    assert texts(1) == texts(3)


def test_the_indication_reaches_the_model(model, images):
    one = ["report", images / "image0.png", "--model", model]
    assert run(*one).stdout != run(*one, "--indication", "cough and fever").stdout


def test_an_unreadable_file_is_reported_and_the_others_are_written(model, images, tmp_path):
    (images / "a_cut.png").write_bytes((images / "image0.png").read_bytes()[:500])
    (images / "b_empty.png").write_bytes(b"")
    (images / "c_text.png").write_text("this is not a picture")
    output = tmp_path / "out.jsonl"
    result = run("report", images, "--model", model, "-o", output, "--max-new-tokens", 8)
    assert result.exit_code == 1
    assert len(lines(output)) == 5
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 3
    for name, error in zip(("a_cut", "b_empty", "c_text"), errors, strict=True):
        assert f"{name}.png" in error
    assert "3 of 8 failed" in result.stderr


@pytest.fixture(scope="module")
def biased_model(tmp_path_factory):
    """Saves a model whose LLM adds a number to the logit of its end token."""

    def save(number):
        tokenizer = byte_level_tokenizer()
        llm = tiny_llm("phi2", len(tokenizer))
        llm.lm_head.bias.data[tokenizer.eos_token_id] = number
        return save_tiny_model(tmp_path_factory.mktemp("biased"), llm)

    return save


def test_an_empty_report_is_a_failure_that_is_kept_and_not_tried_again(
    biased_model, images, tmp_path
):
    output = tmp_path / "out.jsonl"
    command = ["report", images, "--model", biased_model(1e4), "-o", output]
    result = run(*command)
    assert result.exit_code == 1
    assert result.stderr.count("the model wrote an empty report") == 5
    assert "5 of 5 failed" in result.stderr
    whole = output.read_bytes()
    assert [row["findings"] for row in lines(output)] == [""] * 5
    again = run(*command)
    assert again.exit_code == 1 and "5 of 5 are in" in again.stderr
    assert again.stderr.count("the model wrote an empty report") == 5
    assert output.read_bytes() == whole
    assert run(*command[:-2], "--format", "text").exit_code == 1


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("way", [[], ["--num-beams", 2], ["--temperature", 1]])
def test_numbers_that_are_not_finite_never_become_a_report(
    biased_model, images, tmp_path, size, way
):
    output = tmp_path / "out.jsonl"
    command = ["report", images, "--model", biased_model(float("nan")), "-o", output]
    result = run(*command, "--batch-size", size, *way)
    assert result.exit_code == 1
    assert result.stderr.count("logits are not finite") == 5
    assert "Traceback" not in result.stderr and output.read_bytes() == b""


def test_a_run_that_was_cut_off_goes_on(model, images, tmp_path):
    output = tmp_path / "out.jsonl"
    command = ["report", images, "--model", model, "-o", output, "--max-new-tokens", 8]
    assert run(*command).exit_code == 0
    whole = output.read_bytes()
    # killed in the middle of the third line
    rows = whole.splitlines(keepends=True)
    output.write_bytes(rows[0] + rows[1] + rows[2][:40])
    result = run(*command)
    assert result.exit_code == 0
    assert "2 of 5 are in" in result.stderr
    assert output.read_bytes() == whole


def test_reports_of_other_settings_are_not_mixed(model, images, tmp_path):
    output = tmp_path / "out.jsonl"
    command = ["report", images / "image0.png", "--model", model, "-o", output]
    assert run(*command).exit_code == 0
    before = output.read_bytes()
    result = run(*command, "--max-new-tokens", 9)
    assert result.exit_code == 1
    assert "other settings" in result.stderr
    assert output.read_bytes() == before


def test_a_file_that_is_not_ours_is_left_alone(model, images, tmp_path):
    output = tmp_path / "notes.txt"
    output.write_text("my notes\n")
    result = run("report", images, "--model", model, "-o", output)
    assert result.exit_code == 1
    assert "notes.txt:1" in result.stderr
    assert output.read_text() == "my notes\n"


def test_stops_on_sigint_and_ends_with_all_lines(model, images, tmp_path):
    output = tmp_path / "out.jsonl"
    command = [
        sys.executable,
        "-m",
        "llava_rad.cli",
        "report",
        *[str(images)] * 1,
        "--model",
        model,
        "-o",
        str(output),
        "--max-new-tokens",
        "256",
        "--batch-size",
        "1",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, env=environment, text=True)
    deadline = time.monotonic() + PATIENCE
    while not (output.exists() and output.read_bytes().count(b"\n") >= 1):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE)
    if process.returncode != 0:  # it may have finished before the signal came
        assert process.returncode == 130
        assert "same command" in errors
        assert "Traceback" not in errors
    subprocess.run(command, check=True, env=environment, capture_output=True)
    found = [Path(row["study_id"]).name for row in lines(output)]
    assert found == [f"image{i}.png" for i in range(5)]


@pytest.mark.parametrize(
    ("arguments", "code", "say"),
    [
        (["report", "nowhere.png"], 1, "nowhere.png"),
        (["report"], 2, "IMAGE"),
        (["report", "IMAGES", "--model", "./nowhere"], 1, "no such model folder"),
        (["report", "IMAGES", "--batch-size", "0"], 2, "batch-size"),
        (["report", "IMAGES", "--device", "cuda:99"], 2, "llava-rad doctor"),
        (["report", "IMAGES", "--top-p", "0"], 2, "top_p"),
        (["report", "IMAGES", "--quantize", "3bit"], 2, "4bit"),
        (["report", "IMAGES", "--output", "IMAGES/image0.png/x.jsonl"], 1, "image0.png"),
        (["encode", "IMAGES", "-o", "x.safetensors", "--encoder", "./nowhere"], 1, "nowhere"),
        (["unheard-of"], 2, "unheard-of"),
    ],
)
def test_wrong_use_is_said_in_words(model, images, arguments, code, say):
    arguments = [a.replace("IMAGES", str(images)) for a in arguments]
    if arguments[0] == "report" and len(arguments) > 1 and "--model" not in arguments:
        arguments += ["--model", model]
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert say in result.stderr.replace("\n", " ")
    assert result.stdout == ""


def test_text_goes_to_a_file_when_told(model, images, tmp_path):
    output = tmp_path / "out.txt"
    result = run("report", images, "--model", model, "--format", "text", "-o", output)
    assert result.exit_code == 0 and result.stdout == ""
    assert output.read_text().count("not for clinical use") == 5


def test_encode_writes_the_encoders_tokens(model, images, tmp_path):
    import torch
    from safetensors import safe_open

    from llava_rad import load_encoder, load_radiograph

    (images / "broken.png").write_bytes(b"")
    encoder = load_encoder(Path(model) / "encoder")
    output = tmp_path / "tokens.safetensors"
    result = run("encode", images, "-o", output, "--encoder", encoder_folder(model))
    assert result.exit_code == 1 and "broken.png" in result.stderr
    with safe_open(output, framework="pt") as file:
        paths = json.loads(file.metadata()["images"])
        assert [Path(p).name for p in paths] == [f"image{i}.png" for i in range(5)]
        assert file.metadata()["fingerprint"] == encoder.fingerprint()
        picture = load_radiograph(paths[3])
        with torch.inference_mode():
            wanted = encoder.encode(encoder.preprocessing(picture).unsqueeze(0))
        assert torch.allclose(file.get_tensor("cls")[3], wanted.cls[0], atol=1e-5)
        assert torch.allclose(file.get_tensor("patches")[3], wanted.patches[0], atol=1e-5)


def test_a_frame_is_chosen_by_its_number(model, images, tmp_path):
    from safetensors.torch import load_file

    frames = [Image.open(images / f"image{i}.png") for i in range(3)]
    frames[0].save(tmp_path / "frames.tif", save_all=True, append_images=frames[1:])

    def encode(name, *options):
        output = tmp_path / "tokens.safetensors"
        result = run("encode", name, "-o", output, "--encoder", encoder_folder(model), *options)
        assert result.exit_code == 0, result.stderr
        return load_file(output)["patches"]

    assert encode(tmp_path / "frames.tif", "--frame", 2).equal(encode(images / "image1.png"))

    def report(name, *options):
        return run("report", name, "--model", model, "--max-new-tokens", 8, *options)

    refused = report(tmp_path / "frames.tif")
    assert refused.exit_code == 1 and "--frame N" in refused.stderr
    chosen = report(tmp_path / "frames.tif", "--frame", 3)
    assert chosen.exit_code == 0
    alone = report(images / "image2.png").stdout.splitlines()
    assert chosen.stdout.splitlines()[0] == alone[0]


def encoder_folder(model):
    return str(Path(model) / "encoder")


def test_encode_needs_no_connection_by_default(images, tmp_path, monkeypatch):
    from safetensors import safe_open

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = run("encode", images / "image0.png", "-o", tmp_path / "tokens.safetensors")
    assert result.exit_code == 0, result.stderr
    assert "1 image ->" in result.stderr
    with safe_open(tmp_path / "tokens.safetensors", framework="pt") as file:
        assert file.metadata()["encoder"] == "mini"


def test_the_folder_of_a_run_stands_for_its_last_stage(model, images, tmp_path):
    image = images / "image0.png"
    run_folder = tmp_path / "run"
    run_folder.mkdir()
    (run_folder / "config.yaml").touch()
    unfinished = run("report", image, "--model", run_folder)
    assert unfinished.exit_code == 1 and "finished no stage" in unfinished.stderr
    shutil.copytree(model, run_folder / "align")
    assert run("report", image, "--model", run_folder, "--max-new-tokens", 4).exit_code == 0
    shutil.copytree(model, run_folder / "finetune")
    (run_folder / "finetune" / "config.json").write_text('{"model_type": ')
    damaged = run("report", image, "--model", run_folder)
    assert damaged.exit_code == 1
    assert "finetune/config.json" in damaged.stderr and "the file is damaged" in damaged.stderr
    foreign = run("report", image, "--model", images)
    assert "not the folder of a report model" in foreign.stderr


def test_doctor_says_what_is_here(tmp_path, monkeypatch):
    monkeypatch.setenv("LLAVA_RAD_CACHE", str(tmp_path))
    result = run("doctor", "--format", "json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    from importlib.metadata import version

    assert found["packages"]["torch"] == {"ok": True, "value": version("torch")}
    assert found["devices"]["cpu float32"]["ok"] is True
    assert found["devices"]["cpu 4bit"]["ok"] is True
    assert found["dicom"]["JPEG 2000"]["ok"] is True
    assert str(tmp_path) in found["system"]["cache"]["value"]
    assert "encoder rad-dino" in found["weights"]
    assert "scorer chexbert" in found["weights"]
    assert "packages" in run("doctor").stdout


def test_nothing_heavy_is_imported_before_a_command_runs():
    code = (
        "import sys, llava_rad.cli; print([m for m in ('torch', 'transformers', 'numpy') "
        "if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert out.stdout.strip() == "[]"


def test_data_turns_a_folder_into_a_manifest(images, tmp_path):
    from llava_rad.data import load_manifest

    for i in range(4):
        (images / f"image{i}.txt").write_text("FINDINGS: The lungs are clear.")
    output = tmp_path / "manifest.jsonl"
    result = run("data", "folder", images, "-o", output)
    assert result.exit_code == 0, result.stderr
    assert "5 studies" in result.stderr and "4 with findings" in result.stderr
    studies = load_manifest(output)
    assert len(studies) == 5
    assert sum(s.findings == "The lungs are clear." for s in studies) == 4
    assert len(result.stdout.strip()) == 64


def test_data_lists_its_sets_and_names_what_is_wrong(images, tmp_path):
    listed = run("data", "--list").stdout
    assert "mimic-cxr" in listed and "-O keep_marks=false  leave ___ in the texts." in listed
    assert "Layout: files/p10/" in listed and "``" not in listed
    alone = run("data", "--list", "padchest").stdout
    assert alone.startswith("padchest\n") and "mimic" not in alone
    assert run("data", "folder").exit_code == 2
    result = run("data", "mimic-xcr", images, "-o", tmp_path / "m.jsonl")
    assert result.exit_code == 2 and "mimic-cxr" in result.stderr


def test_convert_makes_a_published_checkpoint_usable(shared_parity, images, tmp_path):
    folder = shared_parity / "llava_rad_checkpoint"
    tower = folder / "vision_tower" / "biomedclip_cxr_tiny"
    output = tmp_path / "converted"
    result = run(
        "convert", folder / "llava-rad-tiny", "-o", output, "--base-llm", folder / "base_llm",
        "--vision-tower", f"{tower}_checkpoint.pt", "--vision-config", f"{tower}.json",
        "--format", "json",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["target"] == "llava-rad"
    one = run("report", images / "image0.png", "--model", output, "--max-new-tokens", 4)
    assert one.exit_code == 0, one.stderr


def test_convert_says_what_it_cannot_read(tmp_path):
    result = run("convert", tmp_path, "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert str(tmp_path) in result.stderr.replace("\n", "")
    assert not (tmp_path / "out").exists()


def test_plan_estimates_a_run_without_weights(model, tmp_path):
    folder = Path(model)
    config = tmp_path / "report.yaml"
    config.write_text(
        f"output: {tmp_path}\nencoder: {folder / 'encoder'}\nllm: {folder.parent / 'llm'}\n"
    )
    result = run("plan", config, "lora.r=4", "--studies", 1000, "--format", "json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["studies"] == 1000
    adapter = 24 * 64 + 64 + 64 * 64 + 64
    lora = 2 * 4 * (2 * (64 + 64) + 2 * (64 + 32) + 2 * (64 + 128) + (128 + 64))
    assert [stage["trained"] for stage in found["stages"]] == [adapter, adapter + lora]
    assert "tokens" in run("plan", config).stdout
    assert (
        "2 x a10g" in run("plan", config, "encoder=mini", "--processes", 2, "--gpu", "a10g").stdout
    )
    wrong = run("plan", config, "lora.rank=4")
    assert wrong.exit_code == 2 and "lora.rank" in wrong.stderr


def test_a_folder_of_exams_is_reported_by_study(model, tmp_path):
    folder = tmp_path / "exams"
    for number in range(3):
        write_exam(folder, number, patient=number)
    (folder / "readme.txt").write_text("two views each")
    output = tmp_path / "out.jsonl"
    result = run("report", folder, "--model", model, "-o", output, "--max-new-tokens", 4)
    assert result.exit_code == 0, result.stderr
    found = lines(output)
    assert [[Path(p).name for p in row["images"]] for row in found] == [
        [f"{n}_pa.dcm", f"{n}_lat.dcm"] for n in range(3)
    ]
    assert all(row["roles"] == ["current_frontal", "current_lateral"] for row in found)
    assert "MRN" not in output.read_text() and UID not in output.read_text()
    said = result.stderr.splitlines()
    assert said[0] == f"passed over, companion: 1 ({folder / 'readme.txt'})"
    assert said[-1] == f"3 reports -> {output}"
    assert "Reports: 1 of 3" in said and "Reports: 3 of 3" in said
    text = run("report", *sorted(folder.glob("0_*")), "--model", model, "--max-new-tokens", 4)
    assert f"Shown as current frontal: {folder / '0_pa.dcm'}" in text.stdout
    assert f"Shown as current lateral: {folder / '0_lat.dcm'}" in text.stdout


def test_a_damaged_view_is_left_out_and_a_lateral_alone_is_refused(model, tmp_path):
    folder = tmp_path / "exams"
    for number in range(4):
        write_exam(folder, number)
    for name in ("0_lat", "1_pa"):
        file = folder / f"{name}.dcm"
        file.write_bytes(file.read_bytes()[:-2000])
    (folder / "2_pa.dcm").unlink()
    output = tmp_path / "out.jsonl"
    result = run("report", folder, "--model", model, "-o", output, "--max-new-tokens", 4)
    assert result.exit_code == 1
    first, last = lines(output)
    assert [Path(p).name for p in first["images"]] == ["0_pa.dcm"]
    assert any(w.startswith("unreadable: ") and "0_lat.dcm" in w for w in first["warnings"])
    assert [Path(p).name for p in last["images"]] == ["3_pa.dcm", "3_lat.dcm"]
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    for error, says in zip(
        errors, ("0_lat.dcm was left out", "1_pa.dcm", "2_lat.dcm is a lateral view"), strict=True
    ):
        assert says in error
    assert result.stderr.splitlines()[-1] == (
        f"2 reports -> {output}, 2 of 4 failed, 1 without an image that cannot be read"
    )


ODD = [b"scan\xff.png", b"new\nline.png", "ü胸.png".encode(), rb"back\xff.png"]


@pytest.fixture
def odd_names(images):
    content = (images / "image0.png").read_bytes()
    for file in images.iterdir():
        file.unlink()
    for name in ODD:
        (images / os.fsdecode(name)).write_bytes(content)
    (images / "cut.png").write_bytes(content[:300])
    return images


def test_odd_names_end_no_job_and_come_back(model, odd_names, tmp_path):
    from safetensors import safe_open

    from llava_rad.names import unescape_name

    def raw(paths):
        return {os.fsencode(Path(unescape_name(path)).name) for path in paths}

    output = tmp_path / "out.jsonl"
    command = ["report", odd_names, "--model", model, "-o", output, "--max-new-tokens", 4]
    assert run(*command).exit_code == 1  # cut.png
    found = [json.loads(line) for line in output.read_bytes().decode("utf-8").split("\n") if line]
    assert raw(path for row in found for path in row["images"]) == set(ODD)
    again = run(*command)
    assert "4 of 5 are in" in again.stderr
    tokens = tmp_path / "tokens.safetensors"
    assert run("encode", odd_names, "-o", tokens, "--encoder", encoder_folder(model)).exit_code == 1
    with safe_open(tokens, framework="pt") as file:
        assert raw(json.loads(file.metadata()["images"])) == set(ODD)
    manifest = tmp_path / "m.jsonl"
    assert run("data", "folder", odd_names, "-o", manifest).exit_code == 0
    result = run("data", "check", manifest)
    assert result.exit_code == 1 and result.stdout.count("\n") == 1
    assert result.stdout.startswith("truncated_image\tcut\t")
    assert result.stderr.splitlines()[-1] == "5 images opened, 1 cannot be read -> stdout"
    (odd_names / "cut.png").unlink()
    run("data", "folder", odd_names, "-o", manifest)
    assert run("data", "check", manifest).exit_code == 0


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
@pytest.mark.parametrize("style", ["json", "text"])
def test_a_terminal_that_cannot_print_a_name_is_no_error(monkeypatch, encoding, style):
    """The same in every encoding: one line of text a name, and JSON that reads back."""
    import io

    from llava_rad.cli.common import say, write_json, write_out
    from llava_rad.names import escape_name

    name = os.fsdecode(b"M\xc3\xbcller \xff\n.png")
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO(), encoding, "backslashreplace"))
    say(f"error: {name}")
    if style == "json":
        write_json({"images": [escape_name(name)]})
        out.flush()
        values = json.loads(out.buffer.getvalue().decode("utf-8"))
        assert values == {"images": ["Müller \\xff\n.png"]}
    else:
        write_out(name)
        out.flush()
        assert b"\\xff" in out.buffer.getvalue() or b"\\udcff" in out.buffer.getvalue()
    sys.stderr.flush()
    assert sys.stderr.buffer.getvalue().count(b"\n") == 1


def test_data_check_lists_every_unreadable_image_by_reason(images, tmp_path):
    from llava_rad.data import PriorStudy, Study, StudyImage, save_manifest

    content = (images / "image0.png").read_bytes()
    for i in range(3):
        (images / f"cut{i}.png").write_bytes(content[: 300 + i])
    (images / "text.png").write_text("no picture")
    studies = [
        Study(path.stem, path.stem, images=(StudyImage(str(path)),))
        for path in sorted(images.iterdir())
    ]
    prior = PriorStudy("old", (StudyImage(str(images / "gone.png")),))
    studies.append(Study("last", "last", images=studies[-1].images, prior=prior))
    save_manifest(studies, tmp_path / "m.parquet")
    wanted = [
        ("truncated_image", "cut0"),
        ("truncated_image", "cut1"),
        ("truncated_image", "cut2"),
        ("unknown_format", "text"),
        ("not_found", "last"),
    ]
    for workers in (0, 2):
        output = tmp_path / f"list{workers}.txt"
        result = run("data", "check", tmp_path / "m.parquet", "-o", output, "--workers", workers)
        assert result.exit_code == 1, result.stderr
        rows = [line.split("\t") for line in output.read_text().splitlines()]
        assert [(row[0], row[1]) for row in rows] == wanted
        table = [line.split()[:2] for line in result.stderr.splitlines() if "  first: " in line]
        assert table == [["3", "truncated_image"], ["1", "unknown_format"], ["1", "not_found"]]
    assert run("data", "check", tmp_path / "nowhere.jsonl").exit_code == 1


def test_data_says_what_it_knows_of_patients(tmp_path):
    for number in range(4):
        write_exam(tmp_path / "exams", number)
    output = tmp_path / "m.jsonl"
    result = run("data", "folder", tmp_path / "exams", "-o", output, "--test", "0.5")
    assert result.exit_code == 0, result.stderr
    said = result.stderr.splitlines()
    assert said[0].startswith("warning: 4 of 4 studies name no patient")
    assert f"the key of the ids is {output}.key" in result.stderr
    assert said[-1].endswith(f"8 images, 0 with findings -> {output}")
    result = run("data", "folder", tmp_path / "exams", "-o", output, "-O", "test=0.5")
    assert result.exit_code == 2 and "test is no option of a data set" in result.stderr
    result = run("data", "folder", tmp_path / "exams", "-o", output, "-O", "headers=true")
    assert result.exit_code == 2 and "text_headers" in result.stderr


def test_the_collector_of_garbage_is_off_while_a_command_starts_and_no_longer():
    with starting_up() as started:
        assert not gc.isenabled()
        started()
        assert gc.isenabled()
    with pytest.raises(KeyError), starting_up():
        raise KeyError  # such as a model that is not found
    assert gc.isenabled()
