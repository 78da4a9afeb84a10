"""Which texts read as English: telegraphic style does, other languages and scripts do not."""

import pytest

from llava_rad.metrics.language import foreign, is_english

TELEGRAPHIC = """
Mild cardiomegaly. No focal consolidation.
No focal consolidation. No pneumothorax.
Mild cardiomegaly. No edema.
No pneumothorax, no consolidation.
Bibasilar atelectasis, cardiomegaly, pulmonary congestion.
Moderate hiatal hernia. Scoliosis.
Low volumes. Bibasilar atelectasis.
Normal cardiomediastinal silhouette.
No active pulmonary disease.
Tortuous aorta, calcified granuloma.
Visualized osseous structures appear intact.
Healed rib fractures. Emphysema.
Interval extubation. Decreased edema.
Mild pulmonary vascular congestion.
Patchy retrocardiac opacity, pneumonia suspected.
Hyperinflation. No focal consolidation.
Endotracheal tube 3 cm above carina.
Degenerative changes thoracic spine.
Left subclavian port. Otherwise negative.
Bilateral nodules, metastases suspected.
Severe emphysema. Apical pleural scarring.
Post sternotomy. Mediastinal clips.
Small hiatal hernia, otherwise normal.
Stable cardiomegaly, pulmonary venous hypertension.
No pulmonary nodules. No adenopathy.
Worsening multifocal pneumonia.
Hazy perihilar opacities, pulmonary edema.
No displaced rib fracture.
Azygos lobe. No consolidation.
No consolidation. Normal mediastinal contours.
Pulmonary hyperinflation, basal atelectasis.
Clear costophrenic angles bilaterally.
Dual lead pacemaker. Cardiomegaly.
Scattered granulomas. No pneumonia.
Mediastinal lipomatosis. Cardiomegaly, moderate.
Enlarged cardiac silhouette. Edema.
Postoperative changes. Persistent pneumoperitoneum.
Unchanged. No pneumothorax. No consolidation.
Fractures ribs 5, 6, 7.
Thoracic dextroscoliosis. Osteopenia.
""".strip().splitlines()

OTHERS = """
Sin derrame pleural ni neumotórax. Corazón de tamaño normal.
Cardiomegalia. No se observan infiltrados pulmonares.
Atelectasia laminar basal izquierda. Elevación del hemidiafragma.
No consolidaciones. Senos costofrénicos libres.
Pas de pneumothorax. Silhouette cardiaque normale.
Cardiomégalie stable. Surcharge hilaire bilatérale.
Absence de foyer de consolidation. Pas de fracture.
Kein Pneumothorax. Kein Pleuraerguss. Herz normal groß.
Herzschatten grenzwertig. Keine pneumonischen Infiltrate.
Het hart is niet vergroot. Geen pneumothorax.
Geen infiltraten of pleuravocht in de rechter long.
Ausência de derrame pleural. Área cardíaca normal.
Pulmões sem consolidações. Não há pneumotórax.
Non versamento pleurico. Ombra cardiaca nei limiti.
Sylwetka serca niepowiększona. Pola płucne bez zmian.
Hjertet er ikke forstørret. Ingen pneumothorax.
Hjärtat är normalstort. Inga infiltrat eller pleuravätska.
Kardiyomegali yok. Plevral efüzyon saptanmadı.
肺野清晰，心影增大。
Легочные поля без очаговых теней.
심장 크기 정상. 폐 병변 없음.
لا يوجد انصباب جنبي.
心臓は正常大
""".strip().splitlines()


@pytest.mark.parametrize("text", TELEGRAPHIC)
def test_telegraphic_english_is_english(text):
    assert foreign([text]) == 0


@pytest.mark.parametrize("text", OTHERS)
def test_other_languages_are_not(text):
    assert foreign([text]) == 1


def test_short_and_empty_texts_are_not_counted():
    assert foreign(["", " ", "Normal.", "No pneumothorax.", "___ 12"]) == 0


def test_codes():
    assert is_english([]) and is_english(["en", "en-GB"])
    assert not is_english(["en", "es"])


def test_a_long_text_takes_linear_time():
    assert foreign(["a" * 100_000, "\n" * 100_000]) == 0
