"""Checks of a picture that is drawn for light and for dark pages."""

import re
from xml.etree import ElementTree

from lanas_jax.experiments.pictures import SCHEMES


def checked(draw):
    """The light picture, after checks of both."""
    light, dark = (draw(scheme) for scheme in SCHEMES)
    trees = [ElementTree.fromstring(text) for text in (light, dark)]
    assert trees[0].tag == "{http://www.w3.org/2000/svg}svg"
    assert [node.tag for node in trees[0].iter()] == [node.tag for node in trees[1].iter()]
    colours = [set(re.findall(r"#[0-9a-f]{6}\b", text)) for text in (light, dark)]
    assert colours[0]
    assert not colours[0] & colours[1]
    assert "var(" not in light + dark
    return light
