"""The model card: the README of a saved model."""

import json

from llava_rad.model.configuration import ReportModelConfig

NOT_FOR_CARE = "For research and demonstration only; not for clinical use."


IMAGE_CONTROL = "## Does the text depend on the image?"


def put_section(card: str, section: str) -> str:
    """The card with a section in place of the one of the same heading, or at its end.

    Args:
        card: Markdown.
        section: Markdown whose first line is its heading, ``## ...``.
    """
    heading = section.splitlines()[0]
    lines = card.rstrip().splitlines()
    if heading not in lines:
        return "\n".join([*lines, "", section.rstrip()]) + "\n"
    start = lines.index(heading)
    following = (i for i in range(start + 1, len(lines)) if lines[i].startswith("## "))
    end = next(following, None)
    rest = [] if end is None else ["", *lines[end:]]
    return "\n".join([*lines[:start], section.rstrip(), *rest]) + "\n"


def hub_card(card: str, config: ReportModelConfig, name: str) -> str:
    """A model's card as the hub shows it.

    Args:
        card: Markdown of the model's folder.
        config: of the model.
        name: OWNER/NAME of the repository.
    """
    from huggingface_hub import ModelCardData

    text = card.replace("THIS_FOLDER", name)
    if text.startswith("---"):
        return text
    on_hub = config.llm.revision is not None and not config.llm.id.startswith("package:")
    about = ModelCardData(
        library_name="llava-rad",
        pipeline_tag="image-text-to-text",
        tags=["radiology", "chest-x-ray", "report-generation"],
        base_model=config.llm.id if on_hub else None,
    )
    return f"---\n{about.to_yaml()}\n---\n\n{text}"


def model_card(config: ReportModelConfig) -> str:
    """Markdown that says what the model is made of and how to run it."""
    encoder = "in this folder" if config.encoder.id == "encoder" else f"`{config.encoder.id}`"
    llm = {
        "base": "as published",
        "lora": "with the LoRA in this folder",
        "full": "all weights in this folder",
    }[config.llm_weights]
    lines = [
        f"# {config.name}",
        "",
        f"Findings text from chest X-rays. {NOT_FOR_CARE}",
        "",
        "| part | what |",
        "|---|---|",
        f"| encoder | {encoder}, {config.encoder.dim} dims, fingerprint "
        f"`{config.encoder.fingerprint[:16]}` |",
        f"| adapter | {config.adapter.layers} layers, pooling {config.adapter.pool} |",
        f"| LLM | `{config.llm.id}`, revision `{(config.llm.revision or 'none')[:16]}`, {llm} |",
        "",
        "```",
        "llava-rad report IMAGE --model THIS_FOLDER",
        "```",
        "",
        IMAGE_CONTROL,
        "",
        "Not measured yet; until it is, do not rely on the text. Run:",
        "",
        "```",
        "python eval/image_control.py --model THIS_FOLDER --manifest MANIFEST -o OUT --card",
        "```",
    ]
    if config.training:
        facts = json.dumps(dict(config.training), indent=2, ensure_ascii=False, default=str)
        lines += ["", "## Training", "", "```json", facts, "```"]
    return "\n".join(lines) + "\n"
