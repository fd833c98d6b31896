"""A certificate that nobody trusts, for tests that must refuse it. The key protects nothing."""

import ssl
from pathlib import Path

KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgSZJgog9krFZHdZFz
hanki8i+nV6A4oCxnvhmuGSXW9ahRANCAAR8aMwhpWVkyqFHZMOvPw5PDGDESCNr
vMuvyoQK7/9wDkYsPQlI1fzYglOS3ISTkutLb0xrm7vtMhD30JwdENve
-----END PRIVATE KEY-----
"""

CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBnDCCAUGgAwIBAgIUUfrr0IyAInMMDDse4zb1LD3MXZ4wCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyMzE1MzAwMFoYDzIxMjYxMDMw
MTUzMDAwWjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAAR8aMwhpWVkyqFHZMOvPw5PDGDESCNrvMuvyoQK7/9wDkYsPQlI1fzY
glOS3ISTkutLb0xrm7vtMhD30JwdENveo28wbTAdBgNVHQ4EFgQUxK/9aHCuZWer
eyp4ntfWD2hfCi8wHwYDVR0jBBgwFoAUxK/9aHCuZWereyp4ntfWD2hfCi8wDwYD
VR0TAQH/BAUwAwEB/zAaBgNVHREEEzARgglsb2NhbGhvc3SHBH8AAAEwCgYIKoZI
zj0EAwIDSQAwRgIhAJjtdNtBaT3aZcFqjSiqKJpQEpqoPe1Wa8+FEarPee0UAiEA
o153KABHG/EONhRza8rY1p8qgmY7IrHUHP+Wsl9+xq8=
-----END CERTIFICATE-----
"""


def self_signed(folder: Path) -> ssl.SSLContext:
    """A server's context with the certificate; its files are put into `folder`."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    key.write_text(KEY)
    certificate.write_text(CERTIFICATE)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context
