"""The chat format of an LLM: what stands before and after a request, and what ends an answer."""

import functools
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import markupsafe

from llava_rad.errors import ModelError
from llava_rad.model import chat_sandbox
from llava_rad.model.tokenizer import adds_bos, control_tokens

# Words that stand for the request and the answer while a template is taken apart.
_REQUEST, _ANSWER = "USERS-TURN", "ASSISTANTS-TURN"

# An opening tag at the very end, such as <think>: what follows is not the answer yet.
_OPEN_TAG = re.compile(r"<\|?[a-z_]+\|?>\s*$")

# The limits that count are those that the rendering process sets itself; a busy machine may need
# far longer for them.
_SECONDS = 120


@dataclass(frozen=True)
class ChatTurns:
    """A chat template, rendered once and cut at the request and the answer.

    Attributes:
        before: text before the request, without a BOS that the tokenizer adds itself.
        after: text between request and answer.
        separator: blanks that stand between ``after`` and the answer's first word.
        stop: the token that ends an answer; None where the template ends it with none.
    """

    before: str
    after: str
    separator: str
    stop: str | None


def chat_turns(tokenizer: Any) -> ChatTurns | None:
    """Find the turns of a tokenizer's chat template; None if it has no template.

    The template is rendered with and without an answer. Where it lets thinking be switched off,
    it is, so that an answer begins at once; a date in it is always the same one.

    Raises:
        ModelError: the template fails, is refused, or does not show the request once.
    """
    if not getattr(tokenizer, "chat_template", None):
        return None
    where = getattr(tokenizer, "name_or_path", None) or None
    try:
        source = tokenizer.get_chat_template()
    except Exception as error:  # several templates, none of them the usual one
        raise _unusable(" ".join(str(error).split())[:200], where) from error

    renderings = []
    for words in (str, _as_parts):  # some templates read text only as a list of parts
        user = {"role": "user", "content": words(_REQUEST)}
        answer = {"role": "assistant", "content": words(_ANSWER)}
        renderings += [
            {"messages": [user], "add_generation_prompt": True},
            {"messages": [user, answer], "add_generation_prompt": False},
        ]
    found = render_chat(tokenizer, source, renderings)
    for asked, answered in (found[:2], found[2:]):
        if asked.get("text", "").count(_REQUEST) == 1:
            return _cut(tokenizer, asked["text"], answered.get("text", ""))
    raise _unusable(found[0].get("error", "it does not show the request once, as it is"), where)


def _as_parts(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]


def _cut(tokenizer: Any, asked: str, answered: str) -> ChatTurns:
    before, after = asked.split(_REQUEST)
    separator, stop = "", None
    if re.search(f"{_REQUEST}.*{_ANSWER}", answered, re.DOTALL) and (
        answered.count(_REQUEST) == answered.count(_ANSWER) == 1
    ):
        between = answered[answered.index(_REQUEST) + len(_REQUEST) : answered.index(_ANSWER)]
        rest = answered[answered.index(_ANSWER) + len(_ANSWER) :].lstrip()
        ends = [token for token in control_tokens(tokenizer) if rest.startswith(token)]
        stop = max(ends, key=len, default=None)
        if between.startswith(after):
            further = between[len(after) :]
            # Marks that open an answer belong to the prompt, mere blanks to the answer.
            after, separator = (between, "") if further.strip() else (after, further)
        elif _OPEN_TAG.search(after.removeprefix(between)):
            after = between
    if after.endswith(" "):
        # A blank belongs to the word after it: tokenizers make one token of both.
        bare = after.rstrip(" ")
        after, separator = bare, after[len(bare) :] + separator
    bos = tokenizer.bos_token
    # The tokenizer puts its BOS itself; a template that writes it too would double it.
    if bos and before.startswith(bos) and adds_bos(tokenizer):
        before = before[len(bos) :]
    return ChatTurns(before, after, separator, stop)


def render_chat(
    tokenizer: Any, template: str, renderings: list[dict[str, Any]]
) -> list[dict[str, str]]:
    """Render a chat template in a sandbox with bounded time, memory and length.

    Args:
        tokenizer: gives the template its special tokens by name.
        template: Jinja source.
        renderings: ``messages``, ``add_generation_prompt`` and the like for each rendering.

    Returns:
        For each rendering its ``text``, or ``error``: why there is none.
    """
    variables = {
        **{name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "tools": None,
        "documents": None,
        "enable_thinking": False,
    }
    request = {"template": template, "variables": variables, "renderings": renderings}
    answers: list[dict[str, str]] = json.loads(_rendered(json.dumps(request, sort_keys=True)))
    return answers


@functools.lru_cache(maxsize=32)
def _rendered(request: str) -> str:
    count = len(json.loads(request)["renderings"])
    # Isolated from the working folder and the environment; where jinja2 lies is said outright.
    places = {str(Path(str(module.__file__)).parents[1]) for module in (jinja2, markupsafe)}
    script = Path(chat_sandbox.__file__).read_text(encoding="utf-8")
    code = f"import sys; sys.path[:0] = {sorted(places)!r}\n{script}"
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", code],
            input=request.encode(),
            capture_output=True,
            timeout=_SECONDS,
            check=True,
        )
        return done.stdout.decode()
    except (OSError, subprocess.SubprocessError):
        return json.dumps([{"error": "it runs too long or takes too much memory"}] * count)


def _unusable(reason: str, where: object) -> ModelError:
    return ModelError(
        f"the chat template cannot be used ({reason.rstrip('.')})",
        where=where,
        remedy="Restore the tokenizer's files, or choose the prompt's wording (prompt: vicuna_v1)",
        kind="chat_template",
    )
