"""One optimiser step: nothing is read back, and broken numbers change nothing."""

import pytest
import torch
from accelerate import Accelerator
from helpers.tiny_models import build, byte_level_tokenizer

from llava_rad.errors import TrainingError
from llava_rad.model import LoraSettings, ReportRequest, RequestImage
from llava_rad.model.processor import IGNORE, columns_with_targets, image_places
from llava_rad.report_training.batches import MicroBatch
from llava_rad.report_training.imitation import imitate
from llava_rad.report_training.state import trained_parameters
from llava_rad.runs.checks import UnreadSteps


@pytest.fixture
def model():
    lora = LoraSettings(r=4, alpha=8, dropout=0.1)
    return build(byte_level_tokenizer(), "llama", lora=lora).train()


def micro_batch(model, text="Large effusion.", scale=1.0):
    """Two studies, the second with a longer report."""
    request = ReportRequest((RequestImage("current_frontal", None),))
    samples = [model.processor.encode(request, t) for t in (text, text + " No edema.")]
    padded = model.processor.pad(samples, "right")
    generator = torch.Generator().manual_seed(len(text))
    return MicroBatch(
        **padded,
        target_columns=columns_with_targets(padded["labels"]),
        image_places=image_places(padded["input_ids"]),
        target_tokens=int((padded["labels"] != IGNORE).sum()),
        tokens=int(padded["attention_mask"].sum()),
        study_ids=[f"{text} 1", f"{text} 2"],
        patches=scale * torch.randn(2, 16, 24, generator=generator),
    )


def step_on(model, batches, device="cpu"):
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=len(batches))
    optimiser = torch.optim.AdamW(trained_parameters(model), lr=1e-2, weight_decay=0.0)
    optimiser = accelerator.prepare(optimiser)
    outcome = imitate(
        model,
        optimiser,
        accelerator,
        batches,
        device=torch.device(device),
        targets=sum(b.target_tokens for b in batches),
        clip=1.0,
    )
    return outcome, accelerator


def test_a_step_reads_nothing_back_from_the_device(model):
    """On the meta device there are no values: whatever asks for one fails."""
    batches = [micro_batch(model), micro_batch(model, "Clear lungs.")]
    model.to("meta")
    for module in model.modules():  # tensors that are no buffers
        for name, value in vars(module).items():
            if isinstance(value, torch.Tensor):
                setattr(module, name, value.to("meta"))
    outcome, _ = step_on(model, batches, "meta")
    assert {outcome.loss.device.type, outcome.norm.device.type} == {"meta"}
    assert outcome.losses[0].shape == ()


def test_each_target_token_counts_the_same_whatever_pass_it_is_in(model):
    batches = [micro_batch(model), micro_batch(model, "No acute disease.")]
    model.eval()  # without dropout
    with torch.no_grad():
        means = [model(**b.model_inputs(torch.device("cpu"))).loss for b in batches]
    tokens = [b.target_tokens for b in batches]
    assert tokens[0] != tokens[1]
    outcome, _ = step_on(model, batches)
    expected = sum(float(m) * t for m, t in zip(means, tokens, strict=True)) / sum(tokens)
    assert float(outcome.loss) == pytest.approx(expected, rel=1e-5)


def test_a_broken_step_changes_no_weight_and_is_told_with_its_studies(model):
    before = [p.clone() for p in trained_parameters(model)]
    batches = [micro_batch(model), micro_batch(model, "Clear.", scale=float("inf"))]
    outcome, accelerator = step_on(model, batches)
    assert not torch.isfinite(outcome.norm)
    for old, new in zip(before, trained_parameters(model), strict=True):
        assert torch.equal(old, new)
    unread = UnreadSteps(accelerator, "Stop")
    unread.add(6, {"loss": torch.tensor(1.0)}, [torch.tensor(1.0)] * 2, [["a"], ["b"]])
    ids = [batch.study_ids for batch in batches]
    unread.add(7, {"loss": outcome.loss}, outcome.losses, ids)
    with pytest.raises(TrainingError, match=r"step 7, studies Clear\. 1, Clear\. 2: the loss is"):
        unread.read()
