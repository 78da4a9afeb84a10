"""Chat templates are taken apart, and those that misbehave end in one error within seconds."""

import pytest
from helpers.tiny_models import byte_level_tokenizer

from llava_rad.errors import ModelError
from llava_rad.model import VICUNA_V1, PromptTemplate
from llava_rad.model.chat import ChatTurns, chat_turns


def turns(source):
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = source
    return chat_turns(tokenizer)


MESSAGES = "{% for m in messages %}"
GEN = "{% if add_generation_prompt %}"


def test_no_template_has_no_turns():
    assert turns(None) is None


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        # an answer ends with nothing
        (
            MESSAGES
            + "{{ m.role }}: {{ m.content }}\n{% endfor %}"
            + GEN
            + "assistant:{% endif %}",
            ChatTurns("user: ", "\nassistant:", " ", None),
        ),
        # marks around the answer belong to the prompt
        (
            MESSAGES + "{% if m.role == 'user' %}U {{ m.content }}\n{% else %}A\n<answer>\n"
            "{{ m.content }}<|im_end|>{% endif %}{% endfor %}" + GEN + "A\n{% endif %}",
            ChatTurns("U ", "\nA\n<answer>\n", "", "<|im_end|>"),
        ),
        # text only as a list of parts
        (
            MESSAGES
            + "{% for p in m.content %}{{ p['text'] }}{% endfor %}<|im_end|>{% endfor %}"
            + GEN
            + "A:{% endif %}",
            ChatTurns("", "<|im_end|>A:", "", "<|im_end|>"),
        ),
        # it does not do answers
        (
            MESSAGES + "{% if m.role != 'user' %}{{ raise_exception('no') }}{% endif %}"
            "Q {{ m.content }}{% endfor %} A",
            ChatTurns("Q ", " A", "", None),
        ),
    ],
    ids=["nothing ends it", "marks open it", "parts", "no answers"],
)
def test_finds_what_stands_around_request_and_answer(source, wanted):
    assert turns(source) == wanted


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
        ("{{ messages.append(1) }}{{ messages[0].content }}", "unsafe"),
        ("{% include '/etc/passwd' %}", ""),
        ("{% for %}", "statement block"),
        ("{{ raise_exception('no such role') }}", "no such role"),
        ("{{ messages[0].content }} {{ messages[0].content }}", "does not show the request once"),
        ("nothing", "does not show the request once"),
        ("{% for i in range(99999) %}{{ messages[0].content }}{% endfor %}", "200000 characters"),
        (
            "{% set n = namespace(x='a' * 1000) %}{% for i in range(60) %}"
            "{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
            "memory",
        ),
        (
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            "too long",
        ),
        ("{{ 'a' * (10 ** 11) }}", "memory"),
    ],
)
def test_a_template_that_misbehaves_is_one_error(source, says):
    with pytest.raises(ModelError, match="chat template cannot be used") as caught:
        turns(source)
    assert says in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value.kind == "chat_template"


def test_a_chosen_wording_does_without_the_template():
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = "{{ broken"
    assert PromptTemplate.for_tokenizer(tokenizer, **VICUNA_V1) == PromptTemplate(**VICUNA_V1)


def test_the_working_folder_and_the_environment_have_no_say(tmp_path, monkeypatch):
    (tmp_path / "jinja2.py").write_text("raise SystemExit('foreign')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert turns("[{{ messages[0].content }}] here").after == "] here"


def test_the_same_template_is_rendered_once():
    from llava_rad.model import chat

    turns("<{{ messages[0].content }}> once")
    before = chat._rendered.cache_info().misses
    turns("<{{ messages[0].content }}> once")
    assert chat._rendered.cache_info().misses == before
