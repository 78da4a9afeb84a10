"""One forward pass from crops to losses, and how the teacher follows."""

import math

import pytest
import torch
from transformers import Dinov2Config, Dinov2Model

from llava_rad.dinov2.backbone import prepare
from llava_rad.dinov2.config import HeadConfig, LossConfig
from llava_rad.dinov2.student_teacher import StudentTeacher
from llava_rad.kernels.vit_layer import PatchMasks

HEAD = HeadConfig(prototypes=12, hidden_dim=16, bottleneck_dim=8)


def _model(ibot_head=None, compute_dtype=None, **loss):
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        mlp_ratio=2,
        image_size=28,
        layerscale_value=1.0,
    )
    backbone = prepare(Dinov2Model(config))
    model = StudentTeacher(backbone, HEAD, ibot_head, LossConfig(**loss), compute_dtype)
    # Apart from each other, as after some steps.
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.student.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model.train()


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(2)
    masks = torch.zeros(8, 4, dtype=torch.bool)
    masks[0, :2] = masks[3, 1] = masks[6, 2:] = True
    return (
        torch.randn(8, 1, 28, 28, generator=generator),
        torch.randn(12, 1, 14, 14, generator=generator),
        PatchMasks.of(masks),
    )


def test_student_starts_as_the_teacher():
    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=1, image_size=28)
    model = StudentTeacher(Dinov2Model(config), HEAD, None, LossConfig())
    pairs = zip(model.student.parameters(), model.teacher.parameters(), strict=True)
    assert all(torch.equal(student, teacher) for student, teacher in pairs)
    assert not any(p.requires_grad for p in model.teacher.parameters())
    assert model.train().teacher.training is False


def test_losses_equal_the_written_out_ones(batch):
    global_crops, local_crops, masks = batch
    model = _model(targets="centring")
    losses = model(global_crops, local_crops, masks, 0.05)

    def features(network, images, hidden=None):
        return network.backbone(images.expand(-1, 3, -1, -1), hidden).last_hidden_state

    with torch.no_grad():
        teacher = features(model.teacher, global_crops)
        student = features(model.student, global_crops, masks.chosen)
        small = features(model.student, local_crops)
        targets = torch.softmax(model.teacher.dino_head(teacher[:, 0]) / 0.05, -1).chunk(2)
        crops = [*student[:, 0].chunk(2), *small[:, 0].chunk(3)]
        logs = [torch.log_softmax(model.student.dino_head(c) / 0.1, -1) for c in crops]
        pairs = [
            -(target * log).sum(-1).mean()
            for i, target in enumerate(targets)
            for j, log in enumerate(logs)
            if i != j
        ]
        patch_targets = torch.softmax(model.teacher.dino_head(teacher[:, 1:]) / 0.05, -1)
        patch_logs = torch.log_softmax(model.student.dino_head(student[:, 1:]) / 0.1, -1)
        costs = -(patch_targets * patch_logs).sum(-1)
        ibot = sum(costs[i][masks.chosen[i]].mean() for i in (0, 3, 6)) / 8
    assert losses.parts["dino"].item() == pytest.approx(sum(pairs).item() / 8, rel=1e-4)
    divergences = [
        (target * (target.log() - log)).sum(-1).mean()
        for i, target in enumerate(targets)
        for j, log in enumerate(logs)
        if i != j
    ]
    assert losses.divergence.item() == pytest.approx(sum(divergences).item() / 8, rel=1e-3)
    assert losses.parts["ibot"].item() == pytest.approx(ibot.item(), rel=1e-4)
    expected = sum(losses.parts[n] * w for n, w in (("dino", 1), ("ibot", 1), ("koleo", 0.1)))
    assert losses.total.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(losses.features, teacher[:, 0])


def test_only_the_student_gets_gradients_and_all_of_it_does(batch):
    model = _model(ibot_head=HEAD)
    model(*batch, 0.05).total.backward()
    assert all(p.grad is None for p in model.teacher.parameters())
    assert [name for name, p in model.student.named_parameters() if p.grad is None] == []


def test_a_separate_patch_head_sees_patches_only(batch):
    model = _model(ibot_head=HEAD, dino_weight=0.0, koleo_weight=0.0)
    model(*batch, 0.05).total.backward()
    assert model.student.dino_head.mlp[0].weight.grad.abs().max() == 0
    assert model.student.ibot_head.mlp[0].weight.grad.abs().max() > 0


def test_teacher_follows_by_the_momentum_and_centres_move_once(batch):
    model = _model(targets="centring")
    before = [p.detach().clone() for p in model.teacher.parameters()]
    model(*batch, 0.05)
    model(*batch, 0.05)
    assert model.dino_centring.centre.abs().max() == 0
    model.update_teacher(0.9)
    students = model.student.parameters()
    for old, student, teacher in zip(before, students, model.teacher.parameters(), strict=True):
        torch.testing.assert_close(teacher, 0.9 * old + 0.1 * student)
    centre = model.dino_centring.centre.clone()
    assert centre.abs().max() > 0
    model.update_teacher(1.0)
    assert torch.equal(model.dino_centring.centre, centre)


def test_reset_copies_the_student():
    model = _model()
    model.reset_teacher()
    pairs = zip(model.student.parameters(), model.teacher.parameters(), strict=True)
    assert all(torch.equal(student, teacher) for student, teacher in pairs)


class TestBfloat16:
    def test_stays_near_float32_with_float32_gradients(self, batch):
        exact, rounded = _model(), _model(compute_dtype=torch.bfloat16)
        expected, losses = exact(*batch, 0.05), rounded(*batch, 0.05)
        assert losses.total.dtype == torch.float32
        for name, value in expected.parts.items():
            assert losses.parts[name].item() == pytest.approx(value.item(), rel=0.05), name
        expected.total.backward()
        losses.total.backward()
        ours, theirs = (
            torch.cat([p.grad.flatten() for p in m.student.parameters()]) for m in (rounded, exact)
        )
        assert ours.dtype == torch.float32
        assert torch.cosine_similarity(ours, theirs, dim=0) > 0.98

    def test_prototypes_are_compared_in_float32(self):
        # Cosines that differ by 1/1000 stay apart; bfloat16 near 1 has steps of 1/256.
        model = _model(compute_dtype=torch.bfloat16)
        head = model.teacher.dino_head
        with torch.no_grad():
            head.last_layer.weight_v[:] = torch.nn.functional.normalize(torch.ones(12, 8), dim=1)
            head.last_layer.weight_g[:, 0] = 1 - 1e-3 * torch.arange(12)
            output = model.teacher(torch.randn(2, 1, 28, 28), None, None)
        logits = output.global_logits
        assert logits.dtype == torch.float32
        steps = logits.diff(dim=1) / logits[:, :1]
        torch.testing.assert_close(steps, torch.full_like(steps, -1e-3), rtol=1e-2, atol=0)


def test_perfect_student_pays_only_the_targets_entropy(batch):
    # With equal networks, temperatures and crops, cross-entropy is entropy.
    model = _model(targets="centring", ibot_weight=0.0, koleo_weight=0.0, student_temperature=0.1)
    model.reset_teacher()
    global_crops = batch[0][:4].repeat(2, 1, 1, 1)
    losses = model(global_crops, None, PatchMasks.of(torch.zeros(8, 4, dtype=torch.bool)), 0.1)
    entropy = -torch.special.xlogy(losses.targets, losses.targets).sum(-1).mean()
    assert losses.total.item() == pytest.approx(entropy.item(), rel=1e-4)
    assert losses.total.item() < math.log(12)
    assert losses.divergence.item() == pytest.approx(0, abs=1e-4)


def test_the_divergence_is_what_the_student_pays_beyond_the_targets_entropy(batch):
    # One global crop predicts the other, without local ones: two pairs.
    model = _model(ibot_weight=0.0, koleo_weight=0.0)
    nothing = PatchMasks.of(torch.zeros(8, 4, dtype=torch.bool))
    losses = model(batch[0], None, nothing, 0.05)
    logits = model.student(batch[0], None, None).global_logits / 0.1
    predicted = torch.log_softmax(logits, dim=1).chunk(2)
    targets = losses.targets.chunk(2)
    expected = sum(
        torch.nn.functional.kl_div(p, t, reduction="batchmean")
        for p, t in zip(predicted, reversed(targets), strict=True)
    )
    assert losses.divergence.item() == pytest.approx(float(expected.detach()) / 2, rel=1e-4)
