import numpy as np
import pytest
import torch
from helpers.tiny_models import picture, tiny_encoder

from llava_rad.errors import ConfigError
from llava_rad.probing import PixelEncoder, load_judged, randomised


def test_pixels_are_the_image():
    encoder = PixelEncoder(56, 14)
    pixels = encoder.preprocessing(picture())[None]
    output = encoder.encode(pixels)
    assert output.cls.shape == (1, 256) and output.patches.shape == (1, 16, 256)
    patch = pixels[0, :1, 14:28, 28:42]  # row 1, column 2
    shrunken = torch.nn.functional.adaptive_avg_pool2d(patch, 8).flatten()
    torch.testing.assert_close(output.patches[0, 6, :64], shrunken)
    assert (output.patches[0, :, 64:] == 0).all()
    torch.testing.assert_close(output.cls[0, 0], pixels[0, 0, :4, :4].mean())
    assert encoder.fingerprint() != PixelEncoder(56, 28).fingerprint()


def test_a_side_below_a_patch_is_refused():
    with pytest.raises(ConfigError, match="at least 8"):
        PixelEncoder(56, 14, side=4)


def test_random_weights_leave_the_encoder_and_its_shapes():
    encoder = tiny_encoder()
    before = encoder.fingerprint()
    fresh, again, other = (randomised(encoder, seed) for seed in (0, 0, 1))
    assert encoder.fingerprint() == before
    assert fresh.fingerprint() == again.fingerprint() != other.fingerprint()
    assert fresh.preprocessing == encoder.preprocessing
    state = encoder.state_dict()
    changed = [n for n, t in fresh.state_dict().items() if not torch.equal(t, state[n])]
    assert len(changed) == len(state)


def test_random_weights_keep_the_scale_of_tokens_and_tell_images_apart():
    fresh = randomised(tiny_encoder())
    pixels = torch.stack([fresh.preprocessing(picture(seed)) for seed in range(4)])
    with torch.no_grad():
        cls = fresh.encode(pixels).cls.numpy()
    assert 0.5 < np.abs(cls).mean() < 1.5
    assert np.linalg.norm(cls[0] - cls[1]) > 0.01


def test_names_of_what_is_judged(tmp_path):
    tiny_encoder().save_pretrained(tmp_path)
    assert load_judged("pixels", image_size=112).image_size == 112
    assert load_judged(str(tmp_path)).fingerprint() == tiny_encoder().fingerprint()
    first = load_judged(f"random:{tmp_path}")
    assert first.name == f"random:{tmp_path}"
    assert first.fingerprint() == load_judged(f"random:{tmp_path}:0").fingerprint()
    assert first.fingerprint() != load_judged(f"random:{tmp_path}:3").fingerprint()
