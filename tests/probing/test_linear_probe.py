from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from llava_rad.errors import ConfigError, DataError, WeightsError
from llava_rad.probing.classification import PatientCount, SplitVectors, run_knn, run_linear_probe
from llava_rad.probing.knn import knn_scores, nearest_neighbours
from llava_rad.probing.linear_probe import INVERSE_PENALTIES, fit_linear_probe, load_probe
from llava_rad.probing.scores import mean_auroc
from llava_rad.probing.targets import Target


@pytest.fixture
def data():
    """300 examples of 8 features on very different scales; two labels, classes, a number."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(300, 8)) * np.logspace(-2, 2, 8) + 5
    plain = (features - 5) / np.logspace(-2, 2, 8)
    labels = np.stack([plain[:, 0] + plain[:, 7] > 0, plain[:, 3] > 0.5], axis=1).astype(float)
    return features, plain, labels


@pytest.fixture
def split(data):
    features, _, labels = data
    labels = labels.copy()
    labels[:40, 1] = np.nan
    return (features[:200], labels[:200]), (features[200:], labels[200:])


def test_is_logistic_regression_at_the_chosen_penalty(split):
    train, validation = split
    probe = fit_linear_probe("binary", ("A", "B"), train, validation)
    scaler = StandardScaler().fit(train[0])
    chosen = probe.facts["inverse_penalty"]
    for column in range(2):
        known = ~np.isnan(train[1][:, column])
        reference = LogisticRegression(C=chosen, max_iter=5000, tol=1e-8).fit(
            scaler.transform(train[0])[known], train[1][known, column]
        )
        expected = reference.predict_proba(scaler.transform(validation[0]))[:, 1]
        np.testing.assert_allclose(probe.predict(validation[0])[:, column], expected, atol=2e-2)


def test_the_penalty_is_the_best_on_validation(split):
    train, validation = split
    probe = fit_linear_probe("binary", ("A", "B"), train, validation)
    scaler = StandardScaler().fit(train[0])
    quality = {}
    for inverse in INVERSE_PENALTIES:
        scores = []
        for column in range(2):
            known = ~np.isnan(train[1][:, column])
            model = LogisticRegression(C=inverse, max_iter=2000).fit(
                scaler.transform(train[0])[known], train[1][known, column]
            )
            scores.append(model.decision_function(scaler.transform(validation[0])))
        quality[inverse] = mean_auroc(np.stack(scores, axis=1), validation[1])
    assert quality[probe.facts["inverse_penalty"]] == pytest.approx(max(quality.values()), abs=1e-3)


@pytest.mark.parametrize("solver", ["lbfgs", "adamw"])
def test_solvers_find_labels_classes_and_numbers(data, split, solver):
    features, plain, _ = data
    train, validation = split
    probe = fit_linear_probe("binary", ("A", "B"), train, validation, solver=solver)
    assert mean_auroc(probe.predict(validation[0]), validation[1]) > 0.98

    classes = np.digitize(plain[:, 7], [-0.5, 0.5]).astype(float)
    probe = fit_linear_probe(
        "category",
        ("low", "middle", "high"),
        (features[:200], classes[:200]),
        (features[200:], classes[200:]),
        solver=solver,
    )
    predicted = probe.predict(features[200:])
    np.testing.assert_allclose(predicted.sum(axis=1), 1)
    assert (predicted.argmax(axis=1) == classes[200:]).mean() > 0.8

    years = 50 + 10 * plain[:, 2]
    years[:20] = np.nan
    probe = fit_linear_probe(
        "number",
        ("age",),
        (features[:200], years[:200]),
        (features[200:], years[200:]),
        solver=solver,
    )
    assert np.abs(probe.predict(features[200:])[:, 0] - years[200:]).mean() < 1


def test_adamw_depends_on_its_seed_alone(split):
    first, again, other = (
        fit_linear_probe("binary", ("A", "B"), *split, solver="adamw", seed=seed).weight
        for seed in (0, 0, 1)
    )
    assert (first == again).all() and (first != other).any()


def test_a_label_without_both_values_in_training_gives_a_constant(split):
    (features, labels), validation = split
    labels = labels.copy()
    labels[:, 1] = 0
    probe = fit_linear_probe("binary", ("A", "B"), (features, labels), validation)
    assert len(np.unique(probe.predict(validation[0])[:, 1])) == 1


def test_classes_that_training_lacks_are_never_predicted(data):
    features, plain, _ = data
    classes = (plain[:, 7] > 0).astype(float)
    probe = fit_linear_probe(
        "category",
        ("a", "b", "c"),
        (features[:200], classes[:200]),
        (features[200:], classes[200:]),
    )
    predicted = probe.predict(features[200:])
    assert predicted[:, 2].max() == 0
    assert (predicted.argmax(axis=1) == classes[200:]).mean() > 0.9


def test_a_saved_probe_predicts_the_same(split, tmp_path):
    train, validation = split
    probe = fit_linear_probe("binary", ("A", "B"), train, validation).with_facts(encoder="tiny")
    probe.save(tmp_path / "probe.safetensors")
    again = load_probe(tmp_path / "probe.safetensors")
    np.testing.assert_allclose(
        again.predict(validation[0]), probe.predict(validation[0]), atol=1e-4
    )
    assert (again.names, again.facts) == (probe.names, probe.facts)
    (tmp_path / "other.safetensors").write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="not a saved linear probe"):
        load_probe(tmp_path / "other.safetensors")
    content = bytearray((tmp_path / "probe.safetensors").read_bytes())
    content[-2] ^= 1
    (tmp_path / "probe.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match=r"damaged \(the checksum of 'weight' differs"):
        load_probe(tmp_path / "probe.safetensors")


def test_errors(split):
    train, (features, labels) = split
    with pytest.raises(ConfigError, match="lbfgs, adamw"):
        fit_linear_probe("binary", ("A", "B"), train, (features, labels), solver="sgd")
    with pytest.raises(DataError, match="larger validation split"):
        fit_linear_probe("binary", ("A", "B"), train, (features, np.zeros_like(labels)))


def test_neighbours_are_the_most_alike_by_angle():
    rng = np.random.default_rng(0)
    keys, queries = rng.normal(size=(50, 4)), rng.normal(size=(3, 4))
    nearest, similarity = nearest_neighbours(queries, 7.0 * keys, 5)
    for query, row, values in zip(queries, nearest, similarity, strict=True):
        angles = keys @ query / np.linalg.norm(keys, axis=1) / np.linalg.norm(query)
        assert list(row) == list(np.argsort(-angles)[:5])
        np.testing.assert_allclose(values, np.sort(angles)[::-1][:5])


def test_neighbours_vote_by_similarity_without_unknown_labels():
    train = np.array([[1.0, 0], [0.9, 0.1], [0, 1], [0.1, 0.9], [-1, 0]])
    labels = np.array([[1.0], [np.nan], [0], [0], [0]])
    test = np.array([[1.0, 0.02], [0.02, 1.0]])
    scores, _ = knn_scores((train, labels), (test, np.array([[1.0], [0.0]])), test)
    assert scores[0, 0] > 0.95 and scores[1, 0] < 0.05


@pytest.fixture
def task(data):
    features, _, labels = data
    patients = tuple(f"p{i // 2}" for i in range(300))
    vectors = SplitVectors(
        features[:180], features[180:220], features[220:], patients[:180], patients[220:]
    )
    targets = [
        Target(name, "binary", (), False, column[:180], column[180:220], column[220:])
        for name, column in zip("AB", labels.T, strict=True)
    ]
    return vectors, targets


def test_few_patients_are_drawn_by_each_seed_and_teach_less(task):
    vectors, targets = task
    few = run_linear_probe(vectors, targets, seeds=3, fraction=0.1)
    everything = run_linear_probe(vectors, targets, seeds=3)
    assert (few.facts["fits"], few.patients[""].training) == (3, 9)
    assert (everything.facts["fits"], everything.patients[""].training) == (1, 90)
    area = [r.outcome.estimates(resamples=20)["auroc"].value for r in (few, everything)]
    assert area[0] < area[1] and area[1] > 0.95
    assert run_knn(vectors, targets, seeds=3, fraction=0.1).outcome.seeds == 3


def test_patients_are_counted_for_each_label_where_it_is_known(task):
    # As from two manifests: label B is known of the first 30 training and 10 test patients alone.
    vectors, (a, b) = task
    b = replace(
        b,
        train=np.where(np.arange(180) < 60, b.train, np.nan),
        test=np.where(np.arange(80) < 20, b.test, np.nan),
    )
    for result in (run_linear_probe(vectors, [a, b]), run_knn(vectors, [a, b])):
        assert result.patients["A"] == result.patients[""] == PatientCount(90, 40)
        assert result.patients["B"] == PatientCount(30, 10)
    # A share of a label's patients is drawn among those who have it.
    half = run_linear_probe(vectors, [b], fraction=0.5, seeds=2)
    assert half.patients == {"B": PatientCount(15, 10), "": PatientCount(15, 10)}
    assert len(half.outcome.patients) == 20


def test_test_images_of_unknown_target_are_left_out(task):
    vectors, _ = task
    values = np.arange(300.0)
    values[250:] = np.nan
    target = Target("n", "number", (), True, values[:180], values[180:220], values[220:])
    outcome = run_linear_probe(vectors, [target]).outcome
    assert outcome.patients == vectors.test_patients[:30]


def test_impossible_numbers_are_refused(task):
    for wrong in ({"fraction": 0.0}, {"fraction": 1.5}, {"seeds": 0}):
        with pytest.raises(ConfigError, match="above 0"):
            run_linear_probe(*task, **wrong)


def test_where_probabilities_are_wanted_the_likeliest_penalty_is_chosen():
    """Any penalty ranks these rows right; only a weak one says so with confidence."""
    rng = np.random.default_rng(0)
    targets = np.repeat([0.0, 1.0], 30)[:, None]
    features = (4 * targets - 2) * np.array([1.0, 1.0]) + 0.1 * rng.normal(size=(60, 2))
    parts = (features, targets), (features, targets)
    ranked = fit_linear_probe("binary", ("a",), *parts).predict(features)
    sure = fit_linear_probe("binary", ("a",), *parts, likeliest=True).predict(features)
    assert ranked[-1, 0] < 0.6
    assert sure[-1, 0] > 0.95 and sure[0, 0] < 0.05
