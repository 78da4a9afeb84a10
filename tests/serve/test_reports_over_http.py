"""The endpoints, asked as clients ask: what they answer is what the library gives."""

import base64
import io
import json
import tempfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openai
import pytest
from helpers.live_server import live_server
from helpers.report_documents import IDENTIFYING, SECRETS, write_image
from helpers.waiting import wait_for
from PIL import Image
from pydicom import dcmread

import llava_rad
from llava_rad.reports import GenerationSettings, ReportWriter
from llava_rad.reports.formats import FORMATS
from llava_rad.serve.chat import ChatRequest

SHORT = GenerationSettings(max_new_tokens=8)


def events(text):
    """Name and JSON of server-sent events."""
    found = []
    for block in text.strip().split("\n\n"):
        lines = [line for line in block.split("\n") if not line.startswith(":")]
        if lines:
            fields = dict(line.split(": ", 1) for line in lines)
            found.append((fields.get("event"), json.loads(fields["data"])))
    return found


@pytest.fixture(scope="module")
def expected(model, chest):
    return ReportWriter.of(model).report(chest, settings=SHORT)


@pytest.fixture(scope="module")
def answered(live, chest):
    return live.post("/v1/report", [chest])


def test_a_report_is_what_the_library_writes(answered, expected, model):
    assert answered.status_code == 200
    values = answered.json()
    assert values["findings"] == expected.findings and values["findings"]
    assert values["tokens"] == 8 and values["truncated"] is True
    assert values["images"] == ["file 1"] and values["roles"] == ["current_frontal"]
    assert values["model_hash"] == model.folder_hash
    assert "research" in values["disclaimer"]


def test_an_indication_is_shown_to_the_model(live, chest, model):
    expected = ReportWriter.of(model).report(chest, indication="cough", settings=SHORT)
    assert live.post("/v1/report", [chest], indication="cough").json()["findings"] == (
        expected.findings
    )


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_comes_with_its_type(live, chest, name, expected):
    answer = live.post("/v1/report", [chest], format=name)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == FORMATS[name].media_type
    if name == "dicom-sr":
        assert dcmread(io.BytesIO(answer.content)).Modality == "SR"
    elif name == "pdf":
        assert answer.content.startswith(b"%PDF")
    else:
        assert expected.findings.split()[0] in answer.text
    if name not in ("json", "text"):
        assert answer.headers["content-disposition"] == (
            f'attachment; filename="report{FORMATS[name].ending}"'
        )


def test_a_streamed_report_is_the_same_text_in_pieces(live, chest, answered):
    answer = live.post("/v1/report", [chest], stream="true")
    assert answer.headers["content-type"].startswith("text/event-stream")
    *pieces, (last, report) = events(answer.text)
    assert last == "done" and report == answered.json()
    assert {name for name, _ in pieces} == {"text"} and len(pieces) > 1
    assert "".join(values["text"] for _, values in pieces) == report["findings"]


def test_a_report_becomes_a_document_later(live, chest, answered):
    answer = live.post("/v1/document", [chest], report=answered.text, format="fhir")
    assert answer.status_code == 200, answer.text
    assert answered.json()["findings"].split()[0] in answer.text


def test_only_what_this_server_wrote_of_these_files_becomes_a_document(live, chest, answered):
    changed = answered.json() | {"findings": "The lungs are clear."}
    other = write_png(seed=5)
    for report, file in ((json.dumps(changed), chest), (answered.text, other), ("{", chest)):
        answer = live.post("/v1/document", [file], report=report, format="fhir")
        assert answer.status_code == 400 and answer.json()["error"]["code"] == "bad_seal"


def write_png(seed=0, size=(64, 60)):
    pixels = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_requests_at_once_get_the_texts_of_requests_alone(live, model):
    pictures = [write_png(seed) for seed in range(6)]
    writer = ReportWriter.of(model)
    with ThreadPoolExecutor(6) as pool, live.busy():
        answers = [pool.submit(live.post, "/v1/report", [picture]) for picture in pictures]
        wait_for(lambda: live.service.work.in_hand == 7)
    texts = [answer.result().json()["findings"] for answer in answers]
    assert texts == [writer.report(p, settings=SHORT).findings for p in pictures]


def test_views_of_one_study_are_one_report(live, chest, tmp_path):
    lateral = write_image(tmp_path, name="lat", view="LL").read_bytes()
    values = live.post("/v1/report", [lateral, chest]).json()
    assert (values["images"], values["roles"]) == (
        ["file 2", "file 1"], ["current_frontal", "current_lateral"],
    )  # fmt: skip


def test_a_preview_is_the_radiograph(live, chest):
    answer = live.post("/v1/preview", [chest])
    radiograph = llava_rad.load_radiograph(chest)
    picture = Image.open(io.BytesIO(answer.content))
    assert answer.headers["content-type"] == "image/png" and picture.mode == "L"
    np.testing.assert_array_equal(np.asarray(picture), radiograph.pixels)
    facts = json.loads(answer.headers["x-radiograph"])
    assert (facts["rows"], facts["columns"]) == radiograph.pixels.shape
    assert (facts["view"], facts["view_position"]) == ("frontal", "PA")
    small = live.post("/v1/preview", [chest], size="32")
    assert max(Image.open(io.BytesIO(small.content)).size) == 32


def test_embeddings_are_those_of_the_encoder(live, chest, model):
    files = [chest, write_png()]
    values = live.post("/v1/embed", files).json()
    assert values["dim"] == model.encoder.dim and values["images"] == ["file 1", "file 2"]
    np.testing.assert_allclose(values["embeddings"], model.encoder.embed(files), atol=1e-5)


def test_what_is_served_says_so(live):
    [row] = live.http.get("/v1/models").json()["data"]
    assert row["id"] == "tiny-model" and row["roles"] and "dicom-sr" in row["formats"]
    assert live.http.get("/health").json() == {"status": "ok"}
    metrics = live.http.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain")
    assert 'llava_rad_requests_total{path="/health",status="200"}' in metrics.text
    assert "process_resident_memory_bytes" in metrics.text


def test_the_interface_describes_itself_without_foreign_hosts(live):
    described = live.http.get("/openapi.json").json()
    assert described["openapi"].startswith("3.")
    for path, methods in described["paths"].items():
        for method in methods.values():
            if path in ("/v1/report", "/v1/embed", "/v1/chat/completions"):
                answer = method["responses"]["200"]["content"]["application/json"]
                assert answer["example"] and method["requestBody"]["content"]
    text = json.dumps(described)
    assert "$defs" not in text and "$ref" not in text
    assert live.http.get("/docs").status_code == live.http.get("/redoc").status_code == 404


def error(answer, status):
    assert answer.status_code == status, answer.text
    values = answer.json()["error"]
    assert set(values) == {"message", "type", "code"} and "\n" not in values["message"]
    return values["code"]


ZIP = b"PK\x03\x04" + bytes(200)


@pytest.mark.parametrize(
    ("contents", "status", "code"),
    [
        ([], 400, "bad_form"),
        ([b""], 422, "empty_file"),
        ([ZIP], 422, "not_dicom"),
        ([b"hello"], 422, "not_dicom"),
        ([write_png(size=(20, 20))], 422, "too_small"),
        ([write_png()[:200]], 422, "truncated_image"),
        ([write_png()] * 17, 400, "bad_form"),
    ],
)
def test_files_that_give_no_report_are_told_in_one_line(live, contents, status, code):
    assert error(live.post("/v1/report", contents), status) == code


def test_files_of_two_studies_are_refused(live, chest, tmp_path):
    other = write_image(tmp_path, 2).read_bytes()
    assert error(live.post("/v1/report", [chest, other]), 422) == "different_studies"


@pytest.mark.parametrize(
    ("path", "fields", "status"),
    [
        ("/v1/report", {"format": "docx"}, 400),
        ("/v1/report", {"nothing": "x"}, 400),
        ("/v1/report", {"max_new_tokens": "many"}, 400),
        ("/v1/report", {"max_new_tokens": "0"}, 400),
        ("/v1/report", {"temperature": "-1"}, 400),
        ("/v1/report", {"seed": "9" * 5000}, 400),
        ("/v1/report", {"frame": "2"}, 422),
        ("/v1/report", {"stream": "perhaps"}, 400),
        ("/v1/report", {"stream": "true", "format": "pdf"}, 400),
        ("/v1/report", {"model": "gpt"}, 404),
        ("/v1/report", {"indication": "x" * 2001}, 400),
        ("/v1/report", {"indication": "x" * 300_000}, 400),
        ("/v1/preview", {"size": "1"}, 400),
        ("/v1/document", {"report": "[]"}, 400),
        ("/v1/nothing", {}, 404),
    ],
)
def test_fields_that_make_no_sense_are_told_in_one_line(live, path, fields, status, chest):
    error(live.post(path, [chest], **fields), status)


def test_an_unknown_format_has_a_code(live, chest):
    assert error(live.post("/v1/report", [chest], format="docx"), 400) == "no_format"


@pytest.mark.parametrize(
    ("content", "media"),
    [
        (b"{}", "application/json"),
        (b"no parts", "multipart/form-data; boundary=x"),
        (b"", "multipart/form-data"),
        (
            b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n',
            "multipart/form-data;boundary=x",
        ),
        (b"--x\r\n" * 5000, "multipart/form-data; boundary=x"),
        (
            b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n' * 5000 + b"--x--",
            "multipart/form-data; boundary=x",
        ),
        (b"\xff" * 1000, "multipart/form-data; boundary=x"),
    ],
)
def test_bodies_that_are_no_forms_are_told_in_one_line(live, content, media):
    answer = live.http.post("/v1/report", content=content, headers={"content-type": media})
    error(answer, 400)


@pytest.mark.parametrize("charset", ["undefined", "punycode", "unicode_escape", "utf-16", "none"])
def test_a_form_names_no_codec(live, chest, charset):
    content = (
        b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n%b\r\n'
        b'--x\r\nContent-Disposition: form-data; name="indication"\r\n\r\n\\ud800 a..b\r\n--x--'
    ) % chest
    media = f"multipart/form-data; boundary=x; charset={charset}"
    answer = live.http.post("/v1/report", content=content, headers={"content-type": media})
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "a\x01b\r\n.png", "röntgen.png", "x" * 500, "/dev/zero", '"; a="']
)
def test_names_of_files_do_not_matter(live, chest, answered, name):
    answer = live.http.post("/v1/report", files={"files": (name, chest)})
    assert answer.json()["findings"] == answered.json()["findings"]


def test_an_upload_over_the_limit_is_refused_with_and_without_its_length(model):
    with live_server([model], most_bytes=10_000) as small:
        big = [bytes(20_000)]
        assert error(small.post("/v1/report", big), 413) == "upload_too_large"
        head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'
        pieces = (piece for piece in (head, *[bytes(1000)] * 20))
        kind = {"content-type": "multipart/form-data; boundary=x"}
        answer = small.http.post("/v1/report", content=pieces, headers=kind)
        assert error(answer, 413) == "upload_too_large"
        assert small.service.work.in_hand == 0


def test_uploads_do_not_touch_the_disk(live, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/nonexistent")
    large = write_png(size=(1200, 1200))
    assert len(large) > 2**20  # what would be spooled by default
    assert live.post("/v1/preview", [large]).status_code == 200


def test_who_the_patient_is_stays_here(live, chest, tmp_path):
    said = len(live.said)
    texts = [live.post("/v1/report", [chest], format=f).text for f in ("json", "text", "fhir")]
    live.post("/v1/report", [chest[:3000]], indication="secret-indication")
    for text in (*texts, *live.said[said:]):
        assert not any(secret in text for secret in (*SECRETS, "DOE", "JANE", "secret-indication"))
    assert len(live.said) >= said + 4


def test_who_the_patient_is_goes_out_where_the_server_was_told_so(model, chest):
    with live_server([model], keep_identifiers=True) as keeping:
        answer = keeping.post("/v1/report", [chest], format="fhir")
    assert IDENTIFYING["PatientID"] in answer.text


def client(live, **options):
    return openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0, **options)


def asked(content, *texts):
    url = f"data:application/dicom;base64,{base64.b64encode(content).decode()}"
    parts = [{"type": "text", "text": text} for text in texts]
    return [{"role": "user", "content": [*parts, {"type": "image_url", "image_url": {"url": url}}]}]


def test_openais_client_gets_the_report(live, chest, model):
    answer = client(live).chat.completions.create(
        model="tiny-model", messages=asked(chest, "Indication: cough"), max_tokens=5
    )
    settings = GenerationSettings(max_new_tokens=5)
    expected = ReportWriter.of(model).report(chest, indication="cough", settings=settings)
    assert answer.choices[0].message.content == expected.findings
    assert answer.choices[0].finish_reason == "length"
    usage = answer.usage
    assert usage.completion_tokens == 5 and usage.prompt_tokens > 16
    assert usage.total_tokens == usage.prompt_tokens + 5
    assert not answer.llava_rad["warnings"]


def test_openais_client_streams(live, chest, answered):
    stream = client(live).chat.completions.create(
        model="tiny-model",
        messages=asked(chest, "What do you see?"),
        stream=True,
        stream_options={"include_usage": True},
    )
    *chunks, usage = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks)
    assert text == answered.json()["findings"]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == "length"
    assert chunks[-1].llava_rad["warnings"][0].startswith("text_not_used: ")
    assert usage.usage.completion_tokens == 8


def test_openais_client_lists_the_models(live):
    assert [model.id for model in client(live).models.list()] == ["tiny-model"]


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "hello"}],
        asked(b"x")[:0],
        [*asked(b"x"), {"role": "assistant", "content": "a"}, *asked(b"x")],
        [{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "http://127.0.0.1/a.png"}}]}],
        [{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}],
        [{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,?"}}]}],
    ],
)  # fmt: skip
def test_chats_that_cannot_be_answered_are_a_400(live, messages):
    with pytest.raises(openai.BadRequestError) as refused:
        client(live).chat.completions.create(model="tiny-model", messages=messages)
    assert refused.value.code


def test_what_a_chat_cannot_do_is_refused(live, chest):
    tools = [{"type": "function", "function": {"name": "f"}}]
    for more in ({"tools": tools}, {"n": 2}, {"logprobs": True}, {"temperature": -1}):
        with pytest.raises(openai.BadRequestError):
            client(live).chat.completions.create(model="tiny-model", messages=asked(chest), **more)
    with pytest.raises(openai.NotFoundError):
        client(live).chat.completions.create(model="gpt", messages=asked(chest))
    body = b"[" * 100_000
    json_type = {"content-type": "application/json"}
    answer = live.http.post("/v1/chat/completions", content=body, headers=json_type)
    assert error(answer, 400) == "bad_request"


def test_two_models_are_served_by_their_names(model, chest):
    from helpers.tiny_models import build, byte_level_tokenizer

    other = build(byte_level_tokenizer(), name="other-model", seed=7)
    with live_server([model, other]) as both:
        names = [row["id"] for row in both.http.get("/v1/models").json()["data"]]
        assert names == ["tiny-model", "other-model"]
        values = both.post("/v1/report", [chest], model="other-model").json()
    assert values["model"] == "other-model"
    assert values["findings"] == ReportWriter.of(other).report(chest, settings=SHORT).findings


def test_what_changes_nothing_in_a_chat_is_taken(live, chest):
    url = "data:application/dicom;base64," + base64.b64encode(chest).decode()
    part = {"type": "image_url", "image_url": {"url": url}}
    body = {
        "messages": [{"role": "user", "content": [part]}],
        "max_tokens": 1,
        **dict.fromkeys(("n", "stream", "stop", "tools", "logprobs", "frequency_penalty")),
        "response_format": {"type": "text"},
    }
    assert live.http.post("/v1/chat/completions", json=body).status_code == 200
    for name in ("frequency_penalty", "presence_penalty"):
        answer = live.http.post("/v1/chat/completions", json={**body, name: 1.5})
        assert error(answer, 400) == "bad_request" and name in answer.text


def test_a_wrong_part_of_a_chat_is_named(live):
    part = {"type": "image_url", "image_url": "data:image/png;base64,"}
    body = {"messages": [{"role": "user", "content": [part]}]}
    answer = live.http.post("/v1/chat/completions", json=body)
    assert error(answer, 400) == "bad_request" and "image_url: " in answer.text


@pytest.mark.parametrize(
    "start", [b'{"messages":[', b'{"messages":[{"role":"user","content":"x"}],"x":[']
)
@pytest.mark.parametrize("value", [b"{}", b"[]", b"[[[]]]"])
def test_a_body_of_very_many_values_is_not_even_read(live, monkeypatch, start, value):
    monkeypatch.setattr(ChatRequest, "model_validate_json", None)
    body = start + b",".join([value] * 20_000) + b"]}"
    answer = live.http.post("/v1/chat/completions", content=body)
    assert error(answer, 400) == "bad_request" and "20000 values" in answer.text
