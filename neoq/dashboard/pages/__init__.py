"""The pages, one module each: a function of a request and the board, which gives a template plain data.

A page returns `response.Page`, `response.Redirect` or a whole `response.Response`, and refuses by raising
`response.Refused`. It asks `request.need_read(queue)` and `request.need(right, queue)` for what it shows and
changes. A region that refreshes is a block of its template, ``region_queue_list`` for the id ``queue-list``,
whose element has ``{{ region("queue-list", request) }}``; the block uses only what the page gives, no names
that the template sets outside it.
"""
