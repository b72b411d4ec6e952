"""HTTP's parser, whose refusals have the form of all others: what is no HTTP never reaches the application."""

from __future__ import annotations

import h11  # comes with uvicorn, whose parser it is
from uvicorn.protocols.http.h11_impl import H11Protocol

from . import errors
from .guard import CACHE_CONTROL, SECURITY

_HEADERS = [(b"content-type", errors.MEDIA_TYPE.encode()), CACHE_CONTROL, (b"connection", b"close"), *SECURITY]


class Protocol(H11Protocol):
    """Answers bytes that are no request with a problem, and closes the connection."""

    def send_400_response(self, msg: str) -> None:
        """Refuse what came; where an answer is under way already, it breaks off."""
        if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            content = errors.encode(errors.problem(400, "the request is no HTTP/1.1", instance="", hint=msg))
            headers = [*_HEADERS, (b"content-length", str(len(content)).encode())]
            for event in (h11.Response(status_code=400, headers=headers), h11.Data(data=content), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        if self.cycle is not None:  # a request whose body broke off here; its handler learns that nobody waits
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()
