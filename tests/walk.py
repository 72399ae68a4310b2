"""A fork server behind a wall, for the test that walks the README and the docs.

``python tests/walk.py SOCKET`` is tests/fork_server.py, except that its scripts reach nothing but
this machine. Requests to arXiv go to the server of tests/arxiv_server.py instead (ARXIV_SERVER is
its address). Pauses are short, because that server needs no politeness. The Hub is chosen by
HF_ENDPOINT, as any user would do it.
"""

import ipaddress
import os
import socket
import sys
import time
from urllib.parse import urlsplit, urlunsplit

PATHS = {"export.arxiv.org": "/api/query", "oaipmh.arxiv.org": "/oai"}


def is_local(host):
    if host in (None, "", "localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def block_network():
    """Connections and name look-ups beyond this machine fail, as without a network."""
    connect, connect_ex = socket.socket.connect, socket.socket.connect_ex
    getaddrinfo = socket.getaddrinfo

    def check(connection, address):
        if connection.family != socket.AF_UNIX and not is_local(address[0]):
            raise OSError(f"the walk may not reach {address[0]}")

    def connect_locally(connection, address):
        check(connection, address)
        return connect(connection, address)

    def connect_ex_locally(connection, address):
        check(connection, address)
        return connect_ex(connection, address)

    def find_locally(host, *arguments, **more):
        name = host.decode() if isinstance(host, bytes) else host
        if not is_local(name):
            raise socket.gaierror(socket.EAI_AGAIN, f"the walk may not reach {name}")
        return getaddrinfo(host, *arguments, **more)

    socket.socket.connect = connect_locally
    socket.socket.connect_ex = connect_ex_locally
    socket.getaddrinfo = find_locally


def redirect_arxiv():
    """Send requests to arXiv to the server at ARXIV_SERVER."""
    import requests

    send = requests.Session.send

    def send_locally(session, request, **settings):
        parts = urlsplit(request.url)
        if parts.hostname in PATHS:
            local = urlsplit(os.environ["ARXIV_SERVER"])
            path = PATHS[parts.hostname]
            request.url = urlunsplit((local.scheme, local.netloc, path, parts.query, ""))
        return send(session, request, **settings)

    requests.Session.send = send_locally


def shorten_pauses():
    sleep = time.sleep
    time.sleep = lambda seconds: sleep(min(seconds, 0.01))


if __name__ == "__main__":
    block_network()
    redirect_arxiv()
    shorten_pauses()
    from fork_server import serve

    serve(sys.argv[1])
