"""utils/files.py: sets of files are replaced whole or not at all."""

import os

from utils.files import replace_set


def test_a_replacement_cut_short_leaves_no_list_of_other_tiles(tmp_path, monkeypatch):
    folders, files = ("train/images", "train/labels"), ("classes.csv", "list.csv")
    rename = os.rename
    for allowed in range(9):
        target, source = tmp_path / f"target{allowed}", tmp_path / f"source{allowed}"
        for place in (target, source):
            for name in folders:
                (place / name).mkdir(parents=True)
                (place / name / "0.png").write_text(place.name)
            for name in files:
                (place / name).write_text(place.name)
        left = [allowed]

        def rename_or_fail(old, new, left=left):
            if not left[0]:
                raise OSError("cut short")
            left[0] -= 1
            rename(old, new)

        monkeypatch.setattr(os, "rename", rename_or_fail)
        try:
            replace_set(str(target), str(source), folders, files)
        except OSError:
            assert allowed < 8
        else:
            assert allowed == 8
        if (target / "list.csv").exists():
            contents = {(target / name / "0.png").read_text() for name in folders}
            contents |= {(target / name).read_text() for name in files}
            assert contents == {(target / "list.csv").read_text()}
