"""Prompts of published models, by name: how their turns are written and what they are asked.

Each is the fields of a :class:`~llava_rad.model.prompt.PromptTemplate` that differ from its
defaults. LLaVA's code and MAIRA-2's word them; no file of their checkpoints does.
"""

from pathlib import Path
from typing import Any

from llava_rad.errors import ConfigError
from llava_rad.model.prompt import IMAGE, LLAVA_RAD, ROLES, VICUNA_V1, PromptTemplate
from llava_rad.readers import read_json

#: LLaVA's alignment (``--version plain``): the image, the report, a line's end, and no word more.
PLAIN: dict[str, Any] = {
    "before": "",
    "after": "",
    "separator": "",
    "stop": None,
    "stop_texts": ("\n",),
    "image_lines": dict.fromkeys(ROLES, IMAGE),
    "image_end": "",
    "field_lines": {},
    "instruction": "",
    "report_end": "\n",
}

#: The turns of Mistral's instruction format, as LLaVA-Med and LLaVA 1.6 use them
#: (``mistral_instruct``), with LLaVA-Rad's request.
MISTRAL: dict[str, Any] = {
    **LLAVA_RAD,
    "before": "[INST] ",
    "after": " [/INST]",
    "separator": " ",
    "stop_texts": ("[INST]",),
}

_MAIRA_2_TASK = (
    "Provide a description of the findings in the radiology study in comparison to the prior "
    "frontal image. INDICATION: {text} TECHNIQUE: N/A COMPARISON: N/A"
)
#: How MAIRA-2 words its request for one frontal image and nothing else but an indication.
MAIRA_2_REQUEST: dict[str, Any] = {
    "image_lines": {"current_frontal": f"Given the current frontal image only{IMAGE}"},
    "image_end": " ",
    "field_lines": {},
    "instruction": _MAIRA_2_TASK.replace("{text}", "N/A"),
    "instruction_with_indication": _MAIRA_2_TASK,
}
#: The same in its turns, which two blanks set apart.
MAIRA_2: dict[str, Any] = {
    **MAIRA_2_REQUEST,
    "before": "You are an expert radiology assistant tasked with interpreting a chest X-ray "
    "study.  USER:  ",
    "after": "  ASSISTANT: ",
}
_MAIRA_2_GROUNDED_TASK = _MAIRA_2_TASK.replace(
    "prior frontal image. ",
    "prior frontal image. Each finding should be described as a self-contained plain-text "
    "sentence. If the finding is groundable, locate the finding in the current frontal chest X-ray "
    "image, with bounding boxes indicating all locations where it can be seen in the current "
    "frontal image. Otherwise, generate just the ungrounded finding without bounding boxes. ",
)
#: How MAIRA-2 is asked for boxes: its text is read by :mod:`llava_rad.grounded_text`.
MAIRA_2_GROUNDED: dict[str, Any] = {
    **MAIRA_2,
    "instruction": _MAIRA_2_GROUNDED_TASK.replace("{text}", "N/A"),
    "instruction_with_indication": _MAIRA_2_GROUNDED_TASK,
}

PROMPTS: dict[str, dict[str, Any]] = {
    "llava_rad": LLAVA_RAD,
    "vicuna_v1": VICUNA_V1,
    "mistral": MISTRAL,
    "maira_2": MAIRA_2,
    "maira_2_grounded": MAIRA_2_GROUNDED,
    "plain": PLAIN,
}


def read_prompt(name: str) -> PromptTemplate:
    """A prompt by its name, or from a JSON file with the fields of a template.

    Args:
        name: one of :data:`PROMPTS`, or a path.

    Raises:
        ConfigError: neither, or the file holds something else.
    """
    if name in PROMPTS:
        return PromptTemplate(**PROMPTS[name])
    path = Path(name).expanduser()
    if not path.is_file():
        raise ConfigError(
            f"there is no prompt '{name}'",
            where="prompt",
            remedy=f"Use one of {', '.join(PROMPTS)}, or a JSON file with a template's fields",
        )
    try:
        return PromptTemplate.from_dict(read_json(path, error=ConfigError, expect=dict))
    except (ValueError, TypeError, AttributeError, ConfigError) as error:
        raise ConfigError(
            f"not the fields of a prompt's template ({error})",
            where=path,
            remedy="Take the 'template' of a model's processor.json as an example",
        ) from error
