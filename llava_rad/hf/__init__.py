"""The report model for transformers: configuration, model, processor; registered when imported.

After ``import llava_rad.hf``, ``AutoConfig``, ``AutoModelForImageTextToText``, ``AutoProcessor``,
``AutoImageProcessor`` and ``pipeline("image-text-to-text")`` know folders that ``llava-rad convert
--to transformers`` wrote. So they do after ``llava_rad.load``, and after ``import llava_rad`` where
transformers was imported before.
"""

from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor

from llava_rad.hf.chat_template import chat_template
from llava_rad.hf.config import LlavaRadConfig
from llava_rad.hf.image_processor import LlavaRadImageProcessor
from llava_rad.hf.model import LlavaRadForConditionalGeneration
from llava_rad.hf.processor import LlavaRadProcessor

__all__ = [
    "LlavaRadConfig",
    "LlavaRadForConditionalGeneration",
    "LlavaRadImageProcessor",
    "LlavaRadProcessor",
    "chat_template",
]

AutoConfig.register(LlavaRadConfig.model_type, LlavaRadConfig, exist_ok=True)
AutoModelForImageTextToText.register(
    LlavaRadConfig, LlavaRadForConditionalGeneration, exist_ok=True
)
AutoImageProcessor.register(
    LlavaRadConfig,
    image_processor_classes=dict.fromkeys(("pil", "torchvision"), LlavaRadImageProcessor),
    exist_ok=True,
)
AutoProcessor.register(LlavaRadConfig, LlavaRadProcessor, exist_ok=True)
