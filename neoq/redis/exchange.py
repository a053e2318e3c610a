"""Commands and replies on one connection of redis-py, which one thread uses at a time.

This uses the methods of `redis.Connection` rather than a client, `redis.Redis`. For each command a client
takes a connection from its pool and asks the system whether that connection still lives. Here a connection
stays out of the pool until it breaks.

Measured over loopback / over a link with 0.5 ms each way (redis-py 8.1, hiredis 3.5, two busy cores, medians
of five rounds in turns): with a client, an enqueue takes 1.8 / 1.7 times the processor time and a drained job
1.1 / 1.1 times; one thread enqueues at 0.7 / 0.9 of the rate.

A way past redis-py stays only if it gains 1.25 on both links, in enqueues or in the drain. None does.
The rate with each of three ways, as a multiple of the rate here:

===============================  ===========  =====================  ===========  ===========
way                              enqueue      enqueue of 8 threads   bulk         drain
===============================  ===========  =====================  ===========  ===========
reading the socket with hiredis  1.13 / 0.98  1.22 / 0.98            1.06 / 1.27  1.30 / 1.06
packing a command's start once   0.73 / 1.02  1.09 / 1.02            1.18 / 0.88  0.75 / 1.01
packing with hiredis             1.05 / 1.01  1.04 / 1.03            1.19 / 1.25  0.94 / 1.18
===============================  ===========  =====================  ===========  ===========
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis

Commands = Sequence[Sequence[Any]]


def exchange(connection: Any, commands: Commands) -> list[Any]:
    """The replies to commands, the server's errors among them; what this raises ends the connection."""
    send(connection, commands)
    return [read(connection) for _ in commands]


def send(connection: Any, commands: Commands) -> None:
    """Send commands."""
    connection.send_packed_command(connection.pack_commands(commands), check_health=False)


def read(connection: Any) -> Any:
    """The next reply, or the server's error; redis.TimeoutError where none comes in time."""
    try:
        return connection.read_response(disconnect_on_error=False)
    except redis.ConnectionError:
        raise
    except redis.ResponseError as error:
        return error
