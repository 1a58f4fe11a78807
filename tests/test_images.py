"""The diagrams that README.md shows."""

from xml.etree import ElementTree

import pytest


@pytest.mark.parametrize("name", ["model.svg", "windows.svg"])
def test_diagrams_are_whole_and_github_shows_them(name, repository):
    root = ElementTree.parse(repository / "images" / name).getroot()
    tags = {element.tag.split("}")[1] for element in root.iter()}
    # GitHub shows no picture that runs or embeds something.
    assert "svg" in tags and not tags & {"script", "foreignObject", "image", "style"}
