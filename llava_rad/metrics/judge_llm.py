"""LLMs that judge reports: a local one, or any endpoint that speaks OpenAI's chat completions.

Both answer greedily (temperature 0) and keep their answers by text in ``judges.sqlite`` of the
cache folder, readable by the user alone, so that a run that was stopped goes on where it was and
equal texts cost one. The key of an endpoint comes from ``OPENAI_API_KEY`` and is written nowhere.
"""

import hashlib
import http.client
import json
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from llava_rad.errors import ConfigError, MetricError
from llava_rad.files import user_cache
from llava_rad.metrics.networks import load_network, network_version
from llava_rad.metrics.store import TextStore
from llava_rad.names import plain_text

if TYPE_CHECKING:
    import torch

KEY = "OPENAI_API_KEY"
_BATCH = 8
_AT_ONCE = 8
_TRIES = 4
_SECONDS = 120.0
_LONGEST_WAIT = 60.0  # seconds
_KEPT_AT_ONCE = 64  # answers


class Judge(Protocol):
    """What answers a prompt."""

    name: str
    version: str

    def answer(self, prompts: Sequence[str]) -> list[str]:
        """One answer for each prompt."""
        ...


class LocalJudge:
    """A causal LLM on this machine.

    Args:
        model: folder, or hub id of a model that is in the local cache.
        metric: named in messages.
        wrap: makes the LLM's input of a prompt, given the tokenizer; by default its chat template.
        longest: tokens of prompt and answer together.
        longest_answer: tokens of an answer; by default what the prompt leaves.
        end_token: an end-of-text token is put after the input, as some models were trained.
        device: where it runs; CUDA where there is one by default.

    Raises:
        WeightsError: the model is not there (kind ``missing``), is damaged, or needs its own code.
    """

    def __init__(
        self,
        model: str,
        *,
        metric: str,
        wrap: Callable[[Any, str], str] | None = None,
        longest: int = 2048,
        longest_answer: int | None = None,
        end_token: bool = False,
        device: "str | torch.device | None" = None,
    ) -> None:
        import torch

        place = str(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        half = torch.float16 if place.startswith("cuda") else torch.float32
        self.network, self.tokenizer = load_network(
            *(model, "AutoModelForCausalLM"),
            metric=metric,
            tokenizer_options={"padding_side": "left"},
            dtype=half,
            device=place,
        )
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.name, self.version = model, network_version(model, metric)
        self.wrap = wrap or _as_chat
        # A chat template writes the special tokens itself.
        self.special_tokens = wrap is not None or not self.tokenizer.chat_template
        self.longest, self.longest_answer, self.end_token = longest, longest_answer, end_token

    def answer(self, prompts: Sequence[str]) -> list[str]:
        """One answer for each prompt, prompts of similar lengths together."""
        rows = [self._pieces(prompt) for prompt in prompts]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        answers = [""] * len(rows)
        for start in range(0, len(order), _BATCH):
            chosen = order[start : start + _BATCH]
            for i, text in zip(chosen, self._generate([rows[i] for i in chosen]), strict=True):
                answers[i] = text
        return answers

    def _pieces(self, prompt: str) -> list[int]:
        text = self.wrap(self.tokenizer, prompt)
        pieces: list[int] = self.tokenizer(
            text,
            add_special_tokens=self.special_tokens,
            truncation=True,
            max_length=self.longest,
        )["input_ids"]
        end = self.tokenizer.eos_token_id
        return [*pieces, end] if self.end_token and pieces[-1:] != [end] else pieces

    def _generate(self, rows: list[list[int]]) -> list[str]:
        import torch

        device = next(self.network.parameters()).device
        batch = self.tokenizer.pad({"input_ids": rows}, return_tensors="pt").to(device)
        width = batch["input_ids"].shape[1]
        room = max(self.longest - width, 1)
        with torch.inference_mode():
            output = self.network.generate(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                max_new_tokens=min(room, self.longest_answer or room),
                do_sample=False,
                num_beams=1,
                temperature=None,
                top_p=None,
                top_k=None,
                pad_token_id=self.tokenizer.pad_token_id,
                eos_token_id=self.tokenizer.eos_token_id,
            )
        texts: list[str] = self.tokenizer.batch_decode(output[:, width:], skip_special_tokens=True)
        return texts


class EndpointJudge:
    """A model behind OpenAI's chat completions: OpenAI itself, vLLM, llama.cpp, Ollama ...

    Args:
        url: of the API, such as ``http://localhost:8000/v1``.
        model: its name there.
        longest_answer: tokens of an answer.

    Raises:
        ConfigError: see :func:`check_address`.
    """

    def __init__(self, url: str, model: str, *, longest_answer: int = 1024) -> None:
        check_address(url)
        self.url = url.rstrip("/")
        self.name = model
        # An endpoint does not say which weights answer: its address and name have to do.
        self.version = hashlib.sha256(f"{self.url}\0{model}".encode()).hexdigest()
        self.longest_answer = longest_answer
        self._opener = urllib.request.build_opener(_NoRedirect)

    def answer(self, prompts: Sequence[str]) -> list[str]:
        """One answer for each prompt, several asked at once.

        Raises:
            MetricError: the endpoint cannot be reached, refuses, or answers in another form.
        """
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(self._ask, prompts))

    def _ask(self, prompt: str) -> str:
        body = {
            "model": self.name,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": self.longest_answer,
        }
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY, "").strip():  # of a file, a line end comes with it
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(
            f"{self.url}/chat/completions", json.dumps(body).encode(), headers
        )
        for again in range(_TRIES):
            failed: Exception
            wait = 2.0**again
            try:
                with self._opener.open(request, timeout=_SECONDS) as response:
                    return _content(json.loads(response.read()))
            except urllib.error.HTTPError as error:
                # Too many requests, or a server in trouble, may pass.
                if error.code not in (408, 425, 429) and error.code < 500:
                    raise self._failed(f"it answers {error.code}") from error
                failed, why = error, f"it answers {error.code}"
                wait = max(wait, _wanted_wait(error))
            except (OSError, http.client.HTTPException) as error:  # none, too late, or cut off
                failed, why = error, str(getattr(error, "reason", "") or error)
            except (ValueError, RecursionError) as error:  # a page of a proxy, or cut off
                failed, why = error, "its answer is no JSON"
            except (KeyError, IndexError, TypeError) as error:
                raise self._failed("its answer is no chat completion") from error
            if again == _TRIES - 1:
                raise self._failed(why or type(failed).__name__) from failed
            time.sleep(wait)
        raise AssertionError("the last try returns or raises")

    def _failed(self, why: str) -> MetricError:
        return MetricError(
            f"the endpoint cannot be asked ({why})",
            where=f"{self.url}, model {self.name}",
            remedy=f"Check the address, the model's name and {KEY}; answers so far are kept",
            kind="endpoint",
        )


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Goes nowhere else: reports and key are for the address that was named."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """No other request; the answer itself is the error."""


def _content(completion: Any) -> str:
    """The text of a chat completion; an empty one where a model refuses by saying nothing."""
    content = completion["choices"][0]["message"]["content"]
    if isinstance(content, list):
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str | None):
        raise TypeError(content)
    return plain_text(content or "")


def _wanted_wait(error: urllib.error.HTTPError) -> float:
    """The seconds that a server asks to wait, as far as anybody would."""
    seconds = re.fullmatch(r"\d{1,9}(?:\.\d+)?", error.headers.get("Retry-After") or "")
    return min(float(seconds[0]), _LONGEST_WAIT) if seconds else 0.0


def check_address(url: str) -> None:
    """Refuse what is no address of an API.

    Raises:
        ConfigError: it is none of HTTP, or has no host, a wrong port, or spaces.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets, or a port that is none
        good = False
    if not good or re.search(r"[^\x21-\x7e]", url):
        raise ConfigError(
            f"not the address of an API: {url}",
            where="radfact",
            remedy="Give it as https://HOST/v1",
            kind="bad_url",
        )


class RememberingJudge:
    """A judge whose answers are kept on disk, by judge, prompt and text; empty ones are not.

    Args:
        judge: that is asked what is not known.
        prompt_hash: of the wording around the texts.
        cache: folder; the user's cache folder by default.
    """

    def __init__(self, judge: Judge, prompt_hash: str, cache: Path | None = None) -> None:
        self.judge, self.prompt_hash = judge, prompt_hash
        self.file = (cache or user_cache()) / "judges.sqlite"

    def answer(self, prompts: Sequence[str]) -> list[str]:
        """One answer for each prompt; equal ones are asked once, known ones not at all."""
        distinct = list(dict.fromkeys(prompts))
        with TextStore(self.file, self._key) as store:
            known = store.read(distinct)
            missing = [prompt for prompt in distinct if prompt not in known]
            for start in range(0, len(missing), _KEPT_AT_ONCE):
                part = missing[start : start + _KEPT_AT_ONCE]
                made = dict(zip(part, self.judge.answer(part), strict=True))
                # One that says nothing, as of a server that refuses, is asked for again next time.
                store.write({prompt: answer for prompt, answer in made.items() if answer.strip()})
                known.update(made)
        return [known[prompt] for prompt in prompts]

    def facts(self) -> dict[str, str]:
        """What the answers depend on."""
        return {
            "model": self.judge.name,
            "version_sha256": self.judge.version,
            "prompt_sha256": self.prompt_hash,
        }

    def _key(self, prompt: str) -> str:
        identity = "\0".join((self.judge.version, self.prompt_hash, prompt))
        return hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()


def hash_of(*texts: str) -> str:
    """SHA-256 of the wording of prompts."""
    return hashlib.sha256("\0".join(texts).encode("utf-8")).hexdigest()


def conclusion(answer: str) -> str:
    """What an answer says once its model has thought aloud, between ``<think>`` and ``</think>``.

    Example:
        >>> from llava_rad.metrics.judge_llm import conclusion
        >>> conclusion("<think>No, or yes?</think> Yes.")
        'Yes.'
    """
    said = answer.rpartition("</think>")[2].strip()
    return "" if said.startswith("<think>") else said  # cut off before it came to an end


def _as_chat(tokenizer: Any, prompt: str) -> str:
    """A prompt as the user's message, or as it is where the model has no chat template."""
    if not tokenizer.chat_template:
        return prompt
    text: str = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
    )
    return text
