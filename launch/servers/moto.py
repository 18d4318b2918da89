"""A small S3 server for demos and tests: moto's, on loopback, made safe for several writers.

As a process: `python -m launch.servers.moto --endpoint-file FILE`. It keeps everything in memory and accepts any credentials.
"""

import argparse
import io
import logging
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from moto.moto_server.threaded_moto_server import MotoRequestHandler
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import BaseWSGIServer, make_server

HOST = "127.0.0.1"
WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def atomic_creates(app: WsgiApp) -> WsgiApp:
    """`app`, but conditional writes happen one after the other: moto looks and writes in two steps, between which another could write.

    The body is read before the lock is taken, so that a client which freezes in the middle of its request holds up nobody.
    """
    lock = threading.Lock()

    def serve(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ.get("HTTP_IF_NONE_MATCH") != "*":
            return app(environ, start_response)
        environ["wsgi.input"] = io.BytesIO(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)))
        with lock:
            return app(environ, start_response)

    return serve


def build_moto_server(port: int) -> tuple[BaseWSGIServer, str]:
    """A server that is not serving yet, and its endpoint URL. Port 0 means any free port."""
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    app = atomic_creates(DomainDispatcherApplication(create_backend_app))
    server = make_server(HOST, port, app, threaded=True, request_handler=MotoRequestHandler)
    return server, f"http://{HOST}:{server.server_port}"


def write_endpoint(path: Path, endpoint_url: str) -> None:
    """Writes the URL to a file that appears complete: whoever waits for it may read it as soon as it is there."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_text(endpoint_url + "\n", encoding="utf-8")
    temporary.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description="moto's S3 server on loopback")
    parser.add_argument("--port", type=int, default=0, help="0 means any free port")
    parser.add_argument("--endpoint-file", type=Path, required=True, help="where to write the endpoint's URL once it answers")
    arguments = parser.parse_args()
    server, endpoint_url = build_moto_server(arguments.port)
    write_endpoint(arguments.endpoint_file, endpoint_url)
    server.serve_forever()


if __name__ == "__main__":
    main()
