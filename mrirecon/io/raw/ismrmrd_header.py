"""Reads from an ISMRMRD header the sizes and limits of the first encoding, and the scanner."""

import re
from collections.abc import Mapping
from typing import NamedTuple
from xml.etree.ElementTree import ParseError
from xml.parsers.expat import XMLParserType

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from mrirecon.io.scan import System

# Elements below the root that are read: of these the first of its name.
_READ = ("acquisitionSystemInformation", "experimentalConditions", "encoding")
_LIMITS = "encoding/encodingLimits/kspace_encoding_step_1/"
_MAX_TEXT = 200  # characters kept of a name
# What a field of view (mm) or a field strength (tesla) can be; the least keeps products of it above 0.
_LEAST, _MOST = 1e-4, 1e5
_HZ_PER_TESLA = 42.577e6  # of hydrogen
_DECIMAL = re.compile(r"[0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]{1,3})?|[0-9]+\.")


class Space(NamedTuple):
    """A space of the encoding along (x, y, z): readout, phase encoding, slice; None for what is not told."""

    size: tuple[int | None, int | None, int | None]
    field_of_view: tuple[float | None, float | None, float | None]  # mm


class Header(NamedTuple):
    """What the header tells of its first encoding and of the scanner; None for what it does not, or not as a number."""

    encoded: Space
    recon: Space
    center: int | None  # the phase encoding step of the zero frequency
    maximum: int | None  # the last phase encoding step
    system: System


def parse(raw: bytes) -> Header | None:
    """The header's first encoding and the scanner; None where this is no XML or has no encoding.

    Raises defusedxml's DefusedXmlException where the XML declares a document type, before anything it declares counts.
    """
    parser = DefusedXMLParser(target=object(), forbid_dtd=True)
    reader = _Texts(parser.parser)
    try:
        parser.feed(raw)
        parser.close()
    except DefusedXmlException:  # a ValueError, which the next line would take for bad XML
        raise
    except (ParseError, ValueError, LookupError):  # the last two: encodings that Python does not know
        return None
    return _header(reader.texts) if reader.is_complete else None


class _Texts:
    """The texts of `_READ` elements, by path, to the end of the first `encoding`; the rest is only checked to be XML.

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
        if self._pieces is not None and path and path[0] in _READ:
            self.texts.setdefault("/".join(path), "".join(self._pieces))
        if path == ["encoding"]:
            self.is_complete = True
            self._stop()
        self._path.pop()
        self._pieces = None

    def _stop(self) -> None:
        self._parser.StartElementHandler = self._parser.EndElementHandler = self._parser.CharacterDataHandler = None


def _header(texts: Mapping[str, str]) -> Header:
    return Header(
        encoded=_space(texts, "encoding/encodedSpace/"),
        recon=_space(texts, "encoding/reconSpace/"),
        center=_integer(texts, _LIMITS + "center"),
        maximum=_integer(texts, _LIMITS + "maximum"),
        system=_system(texts),
    )


def _space(texts: Mapping[str, str], path: str) -> Space:
    x, y, z = (_integer(texts, f"{path}matrixSize/{axis}") for axis in "xyz")
    mm_x, mm_y, mm_z = (_number(texts, f"{path}fieldOfView_mm/{axis}") for axis in "xyz")
    return Space((x, y, z), (mm_x, mm_y, mm_z))


def _system(texts: Mapping[str, str]) -> System:
    """The field strength, where it is not stated, is that of hydrogen's resonance frequency."""
    path = "acquisitionSystemInformation/system"
    vendor, model = (texts.get(path + key, "").strip()[:_MAX_TEXT] or None for key in ("Vendor", "Model"))
    tesla = _number(texts, path + "FieldStrength_T")
    frequency = _integer(texts, "experimentalConditions/H1resonanceFrequency_Hz")
    if tesla is None and frequency:
        tesla = round(frequency / _HZ_PER_TESLA, 3)
    return System(vendor, model, tesla or None)


def _integer(texts: Mapping[str, str], path: str) -> int | None:
    digits = texts.get(path, "").strip()
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 10 else None


def _number(texts: Mapping[str, str], path: str) -> float | None:
    """A decimal number that a size in mm or a field strength can be."""
    digits = texts.get(path, "").strip()
    if len(digits) > _MAX_TEXT or not _DECIMAL.fullmatch(digits):
        return None
    value = float(digits)
    return value if _LEAST <= value <= _MOST else None
