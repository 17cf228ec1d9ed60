"""How two nodes of a session talk: ordered, reliable messages whose sizes both sides know from the plan."""

from __future__ import annotations

from typing import Protocol

from typing_extensions import Buffer


class Channel(Protocol):
    """One end of a connection between two nodes of one session.

    An implementation splits large messages and joins them again, applies back-pressure, and checks that nothing is
    lost, repeated or reordered. It is used by one thread for sending and one for receiving, which may be the same.
    """

    peer: str
    """Name of the node at the other end, for error messages."""

    def send(self, *parts: Buffer) -> None:
        """Send the concatenation of `parts` as one message.

        Returns once the message is accepted for delivery; it may block while the peer grants no room.
        Raises SessionClosed when the channel is closed or broken.
        """

    def receive(self, size: int) -> memoryview:
        """Wait for the next message and return its `size` bytes.

        Raises ProtocolError when the message has another size (before memory for it is taken), SessionClosed when the
        channel is closed or broken.
        """

    def close(self, cause: str = "") -> None:
        """End the channel, waking both sides' waiting calls with SessionClosed(cause). Repeating it does nothing."""
