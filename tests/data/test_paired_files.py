"""Files given by patterns, each with its label, of which a star says where it is."""

import os

import pytest

from utils.data import scenes


@pytest.mark.parametrize("names, partners, expected", [
    # The star of a pattern stands for the name; of a single file, its stem does.
    (["in/*_sat.jpg"], ["in/*_mask.png"], {"in/1_sat.jpg": "in/1_mask.png",
                                           "in/22_sat.jpg": "in/22_mask.png"}),
    (["./in//*_sat.jpg"], ["masks/*.png"], {"./in/1_sat.jpg": "masks/1.png",
                                            "./in/22_sat.jpg": "masks/22.png"}),
    (["in/1_sat.jpg", "deep/b/x.jpg"], ["masks/*.png"], {"in/1_sat.jpg": "masks/1_sat.png",
                                                         "deep/b/x.jpg": "masks/x.png"}),
    (["in/1_sat.jpg", "deep/*/x.jpg"], ["any.png", "masks/*.png"],
     {"in/1_sat.jpg": "any.png", "deep/a/x.jpg": "masks/a.png", "deep/b/x.jpg": "masks/b.png"}),
    # Several stars stand for as many, or one for all that are in the file's name.
    (["deep/**/*.jpg"], ["other/**/*_l.tif"], {
        "deep/a/x.jpg": "other/a/x_l.tif", "deep/b/x.jpg": "other/b/x_l.tif",
        "deep/y.jpg": "other/y_l.tif"}),
    (["in/?_s[!b]t.jpg"], ["masks/?[0-9].png"], {"in/1_sat.jpg": "masks/1a.png"}),
    (["in/*_?[a]t.jpg"], ["masks/*.png"], {"in/1_sat.jpg": "masks/1_sa.png",
                                           "in/22_sat.jpg": "masks/22_sa.png"}),
    (["**/[xy].jpg"], ["masks/s*.png"], {"deep/a/x.jpg": "masks/sx.png", "deep/b/x.jpg":
                                         "masks/sx.png", "deep/y.jpg": "masks/sy.png"}),
    (["deep/**/x.jpg"], ["masks/**/l.png"], {"deep/a/x.jpg": "masks/a/l.png",
                                              "deep/b/x.jpg": "masks/b/l.png"}),
    (["deep/b/*.jpg"], ["masks/*.png"], {"deep/b/x.jpg": "masks/x.png"}),
    # One layer of polygons may lie on many scenes.
    (["in/*_sat.jpg"], ["parcels.gpkg"], {"in/1_sat.jpg": "parcels.gpkg",
                                          "in/22_sat.jpg": "parcels.gpkg"}),
    (["in/1_sat.jpg", "deep/y.jpg"], ["parcels.gpkg"], {"in/1_sat.jpg": "parcels.gpkg",
                                                        "deep/y.jpg": "parcels.gpkg"}),
    # A file that is there is no pattern.
    (["in/[1].jpg"], ["masks/*.png"], {"in/[1].jpg": "masks/[1].png"}),
])
def test_files_and_their_partners(tmp_path, monkeypatch, names, partners, expected):
    monkeypatch.chdir(tmp_path)
    for name in ("in/1_sat.jpg", "in/22_sat.jpg", "in/[1].jpg", "deep/a/x.jpg", "deep/b/x.jpg",
                 "deep/y.jpg"):
        os.makedirs(os.path.dirname(name), exist_ok=True)
        open(name, "w").close()
    found = scenes.paired_files(names, partners, ("--image", "--label"))
    assert {os.path.normpath(path): partner for path, partner in found.items()} == {
        os.path.normpath(path): partner for path, partner in expected.items()}


@pytest.mark.parametrize("names, partners, message", [
    (["*.jpg"], ["a.png"], "a.png: one file of --label for the 2 of .*jpg; put a star"),
    (["1.jpg", "2.jpg"], ["a.png"], "a.png: 1 of --label for 2 of --image; give one for each"),
    (["*.jpg"], ["a.png", "b.png"], "a.png: 2 of --label for 1 of --image; give one for each"),
    (["*.jpg"], ["*/*/*.png"], r"\*/\*/\*.png: 3 stars, but .*\*.jpg has 1; give as many"),
    (["1.jpg"], ["*/*.png"], "2 stars, but .*1.jpg has 1; give as many, or one for the name"),
    (["[]1].jpg"], ["*.png"], "stars stand for in 1.jpg is not clear; use no other"),
    (["1.jpg", "1.jpg"], ["a.png", "b.png"], "1.jpg: named twice, with a.png and b.png"),
    (["*.tif"], ["*.png"], r"\*.tif: no file matches that pattern; check --image"),
    (["*.jpg"], ["*_mask.png"], "1.jpg: its label 1_mask.png is missing; check --label"),
])
def test_partners_that_do_not_fit_are_refused(tmp_path, monkeypatch, names, partners, message):
    monkeypatch.chdir(tmp_path)
    for name in ("1.jpg", "2.jpg"):
        open(name, "w").close()
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        scenes.scenes_of(names, partners)


def test_a_pattern_that_matches_the_labels_too_leaves_them_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("1.png", "1_mask.png", "2.png", "2_mask.png", "3_class.png"):
        open(name, "w").close()
    # A file that is a label itself needs none.
    found = scenes.scenes_of(["*.png"], ["*_mask.png"])
    assert [(one.name, one.label_path) for one in found] == [("1", "1_mask.png"),
                                                             ("2", "2_mask.png")]
