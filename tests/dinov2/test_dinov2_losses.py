"""Losses, targets and head against the original implementation and closed forms."""

import math
import warnings

import pytest
import torch
from safetensors.torch import load_file

from llava_rad.dinov2.cross_entropy import soft_cross_entropy
from llava_rad.dinov2.dino_loss import dino_loss, prototype_entropy
from llava_rad.dinov2.head import DINOHead
from llava_rad.dinov2.ibot_loss import ibot_loss
from llava_rad.dinov2.koleo_loss import koleo_loss
from llava_rad.dinov2.targets import SoftmaxCentring, sinkhorn_knopp
from llava_rad.kernels.vit_layer import PatchMasks

TEACHER_TEMPERATURE = 0.05


@pytest.fixture(scope="module")
def reference(shared_parity):
    return load_file(shared_parity / "dinov2_losses.safetensors")


def _close(actual, expected, tolerance=1e-5):
    torch.testing.assert_close(
        actual, expected.reshape(actual.shape), atol=tolerance, rtol=tolerance
    )


def test_dino_targets_equal_the_original(reference):
    logits = reference["dino.teacher_logits"]
    centring = SoftmaxCentring(32, momentum=0.9)
    _close(centring(logits, TEACHER_TEMPERATURE), reference["dino.softmax_center.step0"])
    centring.update()
    _close(centring.centre, reference["dino.center.step1"])
    _close(centring(logits, TEACHER_TEMPERATURE), reference["dino.softmax_center.step1"])
    _close(sinkhorn_knopp(logits, TEACHER_TEMPERATURE), reference["dino.sinkhorn"])


# Losses that the original code gives for the inputs of `drawn`.
ORIGINAL = {
    ("dino", "softmax_center"): 181.9555206,
    ("dino", "sinkhorn"): 190.0862885,
    ("ibot", "softmax_center"): 14.2886314,
    ("ibot", "sinkhorn"): 16.4099350,
    "koleo": -0.2111679,
    "koleo of a duplicate": 3.9991407,
}


@pytest.fixture(scope="module")
def drawn():
    """Inputs that torch draws with seed 0, in this order."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = {"dino.teacher": torch.randn(12, 32), "dino.student": torch.randn(24, 32)}
        masks = torch.rand(4, 16) < 0.4
        masks[2] = False
        found |= {"ibot.masks": masks}
        found |= {"ibot.teacher": torch.randn(27, 32), "ibot.student": torch.randn(27, 32)}
        found |= {"koleo": torch.randn(8, 24)}
    if abs(found["dino.teacher"][0, 0].item() + 1.1258398) > 1e-6:
        pytest.skip("this torch draws other numbers")
    return found


def _targets(logits, name):
    if name == "sinkhorn":
        return sinkhorn_knopp(logits, TEACHER_TEMPERATURE)
    return SoftmaxCentring(32)(logits, TEACHER_TEMPERATURE)


@pytest.mark.parametrize("name", ["softmax_center", "sinkhorn"])
def test_dino_loss_equals_the_original(drawn, name):
    # The original adds up 4 local crops x 2 teacher crops; ours is the mean over all pairs.
    student = drawn["dino.student"].view(4, 6, 32)
    teacher = _targets(drawn["dino.teacher"], name).view(2, 6, 32)
    # Global logits so sharp and right that their own pairs cost nothing.
    ours = dino_loss(torch.zeros(2, 6, 32), student, teacher) * 10
    own_pairs = 2 * math.log(32)
    assert (ours - own_pairs).item() == pytest.approx(ORIGINAL["dino", name], rel=1e-6)


@pytest.mark.parametrize("name", ["softmax_center", "sinkhorn"])
def test_ibot_loss_equals_the_original(drawn, name):
    targets = _targets(drawn["ibot.teacher"], name)
    loss = ibot_loss(drawn["ibot.student"], targets, PatchMasks.of(drawn["ibot.masks"]))
    assert loss.item() == pytest.approx(ORIGINAL["ibot", name], rel=1e-6)


@pytest.mark.parametrize("name", ["softmax_center", "sinkhorn"])
def test_ibot_targets_equal_the_original(reference, name):
    expected = reference[{"sinkhorn": "ibot.sinkhorn"}.get(name, "ibot.softmax_center.step0")]
    _close(_targets(reference["ibot.teacher_logits"], name), expected)


def test_koleo_equals_the_original(drawn):
    x = drawn["koleo"]
    assert koleo_loss(x).item() == pytest.approx(ORIGINAL["koleo"], rel=1e-5)
    x = x.clone()
    x[1] = x[0]
    assert koleo_loss(x).item() == pytest.approx(ORIGINAL["koleo of a duplicate"], rel=1e-5)


def test_head_equals_the_original(reference):
    head = DINOHead(24, 32, hidden_dim=40, bottleneck_dim=16, layers=3)
    head.load_state_dict(
        {key[5:]: value for key, value in reference.items() if key.startswith("head.")}
    )
    _close(head(reference["head_io.x"]), reference["head_io.y"])


def test_global_crops_never_predict_themselves():
    targets = torch.eye(2).view(2, 1, 2)  # crop 0 is prototype 0, crop 1 is prototype 1
    crossed = torch.tensor([[[-50.0, 50.0]], [[50.0, -50.0]]])
    assert dino_loss(crossed, None, targets).item() == pytest.approx(0, abs=1e-6)
    assert dino_loss(-crossed, None, targets).item() > 100


def test_cross_entropy_equals_the_written_out_form_with_its_gradient():
    torch.manual_seed(0)
    logits = torch.randn(5, 7, dtype=torch.double, requires_grad=True)
    targets = torch.rand(5, 7, dtype=torch.double)
    expected = -(targets * torch.log_softmax(logits / 0.1, -1)).sum(-1)
    actual = soft_cross_entropy(logits, targets, 0.1)
    torch.testing.assert_close(actual.double(), expected, atol=1e-4, rtol=1e-5)
    (expected_gradient,) = torch.autograd.grad(expected.sum(), logits)
    (gradient,) = torch.autograd.grad(actual.sum(), logits)
    torch.testing.assert_close(gradient, expected_gradient, atol=1e-4, rtol=1e-4)


def test_sinkhorn_spreads_tokens_evenly_over_prototypes():
    torch.manual_seed(0)
    logits = torch.randn(64, 8)
    assignment = sinkhorn_knopp(logits, 0.5, iterations=100)
    torch.testing.assert_close(assignment.sum(1), torch.ones(64))
    torch.testing.assert_close(assignment.sum(0), torch.full((8,), 8.0), atol=1e-3, rtol=1e-4)


def test_sinkhorn_is_finite_where_the_plain_exponential_overflows():
    logits = torch.tensor([[40.0, -40.0, 0.0], [39.0, 0.0, -40.0]])
    assignment = sinkhorn_knopp(logits, 0.04)
    assert assignment.isfinite().all()
    assert sinkhorn_knopp(torch.zeros(0, 3), 0.04).shape == (0, 3)


def test_centre_moves_once_per_step_by_the_mean_of_all_micro_batches():
    torch.manual_seed(0)
    logits = torch.randn(8, 4)
    whole, parts = SoftmaxCentring(4), SoftmaxCentring(4)
    whole(logits, 0.1)
    for part in logits.split([5, 3]):
        parts(part, 0.1)
        assert parts.centre.abs().sum() == 0
    whole.update()
    parts.update()
    parts.update()  # nothing was seen since
    torch.testing.assert_close(parts.centre, whole.centre)
    torch.testing.assert_close(whole.centre, 0.1 * logits.mean(0, keepdim=True))


def test_ibot_averages_within_an_image_first_and_counts_unmasked_images():
    masks = torch.tensor([[True, True, False], [True, False, False], [False] * 3])
    logits = torch.zeros(3, 2)
    targets = torch.eye(2)[[0, 0, 0]]
    # Each masked image costs log 2 whatever its number of masked patches; one of three has none.
    assert ibot_loss(logits, targets, PatchMasks.of(masks)).item() == pytest.approx(
        2 / 3 * math.log(2)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
class TestKoleoIsFinite:
    def test_on_a_duplicated_pair(self, dtype):
        features = torch.ones(2, 384, dtype=dtype, requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16):
            loss = koleo_loss(features)
        loss.backward()
        assert loss.item() == pytest.approx(15.3956, abs=1e-3)
        assert features.grad.isfinite().all()

    def test_on_a_batch_with_two_duplicates(self, dtype):
        torch.manual_seed(0)
        features = torch.randn(8, 384).to(dtype)
        features[5] = features[2]
        features.requires_grad_()
        loss = koleo_loss(features)
        loss.backward()
        assert loss.isfinite()
        assert features.grad.isfinite().all()

    def test_on_one_image(self, dtype):
        features = torch.randn(1, 384).to(dtype).requires_grad_()
        with pytest.warns(UserWarning, match="at least two images"):
            loss = koleo_loss(features)
        loss.backward()
        assert loss.item() == 0
        assert features.grad.abs().sum() == 0


def test_koleo_warns_once_for_many_lonely_groups():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            koleo_loss(torch.randn(4, 8), group_size=1)
    assert len(caught) == 1


def test_koleo_groups_are_independent():
    torch.manual_seed(0)
    features = torch.randn(8, 16)
    halves = (koleo_loss(features[:4]) + koleo_loss(features[4:])) / 2
    torch.testing.assert_close(koleo_loss(features, group_size=4), halves)
    assert koleo_loss(features) > halves  # more neighbours are nearer


def test_entropy_of_known_distributions():
    targets = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]])
    assert prototype_entropy(targets).item() == pytest.approx(math.log(2) / 2)
