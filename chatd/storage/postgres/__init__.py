"""The shared engine of the message store: PostgreSQL, for any number of chatd processes.

`store` is the engine; `connection` and `worker` run its statements; `schema` has the tables and
functions. Only this package imports psycopg, the optional extra `postgres`.
"""
