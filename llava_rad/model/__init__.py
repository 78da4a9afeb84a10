"""The report model: configuration, prompt, processor, adapter, LLM, save and load.

Start with :func:`load` (by name, folder or hub id) or :meth:`ReportModel.build` (a new one).
"""

from llava_rad.model.adapter import Adapter, AdapterConfig
from llava_rad.model.configuration import EncoderReference, ReportModelConfig
from llava_rad.model.llm import LLMReference, load_llm, load_tokenizer
from llava_rad.model.loading import load
from llava_rad.model.lora import LoraSettings
from llava_rad.model.processor import IGNORE, IMAGE_TOKEN, ReportProcessor, Sample
from llava_rad.model.prompt import (
    LLAVA_RAD,
    VICUNA_V1,
    PromptTemplate,
    ReportRequest,
    RequestImage,
    Role,
)
from llava_rad.model.published_prompts import MISTRAL, PLAIN, PROMPTS, read_prompt
from llava_rad.model.report_model import ReportModel, ReportModelOutput

__all__ = [
    "IGNORE",
    "IMAGE_TOKEN",
    "LLAVA_RAD",
    "MISTRAL",
    "PLAIN",
    "PROMPTS",
    "VICUNA_V1",
    "Adapter",
    "AdapterConfig",
    "EncoderReference",
    "LLMReference",
    "LoraSettings",
    "PromptTemplate",
    "ReportModel",
    "ReportModelConfig",
    "ReportModelOutput",
    "ReportProcessor",
    "ReportRequest",
    "RequestImage",
    "Role",
    "Sample",
    "load",
    "load_llm",
    "load_tokenizer",
    "read_prompt",
]
