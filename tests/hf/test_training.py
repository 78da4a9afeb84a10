"""Transformers' Trainer, TRL and peft train the model as they train others."""

import copy

import numpy as np
import pytest
import torch
from datasets import Dataset
from helpers.tiny_models import picture
from peft import LoraConfig, get_peft_model
from PIL import Image
from transformers import Trainer, TrainingArguments

from llava_rad.model import ReportRequest, RequestImage

REPORTS = ("Heart size is normal. No effusion.", "Large right pleural effusion.")


def rows(processor):
    """Requests with reports, tokenised; the reports alone are targets."""
    made = []
    for number, report in enumerate(REPORTS * 4):
        request = ReportRequest((RequestImage("current_frontal", picture(number % 2)),))
        inputs = processor.apply_chat_template(
            processor.messages(request, report),
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            return_assistant_tokens_mask=True,
        )
        targets = torch.as_tensor(inputs.pop("assistant_masks")).bool()
        made.append({**inputs, "labels": inputs["input_ids"].masked_fill(~targets, -100)})
    return made


def collate(samples):
    [one] = samples
    return one


def arguments(folder, **options):
    return TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=1,
        learning_rate=3e-3,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
        save_strategy="no",
        **options,
    )


def loss_of(model, samples):
    with torch.no_grad():
        return float(np.mean([float(model(**sample).loss) for sample in samples]))


@pytest.fixture
def model(whole):
    return copy.deepcopy(whole.model)


def test_trainer_learns_with_the_encoder_frozen(whole, model, tmp_path):
    samples = rows(whole.processor)
    before, tower = loss_of(model, samples), copy.deepcopy(model.vision_tower.state_dict())
    trainer = Trainer(
        model,
        arguments(tmp_path, num_train_epochs=3, gradient_checkpointing=True),
        train_dataset=samples,
        data_collator=collate,
        processing_class=whole.processor,
    )
    trainer.train()
    assert loss_of(model.eval(), samples) < before - 1
    now = model.vision_tower.state_dict()
    assert all(torch.equal(tensor, now[key]) for key, tensor in tower.items())
    trainer.save_model(str(tmp_path / "saved"))
    again = type(model).from_pretrained(tmp_path / "saved")
    assert loss_of(again, samples) == pytest.approx(loss_of(model, samples), abs=1e-6)


def test_gradient_checkpointing_changes_no_gradient(whole, model):
    [sample] = rows(whole.processor)[:1]
    found = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.train().zero_grad()
        model(**sample).loss.backward()
        found.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert {name.split(".")[0] for name in found[0]} == {"multi_modal_projector", "language_model"}
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient)


def test_a_lora_of_peft_trains_and_merges(whole, model):
    samples = rows(whole.processor)[:2]
    targets = r"language_model\..*\.(q|k|v|o|gate|up|down)_proj"
    lora = get_peft_model(
        model,
        LoraConfig(r=4, target_modules=targets, modules_to_save=["multi_modal_projector"]),
    )
    before = loss_of(lora, samples)
    optimizer = torch.optim.AdamW((p for p in lora.parameters() if p.requires_grad), lr=1e-2)
    lora.enable_input_require_grads()
    for _ in range(6):
        for sample in samples:
            lora(**sample).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    learnt = loss_of(lora.eval(), samples)
    assert learnt < before - 1
    assert not any(p.requires_grad for n, p in lora.named_parameters() if "vision_tower" in n)
    merged = lora.merge_and_unload()
    assert loss_of(merged, samples) == pytest.approx(learnt, abs=1e-4)


@pytest.mark.slow
def test_trl_fine_tunes_on_prompts_and_completions(whole, model, tmp_path):
    trl = pytest.importorskip("trl", reason="TRL is not installed: pip install trl")
    question = whole.processor.template["instruction"]
    dataset = Dataset.from_list(
        [
            {
                "images": [Image.fromarray(picture(number % 2).pixels)],
                "prompt": [{"role": "user", "content": question}],
                "completion": [{"role": "assistant", "content": report}],
            }
            for number, report in enumerate(REPORTS * 2)
        ]
    )
    samples = rows(whole.processor)[:2]
    before = loss_of(model, samples)
    settings = trl.SFTConfig(
        output_dir=str(tmp_path),
        per_device_train_batch_size=2,
        num_train_epochs=4,
        learning_rate=3e-3,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
        max_length=None,
        bf16=False,
    )
    trainer = trl.SFTTrainer(
        model, settings, train_dataset=dataset, processing_class=whole.processor
    )
    trainer.train()
    assert loss_of(model.eval(), samples) < before - 0.5
