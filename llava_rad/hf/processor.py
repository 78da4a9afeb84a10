"""Images and messages to the model's inputs, and generated tokens to a report."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import ProcessorMixin
from transformers.processing_utils import MultiModalData

from llava_rad.hf.image_processor import LlavaRadImageProcessor
from llava_rad.model import PromptTemplate, ReportProcessor, ReportRequest
from llava_rad.model.prompt import IMAGE


class LlavaRadProcessor(ProcessorMixin):
    """Tokenizer, prompt and preprocessing of a report model.

    Args:
        image_processor: makes the encoder's input.
        tokenizer: of the LLM, with a token for images.
        template: fields of :class:`~llava_rad.model.PromptTemplate`.
        image_seq_length: embeddings that encoder and adapter make of one image.
        chat_template: Jinja of the same wording.
    """

    def __init__(
        self,
        image_processor: LlavaRadImageProcessor | None = None,
        tokenizer: Any = None,
        template: Mapping[str, Any] | None = None,
        image_seq_length: int = 1,
        chat_template: str | None = None,
    ) -> None:
        self.template = dict(template or {})
        self.image_seq_length = image_seq_length
        self.image_token = IMAGE
        self.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE)
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    @functools.cached_property
    def report_processor(self) -> ReportProcessor:
        """The same as :class:`~llava_rad.model.ReportModel` has it."""
        return ReportProcessor(
            self.tokenizer,
            PromptTemplate.from_dict(self.template),
            self.image_processor.preprocessing,
            self.image_seq_length,
        )

    def messages(self, request: ReportRequest, report: str | None = None) -> list[dict[str, Any]]:
        """A request in the words that the model was trained with, for ``apply_chat_template``.

        Nothing in its texts can open or close a turn.

        Args:
            request: images and context; images without a picture are left to be filled in.
            report: the answer, in training.

        Raises:
            ModelError: no image, or one in a role that the model was not trained with.
        """
        own = self.report_processor
        request = own.harmless(request)
        own.template.parts(request)  # refuses what cannot be asked
        read = self.image_processor.fetch_images
        content: list[dict[str, Any]] = [
            {"type": "image", "role": image.role}
            | ({} if image.radiograph is None else {"image": read(image.radiograph)})
            for image in request.images
        ]
        content.append({"type": "text", "text": own.template.text(request)})
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if report is not None:
            text = {"type": "text", "text": own.without_control(report)}
            messages.append({"role": "assistant", "content": [text]})
        return messages

    def decode_report(self, ids: Sequence[int]) -> str:
        """The report in generated tokens, without the prompt's: up to where it ends.

        Args:
            ids: what ``generate`` gave for one row, from the prompt's end on.
        """
        return self.report_processor.decode([int(number) for number in ids])

    def replace_image_token(self, image_inputs: dict[str, Any], image_idx: int, **_: Any) -> str:
        """The text that takes the place of an image's mark."""
        return self.image_token * self.image_seq_length

    def _get_num_multimodal_tokens(self, image_sizes: Any = None, **_: Any) -> MultiModalData:
        """Asked by servers: tokens of images of these sizes; here all have the same number."""
        if image_sizes is None:
            return MultiModalData()
        return MultiModalData(
            num_image_tokens=[self.image_seq_length] * len(image_sizes),
            num_image_patches=[1] * len(image_sizes),
        )

    @property
    def unused_input_names(self) -> list[str]:
        """What tokenizers give and no LLM here takes."""
        return ["token_type_ids"]
