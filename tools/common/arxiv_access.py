"""arXiv's categories, and requests to its services as its terms of use want them: paced."""

import contextlib
import functools
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from typing import NoReturn

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, Retry
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import InvalidHeader, MaxRetryError

from common.cli import fail, one_line

# Archives and their categories (arxiv.org/category_taxonomy)
TAXONOMY = {
    "astro-ph": "CO EP GA HE IM SR",
    "cond-mat": "dis-nn mes-hall mtrl-sci other quant-gas soft stat-mech str-el supr-con",
    "cs": "AI AR CC CE CG CL CR CV CY DB DC DL DM DS ET FL GL GR GT HC IR IT LG LO MA MM MS NA NE "
    "NI OH OS PF PL RO SC SD SE SI SY",
    "econ": "EM GN TH",
    "eess": "AS IV SP SY",
    "gr-qc": "",
    "hep-ex": "",
    "hep-lat": "",
    "hep-ph": "",
    "hep-th": "",
    "math": "AC AG AP AT CA CO CT CV DG DS FA GM GN GR GT HO IT KT LO MG MP NA NT OA OC PR QA RA "
    "RT SG SP ST",
    "math-ph": "",
    "nlin": "AO CD CG PS SI",
    "nucl-ex": "",
    "nucl-th": "",
    "physics": "acc-ph ao-ph app-ph atm-clus atom-ph bio-ph chem-ph class-ph comp-ph data-an ed-ph "
    "flu-dyn gen-ph geo-ph hist-ph ins-det med-ph optics plasm-ph pop-ph soc-ph space-ph",
    "q-bio": "BM CB GN MN NC OT PE QM SC TO",
    "q-fin": "CP EC GN MF PM PR RM ST TR",
    "quant-ph": "",
    "stat": "AP CO ME ML OT TH",
}
# Second names of a category. Papers carry both, but the primary category is always the first name.
ALIASES = {
    "cs.NA": "math.NA",
    "cs.SY": "eess.SY",
    "math.IT": "cs.IT",
    "math.MP": "math-ph",
    "q-fin.EC": "econ.GN",
    "stat.TH": "math.ST",
}
FIRST_DAY = date(1991, 8, 14)  # of arXiv
TERMS_DELAY = 3.0  # seconds between two requests, arXiv's terms of use
BUSY = (429, *range(500, 600))  # statuses of a server that may answer later
LONGEST_PAUSE = 300  # seconds, of the growing pauses between retries
LONGEST_RETRY_AFTER = 3600  # seconds that a server may ask for
# What --contact may be: an e-mail address, or the address of a page; header fields are ASCII.
CONTACT = re.compile(
    r"(?:mailto:)?[\w.+%-]+@(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,}"
    r"|https?://[\w.-]+(?::\d{1,5})?(?:/[\w./~%+-]*)?",
    re.ASCII,
)
LONGEST_CONTACT = 200  # characters


def category_names() -> list[str]:
    """Return the names of arXiv's categories. Older papers carry some archives as categories."""
    names = []
    for archive, endings in TAXONOMY.items():
        names.extend(f"{archive}.{ending}" for ending in endings.split())
        if "-" in archive:
            names.append(archive)
    return names


def check_dates(arguments: object) -> None:
    """Write start_date and end_date as YYYY-MM-DD. Exit with status 2 if that is impossible."""
    days = {}
    for flag in ("start_date", "end_date"):
        value = getattr(arguments, flag)
        try:
            days[flag] = date.fromisoformat(value)
        except ValueError as error:
            fail(f"--{flag} {value}: {error}; write YYYY-MM-DD")
        setattr(arguments, flag, days[flag].isoformat())  # 20140101 is a date, too
    if days["end_date"] < days["start_date"]:
        fail(
            f"--start_date {arguments.start_date} --end_date {arguments.end_date}: "
            "give the earlier day first"
        )
    today = datetime.now(UTC).date()  # where the day begins earlier, it is tomorrow already
    for flag, day in days.items():
        if not FIRST_DAY <= day <= today:
            fail(f"--{flag} {day}: give a day from {FIRST_DAY} to {today}, today in UTC")


def check_requests(
    url_flag: str, url: str, delay_seconds: float, timeout_seconds: float, num_retries: int
) -> None:
    """Exit with status 2 on an impossible way to ask, or one that violates arXiv's terms of use."""
    if num_retries < 0:
        fail(f"--num_retries {num_retries}: it must not be negative")
    if not 0 <= delay_seconds < 1e6:
        fail(f"--delay_seconds {delay_seconds:g}: give a number of seconds, at least 0")
    if not 0 < timeout_seconds < 1e6:
        fail(f"--timeout_seconds {timeout_seconds:g}: give a number of seconds above 0")
    address = re.fullmatch(r"https?://([\w.-]+)(:\d{1,5})?(/[^\s{}?#]*)?", url)
    if address is None:
        fail(f"{url_flag} {url} is not an http address")
    is_arxiv = re.search(r"(^|\.)arxiv\.org$", address[1].lower()) is not None
    if is_arxiv and delay_seconds < TERMS_DELAY:
        fail(
            f"--delay_seconds {delay_seconds:g}: arXiv's terms of use ask for {TERMS_DELAY:g} "
            "seconds between two requests"
        )


def check_contact(contact: str | None) -> None:
    """Exit with status 2 if --contact is not the address of a person or of a page."""
    if contact is None:
        return
    if len(contact) > LONGEST_CONTACT or CONTACT.fullmatch(contact) is None:
        fail(
            f"--contact {contact!r:.100} is neither an e-mail address nor that of a web page; "
            "write it like you@example.org"
        )


def user_agent(script: str, contact: str | None) -> str:
    """Return the User-Agent of a script's requests, with the address of who sends them."""
    purpose = f"{script}; requests"
    if contact is not None:
        is_mail = "@" in contact and not contact.startswith("mailto:")
        purpose += f"; mailto:{contact}" if is_mail else f"; {contact}"
    return f"arxiv-confusable-classification ({purpose})"


class Pace:
    """The pauses between requests: at least ``delay`` seconds from the end of one to the next."""

    def __init__(self, delay: float):
        self.delay = delay
        self.earliest = 0.0  # when the next request may be sent
        self.started = 0.0  # when the last request was sent
        self.requests = 0
        self.waited_seconds = 0.0

    def wait(self) -> None:
        """Sleep until the next request may be sent, and count that request."""
        pause = max(self.earliest - time.monotonic(), 0.0)
        time.sleep(pause)
        self.waited_seconds += pause
        self.requests += 1
        self.started = time.monotonic()

    def rest(self, seconds: float = 0.0) -> None:
        """A request has ended: let the next one wait for the delay, or longer."""
        self.earliest = max(self.earliest, time.monotonic() + max(self.delay, seconds))


class PacedRetry(Retry):
    """urllib3's retries of a request, each counted and paced like any other request."""

    def __init__(self, *arguments, pace: Pace, **options):
        super().__init__(*arguments, **options)
        self.pace = pace

    def new(self, **options) -> Retry:  # urllib3 makes a new object for every retry
        return super().new(pace=self.pace, **options)

    def sleep(self, response=None) -> None:
        """Wait for the growing pause, or for the Retry-After of the answer if that is longer."""
        pause = self.get_backoff_time()
        if response is not None:
            # A header that is neither a number nor a date asks for nothing.
            with contextlib.suppress(InvalidHeader):
                pause = max(pause, self.get_retry_after(response) or 0.0)
        self.pace.rest(pause)
        self.pace.wait()


@contextlib.contextmanager
def deadline(seconds: float, shutdown: Callable[[], None]) -> Iterator[threading.Event]:
    """Shut a connection down after some seconds; the event says whether that has happened.

    The timeout of a socket bounds a silence, not a server that sends a byte now and then.
    """
    is_late = threading.Event()

    def end() -> None:
        is_late.set()
        # There is nothing to shut down if the last byte has come meanwhile.
        with contextlib.suppress(OSError, RuntimeError, ValueError):
            shutdown()

    timer = threading.Timer(max(seconds, 0.0), end)
    timer.start()
    try:
        yield is_late
    finally:
        timer.cancel()


class PunctualConnection:
    """A connection whose headers must come whole within its timeout: urllib3 may retry then."""

    def getresponse(self):
        shutdown = functools.partial(self.sock.shutdown, socket.SHUT_RD)
        with deadline(self.timeout, shutdown) as is_late:
            response = super().getresponse()
        # Headers that were cut off look like whole ones.
        if is_late.is_set():
            raise TimeoutError("no complete headers within --timeout_seconds")
        return response


class PunctualHTTPConnection(PunctualConnection, HTTPConnection):
    pass


class PunctualHTTPSConnection(PunctualConnection, HTTPSConnection):
    pass


class PunctualHTTPPool(HTTPConnectionPool):
    ConnectionCls = PunctualHTTPConnection


class PunctualHTTPSPool(HTTPSConnectionPool):
    ConnectionCls = PunctualHTTPSConnection


class PoliteAdapter(HTTPAdapter):
    """Requests over one connection: paced, repeated by urllib3, and ended when they take too long.

    Answers with status 429 or 5xx and broken connections are repeated. A server that has never
    answered counts as unreachable: connecting to it is not tried again. An answer must be whole
    within ``timeout`` seconds.
    """

    def __init__(self, user_agent: str, pace: Pace, timeout: float, num_retries: int):
        self.user_agent = user_agent
        self.pace = pace
        self.timeout = timeout
        self.num_retries = num_retries
        self.is_connected = False  # whether the server has ever answered
        retries = PacedRetry(
            num_retries,
            connect=0,
            other=0,  # such as a certificate that is not valid
            status_forcelist=BUSY,
            backoff_factor=pace.delay,
            backoff_max=LONGEST_PAUSE,
            retry_after_max=LONGEST_RETRY_AFTER,
            pace=pace,
        )
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=retries)

    def init_poolmanager(self, *arguments, **options) -> None:
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = {
            "http": PunctualHTTPPool,
            "https": PunctualHTTPSPool,
        }

    def add_headers(self, request: requests.PreparedRequest, **options) -> None:
        request.headers["User-Agent"] = self.user_agent

    def send(self, request, stream=False, timeout=None, verify=True, cert=None, proxies=None):
        """Send a request when its time has come; return the answer with its whole body.

        Raises RequestException, whose first argument is a MaxRetryError if urllib3 has given up.
        """
        self.pace.wait()
        try:
            response = super().send(request, True, self.timeout, verify, cert, proxies)
            if not self.is_connected:
                self.is_connected = True
                self.max_retries = self.max_retries.new(connect=self.num_retries)
            self.read_body(response)
        finally:
            self.pace.rest()
        return response

    def read_body(self, response: requests.Response) -> None:
        """Read the body. Raises ReadTimeout if the time of the request ends before it does."""
        remaining = self.pace.started + self.timeout - time.monotonic()
        with deadline(remaining, response.raw.shutdown) as is_late:
            try:
                response.content  # noqa: B018 (reads the body and keeps it)
            except requests.RequestException:
                if not is_late.is_set():
                    raise
        # A body of unknown length that was cut off looks like a whole one.
        if is_late.is_set():
            raise requests.ReadTimeout("no complete answer within --timeout_seconds")


def is_final(error: Exception) -> bool:
    """Return whether asking again is of no use: a refusal, or urllib3 has asked again in vain."""
    if isinstance(error, requests.HTTPError):
        return True
    return bool(error.args) and isinstance(error.args[0], MaxRetryError)


def failure_reason(error: BaseException) -> str:
    """Return in one line why a request failed, without the address of the request."""
    if error.args and isinstance(error.args[0], MaxRetryError):
        return one_line(error.args[0].reason)
    return one_line(error)


def give_up(message: str) -> NoReturn:
    """Print in one line why a harvest is incomplete and exit with status 1."""
    print(f"incomplete: {message}; run the same command again to continue", file=sys.stderr)
    raise SystemExit(1)
