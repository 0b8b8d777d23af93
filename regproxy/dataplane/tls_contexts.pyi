from collections.abc import Callable
from typing import Final

CLASSIC_GROUPS: Final[str]
HYBRID_GROUPS: Final[str]
GROUPS: Final[str]

class ClientTrust:
    @property
    def required(self) -> bool: ...

class Context:
    client_trust: ClientTrust | None
    records_max: int
    @property
    def server(self) -> bool: ...
    @property
    def verify(self) -> bool: ...
    @property
    def ktls(self) -> bool: ...
    @property
    def seals(self) -> bool: ...
    @property
    def opens(self) -> bool: ...

def takes_groups(groups: str) -> bool: ...
def server_context(
    chain_pem: bytes, key_pem: bytes, ktls: bool = False, seals: bool = False, groups: str = ""
) -> Context: ...
def naming_context(
    choose: Callable[[str], Context | None], ktls: bool = False, seals: bool = False, groups: str = ""
) -> Context: ...
def client_context(
    verify: bool = True,
    extra_ca_file: str | None = None,
    ktls: bool = False,
    chain_pem: bytes | None = None,
    key_pem: bytes | None = None,
    opens: bool = False,
) -> Context: ...
def client_trust(pem: bytes, required: bool = False) -> ClientTrust: ...
