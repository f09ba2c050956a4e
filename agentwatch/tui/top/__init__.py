"""`agentwatch top`: what agents do, and stopping them, on one screen; live or over a recording.

`app` is the application, `keys` the table of its keys, a module for each screen says what its rows
are. Data come from a `backend`, through a `poll` thread. Only `app`, `rows` and `page` import Textual.
"""
