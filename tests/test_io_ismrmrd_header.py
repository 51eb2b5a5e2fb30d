"""The few fields of an ISMRMRD header: as ElementTree finds them, whatever surrounds them."""

import pytest
from defusedxml import DTDForbidden, ElementTree

from mrirecon.io.raw import ismrmrd_header
from mrirecon.io.raw.ismrmrd_header import Header, Space
from mrirecon.io.scan import System

STEPS = (
    "<kspace_encoding_step_1><minimum>0</minimum><maximum> 367 </maximum><center>184</center></kspace_encoding_step_1>"
)
LIMITS = f"<encodingLimits><slice><maximum>9</maximum></slice>{STEPS}</encodingLimits>"


def space(name: str, x: object, y: object) -> str:
    matrix, view = f"<matrixSize><x>{x}</x><y>{y}</y><z>1</z></matrixSize>", "<fieldOfView_mm><x>9</x></fieldOfView_mm>"
    return f"<{name}>{matrix}{view}</{name}>"


ENCODING = f"<encoding>{space('encodedSpace', 640, 368)}{space('reconSpace', 320, 322)}{LIMITS}</encoding>"
NOTHING = (None, None, None)
WIDE = (9.0, None, None)
KNOWN = Header(Space((640, 368, 1), WIDE), Space((320, 322, 1), WIDE), 184, 367, System())
PARAMETERS = "<userParameters>" + "<p>\n<name>n</name><value>1</value></p>" * 900 + "</userParameters>"
OTHER = f"<encoding>{space('encodedSpace', 1, 2)}{space('reconSpace', 3, 4)}</encoding>"


@pytest.mark.parametrize(
    "header",
    [
        f"<h>{ENCODING}</h>",
        f'<?xml version="1.0"?>\n<!-- x --><h xmlns="http://www.ismrm.org/ISMRMRD">{ENCODING}</h>',
        f"<h>{PARAMETERS}{ENCODING}{PARAMETERS}</h>",
        f"<h>{ENCODING}{OTHER}</h>",
        f"<h><deeper>{OTHER}</deeper>{ENCODING}</h>",
        "<n:h xmlns:n='u'>" + ENCODING.replace("</", "</n:").replace("<", "<n:").replace("<n:/n:", "</n:") + "</n:h>",
        f"<h>{ENCODING}</h>".replace("368", "3<!-- c -->6&#56;"),
    ],
)
def test_the_first_encoding_is_found(header: str) -> None:
    assert ismrmrd_header.parse(header.encode()) == KNOWN
    assert ismrmrd_header.parse(header.encode("utf-16")) == KNOWN
    encoding = ElementTree.fromstring(header).find("{*}encoding")
    assert encoding is not None
    assert encoding.findtext("{*}reconSpace/{*}matrixSize/{*}y") == "322"


@pytest.mark.parametrize(
    "header",
    [
        "", "text", "<h>", "<h/>", "<encoding/>", f"<h>{ENCODING}", f"<h>{ENCODING}</i>", f"<h>{ENCODING}</h><h/>",
        f"<h>{ENCODING}<a></b></h>", f"<h>{ENCODING}&unknown;</h>", f"<h>{ENCODING}<p:a/></h>",
        f"<h><deeper>{ENCODING}</deeper></h>", '<?xml version="1.0" encoding="none"?><h/>',
    ],
)  # fmt: skip
def test_what_is_no_whole_xml_or_has_no_encoding_tells_nothing(header: str) -> None:
    assert ismrmrd_header.parse(header.encode()) is None


@pytest.mark.parametrize("x", ["", "-3", "3.5", "nan", "9" * 5000, "<b/>3", "3<b/>4", "٣"])
def test_what_is_no_count_is_none(x: str) -> None:
    header = f"<h><encoding>{space('reconSpace', x, 320)}{LIMITS}</encoding></h>"
    assert ismrmrd_header.parse(header.encode()) == Header(
        Space(NOTHING, NOTHING), Space((None, 320, 1), WIDE), 184, 367, System()
    )


@pytest.mark.parametrize("declared", ["", "[<!ENTITY e 'x'>]", "SYSTEM 'file:///etc/hostname'"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_document_type_is_refused_in_any_encoding(declared: str, encoding: str) -> None:
    with pytest.raises(DTDForbidden):
        ismrmrd_header.parse(f"<!DOCTYPE h {declared}><h>{ENCODING}</h>".encode(encoding))
