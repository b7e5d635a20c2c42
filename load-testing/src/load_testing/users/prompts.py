"""Prompt text from seeded draws. The words are meaningless; only lengths and shared prefixes matter."""

import os
import random

_WORDS = (
    "time year people way day thing world life hand part child eye place work week case point company "
    "number group problem fact water room mother area money story month lot right study book word issue "
    "side kind head house service friend father power hour game line end member law car city community "
    "name president team minute idea body information back parent face other level office door health "
    "person art war history party result change morning reason research girl guy moment air teacher force "
    "education foot boy age policy process music market sense nation plan college interest death "
    "experience effect use class control care field development role effort rate heart drug show leader "
    "light voice wife police mind price report decision son view town road arm difference value building "
    "action season society tax director position player record paper space ground form event official "
    "matter center couple site project activity star table need court oil situation cost industry figure "
    "street image phone data picture practice piece land product doctor wall patient worker news test"
).split()


def salt() -> str:
    """Salt that makes this run's prompts unique, so that runs do not share prefix-cache entries."""
    return os.environ.get("LOAD_TEXT_SALT", "")


def text(draws: random.Random, words: int) -> str:
    """Return ``words`` random words."""
    return " ".join(draws.choices(_WORDS, k=words))


def mean_word_characters() -> float:
    """Return the mean length of a word with the space after it."""
    return sum(map(len, _WORDS)) / len(_WORDS) + 1


def shared_prefix(kind: str, index: int, words: int) -> str:
    """Return the ``index``-th shared prefix of a kind: the same text in every process and run of one salt."""
    return text(random.Random(f"{kind}/{index}/{salt()}"), words)
