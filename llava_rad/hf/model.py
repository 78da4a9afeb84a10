"""The report model as a model of transformers."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from llava_rad.encoders import Preprocessing
from llava_rad.encoders.from_config import encoder_from_config
from llava_rad.hf.config import LlavaRadConfig
from llava_rad.model import IGNORE, Adapter, AdapterConfig


class LlavaRadForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """Encoder, adapter and LLM, with the parts of :class:`~llava_rad.model.ReportModel`.

    The encoder is frozen, as everywhere in this project. To train it too, call
    ``vision_tower.requires_grad_(True)``; it stays in evaluation mode. The LLM is whole, with its
    own head, so biases, caps and scales of its logits are kept.

    Args:
        config: what the parts are.
    """

    config_class = LlavaRadConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ["image", "text"]  # noqa: RUF012 (as transformers declares it)
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: LlavaRadConfig) -> None:
        super().__init__(config)
        # Images come in prepared; of the preprocessing only the side matters here.
        prepared = Preprocessing(config.image_size, mean=(0.0,) * 3, std=(1.0,) * 3)
        self.vision_tower = encoder_from_config(config.vision_config, prepared)  # type: ignore[arg-type]
        self.language_model: Any = AutoModelForCausalLM.from_config(config.text_config)
        table = self.language_model.get_input_embeddings()
        shape = AdapterConfig(**(config.adapter or {}))
        self.multi_modal_projector = Adapter(shape, self.vision_tower.dim, table.weight.shape[1])
        # The tower is left whole: its parts are called by name, not each through its forward.
        self._no_split_modules = [Adapter.__name__, type(self.vision_tower).__name__]
        self.post_init()
        self.vision_tower.requires_grad_(False)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load as transformers' models do; the encoder comes frozen."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.vision_tower.requires_grad_(False)  # loading makes every parameter trainable
        return loaded

    def _init_weights(self, module: Any) -> None:
        super()._init_weights(module)
        # timm's fixed tables are computed, not loaded.
        if hasattr(module, "init_non_persistent_buffers"):
            module.init_non_persistent_buffers()

    def get_input_embeddings(self) -> Any:
        """The LLM's table."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: Any) -> None:
        """Put another table into the LLM."""
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> Any:
        """The LLM's head."""
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: Any) -> None:
        """Put another head on the LLM."""
        self.language_model.set_output_embeddings(new_embeddings)

    @property
    def base_model(self) -> Any:
        """The model without the LLM's head, for trainers that bring a loss of their own."""
        return _Headless(self)

    def get_decoder(self, *args: Any, **kwargs: Any) -> Any:
        """The LLM without its head."""
        return self.language_model.get_decoder()

    def get_image_features(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """What the LLM sees of images.

        Args:
            pixel_values: from the processor, [images, 3, height, width].
            kwargs: not used.

        Returns:
            ``last_hidden_state`` are the patch tokens [images, rows * columns, encoder_dim],
            ``pooler_output`` the embeddings, for each image [tokens, llm_dim].
        """
        grid = self.vision_tower.grid(pixel_values.shape[-2], pixel_values.shape[-1])
        patches = self.vision_tower(pixel_values).patches
        embeddings = self.multi_modal_projector(patches, grid)
        return BaseModelOutputWithPooling(
            last_hidden_state=patches,
            pooler_output=list(embeddings),  # type: ignore[arg-type]
        )

    def embeds_of(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
    ) -> Tensor:
        """Input embeddings of the LLM, with those of the images in place of their tokens.

        Args:
            input_ids: [batch, length].
            pixel_values: [images, 3, height, width], in the order of their tokens.
            inputs_embeds: [batch, length, llm_dim], images included, instead of the others.
            mm_encoder_outputs: ``image``: what :meth:`get_image_features` gave before.

        Returns:
            [batch, length, llm_dim]

        Raises:
            ValueError: not one of ``input_ids`` and ``inputs_embeds``, or the image tokens do not
                match the images.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        if input_ids is None:
            return inputs_embeds  # type: ignore[return-value]
        images = (mm_encoder_outputs or {}).get("image")
        if images is None and pixel_values is not None:
            images = self.get_image_features(pixel_values)
        embeds = self.get_input_embeddings()(input_ids)
        if images is None:
            return embeds
        slots = input_ids == self.config.image_token_id
        features = torch.cat(list(images.pooler_output or ()))
        if int(slots.sum()) != len(features):
            raise ValueError(
                f"the prompts hold {int(slots.sum())} image tokens, the images give "
                f"{len(features)}: use the processor that was saved with the model"
            )
        features = features.to(embeds.device, embeds.dtype)
        return embeds.masked_scatter(slots.unsqueeze(-1), features)

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        **kwargs: Any,
    ) -> Any:
        """One pass.

        Args:
            input_ids: [batch, length] from the processor; or
            pixel_values: [images, 3, height, width], in the order of their tokens.
            attention_mask: [batch, length], 1 where a token is; padded on either side.
            position_ids: [batch, length].
            inputs_embeds: [batch, length, llm_dim], images included.
            labels: [batch, length]; -100 and image tokens are no targets.
            logits_to_keep: how many of the last positions get logits; 0 for all.
            mm_encoder_outputs: ``image``: what :meth:`get_image_features` gave before.
            kwargs: handed on to the LLM, such as ``cache`` and ``use_cache``.

        Returns:
            What the LLM gives: ``loss``, ``logits`` [batch, kept positions, vocabulary], ``cache``.

        Raises:
            ValueError: not one of ``input_ids`` and ``inputs_embeds``, or the image tokens do not
                match the images.
        """
        embeds = self.embeds_of(input_ids, pixel_values, inputs_embeds, mm_encoder_outputs)
        if labels is not None:
            labels = labels.masked_fill(labels == self.config.image_token_id, IGNORE)
        return self.language_model(
            inputs_embeds=embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            labels=labels,
            logits_to_keep=logits_to_keep,
            **kwargs,
        )


class _Headless(nn.Module):
    """Calls the parts of a model up to the LLM's hidden states; it has none of its own."""

    def __init__(self, whole: LlavaRadForConditionalGeneration) -> None:
        super().__init__()
        self.__dict__["whole"] = whole  # no submodule: its weights are saved once

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        **kwargs: Any,
    ) -> Any:
        whole = self.__dict__["whole"]
        embeds = whole.embeds_of(input_ids, pixel_values, inputs_embeds, mm_encoder_outputs)
        return whole.language_model.base_model(inputs_embeds=embeds, **kwargs)
