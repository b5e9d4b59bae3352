"""Images of the web: which are fetched, from where, and how much of them.

Whoever may put an address into a prompt would else have this machine ask servers that only it can
reach. So nothing is fetched without permission; a name is looked up once, what it stands for is
checked, and the connection goes to the address that was checked. So it is with each redirection.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeAlias

import httpx

from steerable_llm.errors import InvalidInputError

_REDIRECTIONS = 5
_PORTS = {"http": 80, "https": 443}
# The part of IPv6 that stands for all of IPv4 where a network translates (RFC 6052).
_TRANSLATED = ipaddress.IPv6Network("64:ff9b::/96")
# What a network translates as it likes (RFC 8215).
_TRANSLATED_HERE = ipaddress.IPv6Network("64:ff9b:1::/48")
# What a host writes its own IPv4 addresses into (RFC 4291).
_COMPATIBLE = ipaddress.IPv6Network("::/96")


class ImageRefused(Exception):
    """Why an image cannot be had, and how to mend it; goes on behind "image 0 of the prompt"."""


@dataclass(frozen=True)
class WebImages:
    """Which images of the web a model may fetch.

    Attributes:
        allowed: Hosts, such as `("cdn.example.com", "*.example.org", "pages.local:8000")`, where
            `*.` stands for any name below and `*` alone for any host; a port must be named unless
            it is the usual one. Or a function that is asked of each address, redirections too.
        private: Fetch from private, loopback and link-local addresses as well.
        most_bytes: Refuse larger files.
        seconds: Until an image counts as not to be had, from the first look-up to the last byte.
    """

    allowed: Sequence[str] | Callable[[str], bool] = ()
    private: bool = False
    most_bytes: int = 20_000_000
    seconds: float = 20.0

    @classmethod
    def of(cls, given: ImageUrls) -> WebImages:
        """Read what a caller permits; None permits nothing.

        Raises:
            InvalidInputError: It is neither hosts nor a function.
        """
        if given is None or isinstance(given, WebImages):
            return given or cls()
        if callable(given):
            return cls(given)
        if isinstance(given, Sequence) and not isinstance(given, str):
            if all(isinstance(host, str) and host and "/" not in host for host in given):
                return cls(tuple(given))
        raise InvalidInputError(
            f"image_urls is {given!r}: give hosts, such as ['images.example.com'], a function from "
            "an address to True or False, or WebImages(...)"
        )

    def permits(self, url: httpx.URL) -> bool:
        """Tell whether an address may be asked."""
        if callable(self.allowed):
            return bool(self.allowed(str(url)))
        host, port = url.raw_host.decode(), url.port or _PORTS[url.scheme]
        return any(_fits(pattern.lower(), host, port, url.scheme) for pattern in self.allowed)

    def fetch(self, address: str) -> bytes:
        """Return the file that an address names.

        Raises:
            ImageRefused: It may not be fetched, cannot be had in time, is too large, or no image.
        """
        found: Future[bytes] = Future()

        def work() -> None:
            try:
                found.set_result(self._followed(address))
            except BaseException as error:
                found.set_exception(error)

        # In a thread of its own: no single time limit covers looking a name up, or a server that
        # sends a byte now and then.
        threading.Thread(target=work, name="steerable-image", daemon=True).start()
        try:
            return found.result(self.seconds)
        except (TimeoutError, httpx.TimeoutException):
            raise ImageRefused(
                f"at {_short(address)} did not come within {self.seconds:g} seconds: give its "
                "bytes, or more time with image_urls=WebImages(..., seconds=...)"
            ) from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as error:
            said = " ".join(str(error).split()) or type(error).__name__
            raise ImageRefused(
                f"at {_short(address)} cannot be fetched ({said}): mend the address, or give the "
                "bytes of the image"
            ) from error

    def _followed(self, address: str) -> bytes:
        stop = time.monotonic() + self.seconds
        url = httpx.URL(address)
        # Proxies of the environment would look names up themselves, unchecked.
        with httpx.Client(trust_env=False, timeout=self.seconds) as client:
            for _ in range(1 + _REDIRECTIONS):
                with client.stream(
                    "GET",
                    url.copy_with(host=self._checked(url)),
                    headers={
                        "Host": url.netloc.decode(),
                        "Accept": "image/*",
                        "Accept-Encoding": "identity",
                    },
                    extensions={"sni_hostname": url.raw_host.decode()},
                ) as response:
                    if not response.has_redirect_location:
                        return self._body(response, url, stop)
                    url = url.join(response.headers["Location"])
        raise ImageRefused(
            f"at {_short(address)} is redirected more than {_REDIRECTIONS} times: give the address "
            "where it ends"
        )

    def _checked(self, url: httpx.URL) -> str:
        """Return the address that a host's name stands for, which may be asked."""
        if url.scheme not in _PORTS or not url.host:
            raise ImageRefused(f"has the address {_short(url)}: give one of http or https")
        if not self.permits(url):
            raise ImageRefused(
                f"is at {_short(url)}, and the web is asked only with permission: load the model "
                f"with image_urls=[{url.netloc.decode()!r}], or give the bytes of the image"
            )
        found = socket.getaddrinfo(
            url.raw_host.decode(), url.port or _PORTS[url.scheme], type=socket.SOCK_STREAM
        )
        addresses = [str(place[4][0]) for place in found]
        if not self.private and not all(map(_is_public, addresses)):
            raise ImageRefused(
                f"is at {_short(url)}, an address of this machine or its own network: give the "
                "bytes of the image, or allow it with image_urls=WebImages(..., private=True)"
            )
        return addresses[0]

    def _body(self, response: httpx.Response, url: httpx.URL, stop: float) -> bytes:
        if response.status_code != httpx.codes.OK:
            raise ImageRefused(
                f"at {_short(url)} is not there (the server answers {response.status_code}): mend "
                "the address, or give the bytes of the image"
            )
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        coded = response.headers.get("Content-Encoding", "identity").lower()
        if kind and not kind.startswith(("image/", "application/octet-stream", "binary/")):
            raise ImageRefused(f"at {_short(url)} is {kind}: give the address of an image")
        if coded != "identity":  # a small answer might become a huge one
            raise ImageRefused(f"at {_short(url)} comes compressed ({coded}): give its bytes")
        data = bytearray()
        size = response.headers.get("Content-Length", "0")
        too_large = size.isdigit() and int(size) > self.most_bytes
        if not too_large:
            for piece in response.iter_raw():
                data += piece
                if time.monotonic() > stop:
                    raise httpx.ReadTimeout("too slow")
                too_large = len(data) > self.most_bytes
                if too_large:
                    break
        if too_large:
            raise ImageRefused(
                f"at {_short(url)} is larger than {self.most_bytes:,} bytes: give a smaller one, "
                "or allow more with image_urls=WebImages(..., most_bytes=...)"
            )
        return bytes(data)


ImageUrls: TypeAlias = WebImages | Sequence[str] | Callable[[str], bool] | None
"""What a caller permits: see `WebImages`."""


def _fits(pattern: str, host: str, port: int, scheme: str) -> bool:
    named, colon, own = pattern.rpartition(":")
    # An address of IPv6 has colons of its own, and stands in brackets before a port.
    if colon and own.isdigit() and (":" not in named or named.endswith("]")):
        pattern, usual = named, int(own)
    else:
        usual = _PORTS[scheme]
    if port != usual:
        return False
    pattern = pattern.removeprefix("[").removesuffix("]")
    return pattern in ("*", host) or (pattern.startswith("*.") and host.endswith(pattern[1:]))


def _is_public(address: str) -> bool:
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        if found in _TRANSLATED_HERE or found.is_site_local:
            return False
        # What another address is wrapped in says nothing of where it leads.
        inside = found.ipv4_mapped or found.sixtofour or (found.teredo or (None, None))[1]
        if found in _TRANSLATED or found in _COMPATIBLE:
            inside = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inside is not None:
            return _is_public(str(inside))
    return found.is_global and not found.is_multicast


def _short(address: object) -> str:
    said = " ".join(str(address).split())
    return said if len(said) <= 100 else f"{said[:100]}..."
