"""`FrameStream`: the channel between two nodes of a session over one bidirectional gRPC stream; `SessionGate`.

An MPC round is one small message to every peer, so what counts is how few threads a message wakes. The public gRPC
API sends through a thread that consumes an iterator and receives through a condition that every event notifies. A
`FrameStream` instead starts gRPC's operations itself (`_ClientCall`, `_ServerCall`): a message is handed to gRPC by
the thread that sends it, and what arrives goes from gRPC's event thread to a queue on which the receiver waits. That
halves the thread switches of a message and takes a third off its processor time (benchmarks/streams.py; with
services/process.py a fifth of the switches are left). Where this grpcio does not offer those operations, the public
API serves instead (`_IteratorCall`).

Nothing here can deadlock when both sides send at once: without a budget `send` never waits, and gRPC's event thread
takes what arrives whether anybody receives it or not, up to `READ_AHEAD_BYTES`.

With a budget (the dealer's, whose corrections run ahead of the parties), `send` waits while more than that many bytes
are not yet taken by the receiver. The sender announces its budget; the receiver then reports what it has taken each
time a quarter of it has gone. Only one of the two sides may have a budget: two sides that both wait for credit before
they receive would wait for ever.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from queue import SimpleQueue
from typing import Any, Protocol

import grpc
from typing_extensions import Buffer

from parley.errors import Denied, InputError, NotFound, ParleyError, ProtocolError, SessionClosed, Unreachable
from services import frames
from services.identity import Caller
from services.status import caller, explain

try:
    from grpc import _channel as _grpc_channel
    from grpc import _server as _grpc_server
    from grpc._cython import cygrpc  # type: ignore[attr-defined]

    _possibly_finish_call: Any = _grpc_server._possibly_finish_call
    _is_active: Any = _grpc_server._is_rpc_state_active
    _fork_epoch: Any = cygrpc.get_fork_epoch
    _SendMessage: Any = cygrpc.SendMessageOperation
    _ReceiveMessage: Any = cygrpc.ReceiveMessageOperation
    _Rendezvous: Any = _grpc_channel._MultiThreadedRendezvous
    DIRECT = True
    """Whether this grpcio lets a stream start gRPC's operations itself."""
except (ImportError, AttributeError):  # another grpcio: the public API is slower, and does the same
    DIRECT = False

CHUNK_BYTES = 1 << 20
READ_AHEAD_BYTES = 4 << 20
"""Bytes that are taken from gRPC before anybody receives them; beyond, HTTP/2's flow control stops the sender."""
GRACE_SECONDS = 5.0
"""How long a closed stream may take to deliver what was sent before, and its cause, until it is cut."""
SESSION_KEY = "parley-session"
"""The metadata that names the session a stream belongs to."""

_MAXIMUM_CAUSE_BYTES = 2048
_FRAME_COST = 256  # bytes that a waiting frame takes beside its payload, so that empty ones are bounded as well


class _Call(Protocol):
    """What a stream needs of gRPC. The methods return at once; their outcome comes as the stream's `_sent`,
    `_received` and `_ended`."""

    def send(self, frame: bytes) -> None:
        """Send one frame; the next only after `_sent`."""

    def receive(self) -> None:
        """Ask for one frame; again only after `_received`."""

    def finish(self) -> None:
        """End this side once everything is sent."""

    def cancel(self) -> None:
        """Cut the stream."""

    def over(self) -> None:
        """The stream has ended: nothing more will be asked of it."""


class _NoCall:
    """What a stream that is over has instead of a call."""

    def send(self, frame: bytes) -> None: ...

    def receive(self) -> None: ...

    def finish(self) -> None: ...

    def cancel(self) -> None: ...

    def over(self) -> None: ...


_NO_CALL = _NoCall()


class FrameStream:
    """A `parley.runtime.channel.Channel` over one gRPC stream; see there for `send`, `receive` and `close`."""

    def __init__(
        self,
        peer: str,
        *,
        budget: int | None = None,
        chunk_bytes: int = CHUNK_BYTES,
        grace_seconds: float = GRACE_SECONDS,
    ) -> None:
        if not 1 <= chunk_bytes <= frames.MAXIMUM_PAYLOAD:
            raise InputError(f"a chunk of {chunk_bytes} bytes is not between 1 and {frames.MAXIMUM_PAYLOAD}")
        if budget is not None and budget < 1:
            raise InputError(f"a budget of {budget} bytes lets nothing through: use some 64 MiB")
        self.peer = peer
        self.bytes_sent = 0
        """Bytes of messages, without the frames' headers; the next three likewise count what the caller sees."""
        self.bytes_received = 0
        self.messages_sent = 0
        self.messages_received = 0
        self.wait_seconds = 0.0
        """Seconds spent waiting in `receive`."""
        self.credit_wait_seconds = 0.0
        """Seconds spent waiting in `send` for the receiver to take what was sent."""

        self._budget = budget
        self._chunk_bytes = chunk_bytes
        self._grace_seconds = grace_seconds
        self._call: _Call | None = None
        self._timer: threading.Timer | None = None

        self._order = threading.Lock()  # held while a frame gets its number and its place in the queue
        self._next_number = 0
        self._lock = threading.Lock()  # guards all that follows; never held while gRPC is called
        self._room = threading.Condition(self._lock)  # credit has come, or the stream has failed
        self._pending: deque[bytes] = deque()
        self._sending = True  # until attach
        self._finishing = False
        self._finished = False
        self._outstanding = 0  # bytes sent that the receiver has not yet taken
        self._failure: ParleyError | None = None
        self._closed_here = False
        self._over = False

        self._inbox: SimpleQueue[tuple[int, memoryview] | ParleyError] = SimpleQueue()
        self._inbox_bytes = 0
        self._receiving = False
        self._expected_number = 0
        self._grant_step = 0  # bytes after which to report; 0 while the sender has no budget
        self._taken = 0

        if budget is not None:
            self._push(frames.BUDGET, [memoryview(frames.count(budget))], 8)

    # ---- the channel ----------------------------------------------------------------------------------------------

    def send(self, *parts: Buffer) -> None:
        """Send the concatenation of `parts` as one message; see `Channel.send`."""
        views = [_bytes_of(part) for part in parts]
        size = sum(map(len, views))
        if size <= self._chunk_bytes:
            self._send_data(frames.MESSAGE, views, size)
        else:
            self._push(frames.LENGTH, [memoryview(frames.count(size))], 8)
            for chunk, length in _chunks(views, self._chunk_bytes):
                self._send_data(frames.PART, chunk, length)
        self.bytes_sent += size
        self.messages_sent += 1

    def receive(self, size: int) -> memoryview:
        """The next message, which has `size` bytes; see `Channel.receive`. A message of one frame is not copied."""
        if self._closed_here:
            raise _again(self._failure)
        flags, payload = self._take()
        if flags == frames.MESSAGE:
            if len(payload) != size:
                raise self._refuse(f"sent a message of {len(payload)} bytes where the plan has {size}")
            self._credit(size)
            message = payload
        elif flags == frames.LENGTH:
            length = frames.read_count(payload)
            if length != size:
                raise self._refuse(f"sent a message of {length} bytes where the plan has {size}")
            message = memoryview(bytearray(size))
            filled = 0
            while filled < size:
                flags, payload = self._take()
                if flags != frames.PART or not 0 < len(payload) <= size - filled:
                    raise self._refuse(f"sent a frame out of place, {filled} bytes into a message of {size}")
                message[filled : filled + len(payload)] = payload
                filled += len(payload)
                self._credit(len(payload))
        else:
            raise self._refuse("sent part of a message that it had not begun")
        self.bytes_received += size
        self.messages_received += 1
        return message

    def close(self, cause: str = "") -> None:
        """End the channel on both sides; see `Channel.close`. What was sent before is still delivered."""
        self._closed_here = True
        self._fail(SessionClosed(f"the session was closed here: {cause or 'it is finished'}"), cause)

    @property
    def closed(self) -> bool:
        """Whether the stream has ended or is about to."""
        return self._failure is not None

    # ---- sending --------------------------------------------------------------------------------------------------

    def _send_data(self, flags: int, views: list[memoryview], length: int) -> None:
        if self._budget is not None:
            with self._room:
                if self._outstanding and self._outstanding + length > self._budget and self._failure is None:
                    start = time.perf_counter()
                    while self._outstanding and self._outstanding + length > self._budget and self._failure is None:
                        self._room.wait()
                    self.credit_wait_seconds += time.perf_counter() - start
                self._outstanding += length
        self._push(flags, views, length)

    def _push(self, flags: int, views: list[memoryview], length: int, last: bool = False) -> None:
        """Give a frame its number and send it, after those that wait; raises where the stream has failed."""
        with self._order:
            frame = b"".join((frames.header(self._next_number, flags, length), *views))
            with self._lock:
                if self._failure is not None and not last:
                    raise _again(self._failure)
                self._next_number += 1
                if last:
                    self._finishing = True
                if self._sending:
                    self._pending.append(frame)
                    return
                self._sending = True
            assert self._call is not None
            self._call.send(frame)

    def _sent(self) -> None:
        """gRPC has taken a frame (its event thread)."""
        with self._lock:
            frame = self._pending.popleft() if self._pending else None
            if frame is None:
                self._sending = False
                finish = self._finishing and not self._finished
                self._finished |= finish
        assert self._call is not None
        if frame is not None:
            self._call.send(frame)
        elif finish:
            self._call.finish()

    # ---- receiving ------------------------------------------------------------------------------------------------

    def _take(self) -> tuple[int, memoryview]:
        """The next frame of a message, once it is here."""
        start = time.perf_counter()
        item = self._inbox.get()
        self.wait_seconds += time.perf_counter() - start
        if isinstance(item, ParleyError):
            self._inbox.put(item)  # for the next call
            raise _again(item)
        with self._lock:
            self._inbox_bytes -= len(item[1]) + _FRAME_COST
            again = not self._receiving and not self._over and self._inbox_bytes < READ_AHEAD_BYTES
            self._receiving |= again
        if again:
            assert self._call is not None
            self._call.receive()
        return item

    def _credit(self, length: int) -> None:
        """Report to a sender with a budget what has been taken."""
        self._taken += length
        if self._grant_step and self._taken >= self._grant_step:
            taken, self._taken = self._taken, 0
            try:
                self._push(frames.CREDIT, [memoryview(frames.count(taken))], 8)
            except ParleyError:
                pass  # the stream has failed meanwhile; the next call says so, and this message is whole

    def _received(self, frame: bytes) -> None:
        """A frame has come (gRPC's event thread)."""
        again = True
        try:
            number, flags, payload = frames.unpack(frame)
            if number != self._expected_number:
                raise ProtocolError(f"received frame {number} instead of {self._expected_number}")
            self._expected_number += 1
            if self._failure is not None:
                pass  # only the end of the stream is still of interest
            elif flags in (frames.MESSAGE, frames.LENGTH, frames.PART):
                with self._lock:
                    self._inbox_bytes += len(payload) + _FRAME_COST
                    again = self._inbox_bytes < READ_AHEAD_BYTES
                    self._receiving = again
                self._inbox.put((flags, payload))
            elif flags == frames.CREDIT:
                taken = frames.read_count(payload)
                with self._room:
                    if taken > self._outstanding:
                        raise ProtocolError(f"received credit for {taken} bytes of which {self._outstanding} were sent")
                    self._outstanding -= taken
                    self._room.notify_all()
            elif flags == frames.BUDGET:
                self._grant_step = max(1, frames.read_count(payload) // 4)
            elif flags == frames.CLOSE:
                cause = _printable(bytes(payload[:_MAXIMUM_CAUSE_BYTES]))
                self._fail(SessionClosed(f"{self.peer} closed the session: {cause or 'it is finished'}"), None)
            else:
                raise ProtocolError(f"received a frame with unknown flags {flags:#x}")
        except ProtocolError as error:
            self._fail(ProtocolError(f"{self.peer}: {error}"), str(error))
        if again:
            assert self._call is not None
            self._call.receive()

    # ---- the end --------------------------------------------------------------------------------------------------

    def _refuse(self, what: str) -> ProtocolError:
        """End the session because of what the peer sent."""
        error = ProtocolError(f"{self.peer} {what}")
        self._fail(error, str(error))
        return error

    def _fail(self, failure: ParleyError, cause: str | None) -> None:
        """Wake everybody on this side with `failure`, and tell the peer the cause unless it is None."""
        with self._room:
            if self._failure is not None:
                return
            self._failure = failure
            self._room.notify_all()
            over = self._over
            if not over and self._call is not None:
                self._timer = threading.Timer(self._grace_seconds, self._call.cancel)
                self._timer.daemon = True
                self._timer.start()
            # What still comes is dropped, so that the peer's end of the stream is reached.
            again = not over and not self._receiving and self._call is not None
            self._receiving |= again
        self._inbox.put(failure)
        if over:
            return
        if again:
            assert self._call is not None
            self._call.receive()
        payload = (cause or "").encode()[:_MAXIMUM_CAUSE_BYTES]
        self._push(frames.CLOSE, [memoryview(payload)], len(payload), last=True)

    def _ended(self, reason: str) -> None:
        """gRPC's stream has ended, well or not (any thread, any number of times)."""
        with self._room:
            if self._over:
                return
            self._over = True
            self._pending.clear()
            if self._failure is None:
                self._failure = SessionClosed(f"the connection to {self.peer} ended: {reason}")
            failure = self._failure
            timer, self._timer = self._timer, None
            finish, self._finished = not self._finished, True
            self._room.notify_all()
        self._inbox.put(failure)
        if timer is not None:
            timer.cancel()
        call, self._call = self._call, _NO_CALL  # gRPC frees a call, and its place in the connection, with its object
        if call is not None:
            if finish:
                call.finish()
            call.over()

    # ---- attaching to gRPC ----------------------------------------------------------------------------------------

    def _attach(self, call: _Call) -> None:
        """Begin to send and to receive over `call`."""
        self._call = call
        self._receiving = True
        call.receive()
        self._sent()

    def serve(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        """The server's side of the stream, as the body of the handler: returns when the stream has ended.

        The handler's method must pass bytes through unread (`raw` of `services.server.add_service`).
        """
        context.send_initial_metadata(())  # by this the client knows that it was let in
        if DIRECT and hasattr(context, "_rpc_event"):
            call = _ServerCall(self, context)
            context.add_callback(lambda: self._ended("the peer is gone"))
            self._attach(call)
            call.wait()
            return
        iterating = _IteratorCall(self, requests, context.cancel)
        context.add_callback(lambda: self._ended("the peer is gone"))
        self._attach(iterating)
        yield from iterating.frames()


def open_stream(
    channel: grpc.Channel,
    method: str,
    session: str,
    peer: Caller,
    *,
    budget: int | None = None,
    chunk_bytes: int = CHUNK_BYTES,
    timeout: float = 15.0,
    metadata: tuple[tuple[str, str], ...] = (),
) -> FrameStream:
    """Open the client's side of a stream and wait until the server's `SessionGate` has let it in.

    `method` is the full name, such as `/parley.Party/Exchange`; `metadata` is what `services.client.claims` gives.
    Raises Unreachable, IdentityError, Denied, NotFound (no such session there) or SessionClosed.
    """
    stream = FrameStream(str(peer), budget=budget, chunk_bytes=chunk_bytes)
    connect = channel.stream_stream(method, None, None)
    requests: SimpleQueue[bytes | None] = SimpleQueue()
    everything = ((SESSION_KEY, session), *metadata)
    iterating: _IteratorCall | None = None
    if DIRECT:
        # gRPC's own sending thread waits here for the end; the frames are sent past it.
        call: Any = connect(iter(requests.get, None), metadata=everything)
    else:
        iterating = _IteratorCall(stream, None, None)
        call = connect(iterating.frames(), metadata=everything)
    waiting = threading.Timer(timeout, call.cancel)
    waiting.daemon = True
    waiting.start()
    try:
        call.initial_metadata()
    finally:
        waiting.cancel()
    if call.done() and call.code() is not grpc.StatusCode.OK:
        if call.code() is grpc.StatusCode.CANCELLED:
            requests.put(None)
            raise Unreachable(f"{peer} did not open the stream of session {session} within {timeout:g} s")
        requests.put(None)
        raise explain(call, str(peer))
    if iterating is None and isinstance(call, _Rendezvous):
        direct = _ClientCall(stream, call, requests)
        stream._call = direct
        call.add_done_callback(lambda done: stream._ended(_reason(done)))
        stream._attach(direct)
    else:
        assert iterating is not None
        iterating.bind(call, call.cancel)
        stream._call = iterating

        def broken(done: Any) -> None:
            # A good end is told by the reader, after the frames that came before it.
            if done.code() is not grpc.StatusCode.OK:
                stream._ended(_reason(done))

        call.add_done_callback(broken)
        stream._attach(iterating)
    return stream


def _reason(call: Any) -> str:
    code = call.code()
    return "it was finished" if code is grpc.StatusCode.OK else f"{code.name}: {call.details()}"


class _ClientCall:
    """Starts gRPC's operations of a client's call itself, with the bookkeeping of grpc._channel.

    `state.due` holds the operations under way: gRPC's event thread lets go of a call when none is left.
    """

    def __init__(self, stream: FrameStream, call: Any, requests: SimpleQueue[bytes | None]) -> None:
        self._stream = stream
        self._rendezvous = call
        self._call = call._call
        self._state = call._state
        self._requests = requests
        self._send_token = object()
        self._receive_token = object()

    def send(self, frame: bytes) -> None:
        self._start(_SendMessage(frame, 0), self._send_token, self._on_sent)

    def receive(self) -> None:
        self._start(_ReceiveMessage(0), self._receive_token, self._on_received)

    def finish(self) -> None:
        self._requests.put(None)

    def cancel(self) -> None:
        self._rendezvous.cancel()

    def over(self) -> None: ...

    def _start(self, operation: Any, token: object, handler: Callable[[Any], bool]) -> None:
        reason = "the call was over"
        with self._state.condition:
            started = self._state.code is None
            if started:
                self._state.due.add(token)
                try:
                    started = self._call.operate((operation,), handler)
                except ValueError as error:  # gRPC refuses; raised here it would end gRPC's event thread
                    started = False
                    reason = str(error)
                if not started:
                    self._state.due.discard(token)
        if not started:
            self._rendezvous.cancel()
            self._stream._ended(reason)

    def _complete(self, token: object) -> bool:
        with self._state.condition:
            self._state.due.discard(token)
            done = not self._state.due
        return done and bool(self._state.fork_epoch >= _fork_epoch())

    def _on_sent(self, event: Any) -> bool:
        done = self._complete(self._send_token)
        self._stream._sent()
        return done

    def _on_received(self, event: Any) -> bool:
        done = self._complete(self._receive_token)
        frame = event.batch_operations[0].message()
        if frame is not None:
            self._stream._received(frame)
        # Otherwise the stream has ended, and gRPC's callback tells how.
        return done


class _ServerCall:
    """The same of a server's call, with the bookkeeping of grpc._server."""

    def __init__(self, stream: FrameStream, context: Any) -> None:
        self._stream = stream
        self._context = context
        self._call = context._rpc_event.call
        self._state = context._state
        self._end = threading.Event()
        self._send_token = object()
        self._receive_token = object()

    def send(self, frame: bytes) -> None:
        self._start(_SendMessage(frame, 0), self._send_token, self._on_sent)

    def receive(self) -> None:
        self._start(_ReceiveMessage(0), self._receive_token, self._on_received)

    def finish(self) -> None:
        self._end.set()

    def cancel(self) -> None:
        self._context.cancel()

    def over(self) -> None: ...

    def wait(self) -> None:
        """Hold the handler until this side is finished."""
        self._end.wait()

    def _start(self, operation: Any, token: object, handler: Callable[[Any], Any]) -> None:
        reason = "the call was over"
        with self._state.condition:
            started = bool(_is_active(self._state))
            if started:
                try:
                    self._call.start_server_batch((operation,), handler)
                    self._state.due.add(token)
                except ValueError as error:  # gRPC refuses; raised here it would end gRPC's event thread
                    started = False
                    reason = str(error)
        if not started:
            self._context.cancel()
            self._stream._ended(reason)

    def _complete(self, token: object) -> Any:
        with self._state.condition:
            return _possibly_finish_call(self._state, token)

    def _on_sent(self, event: Any) -> Any:
        outcome = self._complete(self._send_token)
        self._stream._sent()
        return outcome

    def _on_received(self, event: Any) -> Any:
        outcome = self._complete(self._receive_token)
        frame = event.batch_operations[0].message()
        if frame is not None:
            self._stream._received(frame)
        else:
            self._stream._ended("the peer is gone")
        return outcome


class _IteratorCall:
    """The same by gRPC's public API: gRPC's thread takes frames from an iterator, and a thread of ours receives."""

    def __init__(
        self, stream: FrameStream, replies: Iterator[bytes] | None, cancel: Callable[[], object] | None
    ) -> None:
        self._stream = stream
        self._replies = replies
        self._cancel = cancel
        self._outbox: SimpleQueue[bytes | None] = SimpleQueue()
        self._wanted: SimpleQueue[bool] = SimpleQueue()
        self._reader: threading.Thread | None = None

    def bind(self, replies: Iterator[bytes], cancel: Callable[[], object]) -> None:
        """Name what a client's call has returned."""
        self._replies, self._cancel = replies, cancel

    def frames(self) -> Iterator[bytes]:
        """The frames to send, for gRPC."""
        while (frame := self._outbox.get()) is not None:
            yield frame
            self._stream._sent()

    def send(self, frame: bytes) -> None:
        self._outbox.put(frame)

    def receive(self) -> None:
        self._wanted.put(True)
        if self._reader is None:
            self._reader = threading.Thread(target=self._read, name=f"frames of {self._stream.peer}", daemon=True)
            self._reader.start()

    def finish(self) -> None:
        self._outbox.put(None)

    def cancel(self) -> None:
        if self._cancel is not None:
            self._cancel()

    def over(self) -> None:
        self._wanted.put(False)

    def _read(self) -> None:
        assert self._replies is not None
        while self._wanted.get():
            try:
                frame = next(self._replies)
            except StopIteration:
                self._stream._ended("it was finished")
                return
            except grpc.RpcError as error:
                details = getattr(error, "details", lambda: "the peer is gone")()
                self._stream._ended(str(details))
                return
            self._stream._received(frame)


# ---- matching streams to sessions -----------------------------------------------------------------------------------


class Expected:
    """A stream that a session waits for."""

    def __init__(self, session: str, peer: Caller, options: dict[str, Any]) -> None:
        self.session = session
        self.peer = peer
        self._options = options
        self._future: Future[FrameStream] = Future()

    def wait(self, timeout: float) -> FrameStream:
        """The stream, once the peer has opened it; raises Unreachable after `timeout` seconds, or SessionClosed."""
        try:
            return self._future.result(timeout)
        except FutureTimeout:
            raise Unreachable(
                f"{self.peer} did not connect to session {self.session} within {timeout:g} s: see its log, and whether "
                "it reaches the address that this node advertises"
            ) from None


class SessionGate:
    """Matches incoming streams to the sessions of this node that wait for them.

    A stream names its session in its metadata, and its caller is known by certificate. The stream of a session that
    this node has not (yet) opened waits up to `patience` seconds; a caller that the session does not wait for, or
    that is connected already, is refused.
    """

    def __init__(self, patience: float = 10.0, maximum_waiting: int = 64) -> None:
        self._patience = patience
        self._maximum_waiting = maximum_waiting
        self._changed = threading.Condition()
        self._sessions: dict[str, dict[Caller, Expected | FrameStream]] = {}
        self._ended: deque[str] = deque(maxlen=256)
        self._waiting = 0

    def open(
        self, session: str, peers: Iterable[Caller], *, budget: int | None = None, chunk_bytes: int = CHUNK_BYTES
    ) -> dict[Caller, Expected]:
        """Let one stream of each of `peers` into the session; raises Denied where it is open already, or has ended.

        All peers are named at once: whoever else asks is refused.
        """
        options = {"budget": budget, "chunk_bytes": chunk_bytes}
        expected = {peer: Expected(session, peer, options) for peer in peers}
        with self._changed:
            if session in self._ended:
                raise Denied(f"session {session} has ended: open a new one")
            if session in self._sessions:
                raise Denied(f"session {session} is open already")
            self._sessions[session] = dict(expected)
            self._changed.notify_all()
        return expected

    def forget(self, session: str, cause: str = "") -> None:
        """End the session here: its streams are closed with `cause`, and later ones refused."""
        with self._changed:
            peers = self._sessions.pop(session, {})
            if session not in self._ended:
                self._ended.append(session)
            self._changed.notify_all()
        for entry in peers.values():
            if isinstance(entry, FrameStream):
                entry.close(cause)
            else:
                entry._future.set_exception(SessionClosed(f"the session was closed here: {cause or 'it is finished'}"))

    def serve(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        """The body of the handler of a method of streams of `Frame`; raises Denied or NotFound."""
        peer = caller(context)
        session = next((str(value) for key, value in context.invocation_metadata() or () if key == SESSION_KEY), "")
        expected = self._admit(session, peer, context)
        stream = FrameStream(str(peer), **expected._options)
        with self._changed:
            peers = self._sessions.get(session)
            if peers is None or peers.get(peer) is not expected:
                raise NotFound(f"session {session} has ended")
            peers[peer] = stream
        # The generator begins only below: what the session sends until then waits in the stream.
        expected._future.set_result(stream)
        yield from stream.serve(requests, context)

    def _admit(self, session: str, peer: Caller, context: grpc.ServicerContext) -> Expected:
        deadline = time.monotonic() + self._patience
        with self._changed:
            if self._waiting >= self._maximum_waiting:
                raise Denied("too many streams wait for sessions: try again later")
            self._waiting += 1
            try:
                while session not in self._sessions:
                    remaining = deadline - time.monotonic()
                    if session in self._ended:
                        raise NotFound(f"session {session!r} has ended here")
                    if not session or remaining <= 0 or not context.is_active():
                        raise NotFound(f"no session {session!r} is open here")
                    self._changed.wait(min(remaining, 1.0))
                entry = self._sessions[session].get(peer)
            finally:
                self._waiting -= 1
        if entry is None:
            raise Denied(f"session {session} does not wait for {peer}")
        if isinstance(entry, FrameStream):
            raise Denied(f"session {session} has a stream of {peer} already")
        return entry


# ---- helpers --------------------------------------------------------------------------------------------------------


def _bytes_of(part: Buffer) -> memoryview:
    view = memoryview(part)
    if view.format == "B" and view.ndim == 1 and view.contiguous:
        return view
    if view.nbytes == 0 or not view.c_contiguous:
        return memoryview(view.tobytes())
    return view.cast("B")


def _chunks(views: list[memoryview], size: int) -> Iterator[tuple[list[memoryview], int]]:
    """The concatenation of `views` in pieces of `size` bytes, the last one shorter, without copying."""
    chunk: list[memoryview] = []
    room = size
    for view in views:
        while len(view):
            piece, view = view[:room], view[room:]
            chunk.append(piece)
            room -= len(piece)
            if not room:
                yield chunk, size
                chunk, room = [], size
    if chunk:
        yield chunk, size - room


def _again(failure: ParleyError | None) -> ParleyError:
    """A fresh exception that says the same, so that tracebacks of different calls do not pile up in one."""
    return SessionClosed("the session is closed") if failure is None else type(failure)(str(failure))


def _printable(text: bytes) -> str:
    return "".join(character if character.isprintable() else " " for character in text.decode(errors="replace"))
