"""DINOv2's self-supervised method for radiographs (arXiv:2304.07193).

One part a file: images (:mod:`image_sources`, :mod:`image_cache`), crops and masks
(:mod:`augmentation`, :mod:`masking`, :mod:`batches`), the networks (:mod:`backbone`, :mod:`head`,
:mod:`student_teacher`), losses (:mod:`targets`, :mod:`dino_loss`, :mod:`ibot_loss`,
:mod:`koleo_loss`), what changes over a run (:mod:`schedules`, :mod:`param_groups`), and what keeps
it safe and gives the result (:mod:`watch`, :mod:`checkpoints`, :mod:`export`).
``training/pretrain_encoder.py`` puts them together.
"""
