"""GREEN, RadFact, and the LLMs that judge for them."""

import contextlib
import json
import sqlite3
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
from helpers.tiny_models import byte_level_tokenizer, tiny_llm

from llava_rad.errors import ConfigError, MetricError, WeightsError
from llava_rad.evaluation import evaluate_predictions, evaluation_table, render_page
from llava_rad.evaluation.predictions import given_predictions
from llava_rad.metrics import (
    EndpointJudge,
    LocalJudge,
    MetricSettings,
    RememberingJudge,
    Scorer,
    green,
    judge_llm,
    radfact,
    score,
)
from llava_rad.metrics.green import (
    green_judge,
    make_prompt,
    matched_findings,
    read_prompt,
    significant_errors,
)
from llava_rad.metrics.radfact import aggregate, read_entailment, read_phrases

ANSWER = """[Explanation]:
The candidate misses the effusion.

[Clinically Significant Errors]:
(a) False report of a finding in the candidate: 1. a nodule
(b) Missing a finding present in the reference: 2. effusion; device
(d) Misassessment of the severity of a finding: 0.

[Clinically Insignificant Errors]:
(a) False report of a finding in the candidate: 7. seven

[Matched Findings]:
3. heart; lungs; bones
"""
NUMBERED = ANSWER.replace("(a)", "(1)").replace("(b)", "(2)").replace("(d)", "(4)")
NOTHING = "[Clinically Significant Errors]:\nNo errors\n\n[Matched Findings]:\nNo matched findings"
ANSWERS = {"three": ANSWER, "numbered": NUMBERED, "nothing": NOTHING, "unread": "I cannot say."}


class Written:
    """A judge whose answers are given, by a word of the prompt."""

    name, version = "written", "v1"

    def __init__(self, answers):
        self.answers = answers
        self.asked = []

    def answer(self, prompts):
        self.asked += prompts
        return [next(a for word, a in self.answers.items() if word in p) for p in prompts]


PROMPT = "True:\n{reference}\nWritten:\n{prediction}\nCount.\n"


def test_counts_are_read_off_an_answer():
    assert significant_errors(ANSWER) == significant_errors(NUMBERED) == [1, 2, 0, 0, 0, 0]
    assert matched_findings(ANSWER) == 3
    assert (significant_errors(NOTHING), matched_findings(NOTHING)) == ([0] * 6, 0)
    endless = f"[Clinically Significant Errors]:\n(a) x: {'9' * 5000}. y\n\n[Matched Findings]:\n"
    assert significant_errors(endless) == [0] * 6
    assert matched_findings(f"{endless}{'9' * 400}. heart") == 0
    assert matched_findings("[Matched Findings]:\nThere are 3. heart") == 0


def test_counts_are_radevals(radeval):
    peer = pytest.importorskip("radeval.metrics.green_score.green", exc_type=ImportError)
    theirs = peer.GREEN(cpu=True)
    for answer in ANSWERS.values():
        _, errors = theirs.parse_error_counts(answer, "Clinically Significant Errors")
        matched, _ = theirs.parse_error_counts(answer, "Matched Findings")
        assert (significant_errors(answer), matched_findings(answer)) == (errors, matched)


def test_green_by_hand(tmp_path):
    judge = RememberingJudge(Written(ANSWERS), "hash", tmp_path)
    result = green(
        ["three", "numbered", "nothing", "unread"], ["x"] * 4, judge=judge, prompt=PROMPT
    )
    assert list(result.per_pair["green"]) == [3 / 6, 3 / 6, 0, 0]
    assert result.values["significant_errors"] == 6 / 4
    assert result.values["significant/missing_finding"] == 1
    assert result.facts["answers_without_matched_findings"] == 1
    assert result.notes == ("1 of 4 answers does not say what matches, and score 0",)
    assert result.facts["version_sha256"] == "v1" and result.facts["prompt_sha256"] == "hash"
    assert result.details[0]["answer"] == ANSWER


def test_answers_are_asked_once_for_a_text_judge_and_prompt(tmp_path):
    judge = Written(ANSWERS)
    for _ in range(2):
        kept = RememberingJudge(judge, "hash", tmp_path)
        green(["three", "three"], ["x", "x"], judge=kept, prompt=PROMPT)
    assert len(judge.asked) == 1
    green(["three"], ["x"], judge=RememberingJudge(judge, "other", tmp_path), prompt=PROMPT)
    assert len(judge.asked) == 2
    assert (tmp_path / "judges.sqlite").stat().st_mode & 0o077 == 0


def test_an_empty_answer_is_not_kept(tmp_path):
    silent, speaking = Written({"three": " \n"}), Written(ANSWERS)
    assert RememberingJudge(silent, "hash", tmp_path).answer(["three"]) == [" \n"]
    assert RememberingJudge(speaking, "hash", tmp_path).answer(["three"]) == [ANSWER]


def test_a_damaged_cache_is_named(tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / "judges.sqlite")) as made:
        made.execute("CREATE TABLE annotations (other TEXT)")
    with pytest.raises(
        MetricError, match="the cache of what networks said cannot be used: no such"
    ):
        RememberingJudge(Written(ANSWERS), "hash", tmp_path).answer(["three"])


def test_the_prompt_holds_both_reports_cut_at_300_words():
    prompt = make_prompt(PROMPT, "{prediction} a  b", "word " * 400)
    assert prompt.startswith("True:\n{prediction} a b\nWritten:\nword word")
    assert prompt.count("word") == 300


def test_the_wording_is_read_from_the_models_folder_or_a_file(tmp_path):
    with pytest.raises(WeightsError, match=r"GREEN's prompt cannot be used \(No"):
        read_prompt(str(tmp_path))
    (tmp_path / "green_prompt.txt").write_text(PROMPT)
    assert read_prompt(str(tmp_path)) == PROMPT
    (tmp_path / "mine.txt").write_text("{reference} alone")
    with pytest.raises(WeightsError, match=r"names \{reference\} and \{prediction\} not once"):
        read_prompt(str(tmp_path), tmp_path / "mine.txt")


@pytest.fixture(scope="module")
def llm_folder(tmp_path_factory):
    """A tiny Llama with the layout of GREEN's."""
    folder = tmp_path_factory.mktemp("llm")
    tokenizer = byte_level_tokenizer()
    tiny_llm("llama", len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_local_llm_answers_in_batches_as_alone(llm_folder):
    judge = LocalJudge(str(llm_folder), metric="green", longest=64, longest_answer=6, device="cpu")
    prompts = ["No effusion.", "The heart is large, and so is the effusion.", "a"]
    together = judge.answer(prompts)
    assert together == [judge.answer([prompt])[0] for prompt in prompts]
    chat = f"<|im_start|>user\n{prompts[0]}<|im_end|>\n<|im_start|>assistant\n"
    pieces = judge.tokenizer(chat, return_tensors="pt")
    output = judge.network.generate(**pieces, max_new_tokens=6, do_sample=False)
    expected = judge.tokenizer.decode(
        output[0, pieces["input_ids"].shape[1] :], skip_special_tokens=True
    )
    assert together[0] == expected and len(judge.version) == 64


def test_green_reads_its_own_chat_form(llm_folder):
    judge = green_judge(str(llm_folder), device="cpu")
    end = judge.tokenizer.eos_token
    text = judge.wrap(judge.tokenizer, "P")
    assert text == f"<|user|>\nP{end}\n<|assistant|>\n{end}\n<|assistant|>\n"
    assert judge._pieces("P")[-1] == judge.tokenizer.eos_token_id


def test_judges_that_are_not_here_are_named_with_their_commands(tmp_path):
    with pytest.raises(WeightsError, match="hf download StanfordAIMI/GREEN"):
        green_judge(device="cpu")
    names = ["bleu_coco", "green", "radfact", "ratescore"]
    scores = score(["a"], ["a"], names, settings=MetricSettings(cache=tmp_path))
    assert list(scores.results) == ["bleu_coco"]
    assert all("hf download" in reason for reason in scores.left_out.values())
    assert "--radfact-endpoint" in scores.left_out["radfact"]


def test_a_missing_prompt_is_told_before_the_model_is_loaded(llm_folder, monkeypatch):
    monkeypatch.setattr(sys.modules["llava_rad.metrics.score"], "green_judge", None)
    settings = MetricSettings(green=str(llm_folder))
    scores = score(["a"], ["a"], ["bleu_coco", "green"], settings=settings)
    assert "GREEN's prompt cannot be used" in scores.left_out["green"]


class Reader:
    """Splits at full stops; a phrase is entailed where it is among the premises."""

    name, version = "reader", "v1"

    def answer(self, prompts):
        return [self._answer(prompt) for prompt in prompts]

    def _answer(self, prompt):
        if "Report:\n" in prompt:
            text = prompt.split("Report:\n")[1]
            return json.dumps([part.strip() for part in text.split(".") if part.strip()])
        premises, phrase = prompt.split("Another statement")
        phrase = phrase.split("\n")[1]
        return "Yes." if f"- {phrase}\n" in premises else "no"


def test_radfact_by_hand(tmp_path):
    predictions = ["clear lungs. large heart.", "no effusion.", "", "edema."]
    references = ["clear lungs. no edema. no nodule.", "no effusion.", "edema.", "edema."]
    judge = RememberingJudge(Reader(), "hash", tmp_path)
    result = radfact(predictions, references, judge=judge)
    # The empty prediction has no phrase: it is left out of precision, and its recall is 0.
    precision, recall = (1 / 2 + 1 + 1) / 3, (1 / 3 + 1 + 0 + 1) / 4
    assert result.values["logical_precision"] == pytest.approx(precision)
    assert result.values["logical_recall"] == pytest.approx(recall)
    f1 = 2 * precision * recall / (precision + recall)
    assert result.values["logical_f1"] == pytest.approx(f1)
    assert result.details[0]["prediction"][1] == {"phrase": "large heart", "entailed": False}
    assert result.facts["phrases"] == {"prediction": 4, "reference": 6}


def test_a_judge_is_not_asked_about_every_fixed_report(tmp_path, monkeypatch):
    reader = Reader()
    scoring = sys.modules["llava_rad.metrics.score"]  # a function of the package has its name
    monkeypatch.setattr(scoring, "radfact_judge", lambda *names, device=None: reader)
    texts = [f"finding {i}. large heart." for i in range(12)]
    scorer = Scorer(["radfact"], MetricSettings(cache=tmp_path))
    evaluation = evaluate_predictions(given_predictions(texts, texts[::-1]), scorer, resamples=5)
    baselines = evaluation.baselines.headlines()
    assert "radfact/logical_f1" in baselines["other_patient"]
    assert "radfact/logical_f1" not in baselines["fixed_report"]
    assert "radfact" in evaluation_table(evaluation) and "RadFact" in render_page(evaluation)


def test_the_aggregation_is_means_without_what_has_none():
    rng = np.random.default_rng(0)
    predicted = [list(rng.random(rng.integers(0, 5)) < 0.5) for _ in range(50)]
    expected = [list(rng.random(rng.integers(0, 5)) < 0.7) for _ in range(50)]
    shares = [
        np.nanmean([np.mean(phrases) if phrases else np.nan for phrases in some])
        for some in (predicted, expected)
    ]
    values = aggregate(predicted, expected).values
    assert values["logical_precision"] == pytest.approx(shares[0])
    assert values["logical_recall"] == pytest.approx(shares[1])
    assert values["logical_f1"] == pytest.approx(2 * shares[0] * shares[1] / sum(shares))


@pytest.mark.parametrize(
    ("answer", "phrases"),
    [
        ('["a", "b c"]', ["a", "b c"]),
        ('Here it is:\n```json\n["a"]\n```', ["a"]),
        ("- a\n2. b\n\n", ["a", "b"]),
        ("[]", []),
        ("", []),
        ('["a", "b"', ["a", "b"]),
        ('```json\n["a", "say \\"b\\"", "c', ["a", 'say "b"']),  # cut off
        ('I see [x] there.\n["a"] and [y]', ["a"]),
        ('{"statements": ["a", "b"]}', ["a", "b"]),
        ('[{"statement": "a b", "kind": "x"}, {"statement": "c"}]', ["a b", "c"]),
        ('[["a", null], [3, "b", true]]', ["a", "b"]),
        ("Here they are:\n```\n(1) a\n[2] b\n```", ["a", "b"]),
        ('<think>Is it ["x"]?</think>["a"]', ["a"]),
        ('<think>It is ["x"] or', []),
        ("[" * 100_000, []),
        ("[" * 900 + '"a"' + "]" * 900, []),
    ],
)
def test_phrases_are_read_off_an_answer(answer, phrases):
    assert read_phrases(answer) == phrases


def test_entailment_is_read_off_an_answer():
    yes = ("yes", "**Yes**, it does", "Yes.", "entailment", "Answer: yes", "The answer is: *yes*")
    assert all(map(read_entailment, (*yes, '```json\n{"answer": "yes"}', "<think>No.</think>Yes")))
    no = ("no", "No, yes", "not entailment", "not_entailment", '{"status": "contradiction"}')
    assert [read_entailment(answer) for answer in no] == [False] * len(no)
    for answer in ("", "yesterday", "I cannot say yes", "<think>yes, for", "1"):
        assert read_entailment(answer) is None


def test_answers_in_another_form_are_counted_and_told(tmp_path):
    judge = Written({"Report:\nlungs": "Clear lungs.", "Report:": '["large heart"]', "Does": "?"})
    result = radfact(["lungs"], ["heart"], judge=RememberingJudge(judge, "hash", tmp_path))
    assert result.facts["answers_in_another_form"] == {"phrases": 1, "entailment": 2}
    assert [note.partition(";")[0] for note in result.notes] == [
        "1 of the judge's 2 answers about phrases is not in the form that was asked for",
        "2 of the judge's 2 answers about entailment are not in the form that was asked for",
    ]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"radfact_endpoint": "http://h/v1"}, "an endpoint needs the name of a model"),
        ({"radfact_model": "m"}, "the model 'm' needs an endpoint"),
        (
            {"radfact_llm": "l", "radfact_endpoint": "http://h/v1", "radfact_model": "m"},
            "an LLM and an endpoint",
        ),
        *(
            ({"radfact_endpoint": url, "radfact_model": "m"}, "not the address of an API")
            for url in ("file:///etc", "http://", "http://h:99999/v1", "http://[x/", "http://h/ö")
        ),
    ],
)
def test_a_judge_that_is_named_wrongly_is_told_before_anything_is_computed(settings, says):
    with pytest.raises(ConfigError, match=says):
        Scorer(["bleu_coco", "radfact"], MetricSettings(**settings))


# What a server does the first time that it is asked about the words, and then answers.
TROUBLES = {
    "busy": lambda handler: handler.fail(429, {"Retry-After": "7"}),
    "down": lambda handler: handler.fail(500, {}),
    "page": lambda handler: handler.say(b"<html>"),
    "short": lambda handler: handler.say(b'{"choices": [{"mess', {"Content-Length": "999"}),
    "cut": lambda handler: handler.say(b'{"choices": [{"mess'),
    "gone": lambda handler: None,
}
# What it says each time.
WRONG = {
    "list": [1],
    "none": {"choices": []},
    "words": {"choices": [{"message": {"content": 3}}]},
    "parts": {"choices": [{"message": {"content": ["a"]}}]},
}
SAID = {
    "silence": {"choices": [{"message": {"content": None}}]},
    "pieces": {"choices": [{"message": {"content": [{"text": "a"}, {"text": "b"}]}}]},
    "half": {"choices": [{"message": {"content": "\ud800"}}]},
}


@pytest.fixture
def endpoint():
    """A server of chat completions, with all that can go wrong at one."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            word = body["messages"][0]["content"]
            again = any(asked["messages"][0]["content"] == word for _, asked, _ in seen)
            seen.append((self.path, body, self.headers.get("Authorization")))
            if word == "refuse" or body["model"] == "refuse all":
                self.fail(401, {})
            elif word == "elsewhere":
                self.fail(302, {"Location": "/v1/other"})
            elif word in TROUBLES and not again:
                TROUBLES[word](self)
            else:
                usual = {"choices": [{"message": {"content": word.upper()}}]}
                self.say(json.dumps({**WRONG, **SAID}.get(word, usual)).encode())

        def do_GET(self):
            seen.append((self.path, None, self.headers.get("Authorization")))
            self.fail(200, {})

        def fail(self, code, headers):
            self.send_response(code)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

        def say(self, content, headers=None):
            self.fail(200, headers or {})
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1", seen
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_endpoint_is_asked_as_openai_is(endpoint, monkeypatch):
    url, seen = endpoint
    monkeypatch.setenv("OPENAI_API_KEY", "secret\n")
    judge = EndpointJudge(url + "/", "some-model")
    assert judge.answer(["a", "b"]) == ["A", "B"]
    path, body, key = seen[0]
    assert (path, key) == ("/v1/chat/completions", "Bearer secret")
    assert body["model"] == "some-model" and body["temperature"] == 0
    with pytest.raises(MetricError, match="it answers 401") as raised:
        judge.answer(["refuse"])
    assert "secret" not in str(raised.value)
    with pytest.raises(ConfigError, match="not the address"):
        EndpointJudge("file:///etc/passwd", "m")


def test_reports_and_key_go_nowhere_else(endpoint, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with pytest.raises(MetricError, match="it answers 302"):
        EndpointJudge(endpoint[0], "m").answer(["elsewhere"])
    assert [path for path, _, _ in endpoint[1]] == ["/v1/chat/completions"]


def test_an_endpoint_that_refuses_costs_its_metric_alone(endpoint, tmp_path):
    settings = MetricSettings(
        radfact_endpoint=endpoint[0], radfact_model="refuse all", cache=tmp_path
    )
    scores = score(["a"], ["a"], ["bleu_coco", "radfact"], settings=settings)
    assert list(scores.results) == ["bleu_coco"]
    assert "it answers 401" in scores.left_out["radfact"]
    with pytest.raises(MetricError, match="it answers 401"):
        score(["a"], ["a"], ["bleu_coco", "radfact"], settings=settings, require=True)


@pytest.fixture
def waits(monkeypatch):
    """The seconds that were waited between two tries, without waiting."""
    found = []
    monkeypatch.setattr(judge_llm.time, "sleep", found.append)
    return found


@pytest.mark.parametrize("trouble", TROUBLES)
def test_what_passes_is_asked_again(endpoint, waits, trouble):
    assert EndpointJudge(endpoint[0], "m").answer([trouble]) == [trouble.upper()]
    assert waits == [7.0 if trouble == "busy" else 1.0] and len(endpoint[1]) == 2


@pytest.mark.parametrize("wrong", WRONG)
def test_an_answer_of_another_form_is_an_error(endpoint, waits, wrong):
    with pytest.raises(MetricError, match="no chat completion"):
        EndpointJudge(endpoint[0], "m").answer([wrong])
    assert waits == []


def test_what_an_endpoint_says_is_text(endpoint):
    assert EndpointJudge(endpoint[0], "m").answer([*SAID]) == ["", "ab", "\\ud800"]


def test_an_endpoint_that_is_not_there_is_named(waits):
    judge = EndpointJudge("http://127.0.0.1:9/v1", "m")
    with pytest.raises(MetricError, match=r"model m: the endpoint cannot be asked .*refused"):
        judge.answer(["a"])
    assert waits == [1.0, 2.0, 4.0]
