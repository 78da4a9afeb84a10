import pytest
from helpers.tiny_models import picture

from llava_rad.data import PriorStudy, Study, StudyImage
from llava_rad.errors import ModelError
from llava_rad.model import LLAVA_RAD, PromptTemplate
from llava_rad.reports.request import study_request

ALL = PromptTemplate()
FRONTAL_ONLY = PromptTemplate(**LLAVA_RAD)


def study(*views, **fields):
    images = tuple(StudyImage(path=f"{i}-{view}.png", view=view) for i, view in enumerate(views))
    return Study(study_id="s1", patient_id="p1", images=images, **fields)


def roles(result):
    return [image.role for image in result.request.images]


def kinds(result):
    return [warning.split(":")[0] for warning in result.warnings]


def test_views_become_roles_in_the_templates_order():
    prior = PriorStudy("s0", (StudyImage("old.png", "frontal"),), "Clear lungs.")
    result = study_request(
        study("lateral", "frontal", prior=prior, indication="cough", technique="PA"), ALL
    )
    assert roles(result) == ["current_frontal", "current_lateral", "prior_frontal"]
    assert [i.path for i in result.images] == ["1-frontal.png", "0-lateral.png", "old.png"]
    assert result.request.indication == "cough"
    assert result.request.technique == "PA"
    assert result.request.prior_report == "Clear lungs."
    assert not result.warnings


def test_a_frontal_only_model_leaves_laterals_out_and_says_so():
    result = study_request(study("lateral", "frontal"), FRONTAL_ONLY)
    assert roles(result) == ["current_frontal"]
    assert kinds(result) == ["view_not_used"]


@pytest.mark.parametrize("template", [ALL, FRONTAL_ONLY])
def test_a_lateral_alone_is_refused(template):
    with pytest.raises(ModelError, match="s1: no frontal image"):
        study_request(study("lateral"), template)
    with pytest.raises(ModelError, match="no image"):
        study_request(study(), template)


def test_an_unknown_view_is_flagged_not_guessed_silently():
    result = study_request(study("unknown"), ALL)
    assert roles(result) == ["current_frontal"]
    assert kinds(result) == ["view_unknown"]


def test_the_files_own_view_counts_where_the_study_has_none():
    from dataclasses import replace

    lateral = replace(picture(), view="lateral")
    with pytest.raises(ModelError, match="lateral"):
        study_request(study("unknown"), ALL, {"0-unknown.png": lateral})
    result = study_request(study("unknown"), ALL, {"0-unknown.png": picture()})
    assert not result.warnings
    assert result.request.images[0].radiograph.source == "picture-0"


def test_a_second_frontal_is_left_out_and_named():
    result = study_request(study("frontal", "frontal"), ALL)
    assert [i.path for i in result.images] == ["0-frontal.png"]
    assert result.warnings == ("image_not_used: 1-frontal.png is a further frontal view, left out",)
