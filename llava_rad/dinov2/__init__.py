"""DINOv2's self-supervised method for radiographs (arXiv:2304.07193).

One part a file: images (:mod:`image_sources`, :mod:`image_cache`), crops and masks
(:mod:`augmentation`, :mod:`masking`, :mod:`batches`), the networks (:mod:`backbone` with
the layers of :mod:`llava_rad.kernels`, :mod:`head`, :mod:`pretrained_heads`,
:mod:`student_teacher`), losses (:mod:`targets`, :mod:`dino_loss`, :mod:`ibot_loss`,
:mod:`koleo_loss`), what changes over a run (:mod:`schedules`, :mod:`param_groups`), splitting
(:mod:`sharding`), what shows how it goes (:mod:`watch`,
:mod:`probe`, :mod:`curves`), and what is left (:mod:`export`).
``training/pretrain_encoder.py`` puts them together.
"""
