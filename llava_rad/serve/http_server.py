"""The application on a socket, until a signal comes; what is in hand is then finished."""

import asyncio
import logging
import socket
from types import TracebackType

import uvicorn
from fastapi import FastAPI

from llava_rad.errors import DataError
from llava_rad.serve.service import Service

# For what is left in the connections when all is answered; one may never be read.
_LAST_SECONDS = 10


class HttpServer:
    """A server on an address that is taken when it is entered, before a model is loaded.

    Args:
        host: name or address.
        port: 0 takes a free one.

    Attributes:
        port: the one that was taken.

    Raises:
        DataError: the address cannot be had.
    """

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port

    def __enter__(self) -> "HttpServer":
        try:
            [(family, _, _, _, address), *_] = socket.getaddrinfo(
                self.host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            self._socket = socket.socket(family, socket.SOCK_STREAM)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind(address)
        except (OSError, UnicodeError) as error:  # the latter of a name with a label too long
            raise DataError(
                f"cannot listen ({getattr(error, 'strerror', None) or error})",
                where=f"{self.host}:{self.port}",
                remedy="Choose another --port or --host",
                kind="no_port",
            ) from error
        self.port = self._socket.getsockname()[1]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    @property
    def address(self) -> str:
        """Such as ``http://127.0.0.1:8000``."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    def run(self, app: FastAPI) -> None:
        """Serve until SIGINT or SIGTERM, which are raised again at the end.

        From the first signal on new requests are refused (503) and those in hand are finished; a
        second SIGINT does not wait for them.
        """
        # Its own lines quote what clients send.
        logging.getLogger("uvicorn").setLevel(logging.CRITICAL + 1)
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            http="h11",
            ws="none",
            timeout_graceful_shutdown=_LAST_SECONDS,
        )
        self._server = _Server(config, app.state.service)
        self._server.run(sockets=[self._socket])

    def stop(self) -> None:
        """End as a signal does, from another thread than the one that serves."""
        self._server.should_exit = True


class _Server(uvicorn.Server):
    """Answers new requests, with a refusal, as long as old ones are being finished."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish what is in hand, then close the connections."""
        self._service.work.close()
        while self._service.work.in_hand and not self.force_exit:
            await asyncio.sleep(0.05)
        await super().shutdown(sockets)
