"""Studies that come by themselves: a folder that fills, an archive that sends.

:mod:`arrivals` says which studies of a folder are complete, :mod:`results` reports them and writes
documents, :mod:`journal` remembers across restarts. :mod:`watch` joins them for ``llava-rad
watch``; :mod:`listener` receives by DICOM C-STORE and :mod:`sender` sends structured reports back,
for ``llava-rad listen``.
"""
