from __future__ import annotations

import shutil

import pytest

from tests.interop.certificate import Certificate
from tests.needs import need


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    need(shutil.which("openssl"), "openssl", "apt-get install openssl")
    return Certificate(tmp_path_factory.mktemp("tls"))
