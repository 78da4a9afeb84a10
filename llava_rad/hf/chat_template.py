"""A prompt's template as a chat template: Jinja that writes what the template's parts say."""

import json
from typing import Any

from llava_rad.model import PromptTemplate
from llava_rad.model.prompt import IMAGE

# One request, and its report in training. Images come first whatever their place in the content,
# as every prompt of this project has them.
_JINJA = """\
{%- for message in messages -%}
{%- if loop.index > 2 or message['role'] != ['user', 'assistant'][loop.index0] -%}
{{- raise_exception('This model takes one message of the user, and in training its report.') -}}
{%- elif message['role'] == 'user' -%}
{%- set said = namespace(images=0, text='') -%}
{{- BEFORE -}}
{%- if message['content'] is not string -%}
{%- for item in message['content'] -%}
{%- if item['type'] == 'image' -%}
{%- if said.images >= ROLES | length -%}
{{- raise_exception('This model takes at most ' ~ ROLES | length ~ ' images a request.') -}}
{%- endif -%}
{%- set role = item.get('role') or ROLES[said.images] -%}
{%- if role not in LINES -%}
{{- raise_exception('This model was not trained with an image in the role ' ~ role ~ '.') -}}
{%- endif -%}
{{- LINES[role] -}}
{%- set said.images = said.images + 1 -%}
{%- elif item['type'] == 'text' -%}
{%- set said.text = said.text ~ ('\\n' if said.text else '') ~ item['text'] -%}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- if not said.images -%}
{{- raise_exception('A request needs at least one image.') -}}
{%- endif -%}
{{- said.text or INSTRUCTION -}}
{%- else -%}
{{- AFTER ~ SEPARATOR -}}
{%- generation -%}
{%- if message['content'] is string -%}{{- message['content'] -}}
{%- else -%}{%- for item in message['content'] -%}{{- item['text'] -}}{%- endfor -%}{%- endif -%}
{{- STOP -}}
{%- endgeneration -%}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- AFTER -}}{%- endif -%}
"""


def chat_template(template: PromptTemplate, tokenizer: Any, *, after_image: str = "") -> str:
    """Jinja that renders messages as the template words a request.

    The content of the user's message are its images and its text. An image may say its ``role``
    (:data:`~llava_rad.model.Role`); without, the first is what the template's first line is for,
    and so on. Without any text the template's instruction stands.

    Args:
        template: of a model.
        tokenizer: gives the token that ends a report where the template names none.
        after_image: stands after each image, see
            :func:`llava_rad.interchange.image_boundary.text_after_image`.
    """
    lines = {
        role: line.replace(IMAGE, IMAGE + after_image) + template.image_end
        for role, line in template.image_lines.items()
    }
    values = {
        "BEFORE": template.before,
        "ROLES": list(lines),
        "LINES": lines,
        "INSTRUCTION": template.instruction,
        "AFTER": template.after,
        "SEPARATOR": template.separator,
        "STOP": template.report_end or template.stop or tokenizer.eos_token or "",
    }
    head = [
        f"{{%- set {name} = {json.dumps(value, ensure_ascii=False)} -%}}"
        for name, value in values.items()
    ]
    return "\n".join([*head, _JINJA])
