"""The text after an image, tokenised alone and in one string with the image's token.

This project, like LLaVA, tokenises the pieces of a prompt between its images one by one.
transformers' processors tokenise one string in which each image is a special token. Tokenizers that
put a space in front of a text do so at the start of a piece, but (in their newer form) not after a
special token; so the same prompt needs a space more in the one than in the other.
"""

from dataclasses import replace
from typing import Any

from llava_rad.model import PromptTemplate, ReportRequest, RequestImage
from llava_rad.model.prompt import ROLES
from llava_rad.model.tokenizer import adds_bos


def example_request(template: PromptTemplate) -> ReportRequest:
    """A request with one image, as the template takes it, and an indication."""
    role = next(role for role in ROLES if role in template.image_lines)
    return ReportRequest((RequestImage(role),), indication="cough")


def fit_to_published(
    template: PromptTemplate, tokenizer: Any, image_token: str
) -> PromptTemplate | None:
    """The template under which a prompt has the token ids that one string of its text has.

    Args:
        template: with the text as it stands in that string.
        tokenizer: knows the image token.
        image_token: stands for an image.

    Returns:
        The template with ``image_end`` made to fit; None if neither way gives the ids.
    """
    published = image_token.join(template.parts(example_request(template)))
    wanted = tokenizer(published)["input_ids"]
    for end in (template.image_end, template.image_end.removeprefix(" ")):
        fitted = replace(template, image_end=end)
        if _piecewise(fitted, tokenizer, image_token) == wanted:
            return fitted
    return None


def text_after_image(template: PromptTemplate, tokenizer: Any, image_token: str) -> str | None:
    """What to write after an image so that one string has the ids of the template's pieces.

    Args:
        template: of a model of this project.
        tokenizer: knows the image token.
        image_token: stands for an image.

    Returns:
        Nothing or a space; None if neither gives the ids.
    """
    wanted = _piecewise(template, tokenizer, image_token)
    first, *rest = template.parts(example_request(template))
    for lead in ("", " "):
        text = first + "".join(image_token + lead + part for part in rest)
        if tokenizer(text)["input_ids"] == wanted:
            return lead
    return None


def _piecewise(template: PromptTemplate, tokenizer: Any, image_token: str) -> list[int]:
    ids = [tokenizer.bos_token_id] if adds_bos(tokenizer) else []
    first, *rest = template.parts(example_request(template))
    ids += tokenizer(first, add_special_tokens=False)["input_ids"]
    for part in rest:
        ids.append(tokenizer.convert_tokens_to_ids(image_token))
        ids += tokenizer(part, add_special_tokens=False)["input_ids"]
    return ids
