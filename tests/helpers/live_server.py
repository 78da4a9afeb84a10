"""A server of tiny models in this process, asked over loopback as clients do."""

import contextlib
import threading

import httpx2 as httpx
from helpers.waiting import PATIENCE, wait_for

from llava_rad.reports import ReportWriter
from llava_rad.serve.app import create_app
from llava_rad.serve.http_server import HttpServer
from llava_rad.serve.service import ServiceSettings
from llava_rad.serve.work import Task


class LiveServer:
    """A running server.

    Attributes:
        service: its parts.
        said: lines of its log.
        url: of it.
        http: a client.
        thread: that serves.
    """

    def __init__(self, app, server, said):
        self.app, self.server, self.said = app, server, said
        self.service = app.state.service
        self.url = server.address
        self.http = httpx.Client(base_url=self.url, timeout=PATIENCE)

    def post(self, path, files, **fields):
        """Send contents as files, under names that nobody should see."""
        parts = [("files", (f"DOE^JANE {i}.dcm", f)) for i, f in enumerate(files)]
        return self.http.post(path, files=parts, data=fields)

    @contextlib.contextmanager
    def busy(self):
        """Keep the models' thread from working meanwhile."""
        released = threading.Event()
        task = Task(released.wait)
        with self.service.work.place() as place:
            self.service.work.submit(task, place)
            try:
                yield
            finally:
                released.set()
            task.future.result(PATIENCE)


@contextlib.contextmanager
def live_server(models, **settings):
    """Serve models until the block ends."""
    said = []
    settings = {"max_new_tokens": 8, "say": said.append, **settings}
    writers = [ReportWriter.of(model) for model in models]
    app = create_app(writers, ServiceSettings(**settings))
    with HttpServer("127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.run, args=(app,))
        thread.start()
        live = LiveServer(app, server, said)
        live.thread = thread
        try:
            wait_for(lambda: answers(live))
            yield live
        finally:
            live.http.close()
            server.stop()
            thread.join(PATIENCE)


def answers(live):
    with contextlib.suppress(httpx.TransportError):
        return live.http.get("/health").status_code == 200
    return False
