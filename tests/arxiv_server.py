"""A small arXiv on loopback: search API (Atom) and OAI-PMH over given records, with faults.

Also here: the records that the tests of fetch_arxiv.py and tools/harvest_oai.py use.

It keeps arXiv's rules, so that a client that breaks them is seen: at most 2,000 entries per page
and 30,000 per query, dates as twelve digits, addresses of limited length. Everything asked for
stands in server.log.
"""

import contextlib
import functools
import gzip
import hashlib
import importlib
import json
import multiprocessing
import random
import re
import resource
import socket
import struct
import sys
import threading
import time
from datetime import datetime
from email.utils import parsedate_to_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape

import pytest
from conftest import LABELS

ATOM_HEAD = (
    "<?xml version='1.0' encoding='UTF-8'?>\n"
    '<feed xmlns:opensearch="http://a9.com/-/spec/opensearch/1.1/" '
    'xmlns:arxiv="http://arxiv.org/schemas/atom" xmlns="http://www.w3.org/2005/Atom">'
    "<title>arXiv Query</title>"
)
OAI_HEAD = (
    '<?xml version="1.0" encoding="UTF-8"?>\n<OAI-PMH xmlns="http://www.openarchives.org/OAI/2.0/">'
)
HTML = b"<!DOCTYPE html><html><head><title>arXiv</title></head><body><p>Back soon<br></body></html>"

WORDS = (
    "scheme bundle curvature lattice metric form cone knot moduli volume flow convex sheaf torus "
    "map disc"
).split()
MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()


def text_of(number):
    """Forty words that no other number gives."""
    chooser = random.Random(number)
    return " ".join(chooser.choice(WORDS) for _ in range(40)) + f" number {number}."


def snapshot_entry(number, category, **changes):
    """One record in the snapshot's layout; keyword arguments replace its fields."""
    month, day = 1 + number % 12, 1 + number % 28
    moment = f"{day} {MONTHS[month - 1]} {2014 + number % 10}"
    entry = {
        "id": f"{14 + number % 10}{month:02d}.{number:05d}",
        "submitter": None,
        "title": f"On the\n  {WORDS[number % len(WORDS)]} of Kähler type {number}",
        "comments": 'a "categories": "math.QA" in quotation marks',
        "categories": f"{category} math.GT" if number % 3 else category,
        "abstract": f"  {text_of(number)}\nA second line.\n",
        "versions": [{"version": "v1", "created": f"Mon, {moment} 00:00:00 GMT"}],
        "update_date": "2024-01-01",
    }
    return entry | changes


def study_entries(per_class=20):
    return [
        snapshot_entry(5 * n + k, name) for n in range(per_class) for k, name in enumerate(LABELS)
    ]


def write_snapshot(path, entries):
    text = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def parquet_hashes(folder):
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.glob("data/*"))
    }


def hashes_from_snapshot(entries, folder):
    """The hashes of the parquet files that fetch_arxiv.py makes of a snapshot of these entries."""
    import fetch_arxiv

    folder.mkdir(exist_ok=True)
    file = write_snapshot(folder / "snapshot.jsonl", entries)
    command = [
        "fetch_arxiv.py",
        "--source",
        "snapshot",
        "--snapshot_file",
        str(file),
        "--disable_tqdm",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [*command, "--output_dir", str(folder / "dataset")])
        fetch_arxiv.main()
    return parquet_hashes(folder / "dataset")


def run_main(name, arguments):
    sys.argv = [f"{name}.py", *map(str, arguments)]
    importlib.import_module(name).main()


def start(name, *arguments):
    """Start a script in a process that can be killed: a fork, which has all imports already."""
    process = multiprocessing.get_context("fork").Process(target=run_main, args=(name, arguments))
    process.start()
    return process


@contextlib.contextmanager
def full_disk(size):
    """A limit on the size of a file stands for the full disk: writing fails half-way, too."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


moment = functools.cache(parsedate_to_datetime)


def published(record):
    return moment(record["versions"][0]["created"])


def atom_entry(record, fault=None):
    day = f"{published(record):%Y-%m-%dT%H:%M:%SZ}"
    categories = record["categories"].split()
    summary = (
        "" if fault == "no summary" else f"<summary>{escape(record['abstract'] or '')}</summary>"
    )
    return (
        f"<entry><id>http://arxiv.org/abs/{record['id']}v2</id>"
        f"<title>{escape(record['title'])}</title><updated>{day}</updated>{summary}"
        f"<published>{'' if fault == 'no date' else day}</published>"
        + "".join(
            f'<category term="{name}" scheme="http://arxiv.org/schemas/atom"/>'
            for name in sorted(categories)
        )
        + f'<arxiv:primary_category term="{categories[0]}"/>'
        + "<author><name>Zoë Müller</name></author></entry>\n"
    )


def oai_record(record, deleted=False):
    header = (
        f"<identifier>oai:arXiv.org:{record['id']}</identifier><datestamp>2024-01-01</datestamp>"
    )
    if deleted:
        return f'<record><header status="deleted">{header}</header></record>'
    return (
        f"<record><header>{header}</header><metadata>"
        f'<arXiv xmlns="http://arxiv.org/OAI/arXiv/"><id>{record["id"]}</id>'
        f"<created>{published(record):%Y-%m-%d}</created><updated>2023-12-31</updated>"
        "<authors><author><keyname>Müller</keyname></author></authors>"
        f"<title>{escape(record['title'])}</title>"
        f"<categories>{record['categories']}</categories>"
        f"<abstract>{escape(record['abstract'] or '')}</abstract>"
        "</arXiv></metadata></record>\n"
    )


def is_closed_by_client(connection):
    """Return whether the client has closed a connection, without taking bytes from it."""
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except (BlockingIOError, TimeoutError):
        return False
    except OSError:  # reset
        return True


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body leave together

    def log_message(self, *_):
        pass

    def handle(self):
        with self.server.guard:
            # Not the number of threads here: a busy machine may run this one after the client has
            # closed and moved on.
            used = [other for other in self.server.connections if not is_closed_by_client(other)]
            self.server.connections.append(self.connection)
            self.server.most_connections = max(self.server.most_connections, len(used) + 1)
        try:
            super().handle()
        finally:
            with self.server.guard:
                self.server.connections.remove(self.connection)

    def do_GET(self):
        server = self.server
        path, query = urlsplit(self.path).path, urlsplit(self.path).query
        query = {key: values[0] for key, values in parse_qs(query).items()}
        with server.guard:
            number = len(server.log)
            server.log.append(
                {"time": time.monotonic(), "agent": self.headers["User-Agent"], **query}
            )
        fault = server.fault(number, query)
        if fault == "silence":
            self.connection.settimeout(20)
            with contextlib.suppress(OSError):
                self.connection.recv(1)  # until the client gives up
            self.close_connection = True
            return
        if fault == "reset":  # closing with SO_LINGER 0 sends RST
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
            return
        if fault == "drip, headers":
            return self.drip(b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 200)
        if fault == "no headers":  # bytes that are not HTTP
            self.wfile.write(b"<feed>")
            self.close_connection = True
            return
        if fault and fault[:3].isdigit():
            headers = {"Retry-After": fault.split()[1]} if " " in fault else {}
            return self.answer(HTML, int(fault[:3]), headers)
        if fault == "html":
            return self.answer(HTML)
        if len(self.path) > server.longest_address:
            return self.answer(HTML, 414)
        status, text = self.search(query, fault) if path == "/api/query" else self.oai(query, fault)
        body = text.encode()
        if fault == "drip":  # a byte now and then: no silence, and no end
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.drip(body)
        elif fault == "cut":  # the length is announced, the connection ends before
            self.answer(body, status, sent=body[: len(body) // 2])
        elif fault == "cut feed":  # a whole answer, a broken feed
            self.answer(body[: len(body) // 2], status)
        else:
            self.answer(body, status)

    def answer(self, body, status=200, headers=(), sent=None):
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.wfile.write(body if sent is None else sent)
        self.close_connection = sent is not None

    def drip(self, content):
        self.close_connection = True
        with contextlib.suppress(OSError):  # the client gives up
            for byte in content:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                if self.server.stopping.wait(0.1):
                    return

    def search(self, query, fault):
        start, size = int(query.get("start", 0)), int(query.get("max_results", 10))
        if size > 2000 or start + size > 30000 + size - 1:
            return 400, "<error>too many</error>"
        if query.get("id_list"):
            asked = set(query["id_list"].split(","))
            found = [record for record in self.server.records if record["id"] in asked]
        else:
            pattern = (
                r"\((cat:[\w.-]+(?: OR cat:[\w.-]+)*)\) AND submittedDate:\[(\d{12}) TO (\d{12})\]"
            )
            match = re.fullmatch(pattern, query["search_query"])
            if not match or query["sortBy"] != "submittedDate":
                return 400, "<error>query</error>"
            categories = set(match[1].replace("cat:", "").split(" OR "))
            low, high = (
                datetime.strptime(text + "+0000", "%Y%m%d%H%M%z") for text in match.groups()[1:]
            )
            found = [r for r in self.server.records if categories & set(r["categories"].split())]
            found = [r for r in found if low <= published(r) <= high]
        found.sort(
            key=lambda record: (published(record), record["id"]),
            reverse=query["sortOrder"] == "descending",
        )
        total = len(found) + {"one more": 1, "one less": -1}.get(fault, 0)
        page = found[start : start + size]
        if fault == "empty":
            page = []
        elif fault == "nothing":
            page, total = [], 0
        elif fault == "short":
            page = page[: len(page) // 2]
        elif fault == "out of order":
            page.reverse()
        elif fault == "twice":  # in place of another
            page[1:2] = page[:1]
        elif fault == "twice, counted":
            page, total = [*page[:1], *page], total + 1
        faults = [
            "no date" if r["id"] in self.server.undated else fault if k == 1 else None
            for k, r in enumerate(page)
        ]
        entries = "".join(map(atom_entry, page, faults))
        return 200, (
            f"{ATOM_HEAD}<opensearch:itemsPerPage>{size}</opensearch:itemsPerPage>"
            f"<opensearch:totalResults>{total}</opensearch:totalResults>"
            f"<opensearch:startIndex>{start}</opensearch:startIndex>\n{entries}</feed>"
        )

    def oai(self, query, fault):
        token = query.get("resumptionToken")
        if (query.get("verb"), query.get("metadataPrefix")) != (
            "ListRecords",
            None if token else "arXiv",
        ):
            return 200, f'{OAI_HEAD}<error code="badArgument">no</error></OAI-PMH>'
        if fault in ("bad token", "bad token, 400") and token:
            status = 400 if fault.endswith("400") else 200
            return (
                status,
                f'{OAI_HEAD}<error code="badResumptionToken">expired</error></OAI-PMH>',
            )
        name, start = token.rsplit("|", 1) if token else (query["set"], 0)
        found = [
            r
            for r in self.server.records
            if name.split(":")[-1] in {c[5:] for c in r["categories"].split()}
        ]
        if not name.startswith("math:math:") or not found or fault == "nothing":
            return 200, f'{OAI_HEAD}<error code="noRecordsMatch">none</error></OAI-PMH>'
        start, size = int(start), self.server.oai_page
        more = start + size < len(found)
        records = "".join(map(oai_record, found[start : start + size])) + oai_record(
            {"id": "1401.99999"}, True
        )
        next_token = f"{name}|{start + size}" if more else ""
        if fault == "same token" and token:
            next_token = token
        if fault == "tokens in a circle" and token:
            next_token = f"{name}|{size if start > size else start + size}"
        if not token and not more:
            end = ""
        else:
            end = f"<resumptionToken>{next_token}</resumptionToken>"
        return 200, f"{OAI_HEAD}<ListRecords>{records}{end}</ListRecords></OAI-PMH>"


def timeout_flags(fault=None):
    """Short only for a slow server: a busy machine can take half a second, which costs requests."""
    return ["--timeout_seconds", 1 if fault in ("silence", "drip", "drip, headers") else 30]


@contextlib.contextmanager
def arxiv_server(records):
    """Serve records in the snapshot's layout; yields the server: api_url, oai_url, log, faults.

    faults maps the number of a request to a fault; fault(number, query) may be replaced by a rule
    of one's own.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.records, server.log, server.faults = records, [], {}
    server.guard, server.stopping = threading.Lock(), threading.Event()
    server.undated = set()  # ids of papers that are sent without a date
    server.connections, server.most_connections = [], 0
    server.fault = lambda number, query: server.faults.get(number)
    server.oai_page, server.longest_address = 15, 60000
    server.api_url = f"http://127.0.0.1:{server.server_address[1]}/api/query"
    server.oai_url = f"http://127.0.0.1:{server.server_address[1]}/oai"
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
    )
    thread.start()
    try:
        yield server
    finally:
        server.stopping.set()
        server.shutdown()
        server.server_close()
