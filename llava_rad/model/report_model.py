"""The report model: frozen encoder, adapter, LLM."""

import copy
import hashlib
import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from llava_rad.encoders import EncoderOutput, ImageEncoder, load_encoder
from llava_rad.errors import ModelError, WeightsError
from llava_rad.files import write_folder_atomically
from llava_rad.images import Radiograph
from llava_rad.kernels.token_loss import token_loss
from llava_rad.model.adapter import Adapter, AdapterConfig
from llava_rad.model.card import hub_card, model_card
from llava_rad.model.configuration import EncoderReference, ReportModelConfig
from llava_rad.model.encoder_heads import EncoderHeads, load_heads
from llava_rad.model.llm import (
    LLMReference,
    Quantization,
    load_llm,
    own_ends,
    quantization_of,
    untie_if_different,
)
from llava_rad.model.lora import (
    LoraLayers,
    LoraSettings,
    attach_lora,
    has_lora,
    load_lora,
    lora_tensors,
    merge_lora,
    report_difference,
    save_lora,
    without_lora,
)
from llava_rad.model.lora_merge import add_saved_lora
from llava_rad.model.packing import one_sequence_a_row
from llava_rad.model.processor import (
    IGNORE,
    IMAGE_TOKEN,
    ReportProcessor,
    columns_with_targets,
    pads_on_the_right,
)
from llava_rad.model.processor import (
    image_places as find_image_places,
)
from llava_rad.model.prompt import PromptTemplate
from llava_rad.model.upload import upload
from llava_rad.outlines import Mask, outline, seeing_whole_images
from llava_rad.tensor_files import (
    cast,
    fingerprint,
    read_tensors,
    require_fingerprint,
    write_tensors,
)

ADAPTER_FILE = "adapter.safetensors"
CARD_FILE = "README.md"

_log = logging.getLogger(__name__)


@dataclass
class ReportModelOutput:
    """What a forward pass gives.

    Attributes:
        loss: mean cross-entropy over the report's tokens; None without labels.
        logits: [batch, kept positions, vocabulary]; with labels, only the positions at which some
            row has a target are kept.
    """

    loss: Tensor | None
    logits: Tensor


class ReportModel(nn.Module):
    """Encoder, adapter and LLM, with the processor that feeds them.

    Build one with :meth:`build`, or load one with :meth:`from_pretrained`.

    Args:
        config: what the parts are.
        encoder: frozen; never wrapped, quantised or trained.
        adapter: patch tokens to LLM embeddings.
        llm: a causal LM of transformers, whole, with its own head; with LoRA it is a PeftModel.
        processor: tokenizer, prompt, preprocessing.
        heads: what it tells of an image beside the text.
    """

    def __init__(
        self,
        config: ReportModelConfig,
        encoder: ImageEncoder,
        adapter: Adapter,
        llm: Any,
        processor: ReportProcessor,
        heads: EncoderHeads | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.adapter = adapter
        self.llm = llm
        self.processor = processor
        self.heads = heads or EncoderHeads()
        self.grid = image_grid(encoder)
        #: The folder it was loaded from, and its hash; None for a model made in memory.
        self.folder: Path | None = None
        self.folder_hash: str | None = None
        if processor.tokens_per_image != adapter.config.tokens(self.grid):
            raise ModelError(
                f"the processor expects {processor.tokens_per_image} tokens an image, encoder and "
                f"adapter give {adapter.config.tokens(self.grid)}",
                remedy="Use the encoder and adapter that the processor was saved with",
                kind="tokens_per_image",
            )
        processor.preprocessing.require_same(encoder.preprocessing, where=config.name)
        processor.require_fits(config.llm.vocab_size, where=config.llm.id)

    @classmethod
    def build(
        cls,
        encoder: ImageEncoder,
        llm: Any,
        reference: LLMReference,
        tokenizer: Any,
        *,
        name: str = "untrained",
        adapter: AdapterConfig | None = None,
        template: PromptTemplate | None = None,
        lora: LoraSettings | None = None,
        lora_layers: LoraLayers | None = None,
        encoder_revision: str | None = None,
        seed: int = 0,
    ) -> "ReportModel":
        """Put a new model together; the adapter starts random, the LoRA as no change.

        Args:
            encoder: from :func:`llava_rad.load_encoder`.
            llm: from :func:`llava_rad.model.load_llm`.
            reference: what ``load_llm`` said of it.
            tokenizer: of the LLM.
            name: shown in reports and on the card.
            adapter: its shape; default: 2 layers, no pooling.
            template: wording of the prompt; default: the LLM's own chat format.
            lora: attach a LoRA to the LLM.
            lora_layers: layers to use for it in place of peft's.
            encoder_revision: commit on the hub, if the encoder comes from there.
            seed: of the adapter's initial weights.
        """
        shape = adapter or AdapterConfig()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers = Adapter(shape, encoder.dim, reference.hidden_size)
        layers.to(next(llm.parameters()).device)
        if lora is not None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                llm = attach_lora(llm, lora, lora_layers)
        else:
            llm.requires_grad_(False)
        config = ReportModelConfig(
            name=name,
            encoder=EncoderReference(
                id=encoder.name,
                revision=encoder_revision,
                fingerprint=encoder.fingerprint(),
                dim=encoder.dim,
                image_size=encoder.image_size,
                layer=encoder.layer,
            ),
            adapter=shape,
            llm=reference,
            llm_weights="lora" if lora is not None else "base",
            llm_quantize=quantization_of(llm),
        )
        processor = ReportProcessor(
            tokenizer,
            template or PromptTemplate.for_tokenizer(tokenizer),
            encoder.preprocessing,
            shape.tokens(image_grid(encoder)),
        )
        return cls(config, encoder, layers, llm, processor)

    @property
    def device(self) -> torch.device:
        """Where the adapter lies; inputs go there."""
        return self.adapter.layers[0].weight.device  # type: ignore[return-value]

    @property
    def quantize(self) -> Quantization | None:
        """How the LLM's weights are kept: ``4bit``, ``8bit``, or None for plain numbers."""
        return quantization_of(self.llm)

    @property
    def end_ids(self) -> set[int]:
        """The tokens that end a report: of the chat format, the tokenizer and the LLM itself."""
        return self.processor.end_ids | own_ends(without_lora(self.llm))

    def image_tokens(self, patches: Tensor) -> Tensor:
        """LLM embeddings of images.

        Args:
            patches: patch tokens of the encoder, [images, rows * columns, encoder_dim].

        Returns:
            [images, tokens, llm_dim]
        """
        return self.adapter(patches, self.grid)

    def see(self, pixel_values: Tensor) -> EncoderOutput:
        """CLS and patch tokens of ``pixel_values`` [images, 3, height, width]."""
        with torch.no_grad():
            parameter = next(self.encoder.parameters())
            return self.encoder.encode(pixel_values.to(parameter.device, parameter.dtype))

    def encode_images(self, pixel_values: Tensor) -> Tensor:
        """Patch tokens [images, rows * columns, encoder_dim] of ``pixel_values``."""
        return self.see(pixel_values).patches

    def outline(self, radiograph: Radiograph) -> dict[str, Mask]:
        """Masks of the organs that the model outlines, of the radiograph's size; often none.

        Args:
            radiograph: rendered as the encoder's preprocessing wants it.

        Example:
            >>> picture = llava_rad.load_radiograph("chest.dcm")
            >>> masks = model.outline(picture)
            >>> all(mask.shape == picture.pixels.shape for mask in masks.values())
            True
        """
        if self.heads.segmentation is None:
            return {}
        whole = seeing_whole_images(self.encoder)
        return outline(whole, self.heads.segmentation, radiograph)

    def embed(self, input_ids: Tensor, patches: Tensor, *, places: Tensor | None = None) -> Tensor:
        """Input embeddings with each image's tokens in place of its run of ``IMAGE_TOKEN``.

        Args:
            input_ids: [batch, length].
            patches: [images, rows * columns, encoder_dim], in the order of the runs.
            places: [image tokens], where ``input_ids.flatten()`` is ``IMAGE_TOKEN``; None finds
                them on the device, and the host waits for it.

        Returns:
            [batch, length, llm_dim]

        Raises:
            ModelError: the runs do not match the images.
        """
        slots = input_ids == IMAGE_TOKEN
        table = self.llm.get_input_embeddings()
        embeds = table(input_ids.masked_fill(slots, 0))
        images = self.image_tokens(patches)
        if places is None:
            places = find_image_places(input_ids)
        if len(places) != images.shape[0] * images.shape[1]:
            raise _mismatch(slots, images.shape[0], images.shape[1])
        rows = images.to(embeds.dtype).flatten(0, 1)
        return embeds.flatten(0, 1).index_copy(0, places, rows).view_as(embeds)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor | None = None,
        pixel_values: Tensor | None = None,
        patches: Tensor | None = None,
        target_columns: Tensor | None = None,
        image_places: Tensor | None = None,
        pads_right: bool | None = None,
    ) -> ReportModelOutput:
        """One pass over prompt and report.

        ``target_columns``, ``image_places`` and ``pads_right`` are facts of the batch that are
        cheap to know where it is made. Left out, they are found on the device, and the host waits
        for it.

        Args:
            input_ids: [batch, length] from the processor.
            attention_mask: [batch, length], 1 where a token is.
            labels: [batch, length], ``IGNORE`` where nothing is to be learnt.
            pixel_values: [images, 3, height, width]; or
            patches: [images, rows * columns, encoder_dim], encoded before.
            target_columns: [columns], the positions at which some row has to predict a token.
            image_places: [image tokens], as ``places`` of :meth:`embed`.
            pads_right: no row has padding before a token.

        Raises:
            ModelError: no target at all, or images and image tokens do not match.
        """
        if patches is None:
            if pixel_values is None:
                raise ModelError("a batch needs pixel_values or patches", kind="no_picture")
            patches = self.encode_images(pixel_values)
        # What pads on the right is seen by no token, and without a mask fused attention skips the
        # half of the scores that lies ahead.
        if pads_right is None:
            pads_right = bool(pads_on_the_right(attention_mask))
        inputs = {
            "inputs_embeds": self.embed(input_ids, patches, places=image_places),
            "attention_mask": None if pads_right else attention_mask,
            "use_cache": False,
        }
        if labels is None:
            return ReportModelOutput(None, self.llm(**inputs).logits)

        # The vocabulary projection is computed only where some row has a target.
        kept = columns_with_targets(labels) if target_columns is None else target_columns
        if kept.numel() == 0:
            raise ModelError(
                "no token of this batch is a target: the loss would be zero or undefined",
                remedy="Leave studies without findings out, or raise max_length",
                kind="no_target",
            )
        with one_sequence_a_row():
            logits = self.llm(**inputs, logits_to_keep=kept).logits
        wanted = labels[:, 1:][:, kept]
        return ReportModelOutput(token_loss(logits.flatten(0, 1), wanted.flatten(), IGNORE), logits)

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """Parameters with a gradient, by name."""
        return {n: p for n, p in self.named_parameters() if p.requires_grad}

    def merge(self) -> "ReportModel":
        """Add the LoRA to the LLM's weights in place; faster to run, and saved whole.

        A quantised LLM gets plain weights, of the values that the LoRA knows.
        """
        if has_lora(self.llm):
            self.llm = merge_lora(self.llm)
            self.config = _merged(self.config)
        return self

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        name: str | None = None,
        training: Mapping[str, Any] | None = None,
        card: str | None = None,
        encoder_inside: bool | None = None,
        dtype: torch.dtype | None = None,
    ) -> Path:
        """Write all that is not the base LLM into one folder, whole or not at all.

        Args:
            folder: to write; one that is there is replaced.
            name: a new name for the model.
            training: facts of the training run, kept in the config and shown on the card.
            card: text of the card; default: made from the config.
            encoder_inside: copy the encoder's weights; default: unless they come from the hub.
            dtype: of the saved adapter, LoRA and encoder; default: as they are in memory.

        Raises:
            WeightsError: a tensor is empty, or the disk refuses.
        """
        folder = Path(folder)
        inside = encoder_inside
        if inside is None:
            inside = self.config.encoder.revision is None
        reference = self.config.encoder
        encoder = self.encoder
        if inside:
            reference = replace(reference, id="encoder", revision=None)
            if dtype is not None:
                encoder = copy.deepcopy(encoder).to(dtype)
                # Encoders are loaded in float32, whatever their file holds.
                loaded = copy.deepcopy(encoder).float()
                reference = replace(reference, fingerprint=loaded.fingerprint())
        weights = {"adapter": cast(self.adapter.state_dict(), dtype)}
        if self.config.llm_weights == "lora":
            weights["lora"] = lora_tensors(self.llm, dtype)
        config = replace(
            self.config,
            name=name or self.config.name,
            encoder=reference,
            fingerprints={part: fingerprint(tensors) for part, tensors in weights.items()},
            training=dict(training if training is not None else self.config.training),
        )
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with write_folder_atomically(folder) as temporary:
                config.save(temporary)
                self.processor.save_pretrained(temporary)
                write_tensors(weights["adapter"], temporary / ADAPTER_FILE)
                if config.llm_weights == "lora":
                    save_lora(self.llm, temporary / "lora", weights["lora"])
                elif config.llm_weights == "full":
                    untie_if_different(self.llm)
                    self.llm.save_pretrained(temporary / "llm")
                if inside:
                    encoder.save_pretrained(temporary / "encoder")
                self.heads.save(temporary, reference.fingerprint)
                (temporary / CARD_FILE).write_text(card or model_card(config))
        except (OSError, SafetensorError) as error:
            raise WeightsError(
                f"cannot save ({error})",
                where=folder,
                remedy="Check the disk's space and rights",
                kind="not_written",
            ) from error
        return folder

    def push_to_hub(
        self,
        name: str,
        *,
        private: bool = True,
        message: str = "Upload the model",
        token: str | None = None,
    ) -> str:
        """Send the model to a repository of the Hugging Face hub, with its card.

        A model that was loaded goes as its folder holds it, with the LoRA beside the base LLM and
        with what was written on its card; a trained or new one is saved first. Its ``config.json``
        and card name the settings it was trained with, paths too.

        Args:
            name: OWNER/NAME; made where it is not there.
            private: whether a repository that is made is seen by its owner alone.
            message: of the commit.
            token: of the hub; None is the one that ``hf auth login`` keeps.

        Returns:
            The repository's address.

        Raises:
            ModelError: its base LLM is a folder of this machine, which nobody else has.
            WeightsError: its folder has changed since, or the hub refuses or cannot be reached.

        Example:
            >>> model.push_to_hub("me/cxr", private=True)
            'https://huggingface.co/me/cxr'
        """
        with tempfile.TemporaryDirectory() as temporary:
            folder = self.folder
            if folder is None or self.trainable_parameters():
                folder = self.save_pretrained(Path(temporary) / "model")
            elif hash_folder(folder) != self.folder_hash:
                raise WeightsError(
                    "the folder has changed since the model was loaded",
                    where=folder,
                    remedy="Load it again, and push that",
                    kind="folder_changed",
                )
            config = ReportModelConfig.load(folder)
            if config.llm_weights != "full" and config.llm.revision is None:
                raise ModelError(
                    "its base LLM is a folder of this machine, which nobody else has",
                    where=config.llm.id,
                    remedy="Save it whole (merge(), then save_pretrained), and push that folder",
                    kind="local_llm",
                )
            text = (folder / CARD_FILE).read_text(encoding="utf-8")
            card = hub_card(text, config, name)
            return upload(folder, name, card=card, private=private, message=message, token=token)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device | None = None,
        quantize: Quantization | None = None,
        base_llm: str | None = None,
        trainable: bool = False,
        merged: bool = False,
    ) -> "ReportModel":
        """Load a model from the folder that :meth:`save_pretrained` wrote.

        Args:
            folder: the model's folder.
            dtype: of the LLM, the adapter and the encoder; a trainable adapter and LoRA stay
                float32.
            device: where to put it; None leaves it on the CPU.
            quantize: ``"4bit"`` or ``"8bit"`` for the LLM; adapter and encoder never are.
            base_llm: another place of the same base LLM, such as a local copy.
            trainable: keep the LoRA trainable, to train on.
            merged: add the LoRA to the LLM's weights, which peft is not needed for.

        Raises:
            WeightsError: a file or tensor is missing, damaged or too many.
            ModelError: the base LLM is not the one it was trained on.
        """
        folder = Path(folder)
        config = ReportModelConfig.load(folder)
        encoder = load_own_encoder(folder, config)
        heads = load_heads(folder, config.encoder)
        encoder.to(device=device, dtype=dtype)

        source = base_llm or config.llm.id
        if config.llm_weights == "full":
            source = str(folder / "llm")
        processor = ReportProcessor.from_pretrained(folder)
        llm, found = load_llm(
            source,
            revision=None if base_llm or source.startswith("package:") else config.llm.revision,
            dtype=dtype,
            device=device,
            quantize=quantize,
            train=trainable,
            fast_inference=not trainable,
        )
        if config.llm_weights != "full":
            config.llm.check(llm)
            if source.startswith("package:") and found.revision != config.llm.revision:
                raise ModelError(
                    "the package holds other weights than the model was trained on",
                    where=source,
                    remedy="Install the version of the package that its card names",
                    kind="wrong_llm",
                )
        if config.llm_weights == "lora":
            _warn_of_other_base(config, quantization_of(llm), folder)
            expected = config.fingerprints.get("lora")
            if merged:
                llm = add_saved_lora(llm, folder / "lora", expected=expected)
                config = _merged(config)
            else:
                llm = load_lora(llm, folder / "lora", trainable=trainable, expected=expected)
            if not trainable:
                _cast_lora(llm, dtype)
        else:
            llm.requires_grad_(trainable and config.llm_weights == "full")

        adapter = Adapter(config.adapter, config.encoder.dim, config.llm.hidden_size)
        load_adapter(adapter, folder, expected=config.fingerprints.get("adapter"))
        adapter.to(device=device, dtype=torch.float32 if trainable else dtype)
        adapter.requires_grad_(trainable)
        model = cls(config, encoder, adapter, llm, processor, heads)
        model.folder, model.folder_hash = folder, hash_folder(folder)
        return model.train(trainable)


def load_own_encoder(folder: Path, config: ReportModelConfig) -> ImageEncoder:
    """The encoder of a saved model, in float32.

    Args:
        folder: of the model.
        config: from there.

    Raises:
        WeightsError: it is missing, damaged, or not the one that the model was trained with.
    """
    encoder = load_encoder(
        str(folder / "encoder") if config.encoder.id == "encoder" else config.encoder.id,
        revision=config.encoder.revision,
        layer=config.encoder.layer,
        image_size=config.encoder.image_size,
    )
    if encoder.fingerprint() != config.encoder.fingerprint:
        raise WeightsError(
            "the encoder's weights or preprocessing differ from those the model was trained with",
            where=config.encoder.id,
            remedy="Give the model's own encoder",
            kind="wrong_encoder",
        )
    return encoder


def load_adapter(adapter: Adapter, folder: Path, *, expected: str | None = None) -> None:
    """Put the saved weights of a model's folder into an adapter.

    Args:
        adapter: of the shape that the folder's config says.
        folder: of the model.
        expected: fingerprint of the weights, if it is known.

    Raises:
        WeightsError: a tensor is missing, too many, not finite or of another shape, or they are
            not the weights that the model was saved with.
    """
    file = folder / ADAPTER_FILE
    tensors = read_tensors(file)
    report_difference(set(adapter.state_dict()), set(tensors), where=file)
    try:
        adapter.load_state_dict(tensors)
    except RuntimeError as error:
        raise WeightsError(
            f"the adapter's tensors have other shapes than its config says ({error})",
            where=file,
            remedy="Copy the whole model folder again",
            kind="mismatched_keys",
        ) from error
    require_fingerprint(tensors, expected, where=file)


def image_grid(encoder: ImageEncoder) -> tuple[int, int]:
    """(rows, columns) of the patch tokens of one preprocessed image."""
    size = encoder.preprocessing.image_size
    return encoder.grid(size, size)


def hash_folder(folder: Path) -> str:
    """Hash of names, sizes and contents; the card is left out, and a whole LLM's contents."""
    digest = hashlib.sha256()
    for file in sorted(f for f in folder.rglob("*") if f.is_file() and f.name != CARD_FILE):
        name = file.relative_to(folder).as_posix()
        digest.update(f"{name} {file.stat().st_size}\n".encode())
        if not name.startswith("llm/"):
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _mismatch(slots: Tensor, images: int, tokens: int) -> ModelError:
    number = 0
    for row, mask in enumerate(slots.tolist(), 1):
        length = 0
        for on in [*mask, False]:
            if on:
                length += 1
                continue
            while length:
                number += 1
                if length < tokens or (length % tokens and length < 2 * tokens):
                    return ModelError(
                        f"image {number} (row {row} of the batch) has {length} image tokens in "
                        f"the prompt, the adapter makes {tokens}",
                        remedy="Use the processor that was saved with the model",
                        kind="image_tokens",
                    )
                length -= tokens
    return ModelError(
        f"the prompts hold {number} images of {tokens} tokens, {images} were given",
        remedy="Give as many images as the prompts name, in their order",
        kind="image_tokens",
    )


def _warn_of_other_base(
    config: ReportModelConfig, found: Quantization | None, folder: Path
) -> None:
    trained = config.llm_quantize
    if found != trained:
        words = {None: "plain weights", "4bit": "4-bit weights", "8bit": "8-bit weights"}
        _log.warning(
            "%s: its LoRA was trained on %s of the LLM and now adds to %s, which it fits less well",
            folder,
            words[trained],
            words[found],
        )


def _merged(config: ReportModelConfig) -> ReportModelConfig:
    return replace(config, llm_weights="full", llm_quantize=None)


def _cast_lora(llm: Any, dtype: torch.dtype) -> None:
    for name, parameter in llm.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(dtype)
