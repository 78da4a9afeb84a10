import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import BitImageProcessor, CLIPImageProcessor, DINOv3ViTImageProcessor
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from llava_rad.encoders import DINOV2, RAD_DINO, Preprocessing
from llava_rad.encoders.preprocessing import CLIP_MEAN, CLIP_STD, equalized
from llava_rad.errors import ConfigError, ImageError, WeightsError
from llava_rad.images import load_radiograph

# Published with microsoft/rad-dino.
RAD_DINO_PUBLISHED = {
    "crop_size": {"height": 518, "width": 518},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5307, 0.5307, 0.5307],
    "image_processor_type": "BitImageProcessor",
    "image_std": [0.2583, 0.2583, 0.2583],
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "size": {"shortest_edge": 518},
}
ODD_SIZES = [(600, 517), (301, 999), (518, 518), (40, 33), (1001, 1403)]


def film(height: int, width: int) -> np.ndarray:
    """Smooth shadows with noise on them."""
    rows, columns = np.mgrid[:height, :width]
    shadows = 120 + 90 * np.sin(rows / 17) * np.cos(columns / 23)
    noise = np.random.default_rng(height).normal(0, 12, (height, width))
    return np.clip(shadows + noise, 0, 255).astype(np.uint8)


def by_transformers(processor, pixels: np.ndarray) -> torch.Tensor:
    rgb = Image.fromarray(pixels).convert("RGB")
    return torch.as_tensor(np.asarray(processor(rgb).pixel_values[0]))


@pytest.mark.parametrize("size", ODD_SIZES)
def test_rad_dino_input_equals_its_published_processor(size):
    pixels = film(*size)
    expected = by_transformers(BitImageProcessorPil(**RAD_DINO_PUBLISHED), pixels)
    assert torch.equal(RAD_DINO(pixels), expected)


def test_rad_dino_input_is_within_two_gray_levels_of_the_torchvision_processor():
    pixels = film(600, 517)
    expected = by_transformers(BitImageProcessor(**RAD_DINO_PUBLISHED), pixels)
    difference = (RAD_DINO(pixels) - expected).abs()
    assert difference.max() < 2.1 / 255 / 0.2583
    assert difference.mean() < 1e-3


def test_published_rad_dino_processor_is_read_as_the_constant():
    assert Preprocessing.from_dict(RAD_DINO_PUBLISHED) == RAD_DINO


@pytest.mark.parametrize("size", [(90, 131), (131, 90), (50, 50)])
@pytest.mark.parametrize(
    ("ours", "processor_class"),
    [
        (DINOV2, BitImageProcessorPil),
        (
            Preprocessing(image_size=56, mean=CLIP_MEAN, std=CLIP_STD, geometry="pad_square"),
            LlavaImageProcessorPil,
        ),
        (
            Preprocessing(
                image_size=48, mean=0.5, std=0.5, geometry="resize", interpolation="bilinear"
            ),
            ViTImageProcessorPil,
        ),
    ],
    ids=["crop", "pad", "resize"],
)
def test_saved_settings_mean_the_same_to_transformers(ours, processor_class, size):
    pixels = film(*size)
    theirs = by_transformers(processor_class(**ours.to_dict()), pixels)
    torch.testing.assert_close(ours(pixels), theirs, atol=1e-6, rtol=0)


def test_torchvision_rounding_of_odd_overhangs():
    from torchvision.transforms import v2

    ours = Preprocessing(image_size=32, mean=0.0, std=1.0, crop_rounding="half_even")
    theirs = v2.Compose(
        [
            v2.Resize(32, interpolation=v2.InterpolationMode.BICUBIC),
            v2.CenterCrop(32),
            v2.PILToTensor(),
        ]
    )
    for width in range(64, 72):  # overhangs 0 to 4 pixels after the resize
        pixels = film(64, width + 3)
        assert torch.equal(
            (ours(pixels)[:1] * 255).round().to(torch.uint8), theirs(Image.fromarray(pixels))
        )


@pytest.mark.parametrize("number", [0, 1])
def test_open_clip_geometry_equals_llava_rads_pixel_values(shared_parity, number):
    folder = shared_parity / "llava_rad_checkpoint"
    expected = load_file(folder / "expected.safetensors")[f"input_{number}.pixel_values"]
    pixels = np.array(Image.open(folder / f"image_{number}.png").convert("L"))
    ours = Preprocessing(image_size=224, mean=CLIP_MEAN, std=CLIP_STD, crop_rounding="half_even")(
        pixels
    )
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["wide", "mono2_12bit"])
def test_cases_of_any_shape_fill_the_square(shared_cases, name):
    pixels = np.load(shared_cases / "arrays" / f"{name}.minmax.npy")
    cut = RAD_DINO(pixels)
    padded = Preprocessing(**{**vars(RAD_DINO), "geometry": "pad_square"})(pixels)
    assert cut.shape == padded.shape == (3, 518, 518)
    assert cut.dtype == torch.float32
    assert torch.equal(cut, RAD_DINO(pixels.copy()))
    assert (cut - padded).abs().max() > 0.1


def test_crop_cuts_the_long_side_and_padding_keeps_it():
    pixels = np.zeros((40, 80), np.uint8)
    pixels[:, :8] = pixels[:, -8:] = 255  # the costophrenic angles, so to speak
    settings = {"image_size": 40, "mean": 0.0, "std": 1.0}
    assert Preprocessing(**settings)(pixels).max() < 0.05
    assert Preprocessing(**settings, geometry="pad_square")(pixels).max() > 0.9
    assert Preprocessing(**settings, geometry="resize")(pixels).max() > 0.9


def test_other_geometry_is_refused_and_named():
    padded = Preprocessing(**{**vars(RAD_DINO), "geometry": "pad_square"})
    RAD_DINO.require_same(Preprocessing.from_dict(RAD_DINO.to_dict()), where="model")
    with pytest.raises(ConfigError, match=r"run7.*geometry 'shorter_side_center_crop' against"):
        RAD_DINO.require_same(padded, where="run7")


def test_radiograph_of_another_rendering_is_refused(tmp_path):
    Image.fromarray(film(60, 50)).save(tmp_path / "a.png")
    with pytest.raises(ConfigError, match=r"a\.png.*'voi'.*'minmax'.*rendering='minmax'"):
        RAD_DINO(load_radiograph(tmp_path / "a.png", rendering="voi"))
    radiograph = load_radiograph(tmp_path / "a.png")
    assert torch.equal(RAD_DINO(radiograph), RAD_DINO(radiograph.pixels))


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((4, 4), np.uint16),
        np.zeros((4, 4, 3), np.uint8),
        np.zeros((4, 0), np.uint8),
        np.zeros((4, 4), np.float32),
    ],
)
def test_pixels_that_are_not_8_bit_gray_are_refused(pixels):
    with pytest.raises(ImageError, match="load_radiograph"):
        RAD_DINO(pixels)


@pytest.mark.parametrize(
    "settings",
    [
        RAD_DINO,
        DINOV2,
        Preprocessing(
            image_size=48,
            mean=(0.1, 0.2, 0.3),
            std=(0.4, 0.5, 0.6),
            geometry="pad_square",
            interpolation="lanczos",
            rendering="voi",
        ),
        Preprocessing(image_size=48, mean=0.5, std=0.5, geometry="resize"),
        Preprocessing(image_size=48, mean=0.5, std=0.5, crop_rounding="half_even"),
    ],
)
def test_written_settings_are_read_back(tmp_path, settings):
    settings.write(tmp_path)
    assert Preprocessing.read(tmp_path) == settings


@pytest.mark.parametrize(
    ("published", "expected"),
    [
        (  # openai/clip-vit-base-patch16, saved by an old version
            {"feature_extractor_type": "CLIPFeatureExtractor", "size": 224, "crop_size": 224,
             "do_center_crop": True, "do_normalize": True, "do_resize": True, "resample": 3,
             "image_mean": list(CLIP_MEAN), "image_std": list(CLIP_STD)},
            {"geometry": "shorter_side_center_crop", "image_size": 224, "shorter_side": 224},
        ),
        (  # facebook/dinov2-base
            {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 256},
             "crop_size": {"height": 224, "width": 224}, "do_center_crop": True, "resample": 3,
             "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]},
            {"geometry": "shorter_side_center_crop", "image_size": 224, "shorter_side": 256},
        ),
        (  # google/siglip-base-patch16-224
            {"image_processor_type": "SiglipImageProcessor", "size": {"height": 224, "width": 224},
             "resample": 3, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
            {"geometry": "resize", "image_size": 224, "shorter_side": None},
        ),
        (  # google/siglip2-base-patch16-naflex
            {"image_processor_type": "Siglip2ImageProcessor", "max_num_patches": 256,
             "patch_size": 16, "resample": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
            {"geometry": "resize", "image_size": 256, "interpolation": "bilinear"},
        ),
    ],
)  # fmt: skip
def test_published_processors_of_other_families_are_understood(published, expected):
    settings = Preprocessing.from_dict(published)
    assert {key: getattr(settings, key) for key in expected} == expected
    assert settings.rendering == "minmax"


def test_processor_nested_by_transformers_5_is_found(tmp_path):
    nested = {"image_processor": RAD_DINO_PUBLISHED, "processor_class": "LlavaProcessor"}
    (tmp_path / "processor_config.json").write_text(json.dumps(nested))
    assert Preprocessing.read(tmp_path) == RAD_DINO


def test_folder_without_a_processor_is_an_error_not_a_guess(tmp_path):
    with pytest.raises(WeightsError, match=r"no preprocessor_config\.json.*Copy"):
        Preprocessing.read(tmp_path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"do_rescale": False}, "do_rescale"),
        ({"rescale_factor": 1.0}, "rescale_factor"),
        ({"do_center_crop": False}, "do_center_crop"),
        ({"size": {"height": 224, "width": 196}, "do_center_crop": False}, "not a square"),
        ({"size": {"longest_edge": 224}}, "size"),
        ({"resample": None}, "resample"),
        ({"image_mean": None}, "image_mean"),
        ({"geometry": "resize"}, "geometry"),
        ({"rendering": "window"}, "rendering"),
        ({"image_std": [0.1, 0.2]}, "std"),
        ({"size": {"shortest_edge": 100}}, "shorter_side"),
    ],
)
def test_settings_that_cannot_be_followed_are_refused_by_name(change, named):
    with pytest.raises(ConfigError, match=named):
        Preprocessing.from_dict({**RAD_DINO_PUBLISHED, **change})


def test_another_image_size_keeps_the_crops_share():
    assert DINOV2.with_image_size(448) == Preprocessing(**{**vars(DINOV2), "image_size": 448,
                                                           "shorter_side": 512})  # fmt: skip
    assert RAD_DINO.with_image_size(224)(film(300, 400)).shape == (3, 224, 224)


def test_saved_file_loads_in_plain_transformers(tmp_path):
    RAD_DINO.write(tmp_path)
    processor = BitImageProcessor.from_pretrained(tmp_path)
    assert processor.size["shortest_edge"] == 518
    assert by_transformers(processor, film(600, 517)).shape == (3, 518, 518)
    assert list(CLIPImageProcessor.from_pretrained(tmp_path).image_mean) == [0.5307] * 3


class TestWhatIsUnknownIsRefused:
    """Weights fed with images prepared another way are silently worse."""

    def refused(self, match, **changes):
        with pytest.raises(ConfigError, match=match) as caught:
            Preprocessing.from_dict({**RAD_DINO_PUBLISHED, **changes}, where="a file")
        assert caught.value.kind == "unsupported_preprocessing"
        assert "Preprocessing(...)" in str(caught.value)

    def test_code_of_the_models_own(self):
        # CXformer's processor is code in its repository, and equalises histograms.
        self.refused(
            r"own code \(image_processing_cxformer\.P\), which is not run",
            auto_map={"AutoImageProcessor": "image_processing_cxformer.P"},
        )
        self.refused("which is not run", auto_map={"AutoFeatureExtractor": "a.B"})
        self.refused("which is not run", auto_map={"AutoProcessor": "processing_m4cxr.P"})

    def test_code_that_the_file_itself_makes_needless(self):
        maira = {"AutoProcessor": "processing_maira2.Maira2Processor"}
        assert Preprocessing.from_dict({**RAD_DINO_PUBLISHED, "auto_map": maira}) == RAD_DINO
        assert Preprocessing.from_dict({**RAD_DINO_PUBLISHED, "auto_map": None}) == RAD_DINO

    @pytest.mark.parametrize(
        "kind", ["ConvNextImageProcessor", "LlavaNextImageProcessor", "CXformerImageProcessor"]
    )
    def test_a_processor_that_nobody_knows(self, kind):
        self.refused(f"the processor {kind} is unknown", image_processor_type=kind)
        rest = {k: v for k, v in RAD_DINO_PUBLISHED.items() if k != "image_processor_type"}
        with pytest.raises(ConfigError, match=kind):
            Preprocessing.from_dict({**rest, "feature_extractor_type": kind})

    @pytest.mark.parametrize("ending", ["ImageProcessor", "ImageProcessorFast", "FeatureExtractor"])
    def test_known_processors_under_their_older_names(self, ending):
        named = {**RAD_DINO_PUBLISHED, "image_processor_type": f"CLIP{ending}"}
        assert Preprocessing.from_dict(named) == RAD_DINO

    @pytest.mark.parametrize(
        "step",
        [
            {"do_equalize": True},
            {"do_hist_equalize": True},
            {"do_flip_channel_order": True},
            {"do_thumbnail": True},
            {"histogram_equalization": True},
            {"crop_pct": 0.875},
            {"pad_size": {"height": 600, "width": 600}},
            {"use_square_size": True},
        ],
    )
    def test_a_step_that_nobody_knows(self, step):
        [(name, value)] = step.items()
        self.refused(f"{name} is {value!r}".replace("{", r"\{"), **step)
        off = {name: None if not isinstance(value, bool) else False}
        assert Preprocessing.from_dict({**RAD_DINO_PUBLISHED, **off}) == RAD_DINO

    def test_a_folder_whose_file_names_only_code(self, tmp_path):
        (tmp_path / "preprocessor_config.json").write_text(
            json.dumps({"auto_map": {"AutoImageProcessor": "image_processing.P"}})
        )
        with pytest.raises(ConfigError, match="which is not run"):
            Preprocessing.read(tmp_path)


def test_a_clip_file_that_does_not_speak_of_the_crop_means_one():
    written = {k: v for k, v in RAD_DINO_PUBLISHED.items() if k != "do_center_crop"}
    written["size"] = 518
    assert Preprocessing.from_dict(written) == RAD_DINO


# Published with facebook/dinov3-vitb16-pretrain-lvd1689m.
DINOV3_PUBLISHED = {
    "crop_size": None,
    "data_format": "channels_first",
    "default_to_square": True,
    "device": None,
    "disable_grouping": None,
    "do_center_crop": None,
    "do_convert_rgb": None,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_processor_type": "DINOv3ViTImageProcessorFast",
    "image_std": [0.229, 0.224, 0.225],
    "input_data_format": None,
    "resample": 2,
    "rescale_factor": 0.00392156862745098,
    "return_tensors": None,
    "size": {"height": 224, "width": 224},
}


@pytest.mark.parametrize("size", ODD_SIZES)
def test_dinov3_input_equals_its_published_processor(size, tmp_path):
    ours = Preprocessing.from_dict(DINOV3_PUBLISHED)
    assert (ours.geometry, ours.resize_in, ours.interpolation) == ("resize", "float", "bilinear")
    pixels = film(*size)
    given = {k: v for k, v in DINOV3_PUBLISHED.items() if k != "image_processor_type"}
    expected = by_transformers(DINOv3ViTImageProcessor(**given), pixels)
    torch.testing.assert_close(ours(pixels), expected, atol=1e-6, rtol=0)
    ours.write(tmp_path)
    assert Preprocessing.read(tmp_path) == ours


def test_resizing_in_float_crops_as_in_bytes():
    ours = Preprocessing(image_size=48, mean=0.5, std=0.5, shorter_side=56, resize_in="float")
    pixels = film(90, 131)
    expected = BitImageProcessor(
        size={"shortest_edge": 56}, crop_size=48, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    difference = (ours(pixels) - by_transformers(expected, pixels)).abs()
    assert difference.max() < 1.01 / 255 / 0.5  # bytes round to the nearest gray
    for wrong in ({"geometry": "pad_square"}, {"interpolation": "lanczos"}):
        with pytest.raises(ConfigError, match="resize_in is 'float'"):
            Preprocessing(image_size=48, mean=0.5, std=0.5, resize_in="float", **wrong)


def test_equalising_spreads_the_grays_by_their_ranks(tmp_path):
    # Worked out by hand: 1 pixel of 10, 2 of 20, 3 of 30, 2 of 200; the lowest becomes 0, and
    # the others 255 times the share of pixels up to theirs, the lowest not counted.
    pixels = np.array([[10, 20, 20, 30], [30, 30, 200, 200]], np.uint8)
    wanted = [[0, 73, 73, 182], [182, 182, 255, 255]]
    assert equalized(pixels).tolist() == wanted
    flat = np.full((3, 3), 77, np.uint8)
    assert (equalized(flat) == 77).all()
    ours = Preprocessing(
        image_size=2, mean=0.0, std=1.0, geometry="resize", interpolation="nearest", equalize=True
    )
    assert (ours(pixels)[0] * 255).round().tolist() == [[73, 182], [182, 255]]
    ours.write(tmp_path)
    assert Preprocessing.read(tmp_path) == ours
    assert ours.to_dict()["equalize"] is True

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("auto_map", ["image_processing.P"]),
            ("rescale_factor", "1/255"),
            ("rescale_factor", 10**400),
            ("size", {"shortest_edge": "518"}),
            ("size", {"shortest_edge": True}),
            ("crop_size", {"height": 518.0, "width": 518.0}),
            ("crop_size", {"height": 0, "width": 0}),
            ("crop_size", 10**9),
            ("max_num_patches", -4),
            ("resample", "bicubic"),
            ("image_mean", "123"),
            ("image_mean", [0.5, "a", 0.5]),
            ("image_mean", {"a": 1}),
            ("image_std", [0.2, 0.2]),
            ("image_std", [0.2, float("inf"), 0.2]),
            ("image_std", True),
        ],
    )
    def test_a_value_of_another_type_or_size(self, key, value):
        with pytest.raises(ConfigError) as caught:
            Preprocessing.from_dict({**RAD_DINO_PUBLISHED, key: value})
        assert caught.value.remedy
