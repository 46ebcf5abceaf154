"""Why a TLS connection does not come about, in words. gRPC only says that it did not, so one is tried by hand."""

from __future__ import annotations

import contextlib
import socket
import ssl

from k3sd.datastore.endpoint import TLS, TLS_HINT

TIMEOUT_SECONDS = 5.0
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
"""The beginning of every HTTP/2 connection, with empty settings (RFC 9113, 3.4)."""


def refusal(target: str, tls: TLS | None) -> str:
    """What makes ``host:port`` refuse us however often we try; empty when nothing of that kind is found. ``tls`` is None where
    the endpoint is spoken to in plain text."""
    host, _, port = target.rpartition(":")
    if not port.isdecimal():
        return f"{target!r} has no port; write https://host:2379"
    try:
        with socket.create_connection((host.strip("[]"), int(port)), TIMEOUT_SECONDS) as plain:
            if tls is None:
                return _refusal_in_plain(plain)
            context = _context(tls)
            context.set_alpn_protocols(["h2"])
            with context.wrap_socket(plain, server_hostname=host.strip("[]")) as secure:
                return _refusal_of_client(secure, tls)
    except socket.gaierror as e:
        return f"the host name {host!r} cannot be resolved ({e.strerror})" if e.errno == socket.EAI_NONAME else ""
    except ssl.SSLCertVerificationError as e:
        return f"its certificate is not accepted ({e.verify_message}); check --datastore-cafile"
    except ssl.SSLError as e:
        if e.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"):
            return "it does not speak TLS; write http:// in the endpoint"
        return f"the TLS handshake fails ({_reason(e)}){TLS_HINT}"
    except OSError:
        return ""


def _context(tls: TLS) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=tls.cafile or None)
    if tls.certfile:
        context.load_cert_chain(tls.certfile, tls.keyfile)
    return context


def _refusal_in_plain(plain: socket.socket) -> str:
    """A server that wants TLS answers plain HTTP/2 with an alert, with HTTP's 400, or not at all."""
    plain.sendall(PREFACE)
    with contextlib.suppress(ConnectionResetError):
        if (answer := plain.recv(16)) and not answer.startswith((b"\x15\x03", b"HTTP/1.0 400")):
            return ""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection(plain.getpeername()[:2], TIMEOUT_SECONDS) as again,
        contextlib.suppress(ssl.SSLError, OSError),
        context.wrap_socket(again),
    ):
        return "it speaks TLS; write https:// in the endpoint"
    return ""


def _refusal_of_client(secure: ssl.SSLSocket, tls: TLS) -> str:
    """With TLS 1.3 the server judges our certificate only after the handshake."""
    try:
        secure.sendall(PREFACE)
        if secure.recv(1):
            return ""
    except ssl.SSLError as e:
        if tls.certfile:
            return f"it does not accept our certificate ({_reason(e)}); check --datastore-certfile and -keyfile"
        return f"it needs a client certificate ({_reason(e)}); name it with --datastore-certfile and -keyfile"
    return ""


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).lower().replace("_", " ")
