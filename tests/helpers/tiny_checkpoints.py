"""Tiny LLaVA checkpoints and their outputs by transformers: constants and helpers."""

import json

import torch
from helpers.tiny_models import picture
from timm.models import register_model
from timm.models.vision_transformer import _create_vision_transformer
from transformers import CLIPImageProcessorPil, CLIPVisionConfig

from llava_rad.model import IMAGE_TOKEN, ReportRequest, RequestImage

TOWER = CLIPVisionConfig(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=3,
    num_attention_heads=2,
    image_size=28,
    patch_size=14,
)
LLAMA = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 7000.0,
}
PREPROCESSING = {
    "crop_size": {"height": 28, "width": 28},
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "image_processor_type": "CLIPImageProcessor",
    "resample": 3,
    "size": {"shortest_edge": 28},
}
# What the LLaVA code writes besides the LLM's own settings.
LLAVA_SETTINGS = {
    "model_type": "llava",
    "architectures": ["LlavaLlamaForCausalLM"],
    "freeze_mm_mlp_adapter": False,
    "image_aspect_ratio": "square",
    "image_grid_pinpoints": None,
    "mm_hidden_size": 32,
    "mm_projector_type": "mlp2x_gelu",
    "mm_use_im_patch_token": False,
    "mm_use_im_start_end": False,
    "mm_vision_select_feature": "patch",
    "mm_vision_select_layer": -2,
    "tune_mm_mlp_adapter": False,
    "use_mm_proj": True,
}


def randomise(module, scale=0.15, seed=0):
    """Weights large enough that every part tells in the output."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def write_json(file, values):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(values))


def request(seed=0, indication="cough", height=50, width=41):
    image = RequestImage("current_frontal", picture(seed, height, width))
    return ReportRequest((image,), indication=indication)


@torch.no_grad()
def logits_of(model, *requests):
    """Logits of this project's model for each request alone: [length, vocabulary]."""
    found = []
    for each in requests:
        batch = model.processor.pad([model.processor.encode(each)], "right")
        batch.pop("labels")
        pixels = model.processor.pixel_values([each])
        found.append(model(**batch, pixel_values=pixels).logits[0])
    return found


@torch.no_grad()
def logits_by_transformers(llava, model, *requests, pixel_values=None):
    """The same of a transformers Llava, for the token ids that our processor makes."""
    wanted = []
    for number, each in enumerate(requests):
        ids = torch.tensor([model.processor.encode(each).input_ids])
        ids[ids == IMAGE_TOKEN] = llava.config.image_token_index
        if pixel_values is None:
            processor = CLIPImageProcessorPil(
                **{k: v for k, v in PREPROCESSING.items() if k != "image_processor_type"}
            )
            shown = each.images[0].radiograph.pixels
            pixels = processor(shown[..., None].repeat(3, -1), return_tensors="pt")["pixel_values"]
        else:
            pixels = pixel_values[number : number + 1]
        wanted.append(llava(input_ids=ids, pixel_values=pixels).logits[0])
    return wanted


@register_model
def vit_interchange_test(pretrained=False, **options):
    """A timm ViT of a few thousand parameters, of the sizes of ``TOWER``."""
    sizes = {"img_size": 28, "patch_size": 14, "embed_dim": 32, "depth": 3, "num_heads": 2}
    return _create_vision_transformer("vit_interchange_test", pretrained, **{**sizes, **options})
