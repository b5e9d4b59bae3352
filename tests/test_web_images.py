"""Images of the web: fetched with permission alone, from public addresses, in bounds."""

from __future__ import annotations

import base64
import socket
import struct
import threading
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from vision_models import vision_llm
from web_server import Site, web_site

from steerable_llm.chat.vision import read_image
from steerable_llm.chat.web_images import ImageRefused, WebImages
from steerable_llm.errors import InvalidInputError

pytestmark = pytest.mark.enable_socket


def png(colour: str = "red", size: tuple[int, int] = (12, 8)) -> bytes:
    file = BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def site() -> Iterator[Site]:
    with web_site() as made:
        yield made


def here(site: Site, **more: Any) -> WebImages:
    """Permission for the server of a test, which is an address of this machine."""
    return WebImages(**{"allowed": [site.host], "private": True, **more})


def named(monkeypatch: pytest.MonkeyPatch, **addresses: str) -> None:
    """Let names stand for addresses, as a name server has it."""
    real = socket.getaddrinfo

    def look_up(host: str, *rest: Any, **more: Any) -> Any:
        return real(addresses.get(host.partition(".")[0], host), *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)


def test_without_permission_no_server_is_asked(site: Site) -> None:
    url = site.at("/shop.png", png())
    for nobody in (None, WebImages(), WebImages(["other.example"]), WebImages(lambda _: False)):
        with pytest.raises(InvalidInputError, match=r"only with permission.*image_urls=\['127"):
            read_image(url, 0, nobody)
    assert site.asked == []


def test_a_model_fetches_from_the_hosts_that_it_was_loaded_with(site: Site) -> None:
    url = site.at("/shop.png", png())
    asked = [{"role": "user", "content": [{"type": "image", "url": url}]}]
    with pytest.raises(InvalidInputError, match=r"image 0 of the prompt is at .* permission"):
        vision_llm("llava").encode(asked)
    assert vision_llm("llava", image_urls=here(site)).encode(asked)
    assert [path for path, _ in site.asked] == ["/shop.png"]


@pytest.mark.parametrize(
    ("allowed", "url", "is_allowed"),
    [
        (["a.example"], "https://a.example/x.png", True),
        (["A.example"], "https://a.EXAMPLE/x.png", True),
        (["a.example"], "https://b.a.example/x.png", False),
        (["a.example"], "https://a.example:8443/x.png", False),
        (["a.example:8443"], "https://a.example:8443/x.png", True),
        (["*.a.example"], "https://b.a.example/x.png", True),
        (["*.a.example"], "https://a.example/x.png", False),
        (["*.a.example"], "https://nota.example/x.png", False),
        (["*"], "https://anything.example/x.png", True),
        (["[2606:4700::1111]"], "https://[2606:4700::1111]/x.png", True),
        (["2606:4700::1111"], "https://[2606:4700::1111]/x.png", True),
        (["[2606:4700::1111]:8000"], "http://[2606:4700::1111]:8000/x.png", True),
        (["[2606:4700::1111]"], "http://[2606:4700::1111]:8000/x.png", False),
        (["[2606:4700::2222]"], "https://[2606:4700::1111]/x.png", False),
        (lambda url: url.endswith(".png"), "https://a.example/x.png", True),
        (lambda url: url.endswith(".png"), "https://a.example/x.gif", False),
    ],
)
def test_permission_is_by_host_or_by_a_function(
    monkeypatch: pytest.MonkeyPatch, allowed: Any, url: str, is_allowed: bool
) -> None:
    looked_up = []

    def look_up(host: str, *_: Any, **__: Any) -> Any:
        looked_up.append(host)
        raise socket.gaierror("no such name")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with pytest.raises(ImageRefused, match="cannot be fetched" if is_allowed else "permission"):
        WebImages(allowed).fetch(url)
    assert bool(looked_up) == is_allowed


@pytest.mark.parametrize("given", ["a.example", 3, [""], ["https://a.example/"], [None]])
def test_a_permission_that_is_none_is_refused(given: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"image_urls is .*: give hosts"):
        WebImages.of(given)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.9", "192.168.1.1", "169.254.169.254", "0.0.0.0",
        "100.64.0.1", "224.0.0.1", "[::1]", "[fe80::1]", "[fd00::1]", "[::ffff:127.0.0.1]",
        "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "2130706433", "127.1",
        "[::127.0.0.1]", "[64:ff9b:1::7f00:1]", "[fec0::1]",
    ],
)  # fmt: skip
def test_addresses_of_this_machine_and_its_network_are_not_asked(address: str) -> None:
    with pytest.raises(ImageRefused, match="this machine or its own network"):
        WebImages(["*"], seconds=5).fetch(f"http://{address}/latest/meta-data")


def test_a_name_that_stands_for_a_private_address_is_not_asked(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    named(monkeypatch, inside="127.0.0.1")
    url = site.at("/shop.png", png()).replace("127.0.0.1", "inside.example")
    with pytest.raises(ImageRefused, match=r"inside\.example.* this machine or its own network"):
        WebImages(["*:" + site.host.rpartition(":")[2]]).fetch(url)
    assert site.asked == []


def test_the_connection_goes_to_the_address_that_was_checked(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A name server that gives another address each time it is asked.
    real, answers = socket.getaddrinfo, ["127.0.0.1", "192.0.2.1", "192.0.2.2"]
    looked_up = []

    def look_up(host: str, *rest: Any, **more: Any) -> Any:
        if host == "shop.example":
            looked_up.append(host)
            host = answers[len(looked_up) - 1]
        return real(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    url = site.at("/shop.png", png()).replace("127.0.0.1", "shop.example")
    assert WebImages(lambda _: True, private=True).fetch(url) == png()
    assert looked_up == ["shop.example"]
    assert [host.partition(":")[0] for _, host in site.asked] == ["shop.example"]


def test_redirections_are_followed_and_each_is_checked(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    named(monkeypatch, other="127.0.0.1")
    site.at("/shop.png", png())
    near = site.at("/near", status=302, Location="/shop.png")
    assert here(site).fetch(near) == png()
    elsewhere = site.url.replace("127.0.0.1", "other.example")
    far = site.at("/far", status=302, Location=f"{elsewhere}/shop.png")
    with pytest.raises(ImageRefused, match=r"other\.example.* only with permission"):
        here(site).fetch(far)
    inside = site.at("/inside", status=307, Location="file:///etc/hostname")
    with pytest.raises(ImageRefused, match="give one of http or https"):
        here(site).fetch(inside)
    round_about = site.at("/round", status=301, Location="/round")
    with pytest.raises(ImageRefused, match="redirected more than 5 times"):
        here(site).fetch(round_about)


def test_a_redirection_into_the_own_network_is_not_followed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The test's server plays one of the web; its neighbour does not.
    monkeypatch.setattr(
        "steerable_llm.chat.web_images._is_public", lambda address: address == "127.0.0.1"
    )
    url = site.at("/out", status=302, Location="http://127.0.0.2:1/shop.png")
    with pytest.raises(ImageRefused, match=r"127\.0\.0\.2.* this machine or its own network"):
        WebImages(lambda _: True).fetch(url)


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ({"status": 404}, "the server answers 404"),
        ({"status": 500}, "the server answers 500"),
        ({"body": b"<html>", "Content_Type": "text/html; charset=utf-8"}, "is text/html: give"),
        ({"body": b"x", "Content_Encoding": "gzip"}, r"comes compressed \(gzip\)"),
        ({"body": b"", "Content_Length": "50000"}, "larger than 1,000 bytes"),
        ({"body": b"x" * 5000}, "larger than 1,000 bytes"),
    ],
)
def test_what_is_no_image_or_too_large_is_one_clear_line(
    site: Site, page: dict[str, Any], said: str
) -> None:
    url = site.at("/page", **page)
    with pytest.raises(InvalidInputError, match=f"image 2 of the prompt at .*{said}") as told:
        read_image(url, 2, here(site, most_bytes=1000))
    assert "\n" not in str(told.value)


def test_a_server_that_dawdles_is_left_in_time(site: Site) -> None:
    rest = threading.Event()

    def drip(handler: Any) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not rest.wait(0.05):  # well within any limit on a single read
            handler.wfile.write(b"x")

    site.pages["/slow.png"] = drip
    try:
        with pytest.raises(ImageRefused, match=r"did not come within 0\.3 seconds"):
            here(site, seconds=0.3).fetch(f"{site.url}/slow.png")
    finally:
        rest.set()


def test_a_server_that_is_not_there_is_one_clear_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with pytest.raises(ImageRefused, match="cannot be fetched"):
        WebImages([f"127.0.0.1:{port}"], private=True).fetch(f"http://127.0.0.1:{port}/x.png")


# Whatever an image is given as.


def bomb() -> bytes:
    """A PNG file of few bytes that unpacks to 20,000 x 20,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0))
    rows = chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + head + rows + chunk(b"IEND", b"")


BAD = {
    "bomb": (bomb(), "too many pixels"),
    "wide": (png(size=(65_000, 1_000)), r"too many pixels \(65000 x 1000, at most 64,000,000"),
    "truncated": (png(size=(300, 300))[:-60], "cannot be read"),
    "headless": (png()[:20], "cannot be read"),
    "empty": (b"", "no image, or cut off"),
    "page": (b"<html><body>no picture</body></html>", "no image, or cut off at its start"),
    "script": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no image"),
}


@pytest.mark.parametrize("form", ["bytes", "file", "data", "web"])
@pytest.mark.parametrize("kind", BAD)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_an_image_that_cannot_be_unpacked_is_one_clear_line(
    site: Site, tmp_path: Path, kind: str, form: str
) -> None:
    data, said = BAD[kind]
    file = tmp_path / "picture.png"
    file.write_bytes(data)
    source: Any = {
        "bytes": data,
        "file": file,
        "data": f"data:image/png;base64,{base64.b64encode(data).decode()}",
        "web": site.at("/picture.png", data),
    }[form]
    with pytest.raises(InvalidInputError, match=f"image 1 of the prompt .*{said}") as told:
        read_image(source, 1, here(site))
    assert "\n" not in str(told.value)
    assert len(str(told.value)) < 500


@pytest.mark.parametrize(
    "url", ["data:text/plain;base64,aGVsbG8=", "data:image/png,abc", "data:image/png;base64,@@"]
)
def test_a_data_url_without_an_image_is_one_clear_line(url: str) -> None:
    with pytest.raises(InvalidInputError, match="image 0 of the prompt cannot be read"):
        read_image(url)


def test_a_picture_is_read_upright_and_in_colour(tmp_path: Path) -> None:
    lying = Image.new("L", (30, 10), 200)
    turned = Image.Exif()
    turned[0x0112] = 6
    lying.save(tmp_path / "lying.jpg", exif=turned)
    read = read_image(tmp_path / "lying.jpg")
    assert (read.size, read.mode) == ((10, 30), "RGB")
