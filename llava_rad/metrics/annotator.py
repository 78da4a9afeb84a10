"""RadGraph annotations of reports: batched, each distinct text once, kept on disk.

The network is that of the package ``radgraph`` (RadGraph: Jain et al., NeurIPS datasets 2021;
RadGraph-XL: Delbrouck et al., Findings of ACL 2024). The package runs one report at a time, fails
on transformers 5 and prints to standard output; this wrapper mends the three and leaves the rest
to it. A report that is empty or white space has no entities and never reaches the network.
"""

import contextlib
import hashlib
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from llava_rad.caches import keep_within_limit, mark_used
from llava_rad.errors import MetricError, WeightsError
from llava_rad.file_keys import sha256
from llava_rad.files import user_cache
from llava_rad.metrics.radgraph_network import WEIGHTS, archive_hash, build_network
from llava_rad.metrics.result import is_empty
from llava_rad.metrics.store import TextStore
from llava_rad.metrics.weights import resolve_file

Annotation = dict[str, Any]
"""As the package gives it: ``text`` (its tokens, joined) and ``entities``, by number: ``tokens``,
``label``, ``start_ix``, ``end_ix`` (tokens, inclusive) and ``relations`` (type, entity number)."""

REPOSITORY = "StanfordAIMI/RRG_scorers"
MODELS = ("radgraph", "radgraph-xl")
_AT_ONCE = 32  # annotations read from disk


class RadGraphAnnotator:
    """Annotates reports with a RadGraph model.

    The annotations of a text, which repeat its words, are kept in ``radgraph.sqlite`` of the cache
    folder, readable by the user alone.

    Args:
        model_type: ``"radgraph"`` or ``"radgraph-xl"``.
        weights: the unpacked model (a folder with ``config.json``, ``vocabulary/`` and
            ``weights.th``), a folder that holds it or its archive, the archive, or a hub
            repository; the local hub cache by default.
        cache: folder for annotations and unpacked archives; the user's cache folder by default.
        device: ``"cpu"`` or ``"cuda"``; CUDA where there is one by default.
        batch_size: reports that go through the network at once.

    Raises:
        MetricError: there is no such model type.
        WeightsError: the model is not there (kind ``missing``), cannot be read, or is configured
            as something else than a RadGraph network (kind ``foreign_config``).
    """

    def __init__(
        self,
        model_type: str = "radgraph-xl",
        *,
        weights: str | Path | None = None,
        cache: Path | None = None,
        device: str | None = None,
        batch_size: int = 16,
    ) -> None:
        if model_type not in MODELS:
            raise MetricError(
                f"there is no RadGraph model '{model_type}'",
                remedy=f"Choose one of {', '.join(MODELS)}",
                kind="unknown_model",
            )
        self.model_type = model_type
        self.device = device
        self.batch_size = batch_size
        self.cache = cache or user_cache()
        self.folder = _model_folder(model_type, weights, self.cache)
        self.checkpoint_hash = sha256(self.folder / WEIGHTS)
        self._archive_hash = archive_hash(self.folder)
        self._network: Any = None

    def annotate(
        self, texts: Sequence[str], *, progress: Callable[[int, int], None] | None = None
    ) -> list[Annotation]:
        """Annotate reports.

        Args:
            texts: the reports; equal ones cost one, and those annotated before cost none.
            progress: called with the number of texts done and the number to do.

        Returns:
            One annotation for each text.
        """
        distinct = [text for text in dict.fromkeys(texts) if not is_empty(text)]
        with self.store() as store:
            known = store.read(distinct)
            missing = [text for text in distinct if text not in known]
            for made in self._annotate_new(missing, store, progress):
                known.update(made)
        nothing: Annotation = {"text": "", "entities": {}}
        return [known.get(text, nothing) for text in texts]

    def prepare(self, texts: Sequence[str]) -> None:
        """Annotate reports and keep the annotations on disk alone."""
        with self.store() as store:
            distinct = [text for text in dict.fromkeys(texts) if not is_empty(text)]
            missing = [text for text in distinct if not store.holds(text)]
            for _ in self._annotate_new(missing, store, None):
                pass

    def each(self, texts: Sequence[str]) -> Iterator[Annotation]:
        """The annotations of reports one after the other, a few in memory at a time."""
        for start in range(0, len(texts), _AT_ONCE):
            yield from self.annotate(texts[start : start + _AT_ONCE])

    def store(self) -> TextStore:
        """The annotations on disk, by text, to be opened in a ``with`` block."""
        return TextStore(self.cache / "radgraph.sqlite", self._key)

    def _annotate_new(
        self, texts: list[str], store: TextStore, progress: Callable[[int, int], None] | None
    ) -> Iterator[dict[str, Annotation]]:
        """Annotate texts that are not in the store, and keep them there, batch by batch."""
        done = 0
        for batch in self._batches(texts):
            made = dict(zip(batch, self._run(batch), strict=True))
            store.write(made)
            yield made
            done += len(batch)
            if progress:
                progress(done, len(texts))

    def _key(self, text: str) -> str:
        identity = f"{self.model_type}\0{self._archive_hash}\0{text}"
        return hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()

    def _batches(self, texts: list[str]) -> Iterator[list[str]]:
        """Reports of the same number of tokens, at most ``batch_size`` at once.

        The package keeps a number of candidate spans that depends on a report's length, and lets
        the fillers of the shorter reports of a batch take part in relations.
        """
        if not texts:
            return
        self._load()
        by_length: dict[int, list[str]] = {}
        for text, tokens in zip(texts, self._tokens(texts), strict=True):
            by_length.setdefault(len(tokens), []).append(text)
        by_length.pop(0, None)  # nothing left after tokenisation: no entities
        for _, group in sorted(by_length.items()):
            for start in range(0, len(group), self.batch_size):
                yield group[start : start + self.batch_size]

    def _tokens(self, texts: list[str]) -> list[list[str]]:
        from radgraph.utils import preprocess_reports

        return [row["sentences"][0] for row in preprocess_reports(texts, self.model_type)]

    def _run(self, texts: list[str]) -> list[Annotation]:
        """Send reports of equal length through the network as the sentences of one document."""
        import torch
        from radgraph.allennlp.data.dataloader import PyTorchDataLoader
        from radgraph.allennlp.data.dataset_readers import AllennlpDataset
        from radgraph.utils import batch_to_device, get_entity

        network = self._load()
        sentences = self._tokens(texts)
        document = {"doc_key": "0", "sentences": sentences, "dataset": self.model_type}
        with _quiet(), torch.inference_mode():
            data = AllennlpDataset([network.reader.text_to_instance(document)])
            data.index_with(network.model.vocab)
            batch = next(iter(PyTorchDataLoader(batch_size=1, dataset=data)))
            output = network.model(**batch_to_device(batch, network.device))
            result = network.model.make_output_human_readable(output).to_json()
        annotations = []
        first = 0
        found = zip(sentences, result["predicted_ner"], result["predicted_relations"], strict=True)
        for tokens, entities, relations in found:
            # The package counts tokens from the start of the document.
            entities = [[e[0] - first, e[1] - first, *e[2:]] for e in entities]
            relations = [[*(ix - first for ix in r[:4]), *r[4:]] for r in relations]
            entities = get_entity(entities, relations, tokens)
            annotations.append({"text": " ".join(tokens), "entities": entities})
            first += len(tokens)
        return annotations

    def _load(self) -> Any:
        if self._network is not None:
            return self._network
        with _quiet():
            self._network = build_network(self.folder, self.model_type, self.device)
        losses = self._network.model._loss_weights
        if losses["coref"] > 0 or losses["events"] > 0:
            # Such a model lets the sentences of a document speak to each other.
            self.batch_size = 1
        return self._network


def _model_folder(model_type: str, weights: str | Path | None, cache: Path) -> Path:
    archive_name = f"{model_type}.tar.gz"
    if weights is not None:
        path = Path(weights).expanduser()
        for folder in (path, path / model_type):
            if (folder / WEIGHTS).is_file():
                return folder
    archive = resolve_file(weights, repo=REPOSITORY, filename=archive_name, metric="radgraph")
    digest = sha256(archive)
    folder = cache / "models" / f"{model_type}-{digest[:16]}"
    if not (folder / WEIGHTS).is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            try:
                with tarfile.open(archive, "r:gz") as tar:
                    # What is read of it are files; a link could show another place as one.
                    members = [member for member in tar if member.isfile()]
                    tar.extractall(scratch, members, filter="data")
            except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
                raise WeightsError(
                    f"the archive cannot be unpacked: {error}",
                    where=archive,
                    remedy=f"Fetch it again with: hf download {REPOSITORY} {archive_name}",
                    kind="layout",
                ) from error
            if not (Path(scratch) / WEIGHTS).is_file():
                raise WeightsError(
                    f"the archive holds no {WEIGHTS}",
                    where=archive,
                    remedy=f"Fetch it again with: hf download {REPOSITORY} {archive_name}",
                    kind="layout",
                )
            with contextlib.suppress(OSError):  # another process was first
                Path(scratch).rename(folder)
            Path(scratch).mkdir(exist_ok=True)
        keep_within_limit(folder, cache)
    mark_used(folder)
    return folder


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Send what the package prints to standard error, and drop its warnings."""
    import warnings

    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def package_version() -> str:
    """Version of the installed package ``radgraph``."""
    return version("radgraph")
