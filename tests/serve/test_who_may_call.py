"""Hosts, origins, tokens, places, clients that hang up, and the end of a server."""

import contextlib
import re
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx2 as httpx
import pytest
from helpers.live_server import live_server
from helpers.waiting import PATIENCE, wait_for

from llava_rad.errors import ConfigError
from llava_rad.serve import guard, http_server
from llava_rad.serve.guard import origins
from llava_rad.serve.work import Place

TOKEN = "a-token-of-some-length"


def code(answer):
    return answer.status_code, answer.json().get("error", {}).get("code")


def ask(live, path="/v1/models", **headers):
    return live.http.get(path, headers={k.replace("_", "-"): v for k, v in headers.items()})


@pytest.fixture(scope="module")
def guarded(model):
    with live_server(
        [model],
        allow_hosts=("Radiology.example",),
        allow_origins=("https://viewer.example",),
        token=TOKEN,
    ) as server:
        server.http.headers["authorization"] = f"Bearer {TOKEN}"
        yield server


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8000", 200),
        ("localhost", 200),
        ("[::1]:80", 200),
        ("radiology.example:443", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("evil.example:127.0.0.1", 403),
        ("", 403),
    ],
)
def test_a_host_that_is_not_the_server_is_refused(guarded, host, status):
    assert ask(guarded, host=host).status_code == status


def test_hosts_are_known_without_being_told(live):
    assert ask(live, host="localhost:1").status_code == 200
    assert code(ask(live, host="radiology.example")) == (403, "other_host")


def test_a_page_of_another_origin_may_not_call(guarded, chest):
    assert code(ask(guarded, origin="https://evil.example")) == (403, "other_origin")
    assert code(ask(guarded, origin="null")) == (403, "other_origin")
    other_port = guarded.url.rpartition(":")[0] + ":1"
    assert code(ask(guarded, origin=other_port)) == (403, "other_origin")
    refused = guarded.http.post(
        "/v1/report", files={"files": chest}, headers={"origin": "https://evil.example"}
    )
    assert code(refused) == (403, "other_origin")
    assert ask(guarded, origin=guarded.url).status_code == 200


def test_an_allowed_origin_may_call_from_a_browser(guarded):
    answer = ask(guarded, origin="https://viewer.example")
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://viewer.example"
    asked = {"origin": "https://viewer.example", "access-control-request-method": "POST"}
    assert guarded.http.options("/v1/report", headers=asked).status_code == 200
    asked["origin"] = "https://evil.example"
    refused = guarded.http.options("/v1/report", headers=asked)
    assert "access-control-allow-origin" not in refused.headers


@pytest.mark.parametrize(
    "given", ["viewer.example", "https://a/b", "*", "file:///x", "https://", "https://[::1"]
)
def test_an_origin_that_is_none_is_refused_at_the_start(given):
    with pytest.raises(ConfigError, match="is no origin"):
        origins([given])


def test_a_token_is_needed_for_all_but_health_and_the_page_itself(guarded):
    for given in ("", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer ö"):
        for path in ("/v1/models", "/metrics", "/openapi.json", "/pages"):
            answer = guarded.http.get(path, headers=[(b"authorization", given.encode("latin-1"))])
            assert code(answer) == (401, "bad_token")
            assert answer.headers["www-authenticate"] == "Bearer"
    assert httpx.get(f"{guarded.url}/health").status_code == 200
    assert httpx.get(f"{guarded.url}/page/none").status_code == 404
    assert httpx.post(f"{guarded.url}/page/none").status_code == 401


def test_answers_carry_an_id_that_the_log_has_and_nothing_else_of_the_client(live):
    answer = live.http.get("/patient/DOE?name=JANE", headers={"x-request-id": "DOE"})
    assert answer.headers["x-request-id"] in live.said[-1]
    assert re.fullmatch(r"[0-9a-f]{16} - other 404 \d+\.\d{3} s", live.said[-1])
    live.http.request("DOE", "/v1/report")
    assert re.fullmatch(r"[0-9a-f]{16} - /v1/report 405 \d+\.\d{3} s", live.said[-1])
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"


def test_a_defect_is_told_without_its_words(live, chest, monkeypatch):
    def fail(*arguments):
        raise ValueError("PatientName DOE")

    monkeypatch.setattr(live.service, "request", fail)
    answer = live.post("/v1/report", [chest])
    assert code(answer) == (500, "server_failed") and "DOE" not in answer.text
    assert "ValueError in test_who_may_call.py" in live.said[-1] and "DOE" not in live.said[-1]
    assert live.service.work.in_hand == 0


def test_more_requests_than_places_are_told_to_come_later(model, chest):
    with live_server([model], places=2) as small, ThreadPoolExecutor(2) as pool:
        with small.busy():
            first = pool.submit(small.post, "/v1/report", [chest])
            wait_for(lambda: small.service.work.in_hand == 2)
            refused = small.post("/v1/report", [chest])
            assert code(refused) == (429, "queue_full")
            assert int(refused.headers["retry-after"]) >= 1
            assert small.http.get("/health").status_code == 200
        assert first.result(PATIENCE).status_code == 200
        assert small.post("/v1/report", [chest]).status_code == 200
        assert 'status="429"} 1.0' in small.http.get("/metrics").text


def send_and_hang_up(live, request, ready):
    with socket.create_connection((live.server.host, live.server.port)) as client:
        client.sendall(request)
        ready(client)


def report_request(live, content, **fields):
    request = httpx.Request("POST", f"{live.url}/v1/report", files={"files": content}, data=fields)
    lines = [f"{name}: {value}" for name, value in request.headers.items()]
    return "\r\n".join(["POST /v1/report HTTP/1.1", *lines, "", ""]).encode() + request.read()


def test_a_client_that_hangs_up_while_it_waits_frees_its_place(live, chest):
    work = live.service.work
    with live.busy():
        send_and_hang_up(
            live,
            report_request(live, chest),
            lambda client: wait_for(lambda: work.in_hand == 2 and work._waiting),
        )
        wait_for(lambda: work.in_hand == 1)
    wait_for(lambda: any(" 499 " in line for line in live.said))


def test_a_client_that_hangs_up_in_its_upload_frees_its_place(live, chest):
    whole = report_request(live, chest)
    work = live.service.work
    send_and_hang_up(live, whole[:-100], lambda client: wait_for(lambda: work.in_hand == 1))
    wait_for(lambda: work.in_hand == 0)


def test_a_client_that_hangs_up_in_its_stream_stops_the_text(live, chest, monkeypatch):
    report, told = Place.report, []
    gone = threading.Event()

    async def slow(self, model, study, request, settings, follow):
        def followed(ids):
            told.append(len(ids))
            follow(ids)
            if len(ids) == 3:
                gone.wait(PATIENCE)

        return await report(self, model, study, request, settings, followed)

    monkeypatch.setattr(Place, "report", slow)
    work = live.service.work

    def read_a_piece(client):
        received = b""
        while b"event: text" not in received:
            received += client.recv(100)

    send_and_hang_up(live, report_request(live, chest, stream="true"), read_a_piece)
    wait_for(lambda: work.in_hand == 0)
    gone.set()
    wait_for(lambda: live.post("/v1/embed", [chest]).status_code == 200)  # behind it in the queue
    assert max(told) <= 4 < 8


def test_an_upload_that_does_not_come_is_ended(live, chest, monkeypatch):
    monkeypatch.setattr(guard, "PIECE_SECONDS", 0.05)
    answers = []

    def wait(client):
        client.settimeout(PATIENCE)
        answers.append(client.recv(4000))

    send_and_hang_up(live, report_request(live, chest)[:-100], wait)
    assert answers[0].startswith(b"HTTP/1.1 408")
    wait_for(lambda: live.service.work.in_hand == 0)


def test_when_it_stops_new_requests_are_refused_and_old_ones_finished(model, chest):
    with ThreadPoolExecutor(1) as pool, live_server([model]) as ending:
        with ending.busy():
            first = pool.submit(ending.post, "/v1/report", [chest])
            wait_for(lambda: ending.service.work.in_hand == 2)
            ending.server.stop()
            wait_for(lambda: ending.service.work.closing)
            refused = httpx.post(f"{ending.url}/v1/report", files={"files": chest})
            assert code(refused) == (503, "stopping") and refused.headers["retry-after"]
            assert httpx.get(f"{ending.url}/health").status_code == 503
        assert first.result(PATIENCE).json()["tokens"] == 8


def test_what_is_no_request_is_ignored(live):
    with socket.create_connection((live.server.host, live.server.port)) as client:
        client.sendall(b"\x16\x03\x01\x00 no http\r\n\r\n")
        client.settimeout(PATIENCE)
        answer = client.recv(100)
    assert answer.startswith(b"HTTP/1.1 400")
    assert live.http.get("/health").status_code == 200


def test_an_answer_that_nobody_reads_does_not_keep_it_from_stopping(model, chest, monkeypatch):
    monkeypatch.setattr(http_server, "_LAST_SECONDS", 1)
    monkeypatch.setattr("llava_rad.serve.app._png", lambda *arguments: bytes(50_000_000))
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'
    body = head + chest + b"\r\n--x--\r\n"
    with contextlib.ExitStack() as clients:
        with live_server([model]) as live:
            address = live.url.removeprefix("http://")
            client = clients.enter_context(socket.create_connection(address.split(":")))
            client.sendall(
                f"POST /v1/preview HTTP/1.1\r\nHost: {address}\r\nContent-Length: {len(body)}\r\n"
                "Content-Type: multipart/form-data; boundary=x\r\n\r\n".encode()
                + body
            )
            wait_for(lambda: any(" /v1/preview 200 " in line for line in live.said))
        assert not live.thread.is_alive()
