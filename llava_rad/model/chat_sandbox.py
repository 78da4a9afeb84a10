"""Render chat templates; run as a process of its own by :mod:`llava_rad.model.chat`.

A chat template is a program of whoever published the tokenizer. Jinja's sandbox keeps it from
Python's insides, but not from running or growing without end; so it runs here, under limits of
processor time and memory that the system keeps. Nothing but jinja2 is imported.

Standard input is JSON: ``template``, ``variables`` that all renderings share, and ``renderings``, a
list of further variables. Standard output is JSON: a list of objects with ``text`` or ``error``.
"""

import contextlib
import datetime
import json
import sys
from typing import Any

CPU_SECONDS = 2
MEMORY = 1 << 30
LONGEST = 200_000

#: What templates that write today's date are told, so that the same settings give the same prompt
#: on every day; the day that Llama 3.2's template itself falls back on.
TODAY = datetime.datetime(2024, 7, 26)


def main() -> None:
    """Read a request, render, answer."""
    request = json.loads(sys.stdin.buffer.read())
    with contextlib.suppress(ImportError, ValueError, OSError):  # not on every system
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 1))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    answers = []
    try:
        compiled = _compile(request["template"])
    except Exception as error:  # jinja's own errors and what its parser runs into
        answers = [{"error": _say(error)} for _ in request["renderings"]]
    else:
        for further in request["renderings"]:
            answers.append(_render(compiled, {**request["variables"], **further}))
    sys.stdout.write(json.dumps(answers))


def _render(compiled: Any, variables: dict[str, Any]) -> dict[str, str]:
    try:
        text = ""
        for piece in compiled.generate(**variables):
            text += piece
            if len(text) > LONGEST:
                return {"error": f"it writes more than {LONGEST} characters"}
        return {"text": text}
    except MemoryError:
        return {"error": "it takes too much memory"}
    except Exception as error:  # templates raise what they like
        return {"error": _say(error)}


def _say(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _compile(source: str) -> Any:
    import jinja2
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """``{% generation %}`` marks the assistant's words; here they are text like the rest."""

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            return jinja2.nodes.Scope(body).set_lineno(line)

    Generation.tags = {"generation"}

    def refuse(message: object) -> None:
        raise jinja2.TemplateError(str(message))

    def to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = TODAY.strftime
    return environment.from_string(source)


if __name__ == "__main__":
    main()
