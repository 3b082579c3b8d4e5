"""Building blocks of the report: HTML and SVG elements as trees, so that no text reaches the page unescaped.

Pages contain user-chosen names (of choices, options, experiments) and messages of other libraries' exceptions. They
enter as the text of an element and are escaped when the tree is written. The contents of a report are defined
elsewhere.
"""

from collections.abc import Iterable
from xml.etree import ElementTree

Element = ElementTree.Element
Content = str | Element
SMALLEST = 0.7  # minimum scale of a drawing


def element(tag: str, *content: Content, **attributes: object) -> Element:
    """Returns an element with its content.

    Args:
      tag: tag name, such as ``"td"``.
      *content: text and elements, in order.
      **attributes: attributes by name. A trailing underscore is dropped (``class_``) and other underscores become
        hyphens (``stroke_width``). ``None`` omits the attribute. Floats have two decimals, enough for coordinates.
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
    """Returns a drawing of `width` x `height` pixels with a `label` for screen readers.

    In a narrow window the drawing shrinks as long as its text stays readable; below that size it scrolls.
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
    """Returns the element and its content as escaped HTML text."""
    return ElementTree.tostring(root, encoding="unicode", method="html")


def _attribute(name: str) -> str:
    return name.rstrip("_").replace("_", "-")


def _text(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def _append_text(parent: Element, text: str) -> None:
    # ElementTree stores the text after a child in the child's tail.
    if len(parent):
        parent[-1].tail = (parent[-1].tail or "") + text
    else:
        parent.text = (parent.text or "") + text
