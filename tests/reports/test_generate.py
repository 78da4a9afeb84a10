import contextlib
from dataclasses import replace

import pytest
import torch
from helpers.tiny_models import build, byte_level_tokenizer, picture, tiny_llm
from transformers import CompileConfig, LlamaForCausalLM

from llava_rad.errors import ConfigError, ModelError
from llava_rad.model import LoraSettings, ReportRequest, RequestImage
from llava_rad.reports import Report, generate
from llava_rad.reports.generate import (
    GenerationSettings,
    generate_reports,
    is_repetitive,
    text_warnings,
)

SHORT = GenerationSettings(max_new_tokens=24)


def request(seed, **context):
    return ReportRequest((RequestImage("current_frontal", picture(seed)),), **context)


def lengths_5_to_40(count):
    """Requests whose prompts differ in length as real ones do."""
    words = "cough fever dyspnea chest pain after fall"
    return [request(i, indication=" ".join([words] * (i % 4)) or None) for i in range(count)]


@contextlib.contextmanager
def seen_caches(llm):
    """Names of the caches that an LLM is called with."""
    names = []

    def look(_module, _args, kwargs):
        cache = kwargs.get("cache", kwargs.get("past_key_values"))
        names.append(type(cache).__name__)

    handle = llm.register_forward_pre_hook(look, with_kwargs=True)
    yield names
    handle.remove()


@pytest.fixture(scope="module")
def tokenizer():
    return byte_level_tokenizer()


class Scripted(LlamaForCausalLM):
    """A Llama that says what it is told, each row its own line."""

    script: list

    def forward(self, *args, **kwargs):
        out = super().forward(*args, **kwargs)
        step = self.step
        self.step += 1
        for row, line in enumerate(self.script):
            out.logits[row, -1] = -1e9
            out.logits[row, -1, line[min(step, len(line) - 1)]] = 0
        return out


def scripted(tokenizer, lines, **template):
    llm = tiny_llm("llama", len(tokenizer))
    llm.__class__ = Scripted
    llm.script, llm.step = lines, 0
    from llava_rad.model import PromptTemplate

    return build(tokenizer, llm=llm, template=PromptTemplate.for_tokenizer(tokenizer, **template))


@pytest.mark.parametrize("family", ["llama", "phi2", "phi3", "qwen2"])
def test_a_batch_gives_token_for_token_what_single_runs_give(tokenizer, family):
    model = build(tokenizer, family)
    requests = lengths_5_to_40(8)
    together = generate_reports(model, requests, SHORT)
    alone = [generate_reports(model, [r], SHORT)[0] for r in requests]
    assert [r.findings for r in together] == [r.findings for r in alone]
    assert len({r.findings for r in together}) > 1


@pytest.mark.parametrize("family", ["llama", "phi2", "phi3", "qwen2"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"num_beams": 3}, {"temperature": 1.0, "seed": 3}],
    ids=["greedy", "beams", "T"],
)
def test_a_static_cache_gives_the_same_texts(tokenizer, family, settings):
    model = build(tokenizer, family)
    requests = lengths_5_to_40(4)
    plain = GenerationSettings(max_new_tokens=24, **settings)
    static = replace(plain, static_cache=True)
    assert static.to_dict() == plain.to_dict()  # a stopped run resumes with either
    with seen_caches(model.llm) as caches:
        wanted = generate_reports(model, requests, plain)
    assert set(caches) == {"DynamicCache"}
    with seen_caches(model.llm) as caches:
        # Twice: the second batch, of fewer and shorter prompts, uses what the first one has made.
        found = generate_reports(model, requests, static)
        shorter = generate_reports(model, requests[:1], static)
    assert set(caches) == {"StaticCache"}
    assert [r.findings for r in found] == [r.findings for r in wanted]
    assert shorter[0].findings == wanted[0].findings
    for report, other in zip(found, wanted, strict=True):
        for sentence, same in zip(report.sentences, other.sentences, strict=True):
            assert sentence.log_probability == pytest.approx(same.log_probability, abs=2e-4)


def test_the_compiled_step_gives_the_same_texts_and_is_compiled_once(tokenizer, monkeypatch):
    """As on a GPU; here the graph is run by torch itself, which compiles nothing for the CPU."""
    model = build(tokenizer)
    requests = lengths_5_to_40(4)
    wanted = generate_reports(model, requests, SHORT)
    graphs = []

    def backend(graph, _inputs):
        graphs.append(graph)
        return graph

    config = CompileConfig(backend=backend, mode=None)
    config._compile_all_devices = True
    made = generate.GenerationConfig
    monkeypatch.setattr(
        generate, "GenerationConfig", lambda **options: made(**options, compile_config=config)
    )
    static = replace(SHORT, static_cache=True)
    found = generate_reports(model, requests, static)
    assert graphs
    count = len(graphs)
    again = generate_reports(model, list(reversed(requests)), static)
    assert len(graphs) == count
    assert [r.findings for r in found] == [r.findings for r in wanted]
    assert [r.findings for r in again] == [r.findings for r in reversed(wanted)]


def test_greedy_text_is_the_argmax_of_the_forward_pass(tokenizer):
    model = build(tokenizer)
    sample = model.processor.encode(request(1))
    ids = torch.tensor([sample.input_ids])
    pixels = model.processor.pixel_values([request(1)])
    wanted = []
    with torch.no_grad():
        for _ in range(8):
            out = model(ids, torch.ones_like(ids), pixel_values=pixels).logits[0, -1]
            wanted.append(int(out.argmax()))
            ids = torch.cat([ids, out.argmax().reshape(1, 1)], 1)
    found = generate_reports(model, [request(1)], GenerationSettings(max_new_tokens=8))[0]
    assert found.findings == model.processor.decode(wanted)


def test_the_lora_takes_part(tokenizer):
    plain = generate_reports(build(tokenizer), [request(1)], SHORT)[0].findings
    model = build(tokenizer, lora=LoraSettings(r=4, alpha=64, dropout=0.0))
    assert generate_reports(model, [request(1)], SHORT)[0].findings == plain
    for name, parameter in model.llm.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_()
    changed = generate_reports(model, [request(1)], SHORT)[0].findings
    assert changed != plain
    assert generate_reports(model.merge(), [request(1)], SHORT)[0].findings == changed


def test_patch_tokens_may_be_given_instead_of_pictures(tokenizer):
    model = build(tokenizer)
    requests = lengths_5_to_40(3)
    patches = model.encode_images(model.processor.pixel_values(requests))
    bare = [
        ReportRequest((RequestImage("current_frontal"),), indication=r.indication) for r in requests
    ]
    assert generate_reports(model, bare, SHORT, patches=patches) == generate_reports(
        model, requests, SHORT
    )


def test_each_row_stops_by_itself(tokenizer):
    def ids(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    end = tokenizer.eos_token_id
    junk = ids("USER: more text")
    first = [*ids("Clear")[:3], end, *junk]
    second = [*ids("The lungs are clear. No effusion")[:9], end, *junk]
    loop = ids("No effusion. ") * 40
    third = ids("Heart normal. USER: and what now")
    model = scripted(tokenizer, [first, second, loop, third], stop_texts=("USER:",))
    settings = GenerationSettings(max_new_tokens=60)
    reports = generate_reports(model, [request(i) for i in range(4)], settings)

    assert reports[0].findings == tokenizer.decode(first[: first.index(end)]).strip()
    assert reports[1].findings == tokenizer.decode(second[: second.index(end)]).strip()
    assert reports[0].tokens == first.index(end) and reports[1].tokens == second.index(end)
    assert [r.truncated for r in reports] == [False, False, True, False]
    assert [r.repetitive for r in reports] == [False, False, True, False]
    assert reports[3].findings == "Heart normal."
    assert not any("USER:" in r.findings for r in reports)


def test_beams_find_a_text_at_least_as_likely(tokenizer):
    # Six letters that no merge of the tokenizer joins, so that text and ids are one to one; of a
    # few models there is one whose greedy text is not the best.
    letters = tokenizer.convert_tokens_to_ids(list("JKQXYZ"))

    def log_likelihood(model, text):
        sample = model.processor.encode(request(1), text)
        batch = model.processor.pad([sample], "right")
        batch["pixel_values"] = model.processor.pixel_values([request(1)])
        with torch.no_grad():
            logits = model(**batch).logits[0, :-1].log_softmax(-1)
        targets = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"])
        assert len(targets) == 7
        return logits.gather(-1, targets.unsqueeze(-1)).sum().item()

    def best(model, beams):
        settings = GenerationSettings(max_new_tokens=7, num_beams=beams)
        return log_likelihood(model, generate_reports(model, [request(1)], settings)[0].findings)

    gains = []
    while not gains or (gains[-1] < 1e-3 and len(gains) < 30):
        llm = tiny_llm("phi2", len(tokenizer), seed=6 + len(gains))
        llm.lm_head.bias.data.fill_(-1e4)
        llm.lm_head.bias.data[letters] = 0
        model = build(tokenizer, llm=llm)
        gains.append(best(model, 6) - best(model, 1))
    assert gains[-1] > 1e-3
    assert min(gains) > -1e-3


def test_sampling_follows_its_seed(tokenizer):
    model = build(tokenizer)

    def draw(seed):
        settings = GenerationSettings(max_new_tokens=12, temperature=2.0, seed=seed)
        return generate_reports(model, [request(1)], settings)[0].findings

    torch.manual_seed(0)
    state = torch.get_rng_state()
    assert draw(1) == draw(1)
    assert len({draw(seed) for seed in range(4)}) > 1
    assert torch.equal(torch.get_rng_state(), state)


class Broken(LlamaForCausalLM):
    """A Llama whose logits are spoilt in one row from a step on."""

    def forward(self, *args, **kwargs):
        out = super().forward(*args, **kwargs)
        self.step += 1
        if self.step > 3:
            out.logits[-1, -1, 7] = self.value
        return out


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("way", [{}, {"num_beams": 3}, {"temperature": 1.0}, {"top_p": 0.5}])
def test_logits_that_are_not_finite_are_an_error(tokenizer, way, value):
    llm = tiny_llm("llama", len(tokenizer))
    llm.__class__, llm.step, llm.value = Broken, 0, value
    model = build(tokenizer, llm=llm)
    with pytest.raises(ModelError, match="not finite") as caught:
        generate_reports(model, lengths_5_to_40(2), GenerationSettings(max_new_tokens=9, **way))
    assert caught.value.kind == "not_finite"


def test_one_study_with_such_logits_does_not_stop_the_others(tokenizer, monkeypatch):
    from llava_rad.data import Study, StudyImage
    from llava_rad.reports import study as studies

    model = build(tokenizer)
    given = [Study(str(i), "p", images=(StudyImage("x", "frontal"),)) for i in range(4)]
    bad = request(9, indication="bad")

    def read(model, study):
        asked = bad if study.study_id == "2" else request(int(study.study_id))
        return studies.StudyRequest(asked, study.images, ())

    def generate(model, requests, settings, *, keys, **options):
        if bad in requests:
            raise ModelError("not finite", kind="not_finite")
        return generate_reports(model, requests, settings, keys=keys)

    monkeypatch.setattr(studies, "generate_reports", generate)
    found = list(studies.report_studies(model, given, SHORT, batch_size=4, read=read))
    assert [isinstance(f, studies.Failure) for f in found] == [False, False, True, False]
    alone = [generate_reports(model, [request(i)], SHORT)[0].findings for i in (0, 1, 3)]
    assert [f.findings for f in found if not isinstance(f, studies.Failure)] == alone


def test_no_request_gives_no_report(tokenizer):
    assert generate_reports(build(tokenizer), []) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_new_tokens": 0},
        {"num_beams": 0},
        {"temperature": -1},
        {"top_p": 0},
        {"repetition_penalty": 0},
    ],
)
def test_settings_that_cannot_be_are_wrong_usage(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        GenerationSettings(**wrong)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("No effusion. No effusion. No effusion. No effusion.", True),
        ("the the the the", True),
        ("No effusion. No pneumothorax. No fracture. No mass.", False),
        ("The lungs are clear. The heart is normal. The lungs are clear.", False),
        ("", False),
    ],
)
def test_tells_loops_from_reports(text, wanted):
    assert is_repetitive(text) is wanted


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("Seen by Dr. ___ today.", ["deidentification_mark"]),
        ("Normal XXXX.", ["deidentification_mark"]),
        ("The <unk> lungs <|end|> are clear.", ["foreign_token"]),
        ("Lungs \ufffd clear.", ["foreign_token"]),
        ("__ </s>", ["deidentification_mark", "foreign_token"]),
        ("The lungs are clear. Heart < 50 % of the chest, [sic].", []),
    ],
)
def test_what_does_not_belong_into_a_report_is_said(text, kinds):
    assert [warning.split(":")[0] for warning in text_warnings(text)] == kinds


def test_a_report_with_a_mark_carries_the_warning(tokenizer):
    line = [*tokenizer("Seen by ___.", add_special_tokens=False)["input_ids"]]
    model = scripted(tokenizer, [[*line, tokenizer.eos_token_id]])
    (report,) = generate_reports(model, [request(0)], GenerationSettings(max_new_tokens=30))
    assert report.findings == "Seen by ___."
    assert report.warnings[0].startswith("deidentification_mark: ")


NODULE = "<obj>A nodule.<box><x55><y45><x70><y56></box></obj>"


def written_as(tokenizer, text, radiograph):
    """The report of a model that writes this text."""
    line = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
    model = scripted(tokenizer, [line])
    asked = ReportRequest((RequestImage("current_frontal", radiograph),))
    [report] = generate_reports(model, [asked], GenerationSettings(max_new_tokens=200))
    return model, report


def test_boxes_are_read_to_pixels_of_the_image_and_words_stay_words(tokenizer):
    radiograph = picture(0)
    height, width = radiograph.pixels.shape
    model, report = written_as(tokenizer, f"{NODULE}<obj>No effusion.</obj>", radiograph)
    assert report.findings == "A nodule. No effusion."
    [place] = report.grounding
    assert report.findings[place.start : place.end] == "A nodule."
    assert (place.image, place.width, place.height) == (0, width, height)
    top, left, bottom, right = model.processor.preprocessing.seen(height, width)
    wanted = (
        left + 0.555 * (right - left),
        top + 0.455 * (bottom - top),
        left + 0.705 * (right - left),
        top + 0.565 * (bottom - top),
    )
    assert place.boxes[0] == pytest.approx(wanted, abs=0.051)
    assert not report.warnings
    assert [sentence.text for sentence in report.sentences] == ["A nodule.", "No effusion."]
    assert all(abs(s.log_probability) < 1e-6 for s in report.sentences)
    values = report.to_dict()
    assert values["grounding"][0]["boxes"] == [list(place.boxes[0])]
    assert Report(**values | {"thumbnails": ()}).grounding == report.grounding
    assert "Box: A nodule. " in report.to_text() and "from the left edge" in report.to_text()


def test_pixels_are_those_of_the_file_where_its_pixels_were_made_square(tokenizer):
    plain = picture(0)
    # Rows as stored are half as many as those shown.
    stretched = replace(plain, scale=(2.0, 1.0))
    _, one = written_as(tokenizer, NODULE, plain)
    _, other = written_as(tokenizer, NODULE, stretched)
    [before], [after] = one.grounding[0].boxes, other.grounding[0].boxes
    assert after[0] == before[0] and after[1] == pytest.approx(before[1] / 2, abs=0.2)
    assert other.grounding[0].height == round(plain.pixels.shape[0] / 2)


def test_boxes_that_cannot_be_read_are_counted(tokenizer):
    text = "<obj>A nodule.<box><x70><y45><x55><y56></box></obj><obj>Clear.<box><x1>"
    _, report = written_as(tokenizer, text, picture(0))
    assert report.findings == "A nodule. Clear." and report.grounding == ()
    assert [w for w in report.warnings if w.startswith("malformed_boxes: 2 boxes are")]
    assert "grounding" not in report.to_dict()


def test_a_notebook_shows_boxes_on_their_picture(tokenizer):
    _, report = written_as(tokenizer, NODULE, picture(0))
    shown = replace(
        report, images=("a.png",), roles=("current_frontal",), thumbnails=(b"jpeg",)
    )._repr_html_()
    assert shown.count('title="A nodule."') == 1 and "Box: A nodule." in shown
