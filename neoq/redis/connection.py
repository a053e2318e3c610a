"""Scripts and commands for one Redis server, or what stands for one, and their replies."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import redis

from neoq.clock import machine
from neoq.errors import BackendError, BackendUnavailable
from neoq.redis.address import Address
from neoq.redis.client import Clients, check_server, connection_of_pool, disconnect_unused, info_of
from neoq.redis.errors import DRIVER_ERRORS, connection_broke, wrapped
from neoq.redis.exchange import exchange
from neoq.redis.scripts import Script, Scripts, scripts_of
from neoq.wording.redact import Hider

if TYPE_CHECKING:
    from neoq.wording.safe_logger import SafeLogger

Call = tuple[Script, Sequence[bytes], Sequence[Any]]

_MOVES = 3  # attempts to find the node that has a key, while a cluster moves it


def _evalsha(script: Script, keys: Sequence[bytes], arguments: Sequence[Any]) -> Sequence[Any]:
    return ("EVALSHA", script.digest, len(keys), *keys, *arguments)


def _eval(script: Script, keys: Sequence[bytes], arguments: Sequence[Any]) -> Sequence[Any]:
    return ("EVAL", script.text, len(keys), *keys, *arguments)


def _looking(command: Sequence[Any]) -> Sequence[Any]:
    """The same script, as a user that may not write may run it."""
    return (f"{command[0]}_RO", *command[1:])


def _knows_no_looking(reply: Any) -> bool:
    """Whether the server refuses `_looking`: it is older, or this user may run scripts the other way only."""
    return (
        isinstance(reply, redis.ResponseError)
        and "eval" in (text := str(reply).lower())
        and (
            "unknown command" in text
            or (isinstance(reply, redis.exceptions.NoPermissionError) and "_ro'" in text)
        )
    )


def _unknown(reply: Any) -> bool:
    return isinstance(reply, redis.exceptions.NoScriptError)


def _moved(reply: Any) -> bool:
    """Whether a key is on another node of its cluster than we thought, or on its way there."""
    return isinstance(reply, redis.exceptions.AskError)


class RedisConnection:
    """Scripts and commands for one address; safe to use from many threads, and opened anew after a fork."""

    def __init__(
        self,
        address: Address,
        *,
        socket_timeout: float,
        wait_replicas: int,
        tls: dict[str, Any],
        sentinel: dict[str, Any],
        log: SafeLogger,
    ) -> None:
        self.address = address
        user = [] if address.password else [address.username]
        self._hider = Hider([address.password, sentinel["password"], *user])
        self.cluster = address.kind == "cluster"
        self.clients = Clients(address, socket_timeout=socket_timeout, tls=tls, sentinel=sentinel)
        self.broke_at = machine.monotonic()
        self._timeout = socket_timeout
        self._wait = wait_replicas
        self._log = log
        self._client: Any = None
        self._free: deque[Any] = deque()  # connections that nobody uses at the moment
        self._looks_apart = True
        self.scripts: Scripts

    # -- open and close ---------------------------------------------------------------------------------

    def open(self) -> None:
        """Connect, and look whether this server may keep jobs."""
        try:
            self._client = self.clients.new()
            info = info_of(self._client, self.address, self._log)
        except (*DRIVER_ERRORS, OSError) as error:
            self.close()
            raise self.wrapped(error, connecting=True) from error
        try:
            version = check_server(info, self.address, self._log)
            if self.clients.unverified:
                self._log.warning("the server at %s is not verified (tls_verify=none)", self.address)
            self.scripts = scripts_of(version)
            self._learn_scripts()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close what is open."""
        client, self._client = self._client, None
        while self._free:
            client.connection_pool.release(self._free.pop())
        if client is not None:
            try:
                client.close()
            except (*DRIVER_ERRORS, OSError):
                pass

    def _learn_scripts(self) -> None:
        try:
            self._load_scripts()
        except BackendError as error:
            if not isinstance(error.__cause__, redis.exceptions.NoPermissionError):
                raise
            self._log.debug("the server learns each script as it is first run: %s", error)

    def _load_scripts(self) -> None:
        """Make the server know the scripts: to read one as it is first run would hold it up."""
        scripts = list(vars(self.scripts).values())
        if self.cluster:
            for script in scripts:
                self._to_every_node(script)
            return
        known = self.commands([("SCRIPT", "EXISTS", *[script.digest for script in scripts])])[0]
        self.commands(
            [("SCRIPT", "LOAD", script.text) for script, has in zip(scripts, known, strict=True) if not has]
        )

    def _to_every_node(self, script: Script) -> None:
        try:
            self._client.script_load(script.text)
        except (*DRIVER_ERRORS, OSError) as error:
            raise self.wrapped(error) from error

    # -- calls ------------------------------------------------------------------------------------------

    def call(
        self, script: Script, keys: Sequence[bytes], arguments: Sequence[Any], *, again: bool = True
    ) -> Any:
        """Run a script. ``again``: once more where the connection broke, for it is safe to."""
        [reply] = self._run(_evalsha, [(script, keys, arguments)], again=again)
        if isinstance(reply, redis.exceptions.NoScriptError):
            [reply] = self._run(_eval, [(script, keys, arguments)], again=again)
        if isinstance(reply, Exception):
            raise self.wrapped(reply) from reply
        return reply

    def _run(self, way: Callable[..., Sequence[Any]], calls: Sequence[Call], *, again: bool) -> list[Any]:
        """The replies to scripts; those that only look are sent so that a reader may run them."""
        if not (self._looks_apart and calls and calls[0][0].looks):
            return self._exchange([way(*call) for call in calls], again=again)
        replies = self._exchange([_looking(way(*call)) for call in calls], again=again)
        if any(map(_knows_no_looking, replies)):
            self._looks_apart = False
            replies = self._exchange([way(*call) for call in calls], again=again)
        return replies

    def call_many(self, calls: Sequence[Call], *, again: bool = True) -> list[Any]:
        """Run scripts in one round trip, each by itself; the first error of any is raised at the end."""
        replies = self.call_each(calls, again=again)
        for reply in replies:
            if isinstance(reply, BackendError):
                raise reply from reply.__cause__
        return replies

    def call_each(self, calls: Sequence[Call], *, again: bool = True) -> list[Any]:
        """As `call_many`; each error is in the place of a reply. All of them look, or none does."""
        replies = self._run(_evalsha, calls, again=again)
        unknown = [
            at for at, reply in enumerate(replies) if isinstance(reply, redis.exceptions.NoScriptError)
        ]
        if unknown:
            replies_now = self._run(_eval, [calls[at] for at in unknown], again=again)
            for at, reply in zip(unknown, replies_now, strict=True):
                replies[at] = reply
        return [self.wrapped(reply) if isinstance(reply, Exception) else reply for reply in replies]

    def call_and_wait(self, script: Script, keys: Sequence[bytes], arguments: Sequence[Any]) -> Any:
        """As `call`; returns once so many replicas have it as ``wait_replicas`` says."""
        if not self._wait:
            return self.call(script, keys, arguments)
        return self.call_together([(script, keys, arguments)])[0]

    def call_together(self, calls: Sequence[Call]) -> list[Any]:
        """Run scripts on one queue with nothing between them: all are run, or none of them is.

        Each may fail by itself, and the first error of any is raised. Returns once so many replicas have it
        as ``wait_replicas`` says.
        """
        replies = self._transact(calls)
        if any(map(_unknown, replies)):  # the others ran; to say them again is safe
            for script in {call[0] for call in calls}:
                self._exchange([("SCRIPT", "LOAD", script.text)], near=calls[0][1][0])
            replies = self._transact(calls)
        for reply in replies:
            if isinstance(reply, Exception):
                raise self.wrapped(reply) from reply
        return replies

    def _transact(self, calls: Sequence[Call]) -> list[Any]:
        commands: list[Sequence[Any]] = [("MULTI",), *[_evalsha(*call) for call in calls], ("EXEC",)]
        if self._wait:
            commands.append(("WAIT", self._wait, int(self._timeout * 500)))
        replies = self._exchange(commands, near=calls[0][1][0])
        done = replies[len(calls) + 1]
        if isinstance(done, Exception):  # the first that was refused says why
            raise next(self.wrapped(reply) for reply in replies if isinstance(reply, Exception))
        if self._wait:
            self._check_confirmed(replies[-1])
        return list(done)

    def _check_confirmed(self, replicas: Any) -> None:
        if isinstance(replicas, Exception):
            problem = f"the server does not tell which replicas have them (wait_replicas): {replicas}"
        elif replicas < self._wait:
            problem = f"{replicas} replicas have confirmed it, not {self._wait} (wait_replicas)"
        else:
            return
        raise BackendUnavailable(f"what was asked for is stored, but {problem}", outcome_unknown=True)

    def command(self, *arguments: Any) -> Any:
        """Run one command that only reads, or that is safe to repeat."""
        return self.commands([arguments])[0]

    def commands(self, commands: Sequence[Sequence[Any]], *, near: bytes | None = None) -> list[Any]:
        """Run commands that only read, or that are safe to repeat, in one round trip.

        In a cluster that needs a key that is ``near`` all of theirs: in its slot.
        """
        replies = self._exchange(commands, near=near)
        for reply in replies:
            if isinstance(reply, Exception):
                raise self.wrapped(reply) from reply
        return replies

    def _exchange(
        self, commands: Sequence[Sequence[Any]], *, again: bool = True, near: bytes | None = None
    ) -> list[Any]:
        """The replies to some commands, the server's errors among them."""
        if not commands:
            return []
        attempts = 2 if again else 1
        perhaps_done = False
        while True:
            attempts -= 1
            try:
                return self.exchange_once(commands, near)
            except (*DRIVER_ERRORS, OSError) as error:
                self._broke()
                if not attempts or not connection_broke(error):
                    problem = self.wrapped(error)
                    if perhaps_done and isinstance(problem, BackendUnavailable):
                        problem.outcome_unknown = True  # whatever became of the second attempt
                    raise problem from error
                perhaps_done = True

    def exchange_once(self, commands: Sequence[Sequence[Any]], near: bytes | None) -> list[Any]:
        """The replies to some commands that are sent once, whatever becomes of them."""
        client = self._client
        if client is None:
            raise BackendUnavailable("the connection to Redis is closed")
        if self.cluster:
            try:
                return self._through_cluster(client, commands, near)
            except BaseException:
                disconnect_unused(client)
                raise
        connection = self._take()
        try:
            replies = exchange(connection, commands)
        except BaseException:  # also an interrupt: what comes next on this connection answers nobody
            connection.disconnect()
            client.connection_pool.release(connection)
            raise
        self._free.append(connection)
        return replies

    def _take(self) -> Any:
        """A connection that nobody uses."""
        try:
            return self._free.pop()
        except IndexError:
            return self.connection_of(self._client)

    def connection_of(self, client: Any) -> Any:
        """A new connection of a client: of a cluster's to some node, for they pass calls on to each other."""
        if self.cluster:
            client = client.get_redis_connection(client.get_random_node())
        return connection_of_pool(client.connection_pool)

    def _through_cluster(
        self, client: Any, commands: Sequence[Sequence[Any]], near: bytes | None
    ) -> list[Any]:
        if near is not None:
            return self._on_one_node(client, commands, near)
        replies = []
        for command in commands:
            try:
                replies.append(client.execute_command(*command))
            except redis.ResponseError as error:
                replies.append(error)
        return replies

    def _on_one_node(self, client: Any, commands: Sequence[Sequence[Any]], near: bytes) -> list[Any]:
        """Send commands to the node that has a key, on one connection, and after it if it moves."""
        for _ in range(_MOVES):
            node = client.get_redis_connection(client.get_node_from_key(near))
            connection = connection_of_pool(node.connection_pool)
            try:
                replies = exchange(connection, commands)
            except BaseException as error:
                connection.disconnect()
                if isinstance(error, redis.ConnectionError):
                    client.nodes_manager.initialize()  # another may have taken over
                raise
            finally:
                node.connection_pool.release(connection)
            if not any(map(_moved, replies)):
                break
            client.nodes_manager.initialize()
        return replies

    # -- errors -----------------------------------------------------------------------------------------

    def _broke(self) -> None:
        self.broke_at = machine.monotonic()
        self._drop_free()  # they broke with this one, most likely, and the next attempt needs one that lives

    def _drop_free(self) -> None:
        client = self._client
        while True:
            try:
                connection = self._free.pop()
            except IndexError:
                return
            connection.disconnect()
            if client is not None:
                client.connection_pool.release(connection)

    def break_connections(self) -> None:
        """Break the connections that no call is using."""
        if self.cluster:
            disconnect_unused(self._client)
        self._broke()

    def wrapped(self, error: Exception, *, connecting: bool = False) -> BackendError:
        """One of our errors for one of the driver's, which is its cause."""
        return wrapped(error, self.address, self._hider, connecting=connecting)
