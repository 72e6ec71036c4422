"""The certificate and key of a server, as a context to listen with. What is wrong with them is said at the start."""

from __future__ import annotations

import ssl

from flashq.errors import ConfigurationError


class _EncryptedError(Exception):
    """The key asks for a password."""


def server_context(cert: str, key: str) -> ssl.SSLContext:
    """TLS 1.2 or later, HTTP/1.1, with the certificate (and its chain) and key of these PEM files.

    Raises `ConfigurationError` for files that cannot be read, are not PEM, do not belong together, and for a key that
    is encrypted: there is nobody to type the password.
    """
    for setting, path in (("tls_cert", cert), ("tls_key", key)):
        _check_readable(setting, path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(cert, key, password=_refuse)
    except _EncryptedError:
        raise ConfigurationError(
            f"tls_key: the key in {key!r} is encrypted; give one without password, readable by the server alone",
            setting="tls_key", value=key,
        ) from None  # fmt: skip
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            reason = f"the key in {key!r} does not belong to the certificate in {cert!r}"
        else:
            reason = f"no PEM certificate in {cert!r} with its PEM key in {key!r} ({error.reason or 'malformed'})"
        raise ConfigurationError(f"tls_cert and tls_key: {reason}", setting="tls_cert", value=cert) from error
    return context


def _check_readable(setting: str, path: str) -> None:
    try:
        with open(path, "rb") as file:
            file.read(1)
    except OSError as error:
        raise ConfigurationError(
            f"{setting}: cannot read {path!r}: {error.strerror}", setting=setting, value=path
        ) from error


def _refuse() -> str:
    raise _EncryptedError
