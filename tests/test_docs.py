"""What the documents name exists: commands, flags, files, headings; and they keep their limits."""

import argparse
import functools
import importlib
import re
import shlex
from pathlib import Path
from unittest import mock

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / name for name in ("README.md", "README_zh.md", "CONTRIBUTING.md",
                                  "dataset/README.md")] + sorted(ROOT.glob("docs/*.md"))
# Programs of others, whose flags are not ours to check.
FOREIGN = ("tensorboard", "rio", "#SBATCH", "pip", "git")
# The modules that a flag in a sentence may belong to, and what CONTRIBUTING.md's examples make.
DOCUMENTED = ("preprocess", "train", "predict", "utils.metrics", "benchmarks.predict_speed",
              "benchmarks.large_scene")
EXAMPLES = {"--haze", "tests/test_tiny_net.py", "benchmarks/NAME.txt"}
COMMAND = r"\s*([A-Z_]+=('[^']*'|\S+)\s+)*(srun )?\S*(python|make|benchmarks/\w+\.sh)(\s|$)"


class Captured(Exception):
    """Carries the parser of a module, instead of the flags."""


@functools.cache
def parser_of(module):
    """The ArgumentParser of a script or module, as its main() makes it."""
    def capture(parser, *_):
        raise Captured(parser)

    with mock.patch.object(argparse.ArgumentParser, "parse_args", capture):
        with pytest.raises(Captured) as caught:
            importlib.import_module(module).main()
    return caught.value.args[0]


def fenced(text):
    """The text of each block between fences that names no language."""
    return [body for language, body in re.findall(r"^ *```(\w*)\n(.*?)^ *```", text, re.S | re.M)
            if not language]


def commands(text):
    """The commands of a page's blocks that run something of ours, as lists of words."""
    found = []
    for block in fenced(text):
        for line in re.sub(r"\\\n", " ", block).splitlines():
            for command in line.split(" && "):
                if re.match(COMMAND, command):
                    words = shlex.split(command, comments=True)
                    while re.match(r"[A-Z_0-9]+=|srun$", words[0]):
                        words.pop(0)
                    found.append(words)
    return found


def check_command(words):
    """Raises where a command names a script, target, flag or value that there is not."""
    program, *rest = words
    if program.endswith(".sh"):
        assert (ROOT / program).is_file(), program
    elif program == "make":
        rules = (ROOT / "Makefile").read_text()
        for target in rest:
            # The value of READY is a target too.
            assert re.search(rf"^{target}:|^READY := {re.escape(target)}$", rules, re.M), target
    else:
        module = rest[1] if rest[0] == "-m" else rest[0].removesuffix(".py")
        if module == "pytest":
            assert all((ROOT / word).exists() for word in rest if word.startswith("tests/")), words
            return
        assert (ROOT / (module.replace(".", "/") + ".py")).is_file(), words
        arguments = rest[rest.index(module) + 1:] if rest[0] == "-m" else rest[1:]
        arguments = [re.sub(r"\$\w+", "1", word) for word in arguments]
        if arguments:
            parser_of(module).parse_args(arguments)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_taken_by_the_parsers(page):
    for words in commands(page.read_text()):
        try:
            check_command(words)
        except SystemExit:
            pytest.fail(f"{page.name}: {shlex.join(words)}: refused by its parser")


def test_flags_in_sentences_exist():
    known = EXAMPLES | set(re.findall(r"--\w+", "".join(
        parser_of(module).format_help() for module in DOCUMENTED)))
    for page in PAGES:
        for span in code_spans(page):
            if not span.startswith(FOREIGN):
                assert set(re.findall(r"(?<!\S)--\w+", span)) <= known, f"{page.name}: {span}"


def code_spans(page):
    """What a page sets as code within its sentences."""
    return re.findall(r"`([^`]+)`", re.sub(r"^ *```.*?^ *```", "", page.read_text(),
                                             flags=re.S | re.M))


def test_files_in_sentences_exist():
    for page in PAGES:
        for span in code_spans(page):
            for path in re.findall(r"(?<!\S)(?:utils|tests|benchmarks|images)/[\w/]+\.\w+", span):
                assert (ROOT / path).exists() or path in EXAMPLES, f"{page.name}: {path}"


def test_names_in_the_architecture_exist():
    code = "".join(path.read_text() for path in [*ROOT.glob("*.py"), *ROOT.glob("utils/**/*.py")])
    for span in code_spans(ROOT / "docs/architecture.md"):
        # A name of a class, a function or a constant: of several words, or all in capitals.
        if re.fullmatch(r"[A-Z]+|[a-zA-Z]+_[a-zA-Z_]+|[A-Z][a-z]+[A-Z]\w+", span):
            assert re.search(rf"\b{span}\b", code), span


def slug(heading):
    """GitHub's anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_exist(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{page.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(), re.M)
            assert anchor in map(slug, headings), f"{page.name}: {target}"


@pytest.mark.parametrize("name", ("README.md", "README_zh.md"))
def test_a_readme_stays_short_and_links_every_page(name):
    text = (ROOT / name).read_text()
    assert len(text.splitlines()) <= 170
    if name == "README.md":
        assert len(text.split()) <= 1500
    assert all(f"(docs/{page.name})" in text for page in ROOT.glob("docs/*.md"))


def test_both_readmes_show_the_same_commands():
    english, chinese = ((ROOT / name).read_text() for name in ("README.md", "README_zh.md"))
    assert commands(english) == commands(chinese)
    assert len(commands(english)) > 10


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/*.md")), ids=lambda page: page.name)
def test_a_page_opens_with_what_it_answers(page):
    title, opening = page.read_text().split("\n\n")[:2]
    assert title.startswith("# ") and opening.startswith("This page answers: ") and "?" in opening


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_words(page):
    assert not re.findall(r"\b(?:room|house|story|stories)\w*", page.read_text(), re.I)
