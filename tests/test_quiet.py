"""utils.quiet: how TensorFlow is loaded."""

import importlib

import pytest

import utils.quiet


@pytest.mark.parametrize("said, used", [(None, "1"), ("0", "0")])
def test_onednn_is_on_where_the_user_does_not_say_otherwise(monkeypatch, said, used):
    """TensorFlow itself leaves it off on processors without AVX512_VNNI, and cannot train there."""
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "")
    if said is None:
        monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS")
    else:
        monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", said)
    importlib.reload(utils.quiet)
    assert utils.quiet.os.environ["TF_ENABLE_ONEDNN_OPTS"] == used
