"""Numbers on the command line: the ends of each range, and what is said of others."""

import argparse

import pytest

from utils import cli


@pytest.mark.parametrize("name,good,bad,range_", [
    ("positive", ["1", "9223372036854775807"], ["0", "-1", "1e20", "1.5", "9223372036854775808"],
     "a whole number from 1 to below 2^63"),
    ("natural", ["0"], ["-1", "nan"], "a whole number from 0 to below 2^63"),
    ("port", ["1024", "65535"], ["1023", "65536"], "a whole number from 1024 to 65535"),
    ("non_negative", ["0", "1e9"], ["-1e-9", "inf", "nan", "1e999"], "a number from 0"),
    ("above_zero", ["1e-9"], ["0", "inf", "x"], "a number above 0"),
    ("probability", ["0", "1"], ["-.1", "1.1", "nan"], "a number from 0 to 1"),
    ("share", ["0", ".99"], ["1", "-.1"], "a number from 0 to below 1"),
    ("part_above_0", [".01", "1"], ["0", "1.1"], "a number above 0 to 1"),
    ("scale", [".1", "10"], [".09", "11"], "a number from 0.1 to 10")])
def test_a_number_out_of_its_range_is_one_line(name, good, bad, range_, capsys):
    parser = argparse.ArgumentParser()
    parser.add_argument("--flag", type=getattr(cli, name))
    for text in good:
        assert float(parser.parse_args([f"--flag={text}"]).flag) == float(text)
    for text in bad:
        with pytest.raises(SystemExit) as left:
            parser.parse_args([f"--flag={text}"])
        assert left.value.code == 2
        assert capsys.readouterr().err.endswith(f"argument --flag: {text} is not {range_}\n")
