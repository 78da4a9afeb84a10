"""Studies that come by themselves, and requests: a folder that fills, an archive, HTTP.

:mod:`arrivals` says which studies of a folder are complete, :mod:`results` reports them and writes
documents, :mod:`journal` remembers across restarts. :mod:`watch` joins them for ``llava-rad
watch``; :mod:`listener` receives by DICOM C-STORE and :mod:`sender` sends structured reports back,
for ``llava-rad listen``.

For ``llava-rad serve``, :mod:`http_server` runs :mod:`app`, the endpoints. Each request passes the
:mod:`guard`; :mod:`uploads` reads its files, :mod:`service` makes them a study, and :mod:`work` is
the queue before the models. :mod:`page` is the web page.
"""
