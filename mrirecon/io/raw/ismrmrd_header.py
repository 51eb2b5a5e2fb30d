"""The few fields of an ISMRMRD header that tell a volume's image size and what of its k-space was acquired."""

from collections.abc import Mapping
from typing import NamedTuple
from xml.etree.ElementTree import ParseError
from xml.parsers.expat import XMLParserType

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

_LIMITS = "encodingLimits/kspace_encoding_step_1/"


class Encoding(NamedTuple):
    """What the header's first encoding tells; None for what it does not, or not as a number."""

    recon_size: tuple[int, int] | None  # (y, x) of the images: their readout comes first, as in k-space
    encoded: int | None  # number of phase encoding steps that the encoded space has
    center: int | None  # the encoding step of the zero frequency
    maximum: int | None  # the last encoding step


def parse(raw: bytes) -> Encoding | None:
    """The header's first encoding; None where this is no XML or has none.

    Raises defusedxml's DefusedXmlException where the XML declares a document type, before anything it declares counts.
    """
    parser = DefusedXMLParser(target=object(), forbid_dtd=True)
    reader = _FirstEncoding(parser.parser)
    try:
        parser.feed(raw)
        parser.close()
    except DefusedXmlException:  # a ValueError, which the next line would take for bad XML
        raise
    except (ParseError, ValueError, LookupError):  # the last two: encodings that Python does not know
        return None
    return _encoding(reader.texts) if reader.is_complete else None


class _FirstEncoding:
    """The texts of the first `encoding` below the root, by path; what comes after it is only checked to be XML.

    Building a tree of the whole header, of which most is the scanner's parameters, takes five times as long.
    """

    def __init__(self, parser: XMLParserType) -> None:
        self._parser = parser
        self.texts: dict[str, str] = {}
        self.is_complete = False
        self._path: list[str] = []
        self._pieces: list[str] | None = None  # of the text of an element without children so far
        parser.StartElementHandler, parser.EndElementHandler = self._start, self._end
        parser.CharacterDataHandler, parser.DefaultHandlerExpand = self._data, None

    def _start(self, tag: str, _attributes: object) -> None:
        self._path.append(tag.rpartition("}")[2])
        self._pieces = []

    def _data(self, piece: str) -> None:
        if self._pieces is not None:
            self._pieces.append(piece)

    def _end(self, _tag: str) -> None:
        path = self._path[1:]
        if self._pieces is not None and path[:1] == ["encoding"]:
            self.texts.setdefault("/".join(path[1:]), "".join(self._pieces))
        if path == ["encoding"]:
            self.is_complete = True
            self._stop()
        self._path.pop()
        self._pieces = None

    def _stop(self) -> None:
        self._parser.StartElementHandler = self._parser.EndElementHandler = self._parser.CharacterDataHandler = None


def _encoding(texts: Mapping[str, str]) -> Encoding:
    x, y = (_integer(texts, f"reconSpace/matrixSize/{axis}") for axis in "xy")
    return Encoding(
        recon_size=None if x is None or y is None else (x, y),
        encoded=_integer(texts, "encodedSpace/matrixSize/y"),
        center=_integer(texts, _LIMITS + "center"),
        maximum=_integer(texts, _LIMITS + "maximum"),
    )


def _integer(texts: Mapping[str, str], path: str) -> int | None:
    digits = texts.get(path, "").strip()
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 10 else None
