-- What jobs came to over time. A row of 0 seconds has the serial of the last that a process has added.

create table series (
    seconds int not null,
    start float8 not null,
    queue text not null,
    numbers float8[] not null,
    primary key (seconds, start, queue)
);
