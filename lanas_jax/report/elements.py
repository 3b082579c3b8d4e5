"""Building blocks of the report: HTML and SVG elements as trees, so that no text can reach the page unescaped.

The pages hold user-chosen names (of choices, options, experiments) and messages of foreign exceptions; they enter as
the text of an element and are escaped when the tree is written. Nothing here knows what a report shows.
"""

from collections.abc import Iterable
from xml.etree import ElementTree

Element = ElementTree.Element
Content = str | Element
SMALLEST = 0.7  # of its size: what a drawing may shrink to


def element(tag: str, *content: Content, **attributes: object) -> Element:
    """An element with its content.

    Args:
      tag: such as ``"td"``.
      *content: text and elements, in order.
      **attributes: a trailing underscore is dropped (``class_``) and inner ones become hyphens (``stroke_width``);
        ``None`` leaves the attribute out. Floats are written with two decimals, enough for coordinates.
    """
    made = ElementTree.Element(
        tag, {_attribute(key): _text(value) for key, value in attributes.items() if value is not None}
    )
    return fill(made, content)


def fill(parent: Element, content: Iterable[Content]) -> Element:
    """Appends text and elements to `parent`, and returns it."""
    for item in content:
        if isinstance(item, str):
            _append_text(parent, item)
        else:
            parent.append(item)
    return parent


def svg(*content: Content, width: int, height: int, label: str, class_: str = "drawing") -> Element:
    """A drawing of `width` x `height` pixels with a `label` for those who do not see it.

    In a narrow window it shrinks, but only as far as its text stays readable; beyond that it is scrolled.
    """
    return element(
        "svg",
        *content,
        class_=class_,
        viewBox=f"0 0 {width} {height}",
        style=f"max-width:{width}px;min-width:{SMALLEST * width:.0f}px",
        role="img",
        aria_label=label,
    )


def html(root: Element) -> str:
    """The element and everything in it as HTML text, escaped."""
    return ElementTree.tostring(root, encoding="unicode", method="html")


def _attribute(name: str) -> str:
    return name.rstrip("_").replace("_", "-")


def _text(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def _append_text(parent: Element, text: str) -> None:
    # ElementTree keeps the text after a child with that child.
    if len(parent):
        parent[-1].tail = (parent[-1].tail or "") + text
    else:
        parent.text = (parent.text or "") + text
