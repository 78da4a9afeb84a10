"""How phrases of reports are read: + present, - absent, ? uncertain, 0 not spoken of."""

import pytest

from llava_rad.metrics import label_report
from llava_rad.observations import OBSERVATIONS, Mention

SIGNS = {"+": Mention.POSITIVE, "-": Mention.NEGATIVE, "?": Mention.UNCERTAIN, "0": Mention.BLANK}
NAMES = {
    "med": "Enlarged Cardiomediastinum",
    "heart": "Cardiomegaly",
    "opacity": "Lung Opacity",
    "lesion": "Lung Lesion",
    "edema": "Edema",
    "cons": "Consolidation",
    "pna": "Pneumonia",
    "atel": "Atelectasis",
    "ptx": "Pneumothorax",
    "eff": "Pleural Effusion",
    "pleura": "Pleural Other",
    "frac": "Fracture",
    "device": "Support Devices",
}

# A phrase a line, and what it says.
PHRASES = """
# What is gone.
The effusion is no longer seen. | eff-
The right pneumothorax is no longer visible. | ptx-
Left basilar opacity is no longer clearly identified. | opacity-
Pneumothorax no longer present. | ptx-
The previously seen effusions are no longer evident. | eff-
The heart is no longer enlarged. | heart-
No longer seen is the left apical pneumothorax. | ptx-
The pneumothorax has resolved. | ptx-
The pneumothorax has completely resolved. | ptx-
Edema has since cleared. | edema-
Resolved left effusion. | eff-
Interval resolution of the pulmonary edema. | edema-
The consolidation has disappeared. | cons-
Pneumonia has been excluded. | pna-
Chest tube has been removed. | device-
Interval removal of the endotracheal tube. | device-
Chest tube removal. | device-
Consolidation and effusion have cleared in the interval. | cons- eff-
# What is only partly gone, or not.
The pneumothorax has not resolved. | ptx+
The effusion has not yet completely resolved. | eff+
Partial resolution of the left effusion. | eff+
Near complete resolution of the pneumothorax. | ptx+
Incomplete clearing of the right base consolidation. | cons+
No resolution of the effusion. | eff+
Without evidence of resolution of the pneumonia. | pna+
Resolving pneumonia. | pna+
The edema has nearly resolved. | edema+
Improving but persistent effusion. | eff+
# Titles and their answers.
Pneumothorax: none. | ptx-
Pneumothorax: None | ptx-
Pneumothorax: no. | ptx-
PLEURAL EFFUSION: Absent. | eff-
Pleural effusion: not seen. | eff-
Pneumothorax: No pneumothorax. | ptx-
Pneumothorax: No evidence of pneumothorax. | ptx-
Pneumothorax: Not identified. | ptx-
Effusion or pneumothorax: none. | eff- ptx-
Pleural effusion: small, left. | eff+
Pleural effusion: Small left. | eff+
Pneumothorax: possible. | ptx?
Pneumothorax: cannot be excluded. | ptx?
Pneumothorax: resolved. | ptx-
Pneumothorax: yes. | ptx+
Pleural effusion: no change. | eff+
Atelectasis: unchanged. | atel+
Consolidation: Lungs are clear. | cons- opacity-
Cardiomegaly: mild. | heart+
Heart: Normal in size. | heart-
HEART: Enlarged. | heart+
Heart size: normal. | heart-
Heart: mildly enlarged. Lungs: clear. | heart+ opacity-
Mediastinum: widened. | med+
Lungs: No consolidation. Left basilar atelectasis. | cons- atel+
Bones: No acute fracture. | frac-
Lines and tubes: none. | device-
Lines and tubes: Right PICC. | device+
Pneumothorax: none Pleural effusion: small | ptx- eff+
FINDINGS: No pneumothorax. IMPRESSION: Cardiomegaly. | ptx- heart+
Fracture: none seen. Effusion: trace. | frac- eff+
Pneumothorax - none. | ptx-
Pneumothorax (none). | ptx-
Effusion, none. Small pneumothorax. | eff- ptx+
Pneumothorax: Absent on the right; small on the left. | ptx-
Effusions: None. Consolidation: Present, right base. | eff- cons+
# Lists.
No consolidation, effusion, or pneumothorax. | cons- eff- ptx-
No consolidation, effusion or pneumothorax is seen. | cons- eff- ptx-
No effusion, pneumothorax. | eff- ptx-
No consolidation, large effusion, or pneumothorax. | cons- eff- ptx-
No large effusion or pneumothorax. | eff- ptx-
Neither effusion nor pneumothorax. | eff- ptx-
No effusion and no pneumothorax. | eff- ptx-
No effusion/pneumothorax. | eff- ptx-
Negative for pneumonia, effusion, or edema. | pna- eff- edema-
The lungs are free of consolidation or edema. | cons- edema-
Lungs are clear of consolidation, pneumothorax, effusion. | cons- ptx- eff-
No left or right pleural effusion. | eff-
No right and left effusions. | eff-
No pleural or pericardial effusion. | eff-
Consolidation, effusion, or pneumothorax is not seen. | cons- eff- ptx-
Effusion and pneumothorax are not seen. | eff- ptx-
Effusion or pneumothorax is absent. | eff- ptx-
No evidence of pneumonia, edema or effusion. | pna- edema- eff-
No acute process, effusion, or pneumothorax. | eff- ptx-
Atelectasis and small effusion. | atel+ eff+
Right effusion and left pneumothorax. | eff+ ptx+
# A list that ends with something that is there.
No effusion, small pneumothorax on the left. | eff- ptx+
No pneumothorax, small left effusion. | ptx- eff+
No effusion; small pneumothorax. | eff- ptx+
No effusion - small pneumothorax. | eff- ptx+
No effusion but small pneumothorax. | eff- ptx+
No effusion and small left pneumothorax. | eff- ptx+
No consolidation, bibasilar atelectasis. | cons- atel+
No pneumothorax, stable cardiomegaly. | ptx- heart+
No consolidation or effusion, mild cardiomegaly. | cons- eff- heart+
No edema, the heart is enlarged. | edema- heart+
No effusion, atelectasis unchanged. | eff- atel+
No pneumothorax, and the effusion is small. | ptx- eff+
No pneumothorax and the effusion is unchanged. | ptx- eff+
No acute disease, cardiomegaly. | heart+
No acute process, stable effusion. | eff+
No pneumothorax. Effusion. | ptx- eff+
No effusion small left pneumothorax. | eff- ptx+
No effusion with moderate cardiomegaly. | eff- heart+
No pneumothorax after chest tube placement. | ptx- device+
No pneumothorax following PICC placement. | ptx- device+
No pneumothorax status post chest tube. | ptx- device+
No pneumothorax, however a large effusion. | ptx- eff+
No fracture except for old rib fracture. | frac+
Small effusion, no pneumothorax. | eff+ ptx-
Small effusion without pneumothorax. | eff+ ptx-
Rib fractures without pneumothorax or effusion. | frac+ ptx- eff-
Right effusion is small and left effusion is absent. | eff+
Effusion is small and pneumothorax is not seen. | eff+ ptx-
Small effusion, pneumothorax not seen. | eff+ ptx-
# A denied change is no denied finding.
No increase in the small pneumothorax. | ptx+
No interval increase in size of the right pneumothorax. | ptx+
Without change in the moderate effusion. | eff+
No change in the effusion. | eff+
No significant change in bibasilar atelectasis. | atel+
No significant interval change of the left effusion. | eff+
No change right effusion. | eff+
No worsening of the edema. | edema+
No progression of the consolidation. | cons+
No improvement in the pneumonia. | pna+
No decrease in the effusion. | eff+
No growth of the nodule. | lesion+
The effusion has not changed. | eff+
The effusion has not increased. | eff+
Not significantly changed pleural effusion. | eff+
Unchanged cardiomegaly. | heart+
Cardiomegaly without change. | heart+
Effusion is no larger. | eff+
Effusion unchanged, no pneumothorax. | eff+ ptx-
No complication of the PICC. | device+
No enlargement of the heart. | heart-
No new effusion. | eff-
No interval change. No effusion. | eff-
No acute change or effusion. | eff-
# Denials before.
Absence of effusion. | eff-
No evidence of pneumothorax. | ptx-
No evidence for pneumonia. | pna-
No definite pneumothorax. | ptx-
No convincing focal consolidation. | cons-
No suspicious nodule. | lesion-
Nothing to suggest pneumonia. | pna-
Without effusion. | eff-
W/o effusion. | eff-
Lack of consolidation. | cons-
Atelectasis rather than pneumonia. | atel+ pna-
Fails to demonstrate pneumothorax. | ptx-
Not consistent with pneumonia. | pna-
Free from edema. | edema-
Devoid of consolidation. | cons-
No ptx. | ptx-
No cardiomegaly. | heart-
# Denials after.
Pneumothorax is not seen. | ptx-
Pneumothorax not seen. | ptx-
A discrete nodule is not clearly identified. | lesion-
Effusions are not appreciated. | eff-
Pneumonia is unlikely. | pna-
Pneumothorax is absent. | ptx-
Fracture has been ruled out. | frac-
Effusion: nil. | eff-
The heart is not enlarged. | heart-
The heart does not appear enlarged. | heart-
The heart is normal with prominent vessels. | heart-
# Doubt.
Cannot exclude pneumonia. | pna?
Can't exclude small effusion. | eff?
Pneumonia cannot be excluded. | pna?
Pneumonia is not excluded. | pna?
A small pneumothorax could not be entirely excluded. | ptx?
Difficult to exclude underlying consolidation. | cons?
Unable to exclude effusion. | eff?
Consolidation, pneumonia, or edema cannot be excluded. | cons? pna? edema?
Recommend CT to exclude nodule. | lesion?
Rule out pneumonia. | pna?
R/o pneumothorax. | ptx?
?pneumonia | pna?
Possible small effusion. | eff?
Possibility of pneumonia. | pna?
May represent atelectasis or pneumonia. | atel? pna?
Atelectasis versus pneumonia. | atel? pna?
Concerning for pneumonia. | pna?
Doubt pneumonia. | pna?
Pneumonia is also possible. | pna?
Possible pneumonia, small effusion. | pna? eff+
Small effusion and possible pneumonia. | eff+ pna?
Borderline cardiomegaly. | heart?
No definite effusion, possible atelectasis. | eff- atel?
# Telegraphic style.
Mild cardiomegaly. No focal consolidation. | heart+ cons-
Trace effusion, no edema, old rib fractures. | eff+ edema- frac+
Stable cardiomegaly, small effusions. | heart+ eff+
Lungs clear. Heart normal. | opacity- heart-
Heart enlarged. Lungs clear. | heart+ opacity-
Low volumes, bibasilar atelectasis, no effusion. | atel+ eff-
Small left effusion no pneumothorax. | eff+ ptx-
ETT in place, no ptx. | device+ ptx-
# Words that only look like a finding.
Chest tube tip projects outside the thoracic cavity. | device+ lesion0
The lungs are not clear. | opacity0
Small pericardial effusion. | eff0
Lung volumes are 3:1 as before, no effusion. | eff-
# Lines.
1. Small left effusion.\\n2. No pneumothorax. | eff+ ptx-
- No effusion\\n- Small pneumothorax | eff- ptx+
Pneumothorax: None\\nPleural effusion: Small | ptx- eff+
There is no\\npneumothorax or\\neffusion. | ptx- eff-
No effusion\\n\\nSmall pneumothorax | eff- ptx+
"""


def cases():
    for line in PHRASES.strip().splitlines():
        if line and not line.startswith("# "):
            phrase, _, expected = line.partition(" | ")
            yield phrase.replace("\\n", "\n"), expected


@pytest.mark.parametrize(("phrase", "expected"), list(cases()))
def test_phrase(phrase, expected):
    found = dict(zip(OBSERVATIONS, label_report(phrase), strict=True))
    for said in expected.split():
        name = NAMES[said.rstrip("+-?0")]
        wanted = {SIGNS[sign] for sign in said[len(said.rstrip("+-?0")) :]}
        assert found[name] in wanted, f"{name}: {found[name].name}"
    spoken = {NAMES[said.rstrip("+-?0")] for said in expected.split()}
    others = {n for n, m in found.items() if m == Mention.POSITIVE} - spoken - {"No Finding"}
    assert not others


def test_the_table_is_long_enough_to_mean_something():
    assert len(list(cases())) >= 150
