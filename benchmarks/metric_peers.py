"""What ``benchmarks/metrics.py`` runs in the environment of the peers: other people's scorers.

    PEERS_PYTHON metric_peers.py NAME JOB.json

Knows nothing of this project, since the peers need older packages. Prints one JSON object: the
seconds the peer took, without loading it, and the numbers it found.
"""

import contextlib
import json
import sys
import time
import types


def radeval(job):
    """RadEval's BLEU-1..4 (one scorer an order, as it runs them) and ROUGE."""
    from radeval.metrics.bleu.adapter import BleuMetric
    from radeval.metrics.rouge.adapter import RougeMetric

    bleu, rouge = BleuMetric(), RougeMetric()
    clock = getattr(time, job["clock"])
    start = clock()
    four = bleu._compute_raw(job["references"], job["predictions"])["bleu"]
    rouges = rouge._compute_raw(job["references"], job["predictions"])
    seconds = clock() - start
    values = {"bleu_4": four["aggregate"], **four["detailed"]}
    values.update({name: value["aggregate"] for name, value in rouges.items()})
    return {"seconds": seconds, "values": values}


def f1chexbert(job):
    """f1chexbert's labels, one report at a time, with a given checkpoint and vocabulary."""
    import torch
    import transformers
    from f1chexbert import f1chexbert as package

    torch.set_num_threads(job["threads"])
    # The package fetches these three; here they are at hand.
    package.CACHE_DIR = job["checkpoint_folder"]
    package.BertTokenizer = types.SimpleNamespace(
        from_pretrained=lambda name: transformers.BertTokenizer(job["vocabulary"])
    )
    package.AutoConfig = types.SimpleNamespace(
        from_pretrained=lambda name: transformers.BertConfig()
    )
    scorer = package.F1CheXbert(device="cpu")
    scorer.get_label(job["reports"][0])
    clock = getattr(time, job["clock"])
    start = clock()
    labels = [scorer.get_label(report) for report in job["reports"]]
    return {"seconds": clock() - start, "labels": labels}


PEERS = {"radeval": radeval, "f1chexbert": f1chexbert}

if __name__ == "__main__":
    name, path = sys.argv[1:]
    with open(path, encoding="utf-8") as file:  # noqa: PTH123
        job = json.load(file)
    with contextlib.redirect_stdout(sys.stderr):
        answer = PEERS[name](job)
    print(json.dumps(answer))
