"""``python -m llava_rad.hf``: transformers' command line, to which this project's models are known.

``python -m llava_rad.hf serve FOLDER`` is ``transformers serve FOLDER``, and so on.
"""

import transformers
from transformers.cli.transformers import main
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from llava_rad.hf import LlavaRadConfig, LlavaRadForConditionalGeneration

if __name__ == "__main__":
    # Its server looks a class up by name in the library itself, not in the Auto classes.
    name = LlavaRadForConditionalGeneration.__name__
    setattr(transformers, name, LlavaRadForConditionalGeneration)
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES[LlavaRadConfig.model_type] = name
    main()
