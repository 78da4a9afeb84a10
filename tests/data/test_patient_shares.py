import itertools

import numpy as np
import pytest

from llava_rad.data import Study
from llava_rad.data.patient_shares import draw_patients, share_of_patients
from llava_rad.errors import ConfigError


def study(number, source):
    # Two studies a patient; patients of both sets have the same ids.
    return Study(f"{source}{number}", f"p{number // 2}", "train", source=source)


STUDIES = [study(i, "nih") for i in range(200)] + [study(i, "covid") for i in range(20)]


def test_shares_of_the_patients_grow_by_adding():
    patients = [f"p{i // 2}" for i in range(180)]
    tenth, half = (draw_patients(patients, share, seed=3) for share in (0.1, 0.5))
    assert tenth.sum() == 18 and half.sum() == 90
    assert (half | ~tenth).all()
    assert (tenth.reshape(-1, 2)[:, 0] == tenth.reshape(-1, 2)[:, 1]).all()
    assert (draw_patients(patients, 0.1, seed=4) != tenth).any()
    assert draw_patients(patients, 1e-6, seed=0).sum() == 2


@pytest.mark.parametrize(("share", "nih", "covid"), [(0.1, 20, 2), (0.3, 60, 6), (1, 200, 20)])
def test_each_data_set_gives_the_same_share(share, nih, covid):
    drawn = share_of_patients(STUDIES, share, seed=1)
    assert [s.source for s in drawn] == ["nih"] * nih + ["covid"] * covid
    # Patients are drawn whole.
    assert len({(s.source, s.patient_id) for s in drawn}) == (nih + covid) // 2


def test_smaller_shares_are_inside_larger_ones_whatever_the_order_of_the_studies():
    ids = [{s.study_id for s in share_of_patients(STUDIES, f, 5)} for f in (0.01, 0.1, 0.3, 1.0)]
    assert all(small < large for small, large in itertools.pairwise(ids))
    shuffled = [STUDIES[i] for i in np.random.default_rng(0).permutation(len(STUDIES))]
    assert {s.study_id for s in share_of_patients(shuffled, 0.3, 5)} == ids[2]
    assert {s.study_id for s in share_of_patients(STUDIES, 0.3, 6)} != ids[2]


@pytest.mark.parametrize("share", [0, -0.1, 1.5, float("nan")])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(ConfigError, match="above 0 and up to 1"):
        share_of_patients(STUDIES, share, seed=0)
