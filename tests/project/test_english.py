"""Documents, tests, examples and benchmarks use American spelling and the standard terms of CONTRIBUTING.md."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# The folders and files to check.
COVERED = """
client server worker
tests testbed examples benchmarks docs constraints .ci README.md CONTRIBUTING.md CHANGELOG.md pyproject.toml
Makefile Dockerfile docker-compose.yml .pre-commit-config.yaml
""".split()
SUFFIXES = {".py", ".md", ".js", ".html", ".css", ".toml", ".yml", ".yaml", ".txt", ".mako", ""}
# Data of earlier versions, the files of others, and the list of words itself.
EXCLUDED = ("tests/landed", "server/nestor_server/dashboard/vendor", "tests/project/test_english.py")

# Stems of verbs that end in -ise in British spelling and in -ize in American spelling.
IZE = """
amort author categor character custom emphas equal factor final general initial material maxim memor minim normal optim
organ parallel parametr penal polar prior quant random real recogn regular serial special standard summar synchron token
util vector visual
""".split()
# A regular expression of words → what to write instead.
WRONG = {
    rf"({'|'.join(IZE)})is(e|ed|es|er|ers|ing|ation|ations)": "-ize",
    r"(colour|behaviour|neighbour|favour|honour|labour|flavour|rigour)[a-z]*": "-or",
    r"analys(e|ed|es|ing)": "analyze",
    r"(model|label|travel|signal|journal|cancel|channel|level|tunnel)l(ed|ing|er|ers)": "one l",
    r"(centre|metre|fibre|licence|defence|offence|grey|catalogue|judgement|artefact|programme)s?": "American spelling",
    r"learnt|spelt|spoilt|burnt|dreamt|whilst|amongst|fulfil|ageing": "American spelling",
    r"befall(s|en)?|befell|spoil(s|ed)?|overheard|riddle": "inject_fault, corrupt, captured_log, error",
    r"houses?|doors?|witness(es)?|bells?": "TestCluster, TcpProxy, audit_trigger, message",
    r"wish(es|ed)?|mend(s|ed)?|who(so)?(ever|sever)": "request, fix, a user who",
    r"for want of|of yours|(is|are) (?-i:none)|is had by|ma(ke|kes|de) way|rid of|in vain": "say it directly",
    r"dearer|hitherto|thereof|whence|hence|thus|nought": "say it directly",
}
WORDS = {re.compile(rf"(?<![a-z])({words})(?![a-z])", re.IGNORECASE): advice for words, advice in WRONG.items()}

ALLOWED = re.compile(r"(?<![a-z])cancelled(?![a-z])", re.IGNORECASE)  # a state on the wire and in databases


def _files() -> Iterator[Path]:
    for name in COVERED:
        path = ROOT / name
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            skipped = "__pycache__" in file.parts or file.relative_to(ROOT).as_posix().startswith(EXCLUDED)
            if file.is_file() and file.suffix in SUFFIXES and not skipped:
                yield file


def _text(file: Path) -> str:
    text = file.read_text()
    if file.name == "CHANGELOG.md":
        text = re.sub(r"`[^`\n]*`", "", text)  # old names stay as they were
    if file.name == "CONTRIBUTING.md":
        text = re.sub(r"^Examples:$.*?^## ", "", text, flags=re.MULTILINE | re.DOTALL)  # its column "before"
    return ALLOWED.sub("", text)


def violations(text: str) -> list[str]:
    """Each as "line: word (advice)"."""
    return [
        f"{number}: {found[0]} ({advice})"
        for number, line in enumerate(text.splitlines(), 1)
        for word, advice in WORDS.items()
        for found in word.finditer(line)
    ]


@pytest.mark.parametrize("file", list(_files()), ids=lambda file: file.relative_to(ROOT).as_posix())
def test_a_file_uses_american_spelling_and_standard_terms(file: Path):
    assert violations(_text(file)) == []


WRONG_TEXTS = "optimised test_initialisation_of Colour BEHAVIOUR labelled learnt bell made_the_wishes whosever".split()
RIGHT_TEXTS = "optimizes realistic promise otherwise raised exercise bellwether household labeled".split()


@pytest.mark.parametrize("text", [*WRONG_TEXTS, "there is none", "one of yours"])
def test_a_wrong_word_is_found_in_prose_and_in_names(text: str):
    assert len(violations(text)) == 1


@pytest.mark.parametrize("text", [*RIGHT_TEXTS, "x is None"])
def test_a_right_word_passes(text: str):
    assert violations(text) == []
