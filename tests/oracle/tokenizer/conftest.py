"""The vocabularies that the tests of the tokenizer share, trained once a session."""

import json

import pytest
from tokenizer_vocabularies import build_all


@pytest.fixture(scope="session")
def tokenizers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabularies")
    paths = {}
    for kind, document in build_all().items():
        paths[kind] = folder / f"{kind}.json"
        paths[kind].write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    return paths
