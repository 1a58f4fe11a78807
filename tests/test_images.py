"""The diagrams that README.md shows are those that the code draws today."""

from xml.etree import ElementTree

import pytest

from images.draw import DIAGRAMS


@pytest.mark.parametrize("name", DIAGRAMS)
def test_committed_diagrams_are_what_the_code_draws(name, repository):
    drawn = DIAGRAMS[name]()
    committed = (repository / "images" / name).read_text(encoding="utf-8")
    assert drawn == committed, f"images/{name} is of other code; run make images and commit it"
    tags = {element.tag.split("}")[1] for element in ElementTree.fromstring(drawn).iter()}
    # GitHub shows no picture that runs or embeds something.
    assert "svg" in tags and not tags & {"script", "foreignObject", "image", "style"}
